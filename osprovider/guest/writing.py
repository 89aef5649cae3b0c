"""Changing an ext file system that the node's kernel must not parse: debugfs does it, confined, and e2fsck has a look.

fuse2fs could write, too, but what it leaves is damaged (e2fsprogs 1.47.0).
Sources: debugfs(8), e2fsck(8), e2undo(8), ext4(5); the kernel's Documentation/filesystems/ext4/super.rst (features).
Not for: what to change (:mod:`osprovider.guest.changes`).
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Mapping
from pathlib import Path

from osprovider import linux, programs
from osprovider.errors import GuestError, reason_of
from osprovider.guest import fuse2fs
from osprovider.guest.changes import Inodes, Told
from osprovider.guest.host import PROTECTED
from osprovider.run import run
from osprovider.sandbox import confine

__all__ = ["INSIDE", "change", "inodes_of", "why_not", "why_not_here"]

INSIDE = "/changes"
"""What debugfs sees the scratch directory as."""

_UNDO = "/undo"  # likewise, for what it writes over
_PROGRAMS = ("debugfs", "e2fsck", "e2undo")
_SUPERBLOCK = 1024
# What debugfs keeps right, by the superblock's three words: not the numbers of quotas and projects, encrypted or
# case-folded names, checksums of contents (verity), clusters, or attributes in inodes of their own.
_COMPATIBLE = 0x8 | 0x10 | 0x4 | 0x20 | 0x200 | 0x400 | 0x1000
_INCOMPATIBLE = 0x2 | 0x40 | 0x80 | 0x200 | 0x2000
_READ_ONLY_COMPATIBLE = 0x1 | 0x2 | 0x8 | 0x10 | 0x20 | 0x40 | 0x400
_PLAIN_INODE = 128  # bytes
_MOST_BLOCK_LOG = 6  # 64 KiB
# What debugfs prints of an inode, and what of that is lsattr's i or a.
_FLAGS = re.compile(r"^Inode: \d+ .* Flags: 0x([0-9a-f]+)$", re.MULTILINE)
_PROTECTED = 0x10 | 0x20
# What e2fsck says of the blocks with attributes of files that were removed: debugfs lets go of none (1.47). And what
# it says of its own course, and once more of any problem.
_LEFT_BEHIND = re.compile(
    r"^(Extended attribute block \d+ has reference count \d+, should be \d+|Block bitmap differences: ( -[^+]*)?$"
    r"|Free blocks count wrong)"
)
_NO_PROBLEM = re.compile(r"^(e2fsck 1\.|Pass \d|Fix\? |/dev/\S+: )")
_MOST_MEMORY = 256 << 20
_MOST_CPU_SECONDS = 600


def why_not_here() -> str | None:
    """Tell why no file system can be changed so on this node, even if it can be read; None where one can."""
    missing = [name for name in _PROGRAMS if not programs.is_installed(name)]
    if missing:
        return f"{missing[0]} is missing"
    return None if linux.has_filesystem("overlay") else "this node's kernel has no overlay file system"


def why_not(path: Path, filesystem: str, start_bytes: int = 0) -> str | None:
    """Tell why a file system cannot be changed so.

    Args:
        path: the file or block device that it lies on.
        filesystem: its type, as blkid(8) has it.
        start_bytes: where on it.

    Returns:
        words for people; None where it can, on a node that can (:func:`why_not_here`).

    Raises:
        GuestError: it cannot be read at all.
    """
    if why := fuse2fs.why_not(path, filesystem, start_bytes):
        return why
    words = struct.unpack("<III", _superblock(path, start_bytes, 0x5C, 12))
    known = (_COMPATIBLE, _INCOMPATIBLE, _READ_ONLY_COMPATIBLE)
    unknown = [f"{word & ~each:#x}" for word, each in zip(words, known, strict=True) if word & ~each]
    return f"its {filesystem} has features ({', '.join(unknown)}) that debugfs does not keep right" if unknown else None


def inodes_of(device: Path) -> Inodes:
    """Read that from its superblock.

    Raises:
        GuestError: it cannot be read.
    """
    (block,) = struct.unpack("<I", _superblock(device, 0, 0x18, 4))
    (size,) = struct.unpack("<H", _superblock(device, 0, 0x58, 2))
    return Inodes(1024 << min(block, _MOST_BLOCK_LOG), size > _PLAIN_INODE)


def change(device: Path, scratch: Path, upper: str, told: Told) -> None:
    """Change an ext file system, which is not mounted, and see that it is sound; or else leave it as it was.

    Meanwhile it is marked as not clean: debugfs has no journal, and where we are ended before all is done, nobody may
    take it for sound.

    Args:
        device: the block device that it fills.
        scratch: a directory, which debugfs sees as :data:`INSIDE`; with room for as much again as is in it.
        upper: the one in it where debugfs works.
        told: to debugfs.

    Raises:
        GuestError: it cannot be changed so.
    """
    _refuse_protected(told, _debugfs(device, told.questions))
    room = os.statvfs(scratch)
    if room.f_bavail < room.f_blocks - room.f_bfree:
        raise GuestError(_full(device))
    undo = scratch / "undo"
    undo.mkdir()
    _debugfs(device, b"dirty\n", "-w")
    try:
        _debugfs(
            device,
            told.commands,
            *("-w", "-z", f"{_UNDO}/file"),
            read={scratch: INSIDE},
            write={undo: _UNDO},
            cwd=f"{INSIDE}/{upper}",
        )
        _check(device)
    except BaseException:  # where we are asked to stop, too
        _undo(device, undo)
        raise
    _debugfs(device, b"dirty -clean\n", "-w")


def _undo(device: Path, undo: Path) -> None:
    """Have it as it was; where that fails, it stays marked as not clean."""
    run(_boxed("e2undo", f"{_UNDO}/file", device, device=device, read={undo: _UNDO}), check=False)
    if not _problems(device, "-n"):
        _debugfs(device, b"dirty -clean\n", "-w")


def _check(device: Path) -> None:
    """See that it is sound; blocks that debugfs leaves behind when it removes files are freed."""
    found = _problems(device, "-n")
    if found and all(map(_LEFT_BEHIND.search, found)):
        _problems(device, "-y")
        found = _problems(device, "-n")
    if found:
        raise GuestError(f"{device} is damaged by what debugfs wrote ({found[0]}): set isolation to appliance")


def _problems(device: Path, option: str) -> list[str]:
    """What e2fsck says, called like this, where something is not in order."""
    done = run(_boxed("e2fsck", "-f", option, device, device=device), check=False)
    said = [line for line in done.text.splitlines() if line and not _NO_PROBLEM.search(line)]
    return (said or [f"e2fsck ended with {done.status}"]) if done.status else []


def _debugfs(
    device: Path,
    lines: bytes,
    *options: str,
    read: Mapping[Path, str] | None = None,
    write: Mapping[Path, str] | None = None,
    cwd: str = "/",
) -> str:
    """Run debugfs on a device; returns what it printed."""
    argv = _boxed("debugfs", *options, "-f", "/dev/stdin", device, device=device, read=read, write=write, cwd=cwd)
    done = run(argv, stdin=lines, check=False)
    # It goes on after an error, and ends well; but then it has said more than its version.
    said = [line for line in done.stderr.decode(errors="replace").splitlines() if not line.startswith("debugfs 1.")]
    if done.status or said:
        raise GuestError(_explained(said[0] if said else f"it ended with {done.status}", device))
    return done.text


def _boxed(
    *words: str | Path,
    device: Path,
    read: Mapping[Path, str] | None = None,
    write: Mapping[Path, str] | None = None,
    cwd: str = "/",
) -> list[str]:
    """What runs a program on a device in the sandbox."""
    return confine(
        words,
        devices=[device],
        read=read,
        write=write,
        cwd=cwd,
        memory_bytes=_MOST_MEMORY,
        cpu_seconds=_MOST_CPU_SECONDS,
    )


def _refuse_protected(told: Told, printed: str) -> None:
    """Refuse to change what its owner protects; neither fuse2fs nor debugfs minds that."""
    flags = [int(each, 16) for each in _FLAGS.findall(printed)]
    if len(flags) != len(told.asked):
        raise GuestError(
            f"debugfs told of {len(flags)} files in place of {len(told.asked)}: set isolation to appliance"
        )
    for name, flag in zip(told.asked, flags, strict=True):
        if flag & _PROTECTED:
            raise GuestError(f"cannot change {name} in the guest: {PROTECTED}")


def _explained(said: str, device: Path) -> str:
    """What went wrong, as the middle of a line."""
    if "no free space" in said or "Could not allocate" in said:
        return f"{_full(device)} ({said})"
    return f"{device} could not be changed by debugfs ({said}): set isolation to appliance"


def _full(device: Path) -> str:
    return f"{device}: the guest's file system is full; make the disk larger"


def _superblock(path: Path, start_bytes: int, offset: int, size: int) -> bytes:
    try:
        with path.open("rb", buffering=0) as file:
            data = os.pread(file.fileno(), size, start_bytes + _SUPERBLOCK + offset)
    except OSError as error:
        raise GuestError(f"{path}: its superblock cannot be read: {reason_of(error)}") from error
    if len(data) < size:
        raise GuestError(f"{path}: it ends before its superblock")
    return data
