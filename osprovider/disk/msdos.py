"""Partition tables of the msdos kind: four entries in the first sector, and a chain of logical partitions behind them.

Only tables of disk images have logical partitions. Their records lie among the data, and are copied with it; they are
written anew nevertheless, because partitions may have grown or moved.
Sources: the kernel's block/partitions/msdos.c; libfdisk's dos.c.
Not for: deciding what a table should say (:mod:`osprovider.layout`).
"""

from __future__ import annotations

import dataclasses
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

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
_LINK_TYPE = "05"
_RECORD_DISTANCE = 2048  # in sectors, from a record to its partition, where there is as much room
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
        first: from the disk's start.
        count: its length.
        is_active: the BIOS boots it, where the boot code in the first sector asks.
    """

    number: int
    type: str
    first: int
    count: int
    is_active: bool


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
    logical = list(_logical(fd, extended[0], sector_size)) if extended else []
    entries = [*primary, *logical]
    for entry in entries:
        if entry.first == 0 or entry.count == 0:
            raise MsdosError(f"its partition {entry.number} begins at sector {entry.first} and has {entry.count}")
    if extended:
        _record_places(extended[0], logical)  # there has to be room when it is written again
    (signature,) = struct.unpack_from("<I", first, _SIGNATURE_OFFSET)
    return Msdos(f"{signature:08x}", tuple(entries))


def _entries(sector: bytes, offset: int) -> Iterator[Entry]:
    """The four entries of a record that begins at byte ``offset`` of the disk, used or not."""
    for index in range(_PRIMARY):
        place = _ENTRIES_OFFSET + index * _ENTRY.size
        flag, _, kind, _, first, count = _ENTRY.unpack_from(sector, place)
        if flag not in _FLAGS:
            raise MsdosError(f"the entry at byte {offset + place} has the flag {flag:#04x}, which means nothing")
        yield Entry(index + 1, f"{kind:02x}", first, count, flag == _FLAGS[1])


def _logical(fd: int, extended: Entry, sector_size: int) -> Iterator[Entry]:
    """The logical partitions: each record has one, and says where the next record is, counted from the first one."""
    address, number, seen = extended.first, _FIRST_LOGICAL, set[int]()
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
            yield Entry(number, part.type, first, part.count, part.is_active)
            number += 1
        if not links:
            return
        address = extended.first + links[0].first


def write(fd: int, wanted: Msdos, sector_size: int = _SECTOR) -> None:
    """Write a table: the record of each logical partition, and the primary entries last. Nothing is synced.

    Boot code stays: of each of these sectors only the entries are written, of the first one the signature as well.

    Args:
        fd: the disk, open for (buffered) writing.
        wanted: what it is to say.
        sector_size: in bytes.

    Raises:
        MsdosError: there is no room for a record.
    """
    logical = [entry for entry in wanted.entries if entry.number > _PRIMARY]
    extended = [entry for entry in wanted.entries if entry.type in EXTENDED_TYPES]
    places = _record_places(extended[0], logical) if extended else {}
    for entry, following in zip_longest(logical, logical[1:]):
        place = places[entry.number]
        entries = [dataclasses.replace(entry, first=entry.first - place)]
        if following is not None:
            first = places[following.number]
            length = following.first + following.count - first
            entries.append(Entry(0, _LINK_TYPE, first - extended[0].first, length, is_active=False))
        _patch(fd, place * sector_size + _ENTRIES_OFFSET, _packed(entries), sector_size)
    primary = {entry.number: entry for entry in wanted.entries if entry.number <= _PRIMARY}
    signature = struct.pack("<IH", int(wanted.signature, 16), 0)
    _patch(fd, _SIGNATURE_OFFSET, signature + _packed([primary.get(n) for n in range(1, _PRIMARY + 1)]), sector_size)


def _record_places(extended: Entry, logical: Iterable[Entry]) -> dict[int, int]:
    """The sectors of the logical partitions' records, by number.

    The first number's is the extended partition's first, as the kernel looks for it there. Each other one is in front
    of its partition, where libfdisk and libparted have it.
    """
    places = {_FIRST_LOGICAL: extended.first}
    position = extended.first + 1
    for entry in sorted(logical, key=lambda entry: entry.first):
        if entry.number != _FIRST_LOGICAL:
            if position >= entry.first:
                raise MsdosError(f"there is no room for a boot record in front of its logical partition {entry.number}")
            places[entry.number] = max(position, entry.first - _RECORD_DISTANCE)
        position = entry.first + entry.count
    return places


def _packed(entries: Sequence[Entry | None]) -> bytes:
    """A sector from its entries on."""
    table = bytearray(_SECTOR - _ENTRIES_OFFSET)
    for index, entry in enumerate(entries):
        if entry is not None:
            flag = _FLAGS[entry.is_active]
            fields = flag, _NO_CHS, int(entry.type, 16), _NO_CHS, entry.first, entry.count
            _ENTRY.pack_into(table, index * _ENTRY.size, *fields)
    table[-2:] = _MAGIC
    return bytes(table)


def _patch(fd: int, place: int, data: bytes, sector_size: int) -> None:
    """Change bytes of a disk, in whole sectors: one of 4096 bytes reads the rest in first otherwise."""
    start = place // sector_size * sector_size
    sector = bytearray(os.pread(fd, sector_size, start))
    sector[place - start : place - start + len(data)] = data
    write_all(fd, bytes(sector), start)
