"""The first sectors of file systems that lie elsewhere than in their image, told where that is.

A FAT says how many sectors of the disk are in front of it, and firmware and boot code may go by that; extlinux writes
the same field in front of an ext file system. It is changed where it named the partition's old start, in FAT32's second
boot sector as well. Other file systems here know nothing of the disk around them.
Sources: Microsoft's FAT specification 1.03, "BPB" (``BPB_HiddSec``, ``BPB_BkBootSec``); syslinux' diskstart.inc.
Not for: a FAT's volume ID (:mod:`osprovider.guest.appliance_process`), boot code (:mod:`osprovider.disk.grub_images`).
"""

from __future__ import annotations

import struct

from osprovider.disk.raw import failure, read_all, write_all
from osprovider.layout import TablePlan

__all__ = ["tell_moved"]

_HAVING = frozenset({"vfat", "ext2", "ext3", "ext4"})
_SIGNATURE = b"\x55\xaa"
_SIGNATURE_OFFSET = 510
_SECTORS = struct.Struct("<I")
_MOST = 0xFFFFFFFF  # of them; the field cannot say more, nor can an msdos table
_HIDDEN_OFFSET = 28
_BACKUP_OFFSET = 50
_FAT32_OFFSET = 82
_MOST_RESERVED = 32


def tell_moved(fd: int, table: TablePlan) -> None:
    """Have the file systems of moved partitions say where they begin now. Nothing is synced.

    Args:
        fd: the disk, open for (buffered) writing, with the image on it.
        table: the plan that the image was copied by.

    Raises:
        DeviceError: the disk cannot be read or written; with its name and the byte.
    """
    for part in table.partitions:
        if part.source_bytes is not None and part.is_moved and part.filesystem in _HAVING:
            _tell(fd, part.source_bytes, part.start_bytes, table.sector_size)


def _tell(fd: int, source_bytes: int, start_bytes: int, sector_size: int) -> None:
    before, now = (_SECTORS.pack(min(start // sector_size, _MOST)) for start in (source_bytes, start_bytes))
    first = _read(fd, sector_size, start_bytes)
    (backup,) = struct.unpack_from("<H", first, _BACKUP_OFFSET)
    has_backup = first[_FAT32_OFFSET:].startswith(b"FAT32") and 0 < backup < _MOST_RESERVED
    for number in (0, backup) if has_backup else (0,):
        place = start_bytes + number * sector_size
        sector = _read(fd, sector_size, place)
        is_one = sector[_SIGNATURE_OFFSET:].startswith(_SIGNATURE)
        if is_one and sector[_HIDDEN_OFFSET:].startswith(before):
            sector[_HIDDEN_OFFSET : _HIDDEN_OFFSET + _SECTORS.size] = now
            write_all(fd, bytes(sector), place)


def _read(fd: int, length: int, offset: int) -> bytearray:
    data = bytearray(length)
    try:
        read_all(fd, memoryview(data), offset)
    except OSError as error:
        raise failure(fd, f"cannot be read at byte {offset}", error) from error
    return data
