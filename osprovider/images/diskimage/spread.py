"""File systems that need another device than the one that they are on: no image has that.

The kernel would refuse to mount them as well, in words that say what it missed and not what they are.
Sources: Documentation/filesystems/ext4/super.rst (s_journal_dev); fs/xfs/libxfs/xfs_format.h (struct xfs_dsb:
sb_rblocks, sb_logstart); include/uapi/linux/btrfs_tree.h (struct btrfs_super_block: num_devices).
Not for: what lies beneath a file system, such as LVM (:mod:`osprovider.images.diskimage.contents`).
"""

from __future__ import annotations

import os
import struct

__all__ = ["why_not_alone"]

_EXT_SUPERBLOCK = 1024
_BTRFS_SUPERBLOCK = 64 << 10


def why_not_alone(fd: int, start_bytes: int, filesystem: str) -> str | None:
    """Tell which other device a file system needs.

    Args:
        fd: the disk.
        start_bytes: where on it the file system begins.
        filesystem: its type, as blkid(8) has it.

    Returns:
        words for people; None where it needs none, or is of a type that needs none.
    """

    def field(layout: str, place: int) -> int:
        data = os.pread(fd, struct.calcsize(layout), start_bytes + place)
        return int.from_bytes(data, "little" if layout[0] == "<" else "big")

    if filesystem in ("ext3", "ext4") and field("<I", _EXT_SUPERBLOCK + 0xE4):
        return "its journal is on another device"
    if filesystem == "xfs" and not field(">Q", 48):
        return "its log is on another device"
    if filesystem == "xfs" and field(">Q", 16):
        return "its realtime section is on another device"
    if filesystem == "btrfs" and (count := field("<Q", _BTRFS_SUPERBLOCK + 0x88)) > 1:
        return f"it is one of {count} devices of a btrfs"
    return None
