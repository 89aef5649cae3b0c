"""The headers of a tar, read as they pass: what is in the archive, and whether unpacking it stays in the tree.

Refused, by the member's name and its byte in the archive: names with ``..`` and absolute names; members beneath a
symbolic link that the archive itself holds; hard links to what is not an earlier member; devices outside a directory
named ``dev``; a name that comes twice, directories aside; kinds that are not files; damage, a missing end, and whatever
follows the end.
Not for: unpacking (:mod:`osprovider.images.unpack`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from osprovider.errors import ImageError
from osprovider.images.pipereader import PipeReader

__all__ = ["Scanner", "printable"]

_BLOCK = 512
_LONGEST_EXTENSION = 4 << 20  # of pax and GNU's long names: some hundred xattrs fit
_ZEROS = bytes(_BLOCK)

_REGULAR = b"0\x007"
_HARD_LINK, _SYMLINK, _DIRECTORY = b"1", b"2", b"5"
_DEVICES = b"34"
_FIFO = b"6"
_SPARSE = b"S"  # GNU's old kind
_PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK = b"x", b"g", b"L", b"K"
_EXTENSIONS = (_PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK)


@dataclass(slots=True)
class _Extended:
    """What headers before a member say of it."""

    path: str | None = None
    link: str | None = None
    size: int | None = None
    sparse_name: str | None = None


class Scanner:
    """Reads the headers of one archive.

    Args:
        name: what messages call it.

    Attributes:
        top: the names at the top of the tree, as far as it was read.
        members: how many there are.
    """

    def __init__(self, name: str) -> None:
        self.top: set[str] = set()
        self.members = 0
        self._name = name
        self._files: set[str] = set()
        self._directories: set[str] = set()
        self._links: set[str] = set()
        self._parents: set[str] = {""}  # directories that no link of the archive leads to
        self._extended = _Extended()

    def scan(self, source: int, target: int) -> Iterator[bytes]:
        """Read an archive to its end.

        Args:
            source: the read end of a pipe.
            target: the write end of another, to which long contents are moved.

        Yields:
            what has been read and may be written to ``target``, before more is moved there.

        Raises:
            ImageError: see the module.
        """
        reader = PipeReader(self._name, source)
        while True:
            start = reader.position
            block = reader.take(_BLOCK)
            if block == _ZEROS:
                break
            kind, size = self._header(block, start)
            if kind == _SPARSE:
                self._skip_sparse_map(reader, block)
            if kind in _EXTENSIONS:
                if size > _LONGEST_EXTENSION:
                    raise self._wrong(start, f"an extended header of {size} bytes makes no sense")
                data = reader.take(_padded(size))[:size]
                self._extend(kind, data, start)
                continue
            yield from reader.over(_padded(size), target)
        yield reader.passed()
        self._end(reader)

    def _header(self, block: bytes, start: int) -> tuple[bytes, int]:
        """Check a header; returns its kind and how many bytes of content follow."""
        stated = _number(block[148:156])
        if stated is None or stated != sum(block[:148]) + 8 * 0x20 + sum(block[156:]):
            raise self._wrong(start, "a header's checksum is wrong: the archive is damaged")
        kind = block[156:157]
        size = _number(block[124:136])
        if size is None or size < 0:
            raise self._wrong(start, "a header's size is no number: the archive is damaged")
        if kind in _EXTENSIONS:
            return kind, size
        extended, self._extended = self._extended, _Extended()
        path = extended.sparse_name or extended.path or _path(block)
        link = extended.link if extended.link is not None else _text(block[157:257])
        if extended.size is not None:
            size = extended.size
        self._member(kind, path, link, start)
        self.members += 1
        return kind, size if kind in _REGULAR or kind == _SPARSE else 0

    def _member(self, kind: bytes, path: str, link: str, start: int) -> None:
        """Judge a member."""
        if kind in _REGULAR and path.endswith("/"):
            kind = _DIRECTORY  # as in archives older than POSIX
        place = self._inside(path, path, start)
        parent = place.rpartition("/")[0]
        self._check_parent(parent, path, start)
        self.top.add(place.partition("/")[0])
        if kind == _DIRECTORY:
            if place in self._files:
                raise self._wrong(start, f"{path}: is there twice, as a file and as a directory")
            self._directories.add(place)
            return
        if place in self._files or place in self._directories or place in self._parents:
            raise self._wrong(start, f"{path}: is there twice; which one counts is anybody's guess")
        self._check_kind(kind, path, parent, link, start)
        if kind == _SYMLINK:
            self._links.add(place)
        self._files.add(place)

    def _check_kind(self, kind: bytes, path: str, parent: str, link: str, start: int) -> None:
        """Judge a member that is no directory by its kind."""
        if kind == _HARD_LINK:
            if self._inside(link, path, start) not in self._files:
                raise self._wrong(start, f"{path}: a hard link to {link}, which is no earlier file of the archive")
        elif kind in _DEVICES:
            if "dev" not in parent.split("/"):
                raise self._wrong(start, f"{path}: a device, and not in a directory named dev")
        elif kind not in _REGULAR and kind not in (_SYMLINK, _FIFO, _SPARSE):
            raise self._wrong(start, f"{path}: kind {kind!r} is none that a root file system has")

    def _inside(self, path: str, member: str, start: int) -> str:
        """A path without its empty parts, which stays in the tree."""
        if path.startswith("/"):
            raise self._wrong(start, f"{member}: {path} is absolute; make the tar with names relative to /")
        if "\0" in path:
            raise self._wrong(start, f"{member!r}: a name with a NUL in it")
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise self._wrong(start, f"{member}: {path} leads out of the tree")
        return "/".join(parts)

    def _check_parent(self, parent: str, path: str, start: int) -> None:
        """No directory on the way to a member may be a link, or a file, of the archive."""
        if parent in self._parents:
            return
        position = 0
        while position >= 0:
            position = parent.find("/", position + 1)
            before = parent if position < 0 else parent[:position]
            if before in self._files:
                what = "a symbolic link" if before in self._links else "a file"
                raise self._wrong(start, f"{path}: lies beneath {before}, which is {what} in the archive")
            self._parents.add(before)

    def _extend(self, kind: bytes, data: bytes, start: int) -> None:
        """Note what an extended header says of the next member."""
        if kind == _LONG_NAME:
            self._extended.path = _text(data)
        elif kind == _LONG_LINK:
            self._extended.link = _text(data)
        else:
            for key, value in self._records(data, start):
                if kind == _PAX_GLOBAL and key in ("path", "linkpath", "size"):
                    raise self._wrong(start, f"{key} for all members at once makes no sense")
                if key == "path":
                    self._extended.path = value
                elif key == "linkpath":
                    self._extended.link = value
                elif key == "GNU.sparse.name":
                    self._extended.sparse_name = value
                elif key == "size":
                    if not value.isdecimal():
                        raise self._wrong(start, f"size {value!r} is no number")
                    self._extended.size = int(value)

    def _records(self, data: bytes, start: int) -> Iterator[tuple[str, str]]:
        """The records of a pax header: ``LENGTH KEY=VALUE`` and a line feed."""
        position = 0
        while position < len(data):
            digits, space, _ = data[position : position + 16].partition(b" ")
            length = int(digits) if space and digits.isdigit() else 0
            record = data[position : position + length]
            key, equals, value = record[len(digits) + 1 : -1].partition(b"=")
            if not length or len(record) < length or not equals or record[-1:] != b"\n":
                raise self._wrong(start, "an extended header is damaged")
            yield key.decode(errors="surrogateescape"), value.decode(errors="surrogateescape")
            position += length

    def _skip_sparse_map(self, reader: PipeReader, block: bytes) -> None:
        """GNU's old sparse files go on with blocks of their map."""
        more = block[482]
        while more:
            more = reader.take(_BLOCK)[504]

    def _end(self, reader: PipeReader) -> None:
        """Nothing but zeros follows the end, which is one block of zeros or more."""
        if self.members == 0:
            raise self._wrong(0, "the archive is empty")
        while data := reader.rest():
            if data.strip(b"\0"):
                raise self._wrong(
                    reader.position, "something follows the archive's end: is it two, one after the other?"
                )

    def _wrong(self, position: int, what: str) -> ImageError:
        return ImageError(f"{self._name}: byte {position}: {printable(what)}")


def printable(text: str) -> str:
    """A message with names of an archive in it, which are anybody's: none of them tells a terminal what to do."""
    return "".join(each if each.isprintable() else "?" for each in text)


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _number(field: bytes) -> int | None:
    """A number of a header: octal digits, or GNU's base 256 with the first bit set."""
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    try:
        return int(field.strip(b" \0") or b"0", 8)
    except ValueError:
        return None


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode(errors="surrogateescape")


def _path(block: bytes) -> str:
    """A member's name as its header says it. POSIX splits a long one; GNU keeps times where the prefix would be."""
    name = _text(block[:100])
    prefix = _text(block[345:500]) if block[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name
