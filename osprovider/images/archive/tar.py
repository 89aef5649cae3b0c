"""The headers of a tar, read as they pass: what is in the archive, and whether unpacking it stays in the tree.

Refused, by the member's name and its byte in the archive: names with ``..`` and absolute names; members beneath a
symbolic link that the archive itself holds; hard links to what is not an earlier member; devices outside a directory
named ``dev``; a name that comes twice, directories aside; names that no path has room for, and more of them than any
root has; kinds that are not files; what readers of tars understand differently; damage, a missing end, and whatever
follows the end. Where a symbolic link leads to is the system's own affair.
Sources: POSIX pax(1), "ustar Interchange Format" and "pax Interchange Format"; GNU tar's manual, "Basic Tar Format" and
"Storing Sparse Files".
Not for: unpacking (:mod:`osprovider.images.archive.unpack`).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

from osprovider.errors import ImageError
from osprovider.images.archive.acl import Acl
from osprovider.images.archive.pipereader import PipeReader
from osprovider.images.archive.printable import printable

__all__ = ["Scanner"]

_BLOCK = 512
_LONGEST_EXTENSION = 4 << 20  # of pax and GNU's long names: some hundred xattrs fit
_LONGEST_PATH = 4095  # bytes (PATH_MAX of <linux/limits.h>, which counts a NUL)
_MOST_NAMES = 512 << 20  # bytes of memory: three million files of a hundred bytes
_SLOT = 50  # bytes that a set takes for an entry, about
_LONGEST_MAP = 8 << 20  # of a sparse file: some hundred thousand pieces
_ZEROS = bytes(_BLOCK)

_REGULAR = b"0\x007"
_HARD_LINK, _SYMLINK, _DIRECTORY = b"1", b"2", b"5"
_DEVICES = b"34"
_FIFO = b"6"
_SPARSE = b"S"  # GNU's old kind
_PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK = b"x", b"g", b"L", b"K"
_LONG = (_LONG_NAME, _LONG_LINK)
_EXTENSIONS = (_PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK)


_LARGEST = 1 << 62  # no offset of a file is beyond
_DECIMAL = re.compile("[0-9]{1,19}")
_OCTAL = re.compile(rb" *([0-7]*)[ \0]*")
_GNU_MAGIC, _POSIX_MAGIC = b"ustar  \0", b"ustar\0"
_SPARSE_KEYS = "GNU.sparse."
_REFUSED_KEYS = ("GNU.dumpdir", "GNU.volume.")  # of incremental archives, and of those in several volumes
_ACLS = {"SCHILY.acl.access": "system.posix_acl_access", "SCHILY.acl.default": "system.posix_acl_default"}
_MOST_ACLS = 16 << 20  # characters of all of them
_FOR_ONE_MEMBER = ("path", "linkpath", "size", _SPARSE_KEYS, "SCHILY.acl.")


@dataclass(slots=True)
class _Extended:
    """What headers before a member say of it."""

    kinds: bytes = b""
    path: str | None = None
    link: str | None = None
    size: int | None = None
    sparse_name: str | None = None
    sparse_pieces: list[int] = field(default_factory=list)
    """Bytes of each piece of a sparse file, in GNU's formats 0.0 and 0.1."""
    acls: dict[str, str] = field(default_factory=dict)
    """By the attribute that it will be."""
    is_sparse: bool = False
    map_in_content: bool = False
    """The pieces stand before the content (format 1.0)."""


class Scanner:
    """Reads the headers of one archive.

    Args:
        name: what messages call it.

    Attributes:
        members: how many there are.
        acls: those of them, of the members that were read.
    """

    def __init__(self, name: str) -> None:
        self.members = 0
        self.acls: list[Acl] = []
        self._acl_characters = 0
        self._name = name
        self._files: set[str] = set()
        self._directories: set[str] = set()
        self._links: set[str] = set()
        self._parents: set[str] = {""}  # directories that no link of the archive leads to
        self._names_bytes = 0  # what these take
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
            kind, size, pieces = self._header(block, start, reader)
            if kind in _EXTENSIONS:
                if size > _LONGEST_EXTENSION:
                    raise self._wrong(start, f"an extended header of {size} bytes makes no sense")
                data = reader.take(_padded(size))
                if kind in _LONG and b"\0" not in data[:size] and data[size : size + 1].strip(b"\0"):
                    raise self._wrong(start, "a long name without an end")
                self._extend(kind, data[:size], start)
                yield from reader.due()
                continue
            if pieces is not None and sum(map(_padded, pieces)) != _padded(size):
                raise self._wrong(start, f"a sparse file's pieces are not the {size} bytes that it has")
            yield from reader.over(_padded(size), target)
        if self._extended.kinds:
            raise self._wrong(start, "an extended header, and no member that it belongs to")
        yield reader.passed()
        self._end(reader)

    def _header(self, block: bytes, start: int, reader: PipeReader) -> tuple[bytes, int, list[int] | None]:
        """Check a header.

        Returns:
            its kind, how many bytes of content are still to come, and those of each piece of a sparse file.
        """
        stated = _number(block[148:156])
        if stated is None or stated != sum(block[:148]) + 8 * 0x20 + sum(block[156:]):
            raise self._wrong(start, "a header's checksum is wrong: the archive is damaged")
        kind = block[156:157]
        size = _number(block[124:136])
        if size is None or size > _LARGEST:
            raise self._wrong(start, f"{_text(block[:100])}: its size is no number that a size can be")
        if kind in _EXTENSIONS:
            return kind, size, None
        extended, self._extended = self._extended, _Extended()
        path = extended.sparse_name or extended.path or _path(block)
        link = extended.link if extended.link is not None else _text(block[157:257])
        if extended.size is not None:
            size = extended.size
        if kind in _REGULAR and path.endswith("/"):
            if size:
                raise self._wrong(start, f"{path}: a directory by its name, with a file's content")
            kind = _DIRECTORY  # as in archives older than POSIX
        self._member(kind, path, link, start)
        self._note_acls(kind, path, extended.acls, start)
        self.members += 1
        return kind, *self._content(kind, size, block, path, start, reader, extended)

    def _content(
        self, kind: bytes, size: int, block: bytes, path: str, start: int, reader: PipeReader, extended: _Extended
    ) -> tuple[int, list[int] | None]:
        """How many bytes of content are still to come, and those of each piece of a sparse file."""
        if kind == _SPARSE:
            if block[257:265] != _GNU_MAGIC or _PAX in extended.kinds:
                raise self._wrong(start, f"{path}: a sparse file of GNU's old kind, in an archive of another")
            return size, self._old_map(reader, block, path, start)
        if extended.is_sparse and not (
            kind in _REGULAR
            and block[257:263] == _POSIX_MAGIC
            and not _is_star(block)
            and (extended.map_in_content or extended.sparse_pieces)
        ):
            raise self._wrong(
                start, f"{path}: of a sparse file, and no file with a map, or in an archive of another kind"
            )
        if kind not in _REGULAR:
            return 0, None  # as GNU tar has it
        if extended.map_in_content:
            pieces, used = self._map(reader, size, path, start)
            return size - used, pieces
        return size, extended.sparse_pieces or None

    def _note_acls(self, kind: bytes, path: str, acls: dict[str, str], start: int) -> None:
        """Keep a member's ACLs until its owner's account is there."""
        if kind in (_SYMLINK, _HARD_LINK):
            return
        for attribute, text in acls.items():
            self.acls.append(Acl(self._inside(path, path, start), attribute, text, start))
            self._acl_characters += len(path) + len(text)
        if self._acl_characters > _MOST_ACLS:
            raise self._wrong(start, f"{path}: more ACLs than any system has")

    def _member(self, kind: bytes, path: str, link: str, start: int) -> None:
        """Judge a member."""
        for name in (path, link):
            if (length := len(name.encode(errors="surrogateescape"))) > _LONGEST_PATH:
                raise self._wrong(start, f"a name of {length} bytes, and no path has more than {_LONGEST_PATH}: {name}")
        place = self._inside(path, path, start)
        parent = place.rpartition("/")[0]
        self._check_parent(parent, path, start)
        if kind == _DIRECTORY:
            if place in self._files:
                raise self._wrong(start, f"{path}: is there twice, as a file and as a directory")
            self._keep(self._directories, place, start)
            return
        if not place:
            raise self._wrong(start, f"{path!r}: a file without a name")
        if place in self._files or place in self._directories or place in self._parents:
            raise self._wrong(start, f"{path}: is there twice; which one counts is anybody's guess")
        self._check_kind(kind, path, parent, link, start)
        if kind == _SYMLINK:
            self._links.add(place)
        self._keep(self._files, place, start)

    def _check_kind(self, kind: bytes, path: str, parent: str, link: str, start: int) -> None:
        """Judge a member that is no directory by its kind."""
        if kind == _HARD_LINK:
            if self._inside(link, path, start) not in self._files:
                raise self._wrong(start, f"{path}: a hard link to {link}, which is no earlier file of the archive")
        elif kind in _DEVICES:
            if "dev" not in parent.split("/"):
                raise self._wrong(start, f"{path}: a device, and not in a directory named dev")
        elif kind == _SYMLINK:
            if not link or "\0" in link:
                raise self._wrong(start, f"{path}: a symbolic link to {link!r}")
        elif kind not in _REGULAR and kind not in (_FIFO, _SPARSE):
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
            self._keep(self._parents, before, start)

    def _keep(self, names: set[str], name: str, start: int) -> None:
        """Remember a name, which has to be told from all that follow."""
        if name in names:
            return
        names.add(name)
        self._names_bytes += sys.getsizeof(name) + _SLOT
        if self._names_bytes > _MOST_NAMES:
            raise self._wrong(start, f"more names than any root has: {self.members} members")

    def _extend(self, kind: bytes, data: bytes, start: int) -> None:
        """Note what an extended header says of the next member."""
        extended = self._extended
        if kind != _PAX_GLOBAL:
            if kind in extended.kinds or (extended.kinds and _PAX in kind + extended.kinds):
                raise self._wrong(start, "two extended headers of one member")
            extended.kinds += kind
        if kind == _LONG_NAME:
            extended.path = _text(data)
        elif kind == _LONG_LINK:
            extended.link = _text(data)
        else:
            for key, value in self._records(data, start):
                if key.startswith(_REFUSED_KEYS):
                    raise self._wrong(start, f"{key}: an archive of changes, or in volumes, is no image")
                if kind == _PAX_GLOBAL and key.startswith(_FOR_ONE_MEMBER):
                    raise self._wrong(start, f"{key} for all members at once makes no sense")
                self._note(key, value, start)
        if extended.path == "" or extended.sparse_name == "":
            raise self._wrong(start, "an extended header with an empty name")

    def _note(self, key: str, value: str, start: int) -> None:
        """Note a record of a pax header, where it matters here."""
        extended = self._extended
        extended.is_sparse |= key.startswith(_SPARSE_KEYS)
        if key == "path":
            extended.path = value
        elif key == "linkpath":
            extended.link = value
        elif key == "size":
            extended.size = self._decimal(key, value, start)
        elif key in _ACLS:
            extended.acls[_ACLS[key]] = value
        elif key == "GNU.sparse.name":
            extended.sparse_name = value
        elif key == "GNU.sparse.numbytes":
            extended.sparse_pieces.append(self._decimal(key, value, start))
        elif key == "GNU.sparse.map":
            extended.sparse_pieces += [self._decimal(key, number, start) for number in value.split(",")][1::2]
        elif key == "GNU.sparse.major":
            extended.map_in_content = value != "0"
        if extended.map_in_content and extended.sparse_pieces:
            raise self._wrong(start, "a sparse file in two formats at once")

    def _decimal(self, key: str, value: str, start: int) -> int:
        if not _DECIMAL.fullmatch(value) or int(value) > _LARGEST:
            raise self._wrong(start, f"{key} {value[:40]!r} is no number")
        return int(value)

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

    def _old_map(self, reader: PipeReader, block: bytes, path: str, start: int) -> list[int]:
        """The pieces of a sparse file of GNU's old kind: four in its header, more in blocks behind it."""
        pieces = [_number(block[at + 12 : at + 24]) for at in range(386, 386 + 4 * 24, 24)]
        more = block[482]
        while more:
            if reader.position - start > _LONGEST_MAP:
                raise self._wrong(start, f"{path}: the map of a sparse file has no end")
            block = reader.take(_BLOCK)
            pieces += [_number(block[at + 12 : at + 24]) for at in range(0, 21 * 24, 24)]
            more = block[504]
        if None in pieces:
            raise self._wrong(start, f"{path}: the map of a sparse file is damaged")
        return [piece for piece in pieces if piece]

    def _map(self, reader: PipeReader, size: int, path: str, start: int) -> tuple[list[int], int]:
        """The pieces of a sparse file of format 1.0: how many, then the place and bytes of each, a number a line.

        Returns:
            the bytes of each piece, and how many the map took of the content.
        """
        lines: list[bytes] = []
        rest, used, wanted = b"", 0, 1
        while len(lines) < wanted:
            if used >= min(size, _LONGEST_MAP):
                raise self._wrong(start, f"{path}: the map of a sparse file has no end")
            *more, rest = (rest + reader.take(_BLOCK)).split(b"\n")
            used += _BLOCK
            lines += more
            if not all(_DECIMAL.fullmatch(line.decode("latin-1")) for line in more) or len(rest) > _BLOCK:
                raise self._wrong(start, f"{path}: the map of a sparse file is damaged")
            if wanted == 1 and lines:
                wanted += 2 * int(lines[0])
        return [int(line) for line in lines[2:wanted:2]], used

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


def _is_star(block: bytes) -> bool:
    """Whether GNU tar takes a header for star's, which has times where POSIX has the end of the prefix."""
    return block[475] == 0 and block[487:488] == b" " == block[499:500]


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _number(field: bytes) -> int | None:
    """A number of a header: octal digits, or GNU's base 256 with the first bit set; None where it is none."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = _OCTAL.fullmatch(field)
    return int(digits[1] or b"0", 8) if digits else None


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode(errors="surrogateescape")


def _path(block: bytes) -> str:
    """A member's name as its header says it. POSIX splits a long one; GNU keeps times where the prefix would be."""
    name = _text(block[:100])
    prefix = _text(block[345:500]) if block[257:263] == _POSIX_MAGIC else ""
    return f"{prefix}/{name}" if prefix else name
