"""What was changed in an overlay, as commands for debugfs(8), which changes the ext file system below likewise.

An overlay keeps what is new, or no longer as it was, in a directory of its own ("upper"), so that whoever reads the
file system below ("lower") need not write it. Names, owners, modes, attributes and times are written down here; debugfs
takes contents from the upper directory itself.
Sources: the kernel's Documentation/filesystems/overlayfs.rst; debugfs(8); e2fsprogs' lib/ss/parse.c (quoting),
debugfs/set_fields.c (times) and misc/create_inode.c (``do_write_internal``) of 1.47.
Not for: running debugfs (:mod:`osprovider.guest.writing`), or mounting an overlay (:mod:`osprovider.guest.mounting`).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from osprovider.descriptors import opened, path_of
from osprovider.errors import GuestError

__all__ = ["OVERLAYS_OWN", "Changes", "Inodes", "Told"]

OVERLAYS_OWN = "trusted.overlay."
"""How the names of the attributes begin by which an overlay knows its files; it shows none of them."""

_OPAQUE = f"{OVERLAYS_OWN}opaque"  # what is in the directory below is not seen any more
_REDIRECT = f"{OVERLAYS_OWN}redirect"  # it has another name below
_METACOPY = f"{OVERLAYS_OWN}metacopy"  # its content is still the one below
_KINDS = {stat.S_IFREG: "file", stat.S_IFLNK: "link", stat.S_IFDIR: "directory"}
_NANOSECOND_BITS = 2  # those before them are of the seconds; see ext4(5)'s i_mtime_extra
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_ITSELF = os.O_PATH | os.O_NOFOLLOW
_MOST_LINE = 8000  # bytes; debugfs reads up to BUFSIZ, and a name, or what a link says, may be in quotes twice as long


class Inodes(NamedTuple):
    """What an ext file system has for its files.

    Attributes:
        block_size: in bytes.
        has_nanoseconds: there is room for more than the seconds of their times.
    """

    block_size: int
    has_nanoseconds: bool


class Told(NamedTuple):
    """What debugfs is told.

    Attributes:
        questions: lines that have it print ("stat") what is there already and becomes another, or is removed.
        asked: the names of these, in that order.
        commands: lines that change it.
    """

    questions: bytes
    asked: tuple[str, ...]
    commands: bytes


class _Found(NamedTuple):
    """What there is to a file beside its content."""

    status: os.stat_result
    attributes: dict[str, bytes]


class Changes:
    """The changes that one overlay kept; it is not mounted any more.

    Args:
        upper: a descriptor of the directory where they are. What is in it becomes root's: debugfs is nobody else.
        lower: a descriptor of the root directory of the file system below, which is mounted.
        values: an empty directory, for what debugfs reads from files of their own.
        inside: the path by which debugfs has ``values``.
        inodes: of the file system below.
    """

    def __init__(self, upper: int, lower: int, values: Path, *, inside: str, inodes: Inodes) -> None:
        self._upper = upper
        self._lower = lower
        self._values = values
        self._inside = inside
        self._inodes = inodes
        self._lines: list[bytes] = []
        self._questions: list[bytes] = []
        self._asked: list[str] = []
        self._way: list[bytes] = []  # from the root to where we are

    def told(self) -> Told:
        """What to tell debugfs, which works in the upper directory.

        Raises:
            GuestError: something cannot be told to debugfs; says what.
            OSError: something cannot be read.
        """
        try:
            self._directory(b".", self._upper, self._lower)  # "cd .." ends at the root, where it began
        except RecursionError as error:
            raise GuestError(
                "directories that were changed are nested too deep to be told to debugfs: set isolation to appliance"
            ) from error
        return Told(b"".join(self._questions), tuple(self._asked), b"".join(self._lines))

    def _directory(self, name: bytes, upper: int, lower: int | None) -> None:
        """A directory that is there, with all that is in it."""
        marks = os.listxattr(upper)
        if _REDIRECT in marks:
            raise GuestError(f"a directory was renamed to {self._called(name)}, which cannot be told to debugfs")
        found = _found(upper)
        with self._entered(name, native=True, is_new=lower is None):
            if _OPAQUE in marks and lower is not None:
                self._empty(lower)
            for entry in sorted(_names(upper)):
                self._entry(entry, upper, None if _OPAQUE in marks else lower)
        _give_to_root(upper, 0o700)
        self._describe(name, found, None if lower is None else _found(lower))

    def _entry(self, name: bytes, upper: int, lower: int | None) -> None:
        """What the upper directory has of a name."""
        with opened(os.open(name, _ITSELF, dir_fd=upper)) as fd:
            found = _found(fd)
            kind = stat.S_IFMT(found.status.st_mode)
            before = _kind(name, lower)
            is_gone = stat.S_ISCHR(kind) and not found.status.st_rdev  # a "whiteout"
            is_kept = (
                kind == before
                and not is_gone
                and (kind == stat.S_IFDIR or kind not in _KINDS or _METACOPY in os.listxattr(path_of(fd)))
            )
            if before is not None and lower is not None and not is_kept:
                self._remove(name, lower)
            if is_gone:
                return
            if not is_kept:
                self._make(name, fd, found.status)
            if kind == stat.S_IFDIR:
                with opened(os.open(name, _DIRECTORY, dir_fd=upper)) as directory, _same(name, lower, is_kept) as below:
                    self._directory(name, directory, below)
            else:
                with _same(name, lower, is_kept) as below:
                    self._describe(name, found, None if below is None else _found(below))

    def _make(self, name: bytes, fd: int, status: os.stat_result) -> None:
        """Have something of a name, with its content."""
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFDIR:
            self._say(b"mkdir", _path(name))
        elif kind == stat.S_IFLNK:
            self._say(b"symlink", _path(name), os.readlink(b"", dir_fd=fd))
        elif kind == stat.S_IFREG and status.st_nlink == 1:
            _give_to_root(fd, 0o600)
            self._say(b"write", _path(name), name)
            if status.st_size and status.st_blocks * 512 >= status.st_size:  # debugfs leaves zeros out
                self._say(b"fallocate", _path(name), b"0", b"%d" % ((status.st_size - 1) // self._inodes.block_size))
        else:
            raise GuestError(f"{self._called(name)} has another name or is a device, which cannot be told to debugfs")

    def _remove(self, name: bytes, lower: int) -> None:
        """Have nothing of that name any more."""
        self._ask(name)
        if _kind(name, lower) != stat.S_IFDIR:
            self._say(b"rm", _path(name))
            return
        with opened(os.open(name, _DIRECTORY, dir_fd=lower)) as directory, self._entered(name):
            self._empty(directory)
        self._say(b"rmdir", _path(name))

    def _empty(self, directory: int) -> None:
        for name in sorted(_names(directory)):
            self._remove(name, directory)

    def _describe(self, name: bytes, found: _Found, before: _Found | None) -> None:
        """Have what is of a name be described like that; nothing of what it was described by before is said again."""
        if before:
            self._ask_where_changed(name, found, before)
        was = _fields(before.status, has_nanoseconds=self._inodes.has_nanoseconds) if before else {}
        for field, value in _fields(found.status, has_nanoseconds=self._inodes.has_nanoseconds).items():
            if was.get(field) != value:
                self._say(b"set_inode_field", _path(name), field, value)
        had = before.attributes if before else {}
        for attribute in sorted(had.keys() - found.attributes.keys()):
            self._say(b"ea_rm", _path(name), os.fsencode(attribute))
        for attribute, data in sorted(found.attributes.items()):
            if had.get(attribute) != data:
                number = str(len(self._lines))
                (self._values / number).write_bytes(data)
                self._say(b"ea_set", b"-f", f"{self._inside}/{number}".encode(), _path(name), os.fsencode(attribute))

    @contextmanager
    def _entered(self, name: bytes, *, native: bool = False, is_new: bool = False) -> Iterator[None]:
        """What the body says is done in a directory; with ``native``, also for what debugfs reads."""
        for place in (_path(name), b".."):
            self._say(b"cd", place)
            if native:
                self._say(b"lcd", place)
            if not is_new:
                self._questions.append(self._line(b"cd", place))
            if place != b"..":
                self._way.append(name)
                yield
                self._way.pop()

    def _called(self, name: bytes) -> str:
        """A path for messages."""
        path = os.path.normpath(os.fsdecode(b"/".join([b"", *self._way, name])))
        return path if path.isprintable() else ascii(path)

    def _say(self, *words: bytes) -> None:
        self._lines.append(self._line(*words))

    def _line(self, *words: bytes) -> bytes:
        """A line for debugfs."""
        line = b" ".join(b'"%s"' % word.replace(b'"', b'""') for word in words)
        if b"\n" in line or b"\r" in line or len(line) > _MOST_LINE:  # debugfs ends a line at either sign
            said = "has a name that cannot be told to debugfs: set isolation to appliance"
            raise GuestError(f"{self._called(words[1])} {said}")
        return line + b"\n"

    def _ask(self, name: bytes) -> None:
        """Ask what is there now, which may be protected from changes."""
        self._questions.append(self._line(b"stat", _path(name)))
        self._asked.append(self._called(name))

    def _ask_where_changed(self, name: bytes, found: _Found, before: _Found) -> None:
        """Ask where more is changed than what is in a directory in it; what is changed in itself has another time."""
        now, then = found.status, before.status
        if not stat.S_ISDIR(now.st_mode) or _own(now) != _own(then) or found.attributes != before.attributes:
            self._ask(name)


def _path(name: bytes) -> bytes:
    """A name, so that debugfs does not take it for an option, or for an inode's number in angle brackets."""
    return b"./" + name


def _names(directory: int) -> list[bytes]:
    with os.scandir(path_of(directory)) as found:  # which opens it anew: this descriptor may be for no more than paths
        return [os.fsencode(each.name) for each in found]


def _found(fd: int) -> _Found:
    place = path_of(fd)
    names = (each for each in os.listxattr(place) if not each.startswith(OVERLAYS_OWN))
    return _Found(os.fstat(fd), {name: os.getxattr(place, name) for name in names})


def _kind(name: bytes, directory: int | None) -> int | None:
    """The file type bits of what has a name; None where nothing has."""
    if directory is None:
        return None
    try:
        return stat.S_IFMT(os.lstat(name, dir_fd=directory).st_mode)
    except FileNotFoundError:
        return None


@contextmanager
def _same(name: bytes, lower: int | None, is_kept: bool) -> Iterator[int | None]:
    """A descriptor of what it is below; none where it is new."""
    if lower is None or not is_kept:
        yield None
        return
    with opened(os.open(name, _ITSELF, dir_fd=lower)) as fd:
        yield fd


def _own(status: os.stat_result) -> tuple[int, ...]:
    """What the system's calls change of a directory, or of a file where more than its content is."""
    return status.st_mtime_ns, status.st_mode, status.st_uid, status.st_gid


def _fields(status: os.stat_result, *, has_nanoseconds: bool) -> dict[bytes, bytes]:
    """Fields of an inode, and their values as debugfs takes them."""
    fields = {b"mode": b"0%o" % status.st_mode, b"uid": b"%d" % status.st_uid, b"gid": b"%d" % status.st_gid}
    for name, nanoseconds in ((b"mtime", status.st_mtime_ns), (b"ctime", status.st_ctime_ns)):
        seconds, rest = divmod(nanoseconds, 10**9)
        fields[name] = b"@%d" % (seconds & 0xFFFFFFFF)
        if has_nanoseconds:
            extra = rest << _NANOSECOND_BITS | ((seconds + (1 << 31)) >> 32 & 3)
            fields[name + b"_extra"] = b"%d" % extra
    return fields


def _give_to_root(fd: int, mode: int) -> None:
    os.chown(path_of(fd), 0, 0)
    os.chmod(path_of(fd), mode)  # noqa: PTH101
