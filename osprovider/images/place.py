"""One template's place in the cache: what lies there, who may touch it, and how it comes and goes at once.

``CACHE/templates/KEY/`` holds ``template.img``, a sparse file that is one file system or a disk, its ``manifest.json``
and the list of its packages. It appears at once, by rename(2), after all in it is synced. Each key has two locks.
``prepare`` is held alone by who makes a template, so however many ask for one that is missing, one makes it and the
others wait. ``use`` is shared by who uses a template and held alone by who removes or replaces it.
What is not whole lies beside: ``KEY.new`` while it is made, ``KEY.gone`` while it is removed. They belong to the holder
of the one lock or the other, so where that lock is free they are a dead process' leftovers, and swept. What is made of
a content that nobody knows yet is made beside the place of the key without it, and put into its own in the end.
The directory's own time of modification is the time of the last use: nothing changes in it once it is there.
Not for: which key an image has, and what a template is made of (:mod:`osprovider.images.store`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from osprovider import linux, locks
from osprovider.errors import ImageError, NodeError, reason_of
from osprovider.images import history
from osprovider.log import reporter
from osprovider.manifest import Manifest, OtherVersion, is_intact
from osprovider.paths import Directories

__all__ = ["Fault", "Identity", "Place", "TemplateInfo", "Unusable", "places", "sweep"]

_IMAGE = "template.img"
_MANIFEST = "manifest.json"
_NEW = ".new"
_GONE = ".gone"
_KEY = re.compile("[0-9a-f]{64}")  # what else lies there is somebody's, and stays
_OWNERS = {_NEW: "prepare", _GONE: "use"}  # the locks

Identity = tuple[int, int, int]
"""Tells a template from the one that takes its place; zeros where there is none."""


@dataclass(frozen=True, slots=True)
class TemplateInfo:
    """A template that is ready, for people.

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
class Fault:
    """Why a template cannot be used.

    Attributes:
        reason: what is wrong.
        image: the definition's name, where its manifest still says it.
        is_damage: it is not as it was made; else another version of osprovider made it.
    """

    reason: str
    image: str | None = None
    is_damage: bool = True


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
class Place:
    """Where a key's template lies, or would lie.

    Attributes:
        directories: ``cache`` holds the templates, ``run`` their locks.
        key: the template's.
    """

    directories: Directories
    key: str

    @property
    def directory(self) -> Path:
        """The template's."""
        return _templates(self.directories) / self.key

    @property
    def image(self) -> Path:
        """The template's data."""
        return self.directory / _IMAGE

    # -- what is there ------------------------------------------------------------------------------------------------

    def examine(self) -> Manifest | Fault | None:
        """The manifest, what is wrong with the template where it does not look whole, or None where there is none."""
        while True:
            before = self._occupant()
            found = self._look()
            if not isinstance(found, Fault) or self._occupant() == before:
                return found  # otherwise one was replaced meanwhile, and both were looked at

    def _occupant(self) -> Identity | None:
        """Tells the directory that is there now from the one that takes its place; None where there is none."""
        try:
            found = self.directory.stat()
        except OSError:  # whoever looks into it says why
            return None
        return found.st_dev, found.st_ino, found.st_ctime_ns

    def _look(self) -> Manifest | Fault | None:
        try:
            text = (self.directory / _MANIFEST).read_bytes()
            manifest = Manifest.from_json(text)
            size = self.image.stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return Fault(f"{_MANIFEST} or {_IMAGE} is missing") if self.directory.exists() else None
        except OtherVersion as error:
            return Fault(str(error), error.image, is_damage=False)
        except (OSError, ImageError) as error:
            return Fault(str(error))
        if not is_intact(text):
            wrong = f"the checksum of {_MANIFEST} is wrong"
        elif manifest.key != self.key:
            wrong = f"{_MANIFEST} is of another template"
        elif size != manifest.size_bytes:
            wrong = f"{_IMAGE} has {size} bytes and not {manifest.size_bytes}"
        else:
            return manifest
        return Fault(wrong, manifest.image)

    def manifest(self) -> Manifest | None:
        """Of a template that looks whole. Another one is told of and counts as none."""
        found = self.examine()
        if isinstance(found, Fault):
            if found.is_damage:
                reporter.warning(f"{self.directory} is damaged ({found.reason}) and will be made again")
            else:
                reporter.warning(f"{self.directory} was {found.reason}; it will be made again")
            return None
        return found

    def identity(self) -> Identity:
        """Of the template that is there now."""
        try:
            found = self.image.stat()
        except FileNotFoundError:
            return 0, 0, 0
        return found.st_dev, found.st_ino, found.st_mtime_ns

    def info(self) -> TemplateInfo | Unusable | None:
        """What lies there, for people; None where nothing does, or is removed at this moment."""
        with suppress(FileNotFoundError):
            found = self.examine()
            if isinstance(found, Fault):
                return Unusable(self.directory, self._occupied(), found.reason)
            if found is not None:
                return TemplateInfo(self.directory, self._occupied(), self.directory.stat().st_mtime, found)
        return None

    def _occupied(self) -> int:
        """In bytes."""
        return sum(path.stat().st_blocks for path in (self.directory, *self.directory.iterdir())) * 512

    # -- who may touch it ---------------------------------------------------------------------------------------------

    def in_use(self, called: str = "a template") -> AbstractContextManager[None]:
        """Nobody removes or replaces the template within; ``called`` is what whoever waits for that is told."""
        return locks.shared(self._lock("use"), f"replaces {called}")

    def preparing(self, image: str) -> AbstractContextManager[None]:
        """Nobody else makes the template within, nor evicts it; ``image`` is the definition's name."""
        return locks.exclusive(self._lock("prepare"), f"prepares image {image}")

    def _unused(self, called: str) -> AbstractContextManager[None]:
        """Nobody uses the template within; ``called`` as above."""
        return locks.exclusive(self._lock("use"), f"uses {called}")

    def _lock(self, what: str) -> Path:
        return self.directories.run / "locks" / f"template-{self.key}.{what}"

    # -- how it comes and goes ----------------------------------------------------------------------------------------

    @contextmanager
    def making(self) -> Iterator[tuple[Path, Path]]:
        """An empty directory for a template that is being made, which goes again unless it is published.

        Others may pass through it, as apt's own user has to. Whoever makes one holds :meth:`preparing`.

        Yields:
            the directory, and where in it the data belongs.

        Raises:
            NodeError: the cache directory cannot be written.
        """
        new = self._beside(_NEW)
        try:
            _remove(new)
            new.mkdir(mode=0o755, parents=True)
            yield new, new / _IMAGE
        except OSError as error:
            raise NodeError(
                f"{error.filename or new}: {reason_of(error)}; the cache directory {self.directories.cache} has to be "
                "writable and not full"
            ) from error
        finally:
            _remove(new)

    def publish(self, manifest: Manifest, new: Path) -> None:
        """Sync what was made and put it in its place, at once; waits until nobody uses what was there before.

        Args:
            manifest: of the template.
            new: the directory that it was made in, of this place or another one.
        """
        with (new / _MANIFEST).open("w") as file:
            file.write(manifest.to_json())
            file.flush()
            os.fsync(file.fileno())
        _sync(new / _IMAGE)
        _sync(new)
        with self._unused(f"image {manifest.image}"):
            self._replace(new)
        _sync(self.directory.parent)
        history.note(self.directories, manifest)

    def _replace(self, new: Path) -> None:
        """Put a directory in the template's place, so that at every moment one of the two is there."""
        try:
            linux.exchange(str(new), str(self.directory))
        except OSError:  # nothing is there, or the file system cannot (NFS)
            self._discard()
            new.rename(self.directory)
        else:
            _remove(new)

    def remove(self, called: str, only: Identity | None = None) -> None:
        """Remove the template; waits until nobody uses it.

        Args:
            called: what whoever waits is told that others use.
            only: the template that is meant; one that has taken its place since stays.

        Raises:
            OSError: the file system refuses.
        """
        with self._unused(called):
            if only is None or self.identity() == only:
                self._discard()

    def evict(self) -> bool:
        """Remove the template, unless somebody uses or prepares it at this moment; waits for nobody.

        Returns:
            is it gone.
        """
        with locks.attempt(self._lock("prepare")) as unprepared, locks.attempt(self._lock("use")) as unused:
            if unprepared and unused:
                self._discard()
            return unprepared and unused

    def _discard(self) -> None:
        """Remove the template, which nobody uses. What is half removed no longer bears its name."""
        gone = self._beside(_GONE)
        _remove(gone)
        try:
            self.directory.rename(gone)
        except FileNotFoundError:
            return
        _remove(gone)

    def _beside(self, state: str) -> Path:
        return self.directory.with_name(f"{self.key}{state}")

    def clear(self, state: str) -> None:
        """Remove what lies beside in this state, unless its owner lives."""
        with locks.attempt(self._lock(_OWNERS[state])) as dead:
            if dead:
                _remove(self._beside(state))


def places(directories: Directories) -> tuple[Place, ...]:
    """Those that hold something, whole or damaged."""
    return tuple(Place(directories, name) for name in _names(directories) if _KEY.fullmatch(name))


def sweep(directories: Directories) -> None:
    """Remove what dead processes left half made or half removed."""
    for name in _names(directories):
        key, dot, state = name.partition(".")
        if _KEY.fullmatch(key) and dot + state in _OWNERS:
            Place(directories, key).clear(dot + state)


def _templates(directories: Directories) -> Path:
    return directories.cache / "templates"


def _names(directories: Directories) -> tuple[str, ...]:
    try:
        return tuple(path.name for path in _templates(directories).iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return ()


def _remove(directory: Path) -> None:
    """Remove a directory with all in it; what cannot be removed now is swept later."""
    import shutil  # dear to import, and a warm create removes nothing

    shutil.rmtree(directory, ignore_errors=True)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
