"""The records of a dump of dump(8), read as they pass: whether it is whole, and one that restore(8) can take.

A dump is records of 1 KiB. Each file's header has a checksum and says which of its blocks follow; what is in these
nothing checks. restore(8) passes over what it cannot read, and ends well. Since 0.4b49 a header tells of runs of
blocks, which an older restore(8) gets wrong. They may go beyond the file's size, where room was made for more with
fallocate(1): restore(8) leaves these out.
Refused, by the byte: what is no dump of ext2, ext3 or ext4, of another level than 0, one of several volumes; damage in
a header, a missing end, and whatever follows the end.
Source: protocols/dumprestore.h of dump(8).
Not for: restoring (:mod:`osprovider.images.archive.unpack`), or compressed records
(:mod:`osprovider.images.archive.dump_inflate`).
"""

from __future__ import annotations

import re
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from osprovider.errors import ImageError
from osprovider.images.archive.pipereader import PipeReader
from osprovider.images.archive.refusal import Refused
from osprovider.images.printable import printable
from osprovider.log import reporter

__all__ = ["RECORD", "Label", "read_label", "scan"]

RECORD = 1024
"""Bytes of a record."""

_TAPE, _INODE, _BITS, _ADDRESS, _END, _CLEARED = 1, 2, 3, 4, 5, 6
_MAPS = (_CLEARED, _BITS)  # of the files that are gone, and of those that are there; they come first, in this order
_MAGIC = 60012  # NFS_MAGIC, what dump(8) of ext2/3/4 writes
_CHECKSUM = 84446
_COMPRESSED, _HAS_ATTRIBUTES = 0x80, 0x8000  # of c_flags
_XATTR = 3  # EXT_XATTR, of c_extattributes

# Numbers of a header's 32-bit words.
_KIND_WORD, _VOLUME_WORD, _INODE_WORD, _MAGIC_WORD, _CHECKSUM_WORD, _MODE_WORD = 0, 3, 5, 6, 7, 8
_COUNT_WORD, _LEVEL_WORD, _FLAGS_WORD, _BLOCK_WORD, _ATTRIBUTES_WORD = 40, 173, 222, 224, 225
_FILE_SYSTEM = slice(696, 760)
_SIZE_AT = 40  # of the file, 64 bits
_BLOCKS_AT, _MOST_BLOCKS = 164, 512  # a byte for each block of the file: 0 where it is a hole, 1 where it follows
_LONG_RUN = 0x80  # of a byte since 0.4b49: the next one is of the same run

_DIRECTORY_PIECE = 512  # bytes; no entry lies across two

_LARGEST_DIRECTORY = 128 << 20  # half a million of the longest names; restore(8) never ends with one of 256 MiB

_LONGEST_NAME = 254  # of one byte more, neither program keeps the length

# ext4's orphan file (mke2fs(8) of Debian 13 makes one) is in the dump, and in no directory. By the end of each of its
# blocks one knows it (Documentation/filesystems/ext4/orphan.rst of Linux).
_ORPHAN_MODE = 0o100600
_ORPHAN_MAGIC = (0x0B10CA04).to_bytes(4, "little")  # in front of a checksum of 4 bytes
_BLOCK_SIZES = tuple(1024 << power for power in range(7))

_LARGEST_WRITE = 1024  # records that dump(8) writes at a time

# Extended attributes are in the dump as ext keeps them (Documentation/filesystems/ext4/attributes.rst of Linux).
_ENTRIES_AT = {0xEA020000: 32, 0xEA020001: 4}  # by magic: a block of its own, the rest of an inode
_ENTRY = 16  # bytes, without the name
_TRUSTED, _SECURITY = 4, 6
# Such entries: capabilities, and (``system.data``) the end of a file that lies in its inode.
_CAPABILITIES = re.compile(rb"\x0a\x06.{14}capability", re.DOTALL)
_INLINE_DATA = re.compile(rb"\x04\x07.{14}data", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Label:
    """What a dump's first record says.

    Attributes:
        order: the byte order of its words, as for :mod:`struct`.
        compressed: dump(8) compressed what follows its first write.
        write_bytes: how many bytes dump(8) wrote at a time.
        plain: the record as it would be without compression.
    """

    order: str
    compressed: bool
    write_bytes: int
    plain: bytes


def read_label(record: bytes, name: str) -> Label:
    """Read a dump's first record.

    Args:
        record: :data:`RECORD` bytes, fewer where there are fewer.
        name: what messages call the dump.

    Raises:
        ImageError: it is none that can be restored; see the module.
    """
    if len(record) < RECORD:
        raise ImageError(f"{name}: cut off at byte {len(record)}: no whole dump")
    for order in "<>":
        words = list(struct.unpack(f"{order}256I", record))
        if words[_KIND_WORD] == _TAPE and words[_MAGIC_WORD] == _MAGIC:
            break
    else:
        raise ImageError(f"{name}: no dump of ext2, ext3 or ext4: its magic (byte 24) is {record[24:28].hex()}")
    if sum(words) & 0xFFFFFFFF != _CHECKSUM:
        raise ImageError(f"{name}: damaged: the checksum of the dump's first record is wrong")
    level, volume = words[_LEVEL_WORD], words[_VOLUME_WORD]
    if level != 0:
        raise ImageError(f"{name}: a dump of level {level}, which needs others below it: make one of level 0 (dump -0)")
    if volume != 1:
        raise ImageError(f"{name}: volume {volume} of a dump: an image is a dump in one piece")
    file_system = record[_FILE_SYSTEM].partition(b"\0")[0].decode(errors="replace")
    if directory := file_system.partition(" (dir ")[2]:
        raise ImageError(
            f"{name}: a dump of the directory {printable(directory.removesuffix(')'))}: dump a file system"
        )
    if not 1 <= words[_BLOCK_WORD] <= _LARGEST_WRITE:
        raise ImageError(f"{name}: damaged: dump(8) never writes {words[_BLOCK_WORD]} records at a time")
    compressed = bool(words[_FLAGS_WORD] & _COMPRESSED)
    if compressed:
        words[_FLAGS_WORD] -= _COMPRESSED
        words[_CHECKSUM_WORD] = (words[_CHECKSUM_WORD] + _COMPRESSED) & 0xFFFFFFFF
    return Label(order, compressed, words[_BLOCK_WORD] * RECORD, struct.pack(f"{order}256I", *words))


def scan(label: Label, name: str, source: int, target: int, *, runs: bool, nameless: set[int]) -> Iterator[bytes]:
    """Read a dump to its end.

    Args:
        label: its first record, which was read already.
        name: what messages call it.
        source: the read end of a pipe, behind the first record.
        target: the write end of another, to which long contents are moved.
        runs: who restores it is restore(8) of 0.4b49 or later, which understands runs of blocks.
        nameless: gets the inodes of files that no directory has, before they are passed on.

    Yields:
        what has been read and may be written to ``target``, before more is moved there.

    Raises:
        ImageError: see the module.
    """
    # restore(8) of 0.4b49 writes beyond its memory where its first read finds less than dump(8) wrote at a time.
    reader = PipeReader(name, source, begin=label.plain, first=label.write_bytes)
    scanner = _Scanner(label.order, runs=runs, nameless=nameless)
    while True:
        start = reader.position
        try:
            header = scanner.header(reader.take(RECORD))
            left = scanner.take(header, reader)
        except Refused as refusal:
            raise ImageError(f"{name}: byte {start}: {refusal}") from refusal
        if header.kind == _END:
            break
        yield from reader.over(left, target)  # directories, of which nothing is left, come first, all together
    end = reader.passed()
    start = reader.position
    filling = _filling(reader)
    if (place := scanner.find_more(filling)) is not None:
        raise ImageError(
            f"{name}: byte {start + place}: something follows the dump's end: is it two, one after the other?"
        )
    if runs and scanner.capable:  # it sets them before the owner, and so takes them away again
        reporter.warning(
            f"{name}: this node's restore loses the capabilities of files, here of {scanner.capable}; a tar keeps them"
        )
    yield end + filling


@dataclass(frozen=True, slots=True)
class _Header:
    """What a header says of the blocks behind it; the bytes that are left are the file's, from these on."""

    kind: int
    inode: int
    left_bytes: int
    blocks: int
    is_directory: bool
    is_attributes: bool
    of_directory: bool
    may_be_orphan_file: bool


class _Scanner:
    """Understands the headers of one dump."""

    def __init__(self, order: str, *, runs: bool, nameless: set[int]) -> None:
        self.capable = 0  # files with capabilities
        self._runs = runs
        self._nameless = nameless
        self._words = struct.Struct(f"{order}256I")
        self._size = struct.Struct(f"{order}Q")
        self._entry = struct.Struct(f"{order}IHxB")
        self._maps = list(_MAPS)  # still to come
        self._inode = 0  # of the file that is being read
        self._bytes = 0  # of it
        self._left = 0  # bytes of it, without the blocks that headers told of
        self._attributes = (0, False)  # the last directory that had some, and whether these are any for restore(8)

    def header(self, record: bytes) -> _Header:
        """Read a header."""
        words = self._words.unpack(record)
        if words[_MAGIC_WORD] != _MAGIC or sum(words) & 0xFFFFFFFF != _CHECKSUM:
            raise Refused("damaged: no header where one must be, or a wrong checksum")
        kind, count, inode = words[_KIND_WORD], words[_COUNT_WORD], words[_INODE_WORD]
        size = self._size.unpack_from(record, _SIZE_AT)[0]
        self._follow(kind, inode, size)
        is_file = kind in (_INODE, _ADDRESS)
        is_directory = is_file and stat.S_ISDIR(words[_MODE_WORD] & 0xFFFF)
        if is_directory and size > _LARGEST_DIRECTORY:
            raise Refused(f"the directory of inode {inode} has {size} bytes, which makes no sense")
        has_attributes = bool(words[_FLAGS_WORD] & _HAS_ATTRIBUTES)
        left = self._left
        if self._maps:
            del self._maps[0]
        elif count > _MOST_BLOCKS:
            raise Refused(f"damaged: {count} blocks of inode {inode}")
        elif is_file:
            told, count = self._blocks(record[_BLOCKS_AT : _BLOCKS_AT + count], inode)
            if told > _MOST_BLOCKS and (is_directory or has_attributes):  # dump(8) tells of less, and they are kept
                raise Refused(f"damaged: {told} blocks of inode {inode}")
            self._left = max(left - told * RECORD, 0)
        return _Header(
            kind=kind,
            inode=inode,
            left_bytes=left,
            blocks=count,
            is_directory=is_directory and not has_attributes,
            is_attributes=is_file and has_attributes and words[_ATTRIBUTES_WORD] == _XATTR,
            of_directory=is_directory,
            may_be_orphan_file=kind == _INODE and not has_attributes and words[_MODE_WORD] & 0xFFFF == _ORPHAN_MODE,
        )

    def _blocks(self, entries: bytes, inode: int) -> tuple[int, int]:
        """How many blocks a header tells of, and how many of them follow."""
        if max(entries, default=0) <= 1:
            return len(entries), sum(entries)
        if not self._runs:
            raise Refused(
                "made by dump 0.4b49 or later (Debian 13's), which this node's older restore gets wrong: make a tar"
            )
        told = follow = 0
        numbers = iter(entries)
        for entry in numbers:
            blocks = 1 + (entry >> 1)
            if entry & _LONG_RUN:
                if (more := next(numbers, None)) is None:
                    raise Refused(f"damaged: half a run of blocks of inode {inode}")
                blocks += more << 6
            told += blocks
            follow += blocks if entry & 1 else 0
        return told, follow

    def _follow(self, kind: int, inode: int, size: int) -> None:
        """See that a header may come where it does, and of which file it is."""
        if kind == _TAPE:
            raise Refused("a second volume begins: an image is a dump in one piece")
        if kind not in (self._maps[:1] or (_INODE, _ADDRESS, _END)):
            raise Refused(f"damaged: a header of kind {kind} where none may be")
        if self._left and kind != _ADDRESS:
            # restore(8) would look for them for hours
            raise Refused(f"damaged: the last {self._left} bytes of inode {self._inode} are missing")
        if kind == _INODE:
            self._inode, self._bytes, self._left = inode, size, size
        elif kind == _ADDRESS and (inode, size) != (self._inode, self._bytes):
            raise Refused(f"damaged: inode {self._inode} goes on as another")

    def take(self, header: _Header, reader: PipeReader) -> int:
        """Read what has to be looked at behind a header; returns how many bytes are still to come."""
        size = header.blocks * RECORD
        if header.is_attributes:
            attributes = reader.take(size)
            self.capable += _CAPABILITIES.search(attributes) is not None
            if not self._runs and _INLINE_DATA.search(attributes):
                raise Refused(
                    "files lie in their inodes (inline_data), which this node's restore cannot read: make a tar"
                )
            restorable, has_some = _restorable(attributes)
            if header.of_directory:
                self._check_attributes(header.inode, has_some=has_some)
            reader.change(restorable)
        elif header.is_directory:
            # What dump(8) leaves behind a directory's end means nothing.
            self._check_directory(reader.take(size)[: header.left_bytes], header.inode)
        elif header.may_be_orphan_file:
            begin = reader.take(min(size, _BLOCK_SIZES[-1]))
            if any(begin[end - 8 : end - 4] == _ORPHAN_MAGIC for end in _BLOCK_SIZES):
                self._nameless.add(header.inode)
            return size - len(begin)
        else:
            return size
        return 0

    def _check_attributes(self, inode: int, *, has_some: bool) -> None:
        """See that restore(8) loses none of a directory's attributes, part in its inode and part in a block.

        It keeps the last part that comes, and since 0.4b49 all, but gives the last to another directory as well.
        """
        before, had_some = self._attributes
        if inode == before and (has_some if self._runs else had_some):
            raise Refused(
                f"the directory of inode {inode} has extended attributes in two places, which this node's restore "
                "mixes up: make a tar"
            )
        self._attributes = inode, has_some

    def _check_directory(self, directory: bytes, inode: int) -> None:
        """See that a directory's data has all of its names, and none that gets lost."""
        position = 0
        while position + self._entry.size <= len(directory):
            entry, length, name_length = self._entry.unpack_from(directory, position)
            begin = position + self._entry.size
            name = directory[begin : min(position + length, begin + name_length)]
            if entry and name_length > _LONGEST_NAME:
                raise Refused(
                    f"the directory of inode {inode} has a name of {name_length} bytes, which dump(8) and restore(8) "
                    "lose: make it shorter, or make a tar"
                )
            if entry and (len(name) < name_length or 0 in name):
                raise Refused(f"damaged: a name is missing in the directory of inode {inode}")
            position += length or _DIRECTORY_PIECE - position % _DIRECTORY_PIECE

    def find_more(self, filling: bytes) -> int | None:
        """The place of a record behind the end that is neither zeros nor the end again; None where there is none."""
        for position in range(0, len(filling), RECORD):
            record = filling[position : position + RECORD]
            if record.strip(b"\0") and (len(record) < RECORD or self._words.unpack(record)[_KIND_WORD] != _END):
                return position
        return None


def _filling(reader: PipeReader) -> bytes:
    """What the last write was filled up with, and perhaps more."""
    filling = b""
    while len(filling) <= _LARGEST_WRITE * RECORD and (data := reader.rest()):
        filling += data
    return filling


def _restorable(attributes: bytes) -> tuple[bytes, bool]:
    """A file's extended attributes without those that take more privileges than an unpacker has; and has it others.

    restore(8) would give up all that come after one of these, capabilities among them.
    """
    start = _ENTRIES_AT.get(int.from_bytes(attributes[:4], "little"), len(attributes))
    position, kept = start, b""
    while any(attributes[position : position + 4]):
        name_length, prefix = attributes[position], attributes[position + 1]
        end = position + (_ENTRY + name_length + 3 & ~3)
        name = attributes[position + _ENTRY :][:name_length]
        if prefix != _TRUSTED and (prefix != _SECURITY or name == b"capability"):
            kept += attributes[position:end]
        position = end
    filled = kept.ljust(min(position, len(attributes)) - start, b"\0")
    return attributes[:start] + filled + attributes[position:], bool(kept)
