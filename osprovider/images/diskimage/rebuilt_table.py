"""The partition table that a disk image came with, as bytes again: what a template has left out, for an export.

Sources: UEFI 2.10, 5.2 (MBR) and 5.3 (GPT).
Not for: the table of an instance (:mod:`osprovider.disk.table`).
"""

from __future__ import annotations

import struct
import uuid
import zlib

from osprovider.disk.gpt import ENTRY, HEADER, SIGNATURE, Header
from osprovider.layout import ACTIVE, BOOT_CODE_BYTES
from osprovider.manifest import ImageTable

__all__ = ["pieces"]

_MBR_SIGNATURE = b"\x55\xaa"
_MBR_ENTRY = struct.Struct("<B3sB3sII")
_MBR_ENTRIES = 4
_NO_CHS = b"\xfe\xff\xff"  # beyond what cylinders, heads and sectors can say
_PROTECTIVE = 0xEE
_LARGEST = 0xFFFFFFFF

_ENTRIES = 128
_REVISION = 0x00010000


def pieces(table: ImageTable, size_bytes: int) -> list[tuple[int, bytes]]:
    """The bytes that make the table, each with its offset on the disk.

    Args:
        table: what the image had.
        size_bytes: of the disk.
    """
    return _msdos(table) if table.type == "msdos" else _gpt(table, size_bytes)


def _msdos(table: ImageTable) -> list[tuple[int, bytes]]:
    entries = [bytes(_MBR_ENTRY.size)] * _MBR_ENTRIES
    for part in table.partitions:
        if part.number > _MBR_ENTRIES:  # a logical one: the records of these are in the template
            continue
        start, size = part.start_bytes // table.sector_size, part.size_bytes // table.sector_size
        entry = _MBR_ENTRY.pack(part.attributes & ACTIVE, _NO_CHS, int(part.type, 16), _NO_CHS, start, size)
        entries[part.number - 1] = entry
    return [(BOOT_CODE_BYTES, struct.pack("<IH", int(table.id, 16), 0) + b"".join(entries) + _MBR_SIGNATURE)]


def _gpt(table: ImageTable, size_bytes: int) -> list[tuple[int, bytes]]:
    sector = table.sector_size
    last = size_bytes // sector - 1
    entries = _entries(table)
    length = len(entries) // sector
    primary = Header(
        signature=SIGNATURE,
        revision=_REVISION,
        size=HEADER.size,
        crc32=0,
        reserved=0,
        address=1,
        other_address=last,
        first_usable=2 + length,
        last_usable=last - length - 1,
        guid=uuid.UUID(table.id).bytes_le,
        entries_address=2,
        entry_count=_ENTRIES,
        entry_size=ENTRY.size,
        entries_crc32=zlib.crc32(entries),
    )
    backup = primary._replace(address=last, other_address=1, entries_address=last - length)
    return [
        (BOOT_CODE_BYTES, _protective_mbr(last)),
        (sector, _packed(primary, sector) + entries),
        (backup.entries_address * sector, entries + _packed(backup, sector)),
    ]


def _entries(table: ImageTable) -> bytes:
    """The partitions of a GPT."""
    entries = bytearray(_ENTRIES * ENTRY.size)
    for part in table.partitions:
        first = part.start_bytes // table.sector_size
        ENTRY.pack_into(
            entries,
            (part.number - 1) * ENTRY.size,
            uuid.UUID(part.type).bytes_le,
            uuid.UUID(part.guid).bytes_le,
            first,
            first + part.size_bytes // table.sector_size - 1,
            part.attributes,
            part.name.encode("utf-16-le")[:72],
        )
    return bytes(entries)


def _packed(header: Header, sector: int) -> bytes:
    return HEADER.pack(*header.sealed()).ljust(sector, b"\0")


def _protective_mbr(last: int) -> bytes:
    """What keeps those who know no GPT off the disk, whose last sector is given; from the disk's signature on."""
    entry = _MBR_ENTRY.pack(0, b"\x00\x02\x00", _PROTECTIVE, b"\xff\xff\xff", 1, min(last, _LARGEST))
    return bytes(6) + entry + bytes(_MBR_ENTRY.size * (_MBR_ENTRIES - 1)) + _MBR_SIGNATURE
