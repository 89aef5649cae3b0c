"""The prepared images of this node: found, made where missing, kept whole.

``CACHE/templates/KEY/`` holds ``template.img``, a sparse file that is one file system or a disk, its ``manifest.json``
and the list of its packages. It appears at once, by rename(2), after all in it is synced. Each key has two locks.
``prepare`` is held alone by who makes a template, so however many ask for one that is missing, one makes it and the
others wait. ``use`` is shared by who uses a template and held alone by who removes or replaces it.
What is not whole lies beside: ``KEY.new`` while it is made, ``KEY.gone`` while it is removed. They belong to the holder
of the one lock or the other, so where that lock is free they are a dead process' leftovers, and swept.
The directory's own time of modification is the time of the last use: nothing changes in it once it is there.
Not for: what is in a template (:mod:`osprovider.images.prepare`), what goes when the cache is full
(:mod:`osprovider.images.room`), or how damage is found (:mod:`osprovider.images.integrity`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from osprovider import locks
from osprovider.config.load import load_cache
from osprovider.config.model import Image, Variant
from osprovider.errors import ImageError
from osprovider.images import history
from osprovider.images.manifest import Manifest
from osprovider.images.recipe import Recipe
from osprovider.log import reporter
from osprovider.paths import Directories

if TYPE_CHECKING:
    from osprovider.images.sources.obtain import Obtained, Sources

__all__ = ["Store", "Template", "TemplateInfo", "Unusable", "Verdict"]

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
        used: when it was used last, in seconds since the epoch.
        manifest: see there.
    """

    directory: Path
    occupied_bytes: int
    used: float
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Unusable:
    """What lies in the place of a template and is damaged, or another version's: nobody will ever use it.

    Attributes:
        directory: where it lies.
        occupied_bytes: what it takes of the cache directory.
        reason: what is wrong with it.
    """

    directory: Path
    occupied_bytes: int
    reason: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of checking a template.

    Attributes:
        directory: where it lies, or lay.
        image: the definition's name; None where the manifest does not say it any more.
        damage: what is wrong, with the place; None where it is whole.
        removed: it was removed because of that; it is not where the file system refuses.
    """

    directory: Path
    image: str | None
    damage: str | None
    removed: bool = False


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
                with self._prepared(name, image, variant, force=False) as recipe:
                    template = self._use(stack, recipe)
                self._make_room(recipe)
                if template is not None:
                    break
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
        pinned = None if force else self._recipe(name, image, variant)
        if pinned is not None and (ready := self._manifest(pinned.key())):
            return self._info(pinned.key(), ready)  # without its source, which may have gone from the cache
        with self._prepared(name, image, variant, force=force) as recipe:
            key = recipe.key()
            info = self._info(key, made) if (made := self._manifest(key)) else None
        self._make_room(recipe)
        if info is None:
            raise ImageError(f"image {name}: something removed its template from {self._templates}; try again")
        return info

    def _recipe(self, name: str, image: Image, variant: Variant) -> Recipe | None:
        """What the image's template is made from; None while its source has to be obtained to know."""
        if image.source is None:
            return Recipe.of(name, image, variant, site=self._directories.config)
        pin = self._sources().pinned(name, image)
        return Recipe.of(name, image, variant, pin.digest) if pin else None

    def _sources(self, proxy: str | None = None) -> Sources:
        from osprovider.images.sources.obtain import Sources  # what is built from packages needs not is not imported

        return Sources(self._directories, proxy=proxy)

    def _use(self, stack: ExitStack, recipe: Recipe) -> Template | None:
        """Open a template until ``stack`` is closed; None where there is none."""
        key = recipe.key()
        with ExitStack() as attempt:
            waiting = _waiting(f"replaces image {recipe.image}")
            attempt.enter_context(locks.shared(self._lock(key, "use"), waiting))
            template = self._open(key)
            if template is not None:
                attempt.callback(os.close, template.fd)
                with suppress(OSError):  # it serves, on a file system that is read-only as well
                    os.utime(template.path.parent)
                stack.enter_context(attempt.pop_all())
            return template

    def list(self) -> tuple[TemplateInfo, ...]:
        """The templates that are ready, by image and age."""
        found = []
        for key in self._keys():
            with suppress(FileNotFoundError):  # it is removed at this moment
                if isinstance(manifest := self._examine(key), Manifest):
                    found.append(self._info(key, manifest))
        return tuple(sorted(found, key=lambda info: (info.manifest.image, info.manifest.created)))

    def unusable(self) -> tuple[Unusable, ...]:
        """What looks damaged, or was left by another version of osprovider."""
        found = []
        for key in self._keys():
            with suppress(FileNotFoundError):  # as above
                if isinstance(reason := self._examine(key), str):
                    found.append(Unusable(self._templates / key, self._occupied(key), reason))
        return tuple(found)

    def evict(self, key: str) -> bool:
        """Remove a template, unless somebody uses or prepares it at this moment; waits for nobody.

        Returns:
            is it gone.
        """
        with locks.attempt(self._lock(key, "prepare")) as unprepared, locks.attempt(self._lock(key, "use")) as unused:
            if unprepared and unused:
                self._discard(key)
            return unprepared and unused

    def verify(self, name: str | None = None) -> tuple[Verdict, ...]:
        """Read templates whole, compare them with their manifests, and remove what is damaged: it is made again.

        Args:
            name: of the one image whose templates are meant; all when None.
        """
        self._sweep()
        return tuple(verdict for key in self._keys() if (verdict := self._verify(key, name)))

    def _verify(self, key: str, name: str | None) -> Verdict | None:
        """None where it is another image's, or gone."""
        from osprovider.images import integrity  # a warm create checks while it copies

        image = None
        with locks.shared(self._lock(key, "use"), _waiting("replaces a template")):
            identity = self._identity(key)
            found = self._examine(key)
            if isinstance(found, Manifest):
                image = found.image
                damage = None if name not in {None, image} else integrity.find_damage(self._image(key), found)
            else:
                damage = found
        if name not in {None, image} or (damage is None and image is None):
            return None
        removed = False
        if damage is not None:
            with locks.exclusive(self._lock(key, "use"), _waiting("uses the damaged template")), suppress(OSError):
                if self._identity(key) == identity:
                    self._discard(key)
                removed = True
        return Verdict(self._templates / key, image, damage, removed)

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

    @contextmanager
    def _prepared(self, name: str, image: Image, variant: Variant, *, force: bool) -> Iterator[Recipe]:
        """Make a template, unless another process is quicker; its source is obtained first.

        Within, nobody evicts it.
        """
        cache = load_cache(self._directories)  # its problems are said before the long work
        with ExitStack() as stack:
            obtained = None
            if image.source is not None:
                obtained = stack.enter_context(self._sources(cache.proxy).obtain(name, image))
            digest = obtained.pin.digest if obtained else None
            recipe = Recipe.of(name, image, variant, digest, site=self._directories.config)
            key = recipe.key()
            stack.enter_context(locks.exclusive(self._lock(key, "prepare"), _waiting(f"prepares image {name}")))
            if force or self._manifest(key) is None:
                self._make(recipe, key, obtained)
                if self._manifest(key) is None:
                    raise ImageError(f"image {name}: {self._templates / key} is damaged when new; check its disk")
            yield recipe

    def _make_room(self, recipe: Recipe) -> None:
        """Have what was used least recently go where the cache is too large, but not what was just made."""
        from osprovider.images.room import make_room

        make_room(self._directories, self, keep=recipe.key())

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
        history.note(self._directories, manifest)

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

    def _keys(self) -> tuple[str, ...]:
        """Of what is in its place, whole or damaged."""
        return tuple(entry.name for entry in self._entries() if not entry.name.endswith((_NEW, _GONE)))

    def _entries(self) -> tuple[os.DirEntry[str], ...]:
        try:
            with os.scandir(self._templates) as entries:
                return tuple(entries)
        except (FileNotFoundError, NotADirectoryError):
            return ()

    def _lock(self, key: str, what: str) -> Path:
        return self._locks / f"template-{key}.{what}"

    def _image(self, key: str) -> Path:
        return self._templates / key / _IMAGE

    def _open(self, key: str) -> Template | None:
        manifest = self._manifest(key)
        if manifest is None:
            return None
        path = self._image(key)
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._opened[key] = self._identity(key)
        return Template(manifest, fd, path)

    def _identity(self, key: str) -> tuple[int, int, int]:
        """Tells a template from the one that takes its place."""
        try:
            found = self._image(key).stat()
        except FileNotFoundError:
            return (0, 0, 0)
        return found.st_dev, found.st_ino, found.st_mtime_ns

    def _manifest(self, key: str) -> Manifest | None:
        """Of a template that looks whole. A damaged one is told of and counts as none."""
        found = self._examine(key)
        if isinstance(found, str):
            reporter.warning(f"{self._templates / key} is damaged ({found}) and will be made again")
            return None
        return found

    def _examine(self, key: str) -> Manifest | str | None:
        """A template's manifest, what is wrong with it where it does not look whole, or None where there is none."""
        directory = self._templates / key
        try:
            manifest = Manifest.from_json((directory / _MANIFEST).read_bytes())
            size = (directory / _IMAGE).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return f"{_MANIFEST} or {_IMAGE} is missing" if directory.exists() else None
        except (OSError, ImageError) as error:
            return str(error)
        if manifest.key != key:
            return f"{_MANIFEST} is of another template"
        if size != manifest.size_bytes:
            return f"{_IMAGE} has {size} bytes and not {manifest.size_bytes}"
        return manifest

    def _info(self, key: str, manifest: Manifest) -> TemplateInfo:
        directory = self._templates / key
        return TemplateInfo(directory, self._occupied(key), directory.stat().st_mtime, manifest)

    def _occupied(self, key: str) -> int:
        """In bytes."""
        directory = self._templates / key
        return sum(path.stat().st_blocks for path in (directory, *directory.iterdir())) * 512


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
