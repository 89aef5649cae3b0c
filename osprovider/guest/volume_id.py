"""Where a FAT has its volume ID, which blkid(8) calls its UUID.

The appliance's process shares it with the node's way, and imports next to nothing.
Not for: changing it (:mod:`osprovider.disk.changing`, and the appliance's process).
Source: Microsoft's FAT specification 1.03 ("BPB", "FAT32 ... backup boot sector").
"""

from __future__ import annotations

import struct

__all__ = ["BOOT_SECTOR_SIZE", "packed", "places"]

BOOT_SECTOR_SIZE = 512
"""What of a FAT's first sector says it, in bytes."""

_SIGNATURE = b"\x55\xaa"
_HAS_ID = (0x28, 0x29)  # BS_BootSig
_FIRST_SECTORS = 32  # that FAT32 reserves


def places(boot_sector: bytes) -> tuple[int, ...]:
    """Where the volume ID is, in bytes from the file system's first: FAT32 has a second boot sector.

    Args:
        boot_sector: the first :data:`BOOT_SECTOR_SIZE` bytes.

    Raises:
        ValueError: there is none.
    """
    is_fat32 = boot_sector[22:24] == b"\0\0"  # BPB_FATSz16, by which blkid(8) and Linux tell it
    if boot_sector[510:512] != _SIGNATURE or boot_sector[66 if is_fat32 else 38] not in _HAS_ID:
        raise ValueError("its vfat has no volume ID where one was found before")
    sector_size, backup = struct.unpack_from("<H", boot_sector, 11)[0], struct.unpack_from("<H", boot_sector, 50)[0]
    sectors = (0, backup) if is_fat32 and 0 < backup < _FIRST_SECTORS else (0,)
    return tuple(sector * sector_size + (67 if is_fat32 else 39) for sector in sectors)


def packed(volume_id: str) -> bytes:
    """A volume ID as it lies there.

    Args:
        volume_id: as blkid(8) writes it (``1234-ABCD``).
    """
    return struct.pack("<I", int(volume_id.replace("-", ""), 16))
