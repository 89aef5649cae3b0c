"""Partition tables of the msdos kind: four entries in the first sector, and a chain of logical partitions behind them.

Only tables of disk images come here, so nothing is laid out anew: an image's extended boot records lie among its data
and are copied with it, and of those no more is written than the size of a last partition that has grown.
Sources: the kernel's block/partitions/msdos.c; libfdisk's dos.c.
Not for: deciding what a table should say (:mod:`osprovider.layout`).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from osprovider.disk.raw import write_all
from osprovider.layout import EXTENDED_TYPES

__all__ = ["Entry", "Msdos", "MsdosError", "read", "write"]

_SIGNATURE_OFFSET = 440
_ENTRIES_OFFSET = 446
_MAGIC = b"\x55\xaa"
_SECTOR = 512
# flag, CHS of the first sector, type, CHS of the last, first sector, count
_ENTRY = struct.Struct("<B3sB3sII")
_NO_CHS = b"\xfe\xff\xff"  # beyond what CHS can say: the addresses by number count
_PRIMARY = 4
_FIRST_LOGICAL = 5
_MOST_LOGICAL = 60
_FLAGS = (0x00, 0x80)


class MsdosError(ValueError):
    """What is wrong with a table, as the middle of a line."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A partition; addresses in sectors.

    Attributes:
        number: 1 to 4, from 5 on a logical one.
        type: two hexadecimal digits.
        first: from the disk's start. count: its length.
        is_active: the BIOS boots it, where the boot code in the first sector asks.
        places: the bytes on the disk at which its length stands; of a logical one also in the record before it, which
            counts the record itself and what lies before the partition in.
    """

    number: int
    type: str
    first: int
    count: int
    is_active: bool
    places: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Msdos:
    """A table: the disk's signature as eight hexadecimal digits, and its partitions by number."""

    signature: str
    entries: tuple[Entry, ...]


def read(fd: int, sector_size: int = _SECTOR) -> Msdos | None:
    """Read a disk's table.

    Returns:
        None where the first sector bears no mark of one, or is that of a GPT.

    Raises:
        MsdosError: it makes no sense.
    """
    first = os.pread(fd, _SECTOR, 0)
    if len(first) < _SECTOR or first[510:512] != _MAGIC:
        return None
    primary = [entry for entry in _entries(first, 0) if entry.type != "00"]
    if any(entry.type == "ee" for entry in primary):
        return None
    extended = [entry for entry in primary if entry.type in EXTENDED_TYPES]
    if len(extended) > 1:
        raise MsdosError("has more than one extended partition")
    entries = [*primary, *(_logical(fd, extended[0], sector_size) if extended else ())]
    for entry in entries:
        if entry.first == 0 or entry.count == 0:
            raise MsdosError(f"its partition {entry.number} begins at sector {entry.first} and has {entry.count}")
    (signature,) = struct.unpack_from("<I", first, _SIGNATURE_OFFSET)
    return Msdos(f"{signature:08x}", tuple(entries))


def _entries(sector: bytes, offset: int) -> Iterator[Entry]:
    """The four entries of a record that begins at byte ``offset`` of the disk, used or not."""
    for index in range(_PRIMARY):
        place = _ENTRIES_OFFSET + index * _ENTRY.size
        flag, _, kind, _, first, count = _ENTRY.unpack_from(sector, place)
        if flag not in _FLAGS:
            raise MsdosError(f"the entry at byte {offset + place} has the flag {flag:#04x}, which means nothing")
        yield Entry(index + 1, f"{kind:02x}", first, count, flag == _FLAGS[1], (offset + place + 12,))


def _logical(fd: int, extended: Entry, sector_size: int) -> Iterator[Entry]:
    """The logical partitions: each record has one, and says where the next record is, counted from the first one."""
    address, number, seen = extended.first, _FIRST_LOGICAL, set[int]()
    link: tuple[int, ...] = ()
    while True:
        if address in seen or len(seen) > _MOST_LOGICAL:
            raise MsdosError(f"its chain of logical partitions does not end (sector {address})")
        seen.add(address)
        record = os.pread(fd, _SECTOR, address * sector_size)
        if len(record) < _SECTOR or record[510:512] != _MAGIC:
            raise MsdosError(f"no boot record is in sector {address}, where its logical partition {number} begins")
        found = [entry for entry in _entries(record, address * sector_size) if entry.type != "00"]
        parts = [entry for entry in found if entry.type not in EXTENDED_TYPES]
        links = [entry for entry in found if entry.type in EXTENDED_TYPES]
        if len(parts) > 1 or len(links) > 1:
            raise MsdosError(f"the boot record in sector {address} has more than one partition")
        for part in parts:
            first = address + part.first
            if not extended.first < first <= first + part.count <= extended.first + extended.count:
                raise MsdosError(f"its logical partition {number} lies outside of the extended one")
            yield Entry(number, part.type, first, part.count, part.is_active, (*part.places, *link))
            number += 1
        if not links:
            return
        address, link = extended.first + links[0].first, links[0].places


def write(fd: int, wanted: Msdos, sector_size: int = _SECTOR) -> None:
    """Write a table: the primary entries, and what of the logical ones, which are there, has grown. Nothing is synced.

    Args:
        fd: the disk, open for (buffered) writing, the image's extended boot records on it.
        wanted: what it is to say; ``places`` do not matter.
        sector_size: in bytes.

    Raises:
        MsdosError: the disk's logical partitions are others than the wanted ones.
    """
    logical = [entry for entry in wanted.entries if entry.number > _PRIMARY]
    extended = [entry for entry in wanted.entries if entry.type in EXTENDED_TYPES]
    there = list(_logical(fd, extended[0], sector_size)) if extended else []
    if [(entry.number, entry.type, entry.first) for entry in there] != [
        (entry.number, entry.type, entry.first) for entry in logical
    ]:
        raise MsdosError("its logical partitions are not the image's")
    for old, new in zip(there, logical, strict=True):
        for place in old.places if old.count != new.count else ():
            (before,) = struct.unpack("<I", os.pread(fd, 4, place))
            _patch(fd, place, struct.pack("<I", before + new.count - old.count), sector_size)
    table = bytearray(_SECTOR - _SIGNATURE_OFFSET)
    struct.pack_into("<I", table, 0, int(wanted.signature, 16))
    for entry in wanted.entries:
        if entry.number <= _PRIMARY:
            place = _ENTRIES_OFFSET - _SIGNATURE_OFFSET + (entry.number - 1) * _ENTRY.size
            flag = _FLAGS[entry.is_active]
            _ENTRY.pack_into(table, place, flag, _NO_CHS, int(entry.type, 16), _NO_CHS, entry.first, entry.count)
    table[-2:] = _MAGIC
    _patch(fd, _SIGNATURE_OFFSET, bytes(table), sector_size)


def _patch(fd: int, place: int, data: bytes, sector_size: int) -> None:
    """Change bytes of a disk, in whole sectors: one of 4096 bytes reads the rest in first otherwise."""
    start = place // sector_size * sector_size
    sector = bytearray(os.pread(fd, sector_size, start))
    sector[place - start : place - start + len(data)] = data
    write_all(fd, bytes(sector), start)
