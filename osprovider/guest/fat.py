"""A FAT's files on the node, which the kernel does not mount: mtools takes them out, and puts back what changed.

Not every kernel knows vfat, and an EFI system partition that somebody else made is read by a program in the sandbox as
well. What changes in one are a few small files.
As the kernel has it, a FAT keeps no owners, modes or links; whoever gives a file some there is not told.
Sources: mtools(1), mcopy(1); Microsoft's FAT specification 1.03 ("FAT Type Determination").
Not for: making one (:mod:`osprovider.disk.esp`), or what the appliance mounts.
"""

from __future__ import annotations

import os
import re
import stat
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from osprovider.errors import GuestError, ToolError
from osprovider.run import run
from osprovider.sandbox import confine

__all__ = ["LIMITS", "MOST_BYTES", "PROGRAMS", "unpacked"]

MOST_BYTES = 128 << 20
"""How much memory the files of one may take."""

LIMITS = f"size={MOST_BYTES},nr_inodes=65536"
"""The options of the tmpfs that they are in: somebody may have made any number of them."""

PROGRAMS = ("mcopy", "mdeltree", "mmd")
"""What it takes, of the package mtools."""

_ENVIRONMENT = {"TZ": "UTC", "MTOOLS_SKIP_CHECK": "1"}
_MEMORY = 256 << 20
_SECONDS = 60
_NEARLY_FULL = 64 << 10
_TREE = "/tree"
_LEAST_FAT32 = 65525  # clusters
_NOISE = "Could not get geometry of device (Inappropriate ioctl for device)"  # of any block device but a floppy
# What mtools takes as it is. About others it asks, or takes them for a pattern, or writes what is similar (w for ŵ);
# where a name ends with a dot, it does not end.
_NAME = re.compile(r"[A-Za-z0-9 !#$%&'()+,.;=@^_`{}~-]*[A-Za-z0-9!#$%&'()+,;=@^_`{}~-]")
_DOS_DEVICE = re.compile("con|prn|aux|nul|(com|lpt)[1-9]", re.IGNORECASE)

_BOOT_SECTOR = struct.Struct("<13x B H B 2x H x H 8x I I")  # BPB_SecPerClus to BPB_FATSz32, without what is not needed

_State = tuple[int, int, int]


@contextmanager
def unpacked(device: Path, tree: Path, *, read_only: bool) -> Iterator[None]:
    """Have a FAT's files in a directory as long as the body runs; what it changed is put back.

    Args:
        device: the block device that it fills, which is not mounted.
        tree: an empty directory, on a tmpfs with these :data:`LIMITS`.
        read_only: nothing is put back.

    Raises:
        GuestError: it is damaged, its files are more than that, or they cannot be put back.
    """
    try:  # -Q: one file that does not fit is enough, or a million would each be told of
        _mtools(device, tree, "mcopy", "-s", "-n", "-Q", "-m", "::/", _TREE)
    except GuestError as error:
        free = os.statvfs(tree)
        if free.f_bavail * free.f_frsize < _NEARLY_FULL or not free.f_favail:
            most = f"{MOST_BYTES >> 20} MiB, {free.f_files} files"
            raise GuestError(
                f"{device}: its vfat has too many files (more than {most}): set isolation to appliance"
            ) from error
        raise
    before = _states(tree)
    if not before:
        _refuse_small_fat32(device)
    yield
    if not read_only:
        _put_back(device, tree, before)


def _refuse_small_fat32(device: Path) -> None:
    """Refuse a FAT32 that is smaller than a FAT32 may be, which Linux takes as it is.

    To the mtools of Debian 12 it is a FAT16 without any files; that of Debian 13 sees them.
    """
    with device.open("rb") as file:
        head = file.read(_BOOT_SECTOR.size)
    cluster, reserved, fats, few, fat16, many, fat32 = _BOOT_SECTOR.unpack(head)
    data_sectors = (few or many) - reserved - fats * fat32
    if not fat16 and cluster and data_sectors // cluster < _LEAST_FAT32:
        raise GuestError(
            f"{device}: its vfat cannot be used: a FAT32 of less than {_LEAST_FAT32} clusters, in which mtools sees no "
            "files: make it a FAT16, or set isolation to appliance"
        )


def _states(tree: Path) -> dict[str, _State | None]:
    """What tells files from what becomes of them, by their paths; of a directory, None."""
    found: dict[str, _State | None] = {}
    for directory, names, files in os.walk(tree):
        for name in (*names, *files):
            path = Path(directory, name)
            status = path.lstat()
            inside = str(path.relative_to(tree))
            if stat.S_ISDIR(status.st_mode):
                found[inside] = None
            elif stat.S_ISREG(status.st_mode):
                found[inside] = (status.st_ino, status.st_size, status.st_mtime_ns)
            else:
                raise _refusal(inside, "FAT has files and directories alone")
    return found


def _put_back(device: Path, tree: Path, before: Mapping[str, _State | None]) -> None:
    """Have a FAT's files be those of the tree again."""
    after = _states(tree)
    gone = {path for path, state in before.items() if path not in after or (after[path] is None) != (state is None)}
    known = {path.lower() for path in before.keys() - gone}  # a FAT has one name in any case
    tops = [path for path in gone if not any(str(parent) in gone for parent in Path(path).parents)]
    made = {path.lower(): path for path, state in after.items() if state is None and path.lower() not in known}
    written = [path for path, state in after.items() if state is not None and state != before.get(path)]
    for path in (*tops, *made.values(), *written):
        if not all(_NAME.fullmatch(name) and not _DOS_DEVICE.fullmatch(name) for name in path.split("/")):
            raise _refusal(path, "choose a name of plain letters, and none of a device of DOS")
    if tops:
        _mtools(device, tree, "mdeltree", *(f"::/{path}" for path in tops))
    if made:
        _mtools(device, tree, "mmd", *(f"::/{path}" for path in made.values()))
    for path in written:
        content = (tree / path).read_bytes()  # its owner is perhaps not the one that mcopy has there
        _mtools(device, tree, "mcopy", "-o", "-", f"::/{path}", stdin=content)
        # That does not fail where the FAT takes only a part of it.
        if _mtools(device, tree, "mcopy", f"::/{path}", "-") != content:
            raise _refusal(path, f"{device} took only a part of it; make the partition larger, or put less there")


def _refusal(path: str, why: str) -> GuestError:
    shown = path if path.isprintable() else ascii(path)
    return GuestError(f"{shown} cannot be put into the EFI system partition: {why}")


def _mtools(device: Path, tree: Path, program: str, *words: str, stdin: bytes | None = None) -> bytes:
    """Run one of mtools' programs on a FAT, with the tree at hand; what it printed."""
    argv: list[str | Path] = [program, "-i", device, *words]
    boxed = confine(argv, write={tree: _TREE}, devices=[device], memory_bytes=_MEMORY, cpu_seconds=_SECONDS)
    try:
        return run(boxed, env=_ENVIRONMENT, stdin=stdin).stdout
    except ToolError as error:
        lines = error.tail.replace(_NOISE, "").strip().splitlines() or [f"exit status {error.status}"]
        raise GuestError(
            f"{device}: its vfat cannot be used: {program}: {lines[0].strip()}; have fsck.vfat look at it, or set "
            "isolation to appliance"  # the other lines say less
        ) from error
