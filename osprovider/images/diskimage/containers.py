"""The headers of disk images, read before any other program reads the image.

QEMU's tools are only let near an image that says nothing that reaches beyond its file: no backing file, no external
data, no other extent (CVE-2024-32498 and CVE-2024-44082 were that).
Sources: QEMU's docs/interop/qcow2.txt, "Virtual Disk Format 5.0" (VMware), "Virtual Hard Disk Image Format
Specification" and [MS-VHDX] (Microsoft), VirtualBox's VDICore.h.
Not for: telling what a file is (:mod:`osprovider.images.formats`).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from osprovider.errors import ImageError
from osprovider.images.formats import Container

__all__ = ["check_container"]

_SECTOR = 512
_LARGEST = 64 << 40
_ENTRIES_AT_ONCE = 1 << 16


def check_container(path: Path, container: Container, *, name: str | None = None) -> int:
    """Read a disk image's header, before any other program does.

    Args:
        path: the file, not compressed.
        container: what it is.
        name: what messages call it, if not by its path.

    Returns:
        the size of the disk in it, in bytes.

    Raises:
        ImageError: it is damaged, refers to other files, is encrypted, or uses what is not known; names the field.
    """
    size = path.stat().st_size
    if container not in _CHECKS:
        return size
    with path.open("rb", buffering=0) as file:
        reader = _Reader(name or str(path), container, file.fileno(), size)
        virtual = _CHECKS[container](reader)
    if not 0 < virtual <= _LARGEST:
        raise reader.wrong("the disk's size", f"{virtual} bytes make no sense")
    return virtual


@dataclass(frozen=True, slots=True)
class _Reader:
    """Fields of a container's header."""

    name: str
    container: str
    fd: int
    size: int

    def wrong(self, field: str, what: str) -> ImageError:
        """The error for a field."""
        return ImageError(f"{self.name}: {self.container} image, {field}: {what}")

    def read(self, offset: int, length: int, field: str) -> bytes:
        """A part of the file, which has to be in it whole."""
        self.inside(offset, length, field)
        data = os.pread(self.fd, length, offset)
        if len(data) != length:
            raise self.wrong(field, f"the file ends before byte {offset + length}")
        return data

    def inside(self, offset: int, length: int, field: str) -> None:
        """Refuse what lies outside the file."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise self.wrong(field, f"bytes {offset} to {offset + length} lie beyond the file's {self.size}: cut off?")

    def numbers(self, layout: str, offset: int, field: str) -> tuple[int, ...]:
        """Numbers at a place, as struct(3) lays them."""
        return struct.unpack(layout, self.read(offset, struct.calcsize(layout), field))

    def table(self, layout: str, offset: int, count: int, field: str) -> Iterator[tuple[int, int]]:
        """The numbers of a table, each with its index."""
        size = struct.calcsize(layout)
        self.inside(offset, count * size, field)
        for first in range(0, count, _ENTRIES_AT_ONCE):
            entries = min(_ENTRIES_AT_ONCE, count - first)
            data = self.read(offset + first * size, entries * size, field)
            yield from enumerate((entry for (entry,) in struct.iter_unpack(layout, data)), first)


# qcow2 (docs/interop/qcow2.txt)

_QCOW2_INCOMPATIBLE = {
    0: "was not closed properly (its dirty bit is set): repair it (qemu-img check -r all)",
    1: "is marked as corrupt: repair it (qemu-img check -r all)",
    2: "keeps its data in another file: convert it (qemu-img convert -O qcow2)",
}
_QCOW2_KNOWN_INCOMPATIBLE = 0b11111
_QCOW2_DATA_FILE, _QCOW2_BITMAPS, _QCOW2_ENCRYPTION = 0x44415441, 0x23852875, 0x0537BE77
_QCOW2_MOST_EXTENSIONS = 64


def _check_qcow2(reader: _Reader) -> int:
    version, backing, backing_size, cluster_bits, size, crypt = reader.numbers(">IQIIQI", 4, "the header")
    if version not in (2, 3):
        raise reader.wrong("version (byte 4)", f"{version} is not known")
    if backing or backing_size:
        raise reader.wrong("backing file (byte 8)", "it needs another file: convert it to one that stands alone")
    if not 9 <= cluster_bits <= 21:
        raise reader.wrong("cluster_bits (byte 20)", f"{cluster_bits} makes no sense")
    if crypt:
        raise reader.wrong("crypt_method (byte 32)", "it is encrypted, which is not supported")
    cluster = 1 << cluster_bits
    header_length = _check_qcow2_features(reader, cluster) if version == 3 else 72
    _check_qcow2_tables(reader, size, cluster)
    _check_qcow2_extensions(reader, header_length, cluster)
    return size


def _check_qcow2_features(reader: _Reader, cluster: int) -> int:
    incompatible, _, _, order, header_length = reader.numbers(">QQQII", 72, "the features")
    for bit, what in _QCOW2_INCOMPATIBLE.items():
        if incompatible & 1 << bit:
            raise reader.wrong("incompatible features (byte 72)", what)
    if unknown := incompatible & ~_QCOW2_KNOWN_INCOMPATIBLE:
        raise reader.wrong("incompatible features (byte 72)", f"{unknown:#x} are not known")
    if order > 6:
        raise reader.wrong("refcount_order (byte 96)", f"{order} makes no sense")
    if not 104 <= header_length <= cluster:
        raise reader.wrong("header_length (byte 100)", f"{header_length} makes no sense")
    return header_length


def _check_qcow2_tables(reader: _Reader, size: int, cluster: int) -> None:
    l1_size, l1_offset, refcounts, refcount_clusters, snapshots, snapshots_offset = reader.numbers(
        ">IQQIIQ", 36, "the tables"
    )
    # Each entry is a table of one cluster, whose entries (16 bytes where clusters are subdivided) are a cluster each.
    if l1_size > 4 << 20 or l1_size * (cluster // 8) * cluster < size:
        raise reader.wrong("l1_size (byte 36)", f"{l1_size} does not fit a disk of {size} bytes")
    for offset, length, field in (
        (l1_offset, l1_size * 8, "l1_table_offset (byte 40)"),
        (refcounts, refcount_clusters * cluster, "refcount_table_offset (byte 48)"),
        (snapshots_offset, 40 * snapshots, "snapshots_offset (byte 64)"),
    ):
        if offset % cluster:
            raise reader.wrong(field, f"{offset} is not at the beginning of a cluster")
        reader.inside(offset, length, field)


def _check_qcow2_extensions(reader: _Reader, position: int, cluster: int) -> None:
    for _ in range(_QCOW2_MOST_EXTENSIONS):
        if position + 8 > min(cluster, reader.size):
            return
        kind, length = reader.numbers(">II", position, "a header extension")
        if kind == 0:
            return
        field = f"header extension {kind:#x} (byte {position})"
        if length > cluster - position - 8:
            raise reader.wrong(field, f"its length {length} makes no sense")
        if kind == _QCOW2_DATA_FILE:
            raise reader.wrong(field, _QCOW2_INCOMPATIBLE[2])
        if kind == _QCOW2_ENCRYPTION:
            raise reader.wrong(field, "it is encrypted, which is not supported")
        if kind == _QCOW2_BITMAPS:
            if length != 24:
                raise reader.wrong(field, f"a bitmaps extension has 24 bytes, not {length}")
            count, _, size, offset = reader.numbers(">IIQQ", position + 8, field)
            if not 0 < count <= 65535 or size > 64 << 20 or offset % cluster:
                raise reader.wrong(field, f"{count} bitmaps in {size} bytes at {offset} make no sense")
            reader.inside(offset, size, field)
        position += 8 + -(-length // 8) * 8
    raise reader.wrong("header extensions", f"there are more than {_QCOW2_MOST_EXTENSIONS}")


# VMDK (Virtual Disk Format 5.0, "Hosted Sparse Extents")

_VMDK_TYPES = ("monolithicSparse", "streamOptimized")
_VMDK_AT_END = (1 << 64) - 1
_VMDK_MAGIC = 0x564D444B  # "KDMV"
_VMDK_HEADER = "<IIIQQQQIQQ"
# QEMU looks here for a parent, whatever the header says (block/vmdk.c, vmdk_open() and DESC_SIZE).
_VMDK_DESCRIPTOR, _VMDK_DESCRIPTOR_SECTORS = 1, 20


def _check_vmdk(reader: _Reader) -> int:
    _, version, _, capacity, grain, descriptor, descriptor_size, entries, _, directory = reader.numbers(
        _VMDK_HEADER, 0, "the header"
    )
    if version not in (1, 2, 3):
        raise reader.wrong("version (byte 4)", f"{version} is not known")
    if not 8 <= grain <= 2048 or grain & (grain - 1) or entries != 512:
        raise reader.wrong("grain size (byte 20)", f"{grain} sectors in tables of {entries} make no sense")
    if capacity > _LARGEST // _SECTOR:
        raise reader.wrong("capacity (byte 12)", f"{capacity} sectors make no sense")
    if directory != _VMDK_AT_END:
        length = -(-capacity // (grain * entries)) * 4
        reader.inside(directory * _SECTOR, length, "grain directory (byte 56)")
    else:
        _check_vmdk_footer(reader, capacity, grain)
    if descriptor != _VMDK_DESCRIPTOR or not 0 < descriptor_size <= 2048:
        raise reader.wrong("descriptor (byte 28)", f"it is not at sector {_VMDK_DESCRIPTOR}: convert it to qcow2")
    start = _VMDK_DESCRIPTOR * _SECTOR
    reader.inside(start, descriptor_size * _SECTOR, "descriptor (byte 28)")
    length = min(max(descriptor_size, _VMDK_DESCRIPTOR_SECTORS) * _SECTOR, reader.size - start)
    text = reader.read(start, length, "descriptor (byte 28)").partition(b"\0")[0]
    _check_vmdk_descriptor(reader, text.decode("latin-1"))
    return capacity * _SECTOR


def _check_vmdk_footer(reader: _Reader, capacity: int, grain: int) -> None:
    """The header's copy before the end, which counts where the header leaves the grain directory's place to it."""
    place = reader.size - 2 * _SECTOR
    magic, _, _, its_capacity, its_grain, _, _, entries, _, directory = reader.numbers(_VMDK_HEADER, place, "footer")
    if magic != _VMDK_MAGIC:
        raise reader.wrong("footer", f"it is not at byte {place}: cut off?")
    if (its_capacity, its_grain, entries) != (capacity, grain, 512):
        raise reader.wrong("footer", f"it contradicts the header: {its_capacity} sectors in grains of {its_grain}")
    reader.inside(directory * _SECTOR, -(-capacity // (grain * entries)) * 4, "grain directory (of the footer)")


def _check_vmdk_descriptor(reader: _Reader, text: str) -> None:
    extents = 0
    for number, line in enumerate(text.split("\n"), 1):
        field = f"line {number} of its descriptor"
        key, equals, value = (part.strip().strip('"') for part in line.partition("="))
        words = line.split()
        if equals and key == "createType" and value not in _VMDK_TYPES:
            raise reader.wrong(field, f"createType {value} is not supported: convert it to qcow2")
        # QEMU finds these wherever they stand.
        if "parentFileNameHint" in line:
            raise reader.wrong(field, "it needs another file: convert it to one that stands alone")
        if "parentCID" in line and not (key == "parentCID" and value.lower() == "ffffffff"):
            raise reader.wrong(field, "it needs a parent: convert it to one that stands alone")
        if words and words[0] in ("RW", "RDONLY", "NOACCESS"):
            extents += 1
            if len(words) < 4 or words[2] != "SPARSE" or "/" in line:
                raise reader.wrong(field, "an extent is in another file: convert it to one that stands alone")
    if extents != 1:
        raise reader.wrong("its descriptor", f"{extents} extents, and only its own is allowed")


# VHD (Virtual Hard Disk Image Format Specification 1.0)

_VHD_MAGIC = b"conectix"
_VHD_FIXED, _VHD_DYNAMIC, _VHD_DIFFERENCING = 2, 3, 4
_VHD_UNUSED = 0xFFFFFFFF


def _check_vpc(reader: _Reader) -> int:
    place = reader.size - _SECTOR
    kind, header, size = _read_vhd_footer(reader, place, "footer")
    # QEMU believes a copy at the beginning before the footer itself.
    if reader.read(0, 8, "footer's copy") == _VHD_MAGIC:
        copy = _read_vhd_footer(reader, 0, "footer's copy (byte 0)")
        if copy != (kind, header, size):
            raise reader.wrong("footer's copy (byte 0)", f"it contradicts the footer at byte {place}")
    elif kind == _VHD_DYNAMIC:
        raise reader.wrong("footer's copy (byte 0)", "there is none")
    if kind == _VHD_DYNAMIC:
        _check_vhd_blocks(reader, header, size)
    elif size > place:
        raise reader.wrong("footer", f"it says {size} bytes, and the file has {place} before it: cut off?")
    return size


def _read_vhd_footer(reader: _Reader, place: int, field: str) -> tuple[int, int, int]:
    """Kind of disk, place of the dynamic header, size in bytes."""
    footer = reader.read(place, _SECTOR, field)
    if footer[:8] != _VHD_MAGIC:
        raise reader.wrong(field, f"it is not at byte {place}: cut off?")
    header, size, kind, checksum = struct.unpack_from(">16xQ24xQ4xII", footer)
    if ~(sum(footer) - sum(footer[64:68])) & 0xFFFFFFFF != checksum:
        raise reader.wrong(field, f"its checksum (byte {place + 64}) is wrong")
    if kind == _VHD_DIFFERENCING:
        raise reader.wrong("disk type (byte 60 of the footer)", "it needs a parent: merge them")
    if kind not in (_VHD_FIXED, _VHD_DYNAMIC):
        raise reader.wrong("disk type (byte 60 of the footer)", f"{kind} is not known")
    return kind, header, size


def _check_vhd_blocks(reader: _Reader, header: int, size: int) -> None:
    fields = reader.read(header, 1024, "dynamic header")
    if fields[:8] != b"cxsparse":
        raise reader.wrong("dynamic header", f"it is not at byte {header}")
    table, entries, block, checksum = struct.unpack_from(">16xQ4xIII", fields)
    if ~(sum(fields) - sum(fields[36:40])) & 0xFFFFFFFF != checksum:
        raise reader.wrong("dynamic header", f"its checksum (byte {header + 36}) is wrong")
    if block < _SECTOR or block & (block - 1) or entries * block < size:
        raise reader.wrong("dynamic header", f"{entries} blocks of {block} bytes do not fit a disk of {size}")
    bitmap = -(-(block // _SECTOR // 8) // _SECTOR) * _SECTOR
    needed = -(-size // block)
    for index, sector in reader.table(">I", table, needed, "block allocation table"):
        if sector != _VHD_UNUSED:
            left = min(block, -(-(size - index * block) // _SECTOR) * _SECTOR)  # the last block need not be whole
            reader.inside(sector * _SECTOR, bitmap + left, f"block {index} (byte {table + 4 * index})")


# VHDX ([MS-VHDX] 2)

_VHDX_METADATA = bytes.fromhex("06a27c8b90479a4bb8fe575f050f886e")
_VHDX_PARAMETERS = bytes.fromhex("3767a1ca36fa434db3b633f0aa44e76b")
_VHDX_SIZE = bytes.fromhex("2442a52f1bcd7648b2115dbed83bf4b8")
_VHDX_REGIONS = 192 << 10
_VHDX_HAS_PARENT = 2


def _check_vhdx(reader: _Reader) -> int:
    regions = reader.read(_VHDX_REGIONS, 64 << 10, "region table")
    if regions[:4] != b"regi":
        raise reader.wrong("region table", f"it is not at byte {_VHDX_REGIONS}")
    (count,) = struct.unpack_from("<I", regions, 8)
    metadata = None
    for index in range(min(count, 2047)):
        entry = regions[16 + 32 * index : 48 + 32 * index]
        offset, length = struct.unpack_from("<QI", entry, 16)
        reader.inside(offset, length, f"region {index}")
        if entry[:16] == _VHDX_METADATA:
            metadata = offset
    if metadata is None:
        raise reader.wrong("region table", "it names no metadata")
    table = reader.read(metadata, 64 << 10, "metadata table")
    if table[:8] != b"metadata":
        raise reader.wrong("metadata table", f"it is not at byte {metadata}")
    (items,) = struct.unpack_from("<H", table, 10)
    size = None
    for index in range(min(items, 1023)):
        entry = table[32 + 32 * index : 64 + 32 * index]
        offset, length = struct.unpack_from("<II", entry, 16)
        value = reader.read(metadata + offset, min(length, 8), f"metadata item {index}").ljust(8, b"\0")
        if entry[:16] == _VHDX_PARAMETERS and struct.unpack_from("<I", value, 4)[0] & _VHDX_HAS_PARENT:
            raise reader.wrong("file parameters", "it needs a parent: merge them")
        if entry[:16] == _VHDX_SIZE:
            (size,) = struct.unpack_from("<Q", value)
    if size is None:
        raise reader.wrong("metadata table", "it does not say how large the disk is")
    return int(size)


# VDI (VirtualBox, src/VBox/Storage/VDICore.h)

_VDI_KINDS = (1, 2)  # dynamic, fixed
_VDI_UNUSED = (0xFFFFFFFF, 0xFFFFFFFE)  # never written, and zeros
_VDI_BLOCK = 1 << 20  # the only one that QEMU reads, and VirtualBox writes


def _check_vdi(reader: _Reader) -> int:
    version, _, kind = reader.numbers("<III", 68, "the header")
    blocks_offset, data_offset = reader.numbers("<II", 340, "the header")
    size, block, extra, blocks, _ = reader.numbers("<QIIII", 368, "the header")
    if version != 0x10001:
        raise reader.wrong("version (byte 68)", f"{version:#x} is not known")
    if kind not in _VDI_KINDS:
        raise reader.wrong("image type (byte 76)", "it needs a parent: merge them" if kind in (3, 4) else f"{kind}?")
    if reader.read(440, 16, "parent").strip(b"\0"):
        raise reader.wrong("parent (byte 440)", "it needs a parent: merge them")
    if block != _VDI_BLOCK or extra or blocks * block < size:
        raise reader.wrong("blocks (byte 376)", f"{blocks} of {block} bytes do not fit a disk of {size}")
    used: set[int] = set()
    for index, number in reader.table("<I", blocks_offset, -(-size // block), "block map (byte 340)"):
        if number not in _VDI_UNUSED:
            field = f"block {index} (byte {blocks_offset + 4 * index})"
            reader.inside(data_offset + number * block, block, field)
            if number in used:
                raise reader.wrong(field, f"it lies at {number}, as another one does")
            used.add(number)
    return size


_CHECKS: dict[Container, Callable[[_Reader], int]] = {
    "qcow2": _check_qcow2,
    "vmdk": _check_vmdk,
    "vpc": _check_vpc,
    "vhdx": _check_vhdx,
    "vdi": _check_vdi,
}
