"""The region and metadata tables of a VHDX image.

Not for: reading the disk in it, which is QEMU's work (:mod:`osprovider.images.diskimage.convert`).
Source: [MS-VHDX] 2 (Microsoft).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from osprovider.images.diskimage.headers.reader import Reader

__all__ = ["check"]

_METADATA = bytes.fromhex("06a27c8b90479a4bb8fe575f050f886e")
_PARAMETERS = bytes.fromhex("3767a1ca36fa434db3b633f0aa44e76b")
_SIZE = bytes.fromhex("2442a52f1bcd7648b2115dbed83bf4b8")
_REGIONS = 192 << 10
_HAS_PARENT = 2


def check(reader: Reader) -> int:
    """See that the image is whole, stands alone and holds nothing unknown.

    Returns:
        the size of the disk in it, in bytes.

    Raises:
        ImageError: it is not so; names the field.
    """
    metadata = _find_metadata(reader)
    table = reader.read(metadata, 64 << 10, "metadata table")
    if table[:8] != b"metadata":
        raise reader.wrong("metadata table", f"it is not at byte {metadata}")
    (count,) = struct.unpack_from("<H", table, 10)
    size = None
    for index, (kind, offset, length) in enumerate(_entries(table, "<16sII", 32, min(count, 1023))):
        value = reader.read(metadata + offset, min(length, 8), f"metadata item {index}").ljust(8, b"\0")
        if kind == _PARAMETERS and struct.unpack_from("<I", value, 4)[0] & _HAS_PARENT:
            raise reader.wrong("file parameters", "it needs a parent: merge them")
        if kind == _SIZE:
            (size,) = struct.unpack_from("<Q", value)
    if size is None:
        raise reader.wrong("metadata table", "it does not say how large the disk is")
    return int(size)


def _find_metadata(reader: Reader) -> int:
    """Where the metadata table lies, the last one where several are named."""
    table = reader.read(_REGIONS, 64 << 10, "region table")
    if table[:4] != b"regi":
        raise reader.wrong("region table", f"it is not at byte {_REGIONS}")
    (count,) = struct.unpack_from("<I", table, 8)
    found = None
    for index, (kind, offset, length) in enumerate(_entries(table, "<16sQI", 16, min(count, 2047))):
        reader.inside(offset, length, f"region {index}")
        if kind == _METADATA:
            found = offset
    if found is None:
        raise reader.wrong("region table", "it names no metadata")
    return found


def _entries(table: bytes, layout: str, first: int, count: int) -> Iterator[tuple[bytes, int, int]]:
    """A table's entries of 32 bytes each: the GUID of what each names, and its place and length in bytes."""
    for index in range(count):
        kind, offset, length = struct.unpack_from(layout, table, first + 32 * index)
        yield kind, offset, length
