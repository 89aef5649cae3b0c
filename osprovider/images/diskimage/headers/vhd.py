"""The footer of a VHD image, which QEMU calls vpc.

Not for: reading the disk in it, which is QEMU's work (:mod:`osprovider.images.diskimage.convert`).
Source: "Virtual Hard Disk Image Format Specification" 1.0 (Microsoft).
"""

from __future__ import annotations

import struct

from osprovider.images.diskimage.headers.reader import SECTOR, Reader

__all__ = ["check"]

_MAGIC = b"conectix"
_FIXED, _DYNAMIC, _DIFFERENCING = 2, 3, 4
_UNUSED = 0xFFFFFFFF


def check(reader: Reader) -> int:
    """See that the image is whole, stands alone and holds nothing unknown.

    Returns:
        the size of the disk in it, in bytes.

    Raises:
        ImageError: it is not so; names the field.
    """
    place = reader.size - SECTOR
    kind, header, size = _read_footer(reader, place, "footer")
    # QEMU believes a copy at the beginning before the footer itself.
    if reader.read(0, 8, "footer's copy") == _MAGIC:
        copy = _read_footer(reader, 0, "footer's copy (byte 0)")
        if copy != (kind, header, size):
            raise reader.wrong("footer's copy (byte 0)", f"it contradicts the footer at byte {place}")
    elif kind == _DYNAMIC:
        raise reader.wrong("footer's copy (byte 0)", "there is none")
    if kind == _DYNAMIC:
        _check_blocks(reader, header, size)
    elif size > place:
        raise reader.wrong("footer", f"it says {size} bytes, and the file has {place} before it: cut off?")
    return size


def _read_footer(reader: Reader, place: int, field: str) -> tuple[int, int, int]:
    """Kind of disk, place of the dynamic header, size in bytes."""
    footer = reader.read(place, SECTOR, field)
    if footer[:8] != _MAGIC:
        raise reader.wrong(field, f"it is not at byte {place}: cut off?")
    header, size, kind, checksum = struct.unpack_from(">16xQ24xQ4xII", footer)
    if ~(sum(footer) - sum(footer[64:68])) & 0xFFFFFFFF != checksum:
        raise reader.wrong(field, f"its checksum (byte {place + 64}) is wrong")
    if kind == _DIFFERENCING:
        raise reader.wrong("disk type (byte 60 of the footer)", "it needs a parent: merge them")
    if kind not in (_FIXED, _DYNAMIC):
        raise reader.wrong("disk type (byte 60 of the footer)", f"{kind} is not known")
    return kind, header, size


def _check_blocks(reader: Reader, header: int, size: int) -> None:
    fields = reader.read(header, 1024, "dynamic header")
    if fields[:8] != b"cxsparse":
        raise reader.wrong("dynamic header", f"it is not at byte {header}")
    table, entries, block, checksum = struct.unpack_from(">16xQ4xIII", fields)
    if ~(sum(fields) - sum(fields[36:40])) & 0xFFFFFFFF != checksum:
        raise reader.wrong("dynamic header", f"its checksum (byte {header + 36}) is wrong")
    if block < SECTOR or block & (block - 1) or entries * block < size:
        raise reader.wrong("dynamic header", f"{entries} blocks of {block} bytes do not fit a disk of {size}")
    bitmap = -(-(block // SECTOR // 8) // SECTOR) * SECTOR
    needed = -(-size // block)
    for index, sector in reader.table(">I", table, needed, "block allocation table"):
        if sector != _UNUSED:
            left = min(block, -(-(size - index * block) // SECTOR) * SECTOR)  # the last block need not be whole
            reader.inside(sector * SECTOR, bitmap + left, f"block {index} (byte {table + 4 * index})")
