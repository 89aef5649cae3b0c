"""The UUID that a btrfs gives its device, beside its own: a copy of the file system gets another.

blkid(8) calls it UUID_SUB. btrfstune(8) leaves it, so it is changed here, in what is already on the disk: in the
superblocks and in the chunk tree, which is small, and by whose checksums everything that is read is judged first.
Where anything is not as it should be nothing is changed: the kernel that mounts the file system then says what.
Sources: the kernel's include/uapi/linux/btrfs_tree.h (struct btrfs_super_block, btrfs_header, btrfs_chunk) and
fs/btrfs/ctree.h; btrfs' documentation, "On-disk Format".
Not for: the file system's UUID (:mod:`osprovider.guest.appliance_process`).
"""

from __future__ import annotations

import hashlib
import os
import struct
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from osprovider.disk.raw import write_all
from osprovider.layout import TablePlan, derived_uuid
from osprovider.log import reporter

__all__ = ["renew_devices", "set_device_uuid"]

_SUPERBLOCKS = (64 << 10, 64 << 20, 256 << 30)
_SUPERBLOCK_SIZE = 4096
_MAGIC = b"_BHRfS_M"
_MAGIC_PLACE = slice(0x40, 0x48)
_IDENTITY = slice(0x20, 0x30)
_CHECKSUM = 32
_DEVICE_UUID = slice(0x10B, 0x11B)
_CHUNKS, _CHUNKS_SIZE = 0x32B, 2048

_KEY = struct.Struct("<QBQ")
_CHUNK = struct.Struct("<QQQQIIIHH")
_STRIPE = struct.Struct("<QQ16s")
_NODE_HEADER = 101
_POINTER = struct.Struct("<QBQQQ")
_PLAIN = 1 << 1 | 1 << 5  # system, and twice on one device; what is striped or on several is left alone
_NODE_SIZES = frozenset(4096 << shift for shift in range(5))
_MOST_NODES = 4096


class _OddError(Exception):
    """It is not what is known here."""


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Where a range of the file system's own addresses lies on the device, once or twice."""

    logical: int
    size: int
    places: tuple[int, ...]


def renew_devices(fd: int, table: TablePlan) -> None:
    """Give the device of each btrfs of an image a UUID that follows from the file system's new one. Nothing is synced.

    Args:
        fd: as for :func:`set_device_uuid`.
        table: the plan that the image was copied by.

    Raises:
        DeviceError: as for :func:`set_device_uuid`.
    """
    for part in table.partitions:
        if part.filesystem == "btrfs" and part.filesystem_uuid:
            new = derived_uuid(part.filesystem_uuid, "device")
            if not set_device_uuid(fd, part.start_bytes, part.size_bytes, new):
                reporter.warning(f"partition {part.number} ({part.role}): its btrfs keeps the UUID of its device")


def set_device_uuid(fd: int, start_bytes: int, size_bytes: int, new: str) -> bool:
    """Give the device of a btrfs another UUID. Nothing is synced.

    Args:
        fd: the disk, open for (buffered) reading and writing.
        start_bytes: where on it the file system begins.
        size_bytes: its size.
        new: the UUID.

    Returns:
        it has it now; False where the file system is not sound, on several devices or uses what is not known here, and
        was left as it is.

    Raises:
        DeviceError: the disk cannot be written; with its name and the byte.
    """
    try:
        writes = _changes(fd, start_bytes, size_bytes, uuid.UUID(new).bytes)
    except (_OddError, struct.error, OSError):
        return False
    for place, data in writes.items():
        write_all(fd, data, start_bytes + place)
    return True


def _changes(fd: int, start: int, size: int, new: bytes) -> Mapping[int, bytes]:
    """What to write where, from the file system's first byte on; the superblocks last."""

    def read(place: int, length: int) -> bytes:
        data = os.pread(fd, length, start + place) if 0 <= place <= size - length else b""
        if len(data) != length:
            raise _OddError("beyond its end")
        return data

    first = read(_SUPERBLOCKS[0], _SUPERBLOCK_SIZE)
    sealed = _seal_of(first)
    old = first[_DEVICE_UUID]
    changes: dict[int, bytes] = {}
    for places, node in _nodes(read, first):
        if sealed(node) != node:
            raise _OddError("its chunk tree is damaged")
        if old in node:
            changes |= dict.fromkeys(places, sealed(node.replace(old, new)))
    for place in _SUPERBLOCKS:
        copy = read(place, _SUPERBLOCK_SIZE) if place + _SUPERBLOCK_SIZE <= size else b""
        if copy[_IDENTITY] == first[_IDENTITY] and sealed(copy) == copy:
            changes[place] = sealed(copy.replace(old, new))
    return changes


def _seal_of(superblock: bytes) -> Callable[[bytes], bytes]:
    """How this file system makes a block's checksum; its superblock has to be a sound one."""
    (kind,) = struct.unpack_from("<H", superblock, 0xC4)
    (devices,) = struct.unpack_from("<Q", superblock, 0x88)
    sealed = _SEALS.get(kind)
    if superblock[_MAGIC_PLACE] != _MAGIC or sealed is None or devices != 1 or sealed(superblock) != superblock:
        raise _OddError("it is not sound, or not known")
    return sealed


def _chunks(superblock: bytes) -> Iterator[_Chunk]:
    """The chunks that hold the chunk tree, as the superblock itself has them."""
    (size,) = struct.unpack_from("<I", superblock, 0xA0)
    if size > _CHUNKS_SIZE:
        raise _OddError("its list of system chunks is longer than there is room")
    position = _CHUNKS
    while position < _CHUNKS + size:
        _, _, logical = _KEY.unpack_from(superblock, position)
        position += _KEY.size
        length, _, _, kind, _, _, _, stripes, _ = _CHUNK.unpack_from(superblock, position)
        position += _CHUNK.size
        if kind & ~_PLAIN or not 1 <= stripes <= 2:
            raise _OddError("its chunk tree is striped")
        found = [_STRIPE.unpack_from(superblock, position + index * _STRIPE.size) for index in range(stripes)]
        position += stripes * _STRIPE.size
        yield _Chunk(logical, length, tuple(place for _, place, _ in found))


def _nodes(read: Callable[[int, int], bytes], superblock: bytes) -> Iterator[tuple[list[int], bytes]]:
    """The nodes of the chunk tree, each with the places that it lies at."""
    chunks = list(_chunks(superblock))
    (root,) = struct.unpack_from("<Q", superblock, 0x58)
    (node_size,) = struct.unpack_from("<I", superblock, 0x94)
    if node_size not in _NODE_SIZES:
        raise _OddError("its nodes have no size that is known")
    waiting, count = [root], 0
    while waiting:
        logical, count = waiting.pop(), count + 1
        chunk = next((each for each in chunks if each.logical <= logical < each.logical + each.size), None)
        if chunk is None or count > _MOST_NODES:
            raise _OddError("its chunk tree leads nowhere")
        places = [place + logical - chunk.logical for place in chunk.places]
        node = read(places[0], node_size)
        if any(read(place, node_size) != node for place in places[1:]):  # every one of them is written
            raise _OddError("its chunk tree is damaged")
        (address,) = struct.unpack_from("<Q", node, 0x30)
        items, level = struct.unpack_from("<IB", node, 0x60)
        if address != logical or items > node_size // _POINTER.size:
            raise _OddError("its chunk tree is damaged")
        if level:
            pointers = (_POINTER.unpack_from(node, _NODE_HEADER + index * _POINTER.size) for index in range(items))
            waiting += [place for _, _, _, place, _ in pointers]
        yield places, node


# -- checksums --------------------------------------------------------------------------------------------------------


def _sealed_by(digest: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    return lambda block: digest(block[_CHECKSUM:]).ljust(_CHECKSUM, b"\0") + block[_CHECKSUM:]


def _crc32c(data: bytes) -> bytes:
    """Castagnoli's (RFC 3720, appendix B.4), as the kernel stores it."""
    value = 0xFFFFFFFF
    for byte in data:
        value = _CRC32C[(value ^ byte) & 0xFF] ^ value >> 8
    return (value ^ 0xFFFFFFFF).to_bytes(4, "little")


def _crc32c_entry(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value


_CRC32C = tuple(map(_crc32c_entry, range(256)))
_SEALS = {
    0: _sealed_by(_crc32c),
    2: _sealed_by(lambda data: hashlib.sha256(data).digest()),
    3: _sealed_by(lambda data: hashlib.blake2b(data, digest_size=32).digest()),
}
"""By the number of its kind a block with its checksum made anew; xxhash (1) is not known here."""
