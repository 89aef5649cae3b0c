"""The guest protocol on a directory of the node.

What a guest's owner laid is never trusted: paths are resolved inside the root (:mod:`osprovider.guest.resolve`), and
only regular files are ever opened; a FIFO cannot block us and a device node is not touched.
Not for: mounting the file system that is there (:mod:`osprovider.guest.mounting`); nor running anything of the guest's.
"""

# ruff: noqa: D102 (the protocol documents the methods)

from __future__ import annotations

import errno
import fnmatch
import itertools
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from osprovider.descriptors import opened, path_of
from osprovider.errors import GuestError, reason_of
from osprovider.guest import files
from osprovider.guest.protocol import Guest
from osprovider.guest.resolve import ABSENT, entry, make_directory_at, open_inside

__all__ = ["MOST_FOUND", "PROTECTED", "READ_LIMIT", "HostGuest", "is_gone", "reported"]

READ_LIMIT = 16 << 20
"""The largest file that ``read`` returns, in bytes."""

MOST_FOUND = 100_000
"""How many files ``glob`` finds at most: a guest may have made any number of them."""

PROTECTED = "it may not be changed; if lsattr shows i or a for it or its directory, chattr -i -a it in the guest"
"""Why a file cannot be changed that chattr(1) protects, and what to do."""

_CHUNK = 1 << 20
_GONE = frozenset({errno.ENOTCONN, errno.ECONNABORTED})
_WAYS_OUT = {
    errno.ENOSPC: "the guest's file system is full; make the disk larger",
    errno.EPERM: PROTECTED,
    errno.EROFS: "the guest's file system is read-only, or became so after an error; look at the kernel's log",
    errno.EXDEV: "something is mounted there, and a guest is one file system",
}


class HostGuest(Guest):
    """A guest's root file system, reached through a descriptor of its root directory.

    Implements :class:`osprovider.guest.protocol.Guest`; see there for the methods.

    Args:
        root_fd: the root directory; the caller's to close, after the last use of this.
        mountpoint: the same directory as a path that other programs can use; None where there is none.
    """

    def __init__(self, root_fd: int, *, mountpoint: Path | None = None) -> None:
        self._root = root_fd
        self.mountpoint = mountpoint

    @property
    def root_fd(self) -> int:
        """The root directory, for a program that is passed it."""
        return self._root

    def read(self, path: str) -> bytes:
        with reported("read", path) as inside, opened(open_inside(self._root, inside, os.O_PATH)) as found:
            status = os.fstat(found)
            files.refuse_special(status.st_mode)
            content = b""
            if status.st_size <= READ_LIMIT:
                with open(path_of(found), "rb") as file:  # noqa: PTH123
                    content = file.read(READ_LIMIT + 1)
            if max(status.st_size, len(content)) > READ_LIMIT:
                raise OSError(errno.EFBIG, "it is larger than 16 MiB")
            return content

    def read_text(self, path: str) -> str:
        return self.read(path).decode("utf-8", "surrogateescape")

    def write(
        self, path: str, content: str | bytes, *, mode: int | None = None, owner: tuple[int, int] | None = None
    ) -> None:
        data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
        with reported("write", path) as inside, entry(self._root, inside, follow=True, make_parents=True) as place:
            files.put(*place, [data], mode=mode, owner=owner)

    def allocate(self, path: str, size_bytes: int, *, head: bytes = b"", written: bool = False) -> None:
        with reported("make", path) as inside, entry(self._root, inside, follow=False, make_parents=True) as place:
            files.allocate(*place, size_bytes, head, written=written)

    def exists(self, path: str) -> bool:
        with reported("look at", path) as inside:
            return self._kind(inside) is not None

    def is_directory(self, path: str) -> bool:
        with reported("look at", path) as inside:
            return self._kind(inside) == stat.S_IFDIR

    def is_file(self, path: str) -> bool:
        with reported("look at", path) as inside:
            return self._kind(inside, os.O_NOFOLLOW) == stat.S_IFREG

    def is_symlink(self, path: str) -> bool:
        with reported("look at", path) as inside:
            return self._kind(inside, os.O_NOFOLLOW) == stat.S_IFLNK

    def glob(self, pattern: str) -> list[str]:
        with reported("list", pattern) as inside:
            found = [""]
            for component in filter(None, inside.split("/")):
                below: list[str] = []
                for place in found:
                    below += (f"{place}/{name}" for name in self._matches(place, component))
                    if len(below) > MOST_FOUND:
                        raise OSError(errno.E2BIG, f"more than {MOST_FOUND} are there; remove what the guest needs not")
                found = below
            return sorted(place or "/" for place in found)

    def remove(self, path: str) -> None:
        with reported("remove", path) as inside:
            if self._kind(inside, os.O_NOFOLLOW) is None:
                return
            with entry(self._root, inside, follow=False, make_parents=False) as place:
                files.remove(*place)

    def mkdir(self, path: str, *, mode: int = 0o755, owner: tuple[int, int] = (0, 0)) -> None:
        with reported("make the directory", path) as inside:
            kind = self._kind(inside)
            if kind is None:
                with entry(self._root, inside, follow=True, make_parents=True) as (parent, name):
                    make_directory_at(parent, name, mode, owner)
            elif kind != stat.S_IFDIR:
                raise OSError(errno.EEXIST, "a file is in its place")

    def symlink(self, target: str, path: str) -> None:
        with (
            reported("make the link", path) as inside,
            entry(self._root, inside, follow=False, make_parents=True) as (parent, name),
            files.renamed_into_place(parent, name) as temporary,
        ):
            os.symlink(target, temporary, dir_fd=parent)
            os.chown(temporary, 0, 0, dir_fd=parent, follow_symlinks=False)

    def chmod(self, path: str, mode: int) -> None:
        with (
            reported("change the mode of", path) as inside,
            opened(open_inside(self._root, inside, os.O_PATH)) as found,
        ):
            os.chmod(path_of(found), mode)  # noqa: PTH101

    def chown(self, path: str, uid: int, gid: int) -> None:
        with (
            reported("change the owner of", path) as inside,
            opened(open_inside(self._root, inside, os.O_PATH)) as found,
        ):
            os.chown(path_of(found), uid, gid)

    def copy_in(self, source: Path, path: str) -> None:
        self.mkdir(path)
        try:
            with os.scandir(source) as listing:
                items = sorted(listing, key=lambda item: item.name)
        except OSError as error:
            raise GuestError(f"cannot copy {source} into the guest: {_reason(error)}") from error
        for item in items:
            place = f"{path.rstrip('/')}/{item.name}"
            mode = stat.S_IMODE(item.stat(follow_symlinks=False).st_mode)
            if item.is_symlink():
                self.symlink(os.readlink(item.path), place)  # noqa: PTH115 (Path would tidy the target up)
            elif item.is_dir():
                self.mkdir(place, mode=mode)
                self.copy_in(Path(item.path), place)
            elif item.is_file():
                self._copy_file(Path(item.path), place, mode)
            else:
                raise GuestError(f"cannot copy {item.path} into the guest: it is no file, directory or link; remove it")

    def _copy_file(self, source: Path, path: str, mode: int) -> None:
        with (
            reported("write", path) as inside,
            entry(self._root, inside, follow=False, make_parents=True) as place,
            source.open("rb", buffering=0) as file,
        ):
            files.put(*place, iter(lambda: file.read(_CHUNK), b""), mode=mode, owner=(0, 0))

    def _kind(self, path: str, flags: int = 0) -> int | None:
        """The file type bits of what is at ``path``; None where there is nothing."""
        try:
            with opened(open_inside(self._root, path, os.O_PATH | flags)) as found:
                return stat.S_IFMT(os.fstat(found).st_mode)
        except OSError as error:
            if error.errno in ABSENT:
                return None
            raise

    def _matches(self, directory: str, pattern: str) -> list[str]:
        """The names in ``directory`` that one component of a pattern matches: all, or more than may be."""
        if not any(sign in pattern for sign in "*?["):
            return [pattern] if self._kind(f"{directory}/{pattern}", os.O_NOFOLLOW) is not None else []
        try:
            with (
                opened(open_inside(self._root, directory or "/", os.O_RDONLY | os.O_DIRECTORY)) as found,
                os.scandir(found) as entries,  # nobody knows how large it is
            ):
                names = (each.name for each in entries if pattern.startswith(".") or not each.name.startswith("."))
                matching = (name for name in names if fnmatch.fnmatchcase(name, pattern))
                return list(itertools.islice(matching, MOST_FOUND + 1))
        except OSError as error:
            if error.errno in ABSENT:
                return []
            raise


@contextmanager
def reported(what: str, path: str) -> Iterator[str]:
    """Check a guest's path, yield it without trailing slashes, and name it in every error.

    Raises:
        GuestError: in place of every ``OSError`` of the body.
    """
    shown = path if path.isprintable() else ascii(path)
    if not path.startswith("/") or "\0" in path:
        raise GuestError(f"cannot {what} {shown} in the guest: paths are absolute and without null bytes")
    try:
        yield path.rstrip("/") or "/"
    except OSError as error:
        raise GuestError(f"cannot {what} {shown} in the guest: {_reason(error)}") from error


def is_gone(error: Exception) -> bool:
    """Is an error that a file system has no process any more that answers for it; see fuse(4).

    Args:
        error: of this module, or the system's own.
    """
    cause = error if isinstance(error, OSError) else error.__cause__
    return isinstance(cause, OSError) and cause.errno in _GONE


def _reason(error: OSError) -> str:
    """What the system says, as the middle of a line."""
    return _WAYS_OUT.get(error.errno or 0) or reason_of(error)
