"""The names of a tar's members, each judged with those before it: whether unpacking it stays in the tree.

Where a symbolic link of the image leads to is the system's own affair; that no member goes through one is ours.
Not for: what a member holds.
"""

from __future__ import annotations

import sys

from osprovider.images.archive.name_set import NameSet
from osprovider.images.archive.refusal import Refused
from osprovider.images.archive.tar_header import DEVICES, DIRECTORY, FIFO, HARD_LINK, REGULAR, SPARSE, SYMLINK

__all__ = ["Names"]

_LONGEST_PATH = 4095  # bytes (PATH_MAX of <linux/limits.h>, which counts a NUL)
_MOST_NAMES = 128 << 20  # bytes of memory: ten million files, and half a million directories
_SLOT = 50  # bytes that a set takes for an entry, about


class Names:
    """The names that an archive has used so far.

    Attributes:
        members: how many it had.
    """

    def __init__(self) -> None:
        self.members = 0
        self._files = NameSet()  # and all that is no directory; the flag says which is a link
        self._directories: set[str] = set()
        self._parents: set[str] = {""}  # directories that no link of the archive leads to
        self._bytes = 0  # what these two take

    def add(self, kind: bytes, path: str, link: str) -> str:
        """Judge a member, and remember it.

        Args:
            kind: see :mod:`osprovider.images.archive.tar_header`.
            path: its name.
            link: where it leads to, if it is a link.

        Returns:
            its place in the tree: the path without its empty parts.

        Raises:
            Refused: it would not stay in the tree, is there twice, or is none that a root file system has.
        """
        for name in (path, link):
            if (length := len(name.encode(errors="surrogateescape"))) > _LONGEST_PATH:
                raise Refused(f"a name of {length} bytes, and no path has more than {_LONGEST_PATH}: {name}")
        place = _inside(path, path)
        parent = place.rpartition("/")[0]
        self._check_parent(parent, path)
        if kind == DIRECTORY:
            if place in self._files:
                raise Refused(f"{path}: is there twice, as a file and as a directory")
            self._keep(self._directories, place)
        else:
            if not place:
                raise Refused(f"{path!r}: a file without a name")
            if place in self._directories or place in self._parents or place in self._files:
                raise Refused(f"{path}: is there twice; which one counts is anybody's guess")
            self._check_kind(kind, path, parent, link)
            self._files.add(place, flag=kind == SYMLINK)
            self._refuse_many()
        self.members += 1
        return place

    def _check_kind(self, kind: bytes, path: str, parent: str, link: str) -> None:
        """Judge a member that is no directory by its kind."""
        if kind == HARD_LINK:
            if _inside(link, path) not in self._files:
                raise Refused(f"{path}: a hard link to {link}, which is no earlier file of the archive")
        elif kind in DEVICES:
            if "dev" not in parent.split("/"):
                raise Refused(f"{path}: a device, and not in a directory named dev")
        elif kind == SYMLINK:
            if not link or "\0" in link:
                raise Refused(f"{path}: a symbolic link to {link!r}")
        elif kind not in REGULAR and kind not in (FIFO, SPARSE):
            raise Refused(f"{path}: kind {kind!r} is none that a root file system has")

    def _check_parent(self, parent: str, path: str) -> None:
        """No directory on the way to a member may be a link, or a file, of the archive."""
        if parent in self._parents:
            return
        position = 0
        while position >= 0:
            position = parent.find("/", position + 1)
            before = parent if position < 0 else parent[:position]
            if before in self._files:
                what = "a symbolic link" if self._files.flag(before) else "a file"
                raise Refused(f"{path}: lies beneath {before}, which is {what} in the archive")
            self._keep(self._parents, before)

    def _keep(self, names: set[str], name: str) -> None:
        """Remember a name, which has to be told from all that follow."""
        if name in names:
            return
        names.add(name)
        self._bytes += sys.getsizeof(name) + _SLOT
        self._refuse_many()

    def _refuse_many(self) -> None:
        if self._bytes + self._files.bytes > _MOST_NAMES:
            raise Refused(f"more names than any root has: {self.members} members")


def _inside(path: str, member: str) -> str:
    """A path without its empty parts, which stays in the tree; ``member`` is whose it is, for messages."""
    if path.startswith("/"):
        raise Refused(f"{member}: {path} is absolute; make the tar with names relative to /")
    if "\0" in path:
        raise Refused(f"{member!r}: a name with a NUL in it")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise Refused(f"{member}: {path} leads out of the tree")
    return "/".join(parts)
