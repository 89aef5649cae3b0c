"""What the partitions in front of a root get: the file system of ``/boot``, and swap.

Both are made anew on every installation, like the root's: whatever was there before is nobody's.
Not for: filling ``/boot`` (:func:`osprovider.guest.mounting.mounted_together`), the EFI system partition
(:mod:`osprovider.disk.esp`), disks of their own for swap.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from osprovider.descriptors import in_memory
from osprovider.disk import filesystem
from osprovider.disk.device import Device
from osprovider.disk.features import unknown_to
from osprovider.disk.loop import loop_device
from osprovider.disk.wipe import clear_ends
from osprovider.errors import RequestError
from osprovider.layout import MIB, TablePlan
from osprovider.manifest import Distribution, Template
from osprovider.run import run, running
from osprovider.sandbox import confine

__all__ = ["boot_bytes", "make_partitions", "refuse_small_boot"]

_PAGE = 4096  # x86's, in which swap is counted
_BLOCK = 4096
# By the least size: as osprovider.disk.filesystem has it, and as mke2fs makes it on what is smaller.
_JOURNALS = ((512 * MIB, 64 * MIB), (128 * MIB, 16 * MIB), (0, 4 * MIB))
_SPARE = 2 * MIB
_MOST_DIRECTORIES = 1000
_MOST_LISTED = 4 << 20  # bytes of each level
_MOST_SECONDS = 10
_IS_DIRECTORY = 0o040000
_TYPE = 0o170000


def make_partitions(device: Device, table: TablePlan, distribution: Distribution) -> None:
    """Make the file system of a boot partition, and swap in one for that, where the table has them. Nothing is synced.

    Args:
        device: the disk, claimed.
        table: its table.
        distribution: the guest's, which decides what its file systems may have.

    Raises:
        DeviceError: the disk cannot be written.
        ToolError: mke2fs or mkswap failed.
    """
    for part in (table.find("boot"), table.find("swap")):
        if part is None:
            continue
        clear_ends(device, part)
        with loop_device(device.path, offset_bytes=part.start_bytes, size_bytes=part.size_bytes) as loop:
            uuid = part.filesystem_uuid or ""
            if part.role == "swap":
                run(["mkswap", "--pagesize", str(_PAGE), "--uuid", uuid, loop])
            else:
                kind = part.filesystem or ""
                filesystem.make(
                    loop,
                    kind,
                    uuid=uuid,
                    label="boot",
                    size_bytes=part.size_bytes,
                    without=unknown_to(distribution, kind),
                    reserved_percent=0,  # nobody but root writes to it
                )


def refuse_small_boot(template: Template, table: TablePlan) -> None:
    """Refuse, before anything is written, a boot partition that cannot hold what the image has in ``/boot``.

    Args:
        template: of one file system; others than ext are not looked into.
        table: the disk's, with a boot partition or without.

    Raises:
        RequestError: says both sizes.
    """
    part = table.find("boot")
    if part is None or not template.manifest.filesystem.type.startswith("ext"):
        return
    held = boot_bytes(template.path)
    journal = next(size for least, size in _JOURNALS if part.size_bytes >= least) if part.filesystem != "ext2" else 0
    # Of 32 parts one is for inodes; mke2fs foresees growth with 4 MiB; the hooks and the loader add what is theirs.
    overhead = part.size_bytes // 32 + 4 * MIB + journal + _SPARE
    if held + overhead > part.size_bytes:
        raise RequestError(
            f"layout.boot.size is {part.size_bytes // MIB} MiB, and what the image has in /boot needs "
            f"{-(-(held + overhead) // MIB)} MiB: make it larger (a guest keeps two kernels there, at times three)"
        )


def boot_bytes(template: Path) -> int:
    """How much a file has in ``/boot`` of the ext file system in it, in whole blocks; nothing where there is none.

    It is listed by debugfs(8), in a sandbox: nothing is mounted. Of what has no end, as directories that lead back to
    themselves, only so much is listed.
    """
    total, seen, level = 0, 0, ["/boot"]
    while level:
        seen += len(level)
        below: list[str] = []
        for path, part in zip(level, _listed(template, level).split("debugfs: ")[1:], strict=False):
            for inode, mode, _, _, name, size in _entries(part):
                if inode == "0" or name in (".", ".."):
                    continue
                if int(mode, 8) & _TYPE == _IS_DIRECTORY:
                    total += _BLOCK
                    if '"' not in name:
                        below.append(f"{path}/{name}")
                else:
                    total += -(-int(size or 0) // _BLOCK) * _BLOCK
        level = below[: _MOST_DIRECTORIES - seen]
    return total


def _listed(template: Path, directories: Sequence[str]) -> str:
    """What debugfs prints of directories, as far as that is not too much: nobody has checked the file system."""
    commands = "".join(f'ls -p "{path}"\n' for path in directories).encode(errors="surrogateescape")
    words = ["debugfs", "-f", "/dev/stdin", "/template"]
    with in_memory("commands") as asks, in_memory("said") as said:
        os.pwrite(asks, commands, 0)
        confined = confine(words, read={template: "/template"}, cpu_seconds=_MOST_SECONDS)
        with running(confined, stdin=asks, stderr=said) as process:
            listing = process.stdout.read(_MOST_LISTED) if process.stdout else b""
    return listing.decode(errors="surrogateescape")


def _entries(listing: str) -> list[tuple[str, ...]]:
    """The lines ``/INODE/MODE/UID/GID/NAME/SIZE/`` of ``ls -p``."""
    words = [tuple(line.split("/")[1:7]) for line in listing.splitlines() if line.startswith("/")]
    return [each for each in words if len(each) == 6 and each[1].isdecimal()]
