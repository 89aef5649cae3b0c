"""Whether a file system was put away in order, as it says itself: what was being written would be in its journal.

Told by the few bytes of a superblock, which are read here, and by xfs_logprint(8) in the sandbox.
Sources: Documentation/filesystems/ext4/super.rst (s_state, s_feature_incompat); fs/btrfs/ctree.h (btrfs_super_block,
log_root); xfs_logprint(8).
Not for: repairing it.
"""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path

from osprovider.errors import GuestError
from osprovider.manifest import EXT
from osprovider.programs import require
from osprovider.run import running
from osprovider.sandbox import confine

__all__ = ["why_unclean", "xfs_replay_bytes"]

_EXT_SUPERBLOCK = 1024
_EXT_VALID, _EXT_ERRORS = 1, 2
_EXT_RECOVER = 4
_BTRFS_SUPERBLOCK = 64 << 10
_LINES = 50
# What xfs_logprint says of a log, in "basic blocks".
_XFS_LENGTH = re.compile(rb"log device: .* length: (\d+)")
_XFS_STATE = re.compile(rb"log tail: (\d+) head: (\d+) state: <(CLEAN|DIRTY)>")
_XFS_BLOCK = 512


def why_unclean(device: Path, filesystem: str, start_bytes: int = 0) -> str | None:
    """Tell why a file system is not one that was unmounted.

    Args:
        device: a read-only block device that it fills; of an ext, any file that it lies in.
        filesystem: its type, as blkid(8) has it.
        start_bytes: where it lies in that.

    Returns:
        words for people; None where it was unmounted, or is of a type that does not tell.

    Raises:
        GuestError: it cannot be read.
    """
    try:
        with device.open("rb", buffering=0) as file:
            if filesystem in EXT:
                return _ext(file.fileno(), start_bytes)
            if filesystem == "btrfs":
                (log_root,) = struct.unpack("<Q", os.pread(file.fileno(), 8, _BTRFS_SUPERBLOCK + 0x60))
                return "its log tree is not empty" if log_root else None
            return _xfs(file.fileno()) if filesystem == "xfs" else None
    except (OSError, struct.error) as error:
        raise GuestError(f"{device}: the superblock of {filesystem} cannot be read: {error}") from error


def _ext(fd: int, start_bytes: int) -> str | None:
    superblock = os.pread(fd, 0x64, start_bytes + _EXT_SUPERBLOCK)
    (state,) = struct.unpack_from("<H", superblock, 0x3A)
    (features,) = struct.unpack_from("<I", superblock, 0x60)
    if state & _EXT_ERRORS:
        return "the kernel has found errors in it"
    if features & _EXT_RECOVER:
        return "its journal is not empty"
    return None if state & _EXT_VALID else "it is not marked clean"


def xfs_replay_bytes(device: Path) -> int:
    """Return how much of the log of an xfs is to be replayed when it is mounted, in bytes; 0 where it was unmounted.

    Args:
        device: a read-only block device that it fills.

    Raises:
        GuestError: it cannot be read.
    """
    try:
        with device.open("rb", buffering=0) as file:
            return _xfs_replay_bytes(file.fileno())
    except OSError as error:
        raise GuestError(f"{device}: the log of its xfs cannot be read: {error}") from error


def _xfs(fd: int) -> str | None:
    return "its log is not empty" if _xfs_replay_bytes(fd) else None


def _xfs_replay_bytes(fd: int) -> int:
    """The first lines of xfs_logprint say it; of a log that is not empty there are many more."""
    require("xfs_logprint", what="the log of its xfs")
    said = []
    blocks = 0
    with (
        Path(os.devnull).open("wb") as nothing,
        running(confine(["xfs_logprint", "-t", "/proc/self/fd/0"]), stdin=fd, stderr=nothing.fileno()) as process,
    ):
        for _, line in zip(range(_LINES), process.stdout or (), strict=False):
            if found := _XFS_LENGTH.search(line):
                blocks = int(found[1])
            if found := _XFS_STATE.search(line):
                tail, head, state = int(found[1]), int(found[2]), found[3]
                if state == b"CLEAN":
                    return 0
                return ((head - tail) % max(blocks, 1) or max(blocks, 1)) * _XFS_BLOCK
            said.append(line.decode(errors="replace").strip())
    why = next((line for line in reversed(said) if line), "xfs_logprint says nothing")
    raise GuestError(f"the log of its xfs cannot be read: {why}")
