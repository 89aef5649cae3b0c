"""The prepared images of this node: found, made where missing, kept whole.

``CACHE/templates/KEY/`` holds ``template.img``, a sparse file that is one file system, and ``manifest.json``. It
appears at once, by rename(2), after all in it is synced. Each key has two locks. ``prepare`` is held alone by who makes
a template, so however many ask for one that is missing, one makes it and the others wait. ``use`` is shared by who uses
a template and held alone by who removes or replaces it.
What is not whole lies beside: ``KEY.new`` while it is made, ``KEY.gone`` while it is removed. They belong to the holder
of the one lock or the other, so where that lock is free they are a dead process' leftovers, and swept.
Not for: what is in a template (:mod:`osprovider.images.prepare`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from osprovider import locks
from osprovider.config.model import Image, Variant
from osprovider.errors import ImageError
from osprovider.images.manifest import Manifest
from osprovider.images.recipe import Recipe
from osprovider.log import reporter
from osprovider.paths import Directories

if TYPE_CHECKING:
    from osprovider.images.sources import Obtained, Sources

__all__ = ["Store", "Template", "TemplateInfo"]

_IMAGE = "template.img"
_MANIFEST = "manifest.json"
_NEW = ".new"
_GONE = ".gone"
_OWNERS = {_NEW: "prepare", _GONE: "use"}  # the locks
_TRIES = 3  # how often a template may vanish between its making and its use


@dataclass(frozen=True, slots=True)
class Template:
    """A template in use.

    Attributes:
        manifest: see there.
        fd: the image, open for reading.
        path: the image.
    """

    manifest: Manifest
    fd: int
    path: Path


@dataclass(frozen=True, slots=True)
class TemplateInfo:
    """A template in the store, for people.

    Attributes:
        directory: where it lies.
        occupied_bytes: what it takes of the cache directory.
        manifest: see there.
    """

    directory: Path
    occupied_bytes: int
    manifest: Manifest


class Store:
    """The templates beneath a cache directory.

    Args:
        directories: ``cache`` holds the templates, ``run`` their locks.
    """

    def __init__(self, directories: Directories) -> None:
        self._directories = directories
        self._templates = directories.cache / "templates"
        self._locks = directories.run / "locks"
        self._opened: dict[str, tuple[int, int, int]] = {}

    def look_up(self, name: str, image: Image, variant: Variant) -> tuple[str | None, Manifest | None]:
        """The key of an image's template, and its manifest where it is ready. Changes nothing, waits for nobody.

        Args:
            name: the definition's name.
            image: the definition.
            variant: merged.

        Returns:
            the key is None while the image's source was never obtained, or a file has changed since.
        """
        recipe = self._recipe(name, image, variant)
        if recipe is None:
            return None, None
        key = recipe.key()
        return key, self._manifest(key)

    @contextmanager
    def opened(self, name: str, image: Image, variant: Variant) -> Iterator[Template]:
        """Use an image's template, made now where it is missing; nobody removes it meanwhile.

        Args:
            name: the definition's name.
            image: the definition.
            variant: merged.

        Raises:
            ImageError: it cannot be made; names the image, the cause and the way out.
        """
        self._sweep()
        with ExitStack() as stack:
            for _ in range(_TRIES):
                recipe = self._recipe(name, image, variant)
                if recipe is not None and (template := self._use(stack, recipe)):
                    break
                self._prepare(name, image, variant, force=False)
            else:
                raise ImageError(f"image {name}: something removes its template from {self._templates} again and again")
            yield template

    def build(self, name: str, image: Image, variant: Variant, *, force: bool = False) -> TemplateInfo:
        """Make an image's template where it is missing.

        Args:
            name: the definition's name.
            image: the definition.
            variant: merged.
            force: also where it is there. The old one stays until the new one takes its place.

        Raises:
            ImageError: it cannot be made; names the image, the cause and the way out.
        """
        self._sweep()
        return self._prepare(name, image, variant, force=force)

    def _recipe(self, name: str, image: Image, variant: Variant) -> Recipe | None:
        """What the image's template is made from; None while its source has to be obtained to know."""
        if image.source is None:
            return Recipe.of(name, image, variant)
        pin = self._sources().pinned(name, image)
        return Recipe.of(name, image, variant, pin.digest) if pin else None

    def _sources(self) -> Sources:
        from osprovider.images.sources import Sources  # what is built from packages needs not is not imported

        return Sources(self._directories)

    def _use(self, stack: ExitStack, recipe: Recipe) -> Template | None:
        """Open a template until ``stack`` is closed; None where there is none."""
        key = recipe.key()
        with ExitStack() as attempt:
            waiting = _waiting(f"replaces image {recipe.image}")
            attempt.enter_context(locks.shared(self._lock(key, "use"), waiting))
            template = self._open(key)
            if template is not None:
                attempt.callback(os.close, template.fd)
                stack.enter_context(attempt.pop_all())
            return template

    def list(self) -> tuple[TemplateInfo, ...]:
        """The templates that are ready, by image and age."""
        keys = (entry.name for entry in self._entries() if not entry.name.endswith((_NEW, _GONE)))
        found = [info for info in map(self._info, keys) if info]
        return tuple(sorted(found, key=lambda info: (info.manifest.image, info.manifest.created)))

    def remove(self, name: str) -> tuple[TemplateInfo, ...]:
        """Remove an image's templates; waits until nobody uses them.

        Args:
            name: the definition's name.

        Returns:
            what was removed.
        """
        self._sweep()
        removed = []
        for info in self.list():
            if info.manifest.image == name:
                with locks.exclusive(self._lock(info.manifest.key, "use"), _waiting(f"uses image {name}")):
                    self._discard(info.manifest.key)
                removed.append(info)
        return tuple(removed)

    def invalidate_opened(self) -> None:
        """Remove a template that this store opened and that turned out damaged; waits until nobody uses it.

        Where somebody else has noticed before us and made it again, the new one stays.
        """
        for key, identity in self._opened.items():
            with locks.exclusive(self._lock(key, "use"), _waiting("uses the damaged template")):
                if self._identity(key) == identity:
                    self._discard(key)
        self._opened.clear()

    def _prepare(self, name: str, image: Image, variant: Variant, *, force: bool) -> TemplateInfo:
        """Make a template, unless another process is quicker; its source is obtained first."""
        with ExitStack() as stack:
            obtained = None
            if image.source is not None:
                obtained = stack.enter_context(self._sources().obtain(name, image))
            recipe = Recipe.of(name, image, variant, obtained.pin.digest if obtained else None)
            key = recipe.key()
            stack.enter_context(locks.exclusive(self._lock(key, "prepare"), _waiting(f"prepares image {name}")))
            info = None if force else self._info(key)
            if info is None:
                self._make(recipe, key, obtained)
                info = self._info(key)
            if info is None:
                raise ImageError(f"image {name}: {self._templates / key} is damaged when new; check its disk")
            return info

    def _make(self, recipe: Recipe, key: str, obtained: Obtained | None) -> None:
        from osprovider.images.prepare import prepare  # what a warm create needs not is not imported

        directory = self._fresh(key)
        try:
            manifest = prepare(recipe, key, directory / _IMAGE, directory, self._directories, obtained)
            self._publish(key, manifest)
        except BaseException:
            _remove(directory)
            raise

    def _fresh(self, key: str) -> Path:
        """An empty directory for a template that is being made. Others may pass through, as apt's own user has to."""
        directory = self._templates / f"{key}{_NEW}"
        try:
            _remove(directory)
            directory.mkdir(mode=0o755, parents=True)
        except OSError as error:
            raise ImageError(
                f"{error.filename}: {error.strerror}; the cache directory {self._directories.cache} has to be writable "
                "and not full"
            ) from error
        return directory

    def _publish(self, key: str, manifest: Manifest) -> None:
        """Sync what was made and put it in its place, at once."""
        directory = self._templates / f"{key}{_NEW}"
        with (directory / _MANIFEST).open("w") as file:
            file.write(manifest.to_json())
            file.flush()
            os.fsync(file.fileno())
        _sync(directory / _IMAGE)
        _sync(directory)
        with locks.exclusive(self._lock(key, "use"), _waiting(f"uses image {manifest.image}")):
            self._discard(key)
            directory.rename(self._templates / key)
        _sync(self._templates)

    def _discard(self, key: str) -> None:
        """Remove a template. What is half removed no longer bears its name."""
        gone = self._templates / f"{key}{_GONE}"
        _remove(gone)
        try:
            (self._templates / key).rename(gone)
        except FileNotFoundError:
            return
        _remove(gone)

    def _sweep(self) -> None:
        """Remove what dead processes left half made or half removed."""
        for entry in self._entries():
            key, dot, state = entry.name.partition(".")
            if dot:
                with locks.attempt(self._lock(key, _OWNERS[dot + state])) as free:
                    if free:
                        _remove(entry.path)

    def _entries(self) -> tuple[os.DirEntry[str], ...]:
        try:
            with os.scandir(self._templates) as entries:
                return tuple(entries)
        except (FileNotFoundError, NotADirectoryError):
            return ()

    def _lock(self, key: str, what: str) -> Path:
        return self._locks / f"template-{key}.{what}"

    def _open(self, key: str) -> Template | None:
        manifest = self._manifest(key)
        if manifest is None:
            return None
        path = self._templates / key / _IMAGE
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._opened[key] = self._identity(key)
        return Template(manifest, fd, path)

    def _identity(self, key: str) -> tuple[int, int, int]:
        """Tells a template from the one that takes its place."""
        try:
            found = (self._templates / key / _IMAGE).stat()
        except FileNotFoundError:
            return (0, 0, 0)
        return found.st_dev, found.st_ino, found.st_mtime_ns

    def _manifest(self, key: str) -> Manifest | None:
        """Of a template that looks whole. A damaged one is told of and counts as none."""
        directory = self._templates / key
        try:
            manifest = Manifest.from_json((directory / _MANIFEST).read_bytes())
            size = (directory / _IMAGE).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            problem = f"{_MANIFEST} or {_IMAGE} is missing"
        except (OSError, ImageError) as error:
            problem = str(error)
        else:
            if size == manifest.size_bytes and manifest.key == key:
                return manifest
            problem = f"{_IMAGE} has {size} bytes and not {manifest.size_bytes}"
        if directory.exists():
            reporter.warning(f"{directory} is damaged ({problem}) and will be made again")
        return None

    def _info(self, key: str) -> TemplateInfo | None:
        manifest = self._manifest(key)
        if manifest is None:
            return None
        directory = self._templates / key
        return TemplateInfo(directory, (directory / _IMAGE).stat().st_blocks * 512, manifest)


def _remove(directory: str | Path) -> None:
    """Remove a directory with all in it; what cannot be removed now is swept later."""
    import shutil  # dear to import, and a warm create removes nothing

    shutil.rmtree(directory, ignore_errors=True)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _waiting(doing: str) -> Callable[[], None]:
    return lambda: reporter.info(f"waiting for another osprovider that {doing}")
