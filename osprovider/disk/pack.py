"""A tree into a new file system of the ext family: the same bytes, whenever and wherever that is done.

The kernel's ext4 decides by chance and by the clock where things lie; mke2fs decides by the tree alone, in the order of
names. What it takes from the clock, or from the tree's own file system, is set here. It is quicker than shrinking what
was filled, besides: 12,000 files of 370 MiB take 0.6 s, the rest 0.3 s.
Sources: mke2fs(8), debugfs(8), e2fsck(8); e2fsprogs' lib/ext2fs/openfs.c and initialize.c (``E2FSPROGS_FAKE_TIME``;
``SOURCE_DATE_EPOCH`` since 1.47.1), e2fsck/e2fsck.h (``E2FSCK_TIME``).
Not for: trees that are not mounted here.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Collection
from pathlib import Path
from uuid import UUID, uuid5

from osprovider.disk import filesystem
from osprovider.run import run

__all__ = ["pack"]

_SPARE = 256 << 20  # and a quarter: shrinking takes it away again
_BYTES_PER_INODE = 16384
_BYTES_PER_NAME = 64
_BLOCK = 4096
_ROOT = 2
_FIRST_INODE = 11  # lost+found; those before are the file system's own, but for the root directory
_SUPERBLOCK_OFFSET = 1024
_INODES = struct.Struct("<I12xI")  # how many there are, and how many are free


def pack(root: Path, path: Path, kind: str, *, uuid: str, epoch: int, without: Collection[str] = ()) -> None:
    """Make an image file with a file system that holds a tree, as small as a template should be.

    Args:
        root: where the tree is mounted. Modification times, owners, modes, hard links, holes and extended attributes
            are kept; access times and times of change become ``epoch``.
        path: the file to make.
        kind: ``ext4``, ``ext3`` or ``ext2``.
        uuid: its UUID; what the file system hashes names with follows from it.
        epoch: in seconds since 1970.
        without: features that the guest does not know.

    Raises:
        DeviceError, ToolError: one of e2fsprogs failed.
    """
    size = _size(root)
    seed = str(uuid5(UUID(uuid), "hash seed"))
    filesystem.make(
        path,
        kind,
        uuid=uuid,
        label="",
        size_bytes=size,
        tree=root,
        hash_seed=seed,
        epoch=epoch,
        without=filesystem.WITHOUT_JOURNAL.union(without),
    )
    _set_times(path, epoch)
    filesystem.shrink(path, kind, epoch=epoch)


def _size(root: Path) -> int:
    """What holds the tree for certain, by what every copy of it has: where it lies now does not count."""
    inodes: dict[int, int] = {}
    for directory, directories, files in os.walk(root):
        inodes[os.lstat(directory).st_ino] = _BLOCK + _BYTES_PER_NAME * (len(directories) + len(files))
        for name in files:
            status = os.lstat(f"{directory}/{name}")
            inodes[status.st_ino] = -(-status.st_size // _BLOCK) * _BLOCK
    size = max(sum(inodes.values()), len(inodes) * _BYTES_PER_INODE) * 5 // 4 + _SPARE
    return size - size % _BLOCK


def _set_times(path: Path, epoch: int) -> None:
    """Set the times that mke2fs takes from the tree's own file system. It has used inodes without gaps."""
    with path.open("rb") as file:
        file.seek(_SUPERBLOCK_OFFSET)
        inodes, free = _INODES.unpack(file.read(_INODES.size))
    fields = ("atime", "ctime", "crtime", "atime_extra", "ctime_extra", "crtime_extra")
    values = (f"@{epoch}", f"@{epoch}", f"@{epoch}", "0", "0", "0")
    commands = [
        f"set_inode_field <{inode}> {field} {value}\n"
        for inode in (_ROOT, *range(_FIRST_INODE, inodes - free + 1))
        for field, value in zip(fields, values, strict=True)
    ]
    run(["debugfs", "-w", "-f", "-", path], stdin="".join(commands).encode(), env=filesystem.clock(epoch))
