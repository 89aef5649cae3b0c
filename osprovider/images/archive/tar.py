"""The headers of a tar, read as they pass: what is in the archive, and whether unpacking it stays in the tree.

Refused, by the member's name and its byte in the archive: names with ``..`` and absolute names; members beneath a
symbolic link that the archive itself holds; hard links to what is not an earlier member; devices outside a directory
named ``dev``; a name that comes twice, directories aside; names that no path has room for, and more of them than any
root has; kinds that are not files; what readers of tars understand differently; damage, a missing end, and whatever
follows the end.
Not for: unpacking (:mod:`osprovider.images.archive.unpack`); single headers (``tar_header``, ``tar_extended``,
``tar_sparse``) and names (``tar_names``).
"""

from __future__ import annotations

from collections.abc import Iterator

from osprovider.errors import ImageError
from osprovider.images.archive.acl import Acl
from osprovider.images.archive.pipereader import PipeReader
from osprovider.images.archive.refusal import Refused
from osprovider.images.archive.tar_extended import Extended
from osprovider.images.archive.tar_header import (
    BLOCK,
    DIRECTORY,
    EXTENSIONS,
    HARD_LINK,
    PAX,
    REGULAR,
    SPARSE,
    SYMLINK,
    Header,
    padded,
    read_header,
)
from osprovider.images.archive.tar_names import Names
from osprovider.images.archive.tar_sparse import read_content_map, read_old_map
from osprovider.images.printable import printable

__all__ = ["Scanner"]

_LONGEST_EXTENSION = 4 << 20  # of pax and GNU's long names: some hundred xattrs fit
_MOST_ACLS = 16 << 20  # characters of all of them
_ZEROS = bytes(BLOCK)


class Scanner:
    """Reads the headers of one archive.

    Args:
        name: what messages call it.

    Attributes:
        acls: those of the members that were read.
    """

    def __init__(self, name: str) -> None:
        self.acls: list[Acl] = []
        self._acl_characters = 0
        self._name = name
        self._names = Names()
        self._extended = Extended()

    @property
    def members(self) -> int:
        """How many were read."""
        return self._names.members

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
            block = reader.take(BLOCK)
            if block == _ZEROS:
                break
            try:
                left = self._take(read_header(block), start, reader)
            except Refused as refusal:
                raise self._wrong(start, str(refusal)) from refusal
            yield from reader.over(padded(left), target)
        if self._extended.kinds:
            raise self._wrong(start, "an extended header, and no member that it belongs to")
        yield reader.passed()
        self._end(reader)

    def _take(self, header: Header, start: int, reader: PipeReader) -> int:
        """Judge what a header says; returns how many bytes of content are still to come."""
        if header.kind in EXTENSIONS:
            if header.size > _LONGEST_EXTENSION:
                raise Refused(f"an extended header of {header.size} bytes makes no sense")
            self._extended.add(header.kind, reader.take(padded(header.size)), header.size)
            return 0
        extended, self._extended = self._extended, Extended()
        member = _member(header, extended)
        place = self._names.add(member.kind, member.path, member.link)
        if member.kind not in (SYMLINK, HARD_LINK):
            self._note_acls(place, member.path, extended.acls, start)
        if member.kind == SPARSE:
            return _old_sparse_content(member, extended, reader)
        if extended.is_sparse:
            return _sparse_content(member, extended, reader)
        return member.size if member.kind in REGULAR else 0  # as GNU tar has it

    def _note_acls(self, place: str, path: str, acls: dict[str, str], start: int) -> None:
        """Keep a member's ACLs until its owner's account is there."""
        for attribute, text in acls.items():
            self.acls.append(Acl(place, attribute, text, start))
            self._acl_characters += len(path) + len(text)
        if self._acl_characters > _MOST_ACLS:
            raise Refused(f"{path}: more ACLs than any system has")

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


def _member(header: Header, extended: Extended) -> Header:
    """What a member's header says with what the headers before it said."""
    kind = header.kind
    path = extended.sparse_name or extended.path or header.path
    size = header.size if extended.size is None else extended.size
    if kind in REGULAR and path.endswith("/"):
        if size:
            raise Refused(f"{path}: a directory by its name, with a file's content")
        kind = DIRECTORY  # as in archives older than POSIX
    link = header.link if extended.link is None else extended.link
    return Header(kind, size, path, link, header.block)


def _old_sparse_content(member: Header, extended: Extended, reader: PipeReader) -> int:
    """Judge a sparse file of GNU's old kind; returns how many bytes of content are still to come."""
    if not member.is_gnu or PAX in extended.kinds:
        raise Refused(f"{member.path}: a sparse file of GNU's old kind, in an archive of another")
    _check_pieces(read_old_map(reader, member.block, member.path), member.size)
    return member.size


def _sparse_content(member: Header, extended: Extended, reader: PipeReader) -> int:
    """Judge a sparse file of a pax archive; returns how many bytes of content are still to come."""
    has_map = extended.map_in_content or extended.sparse_pieces
    if member.kind not in REGULAR or not member.is_posix or not has_map:
        raise Refused(f"{member.path}: of a sparse file, and no file with a map, or in an archive of another kind")
    pieces, used = extended.sparse_pieces, 0
    if extended.map_in_content:
        pieces, used = read_content_map(reader, member.size, member.path)
    _check_pieces(pieces, member.size - used)
    return member.size - used


def _check_pieces(pieces: list[int], size: int) -> None:
    if sum(map(padded, pieces)) != padded(size):
        raise Refused(f"a sparse file's pieces are not the {size} bytes that it has")
