"""The EFI system partition: a FAT32 file system with the boot loader's files.

It is made in memory, and what it consists of is then written to the disk: nothing is mounted (not every kernel knows
vfat), no program but this one opens the disk, which is ours alone, and the same arguments give the same bytes.

Not for: the boot loader itself (:mod:`osprovider.disk.grub`), mounting it in the guest (the hook ``fstab``).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from osprovider.descriptors import in_memory, path_of
from osprovider.disk.raw import data_ranges, write_all
from osprovider.layout import PartitionPlan
from osprovider.run import run

__all__ = ["REMOVABLE_PATH", "Esp", "make_esp", "write_esp"]

REMOVABLE_PATH = "EFI/BOOT/BOOTX64.EFI"
"""Where every firmware looks by itself (UEFI 2.10, 3.5.1.1)."""

# FAT's time begins in 1980; mtools takes the time of what it writes from here.
_MTOOLS_ENVIRONMENT = {"SOURCE_DATE_EPOCH": "315532800", "TZ": "UTC", "MTOOLS_SKIP_CHECK": "1"}


@dataclass(frozen=True, slots=True)
class Esp:
    """An EFI system partition that is made and not yet on a disk.

    Attributes:
        start_bytes: where on the disk it lies.
        pieces: what was written to it, zeros included, each by the byte of the partition that it begins at.
    """

    start_bytes: int
    pieces: tuple[tuple[int, bytes], ...]


def make_esp(partition: PartitionPlan, sector_size: int, files: Mapping[str, bytes], volume_id: str) -> Esp:
    """Make the file system with these files in it. Touches no disk; may run in any thread.

    Args:
        partition: where the ESP will lie, large enough for FAT32 (:func:`osprovider.layout.esp_size_bytes`).
        sector_size: the disk's, in bytes.
        files: what the files contain, by their paths (``EFI/BOOT/BOOTX64.EFI``).
        volume_id: the file system's, eight hexadecimal digits (``1234abcd``, which blkid(8) writes ``1234-ABCD``).

    Raises:
        ToolError: mkfs.vfat, mmd or mcopy failed, or the node lacks them (packages dosfstools and mtools).
    """
    with in_memory("esp") as image:
        os.truncate(image, partition.size_bytes)
        _make_file_system(image, partition.start_bytes // sector_size, sector_size, volume_id)
        _add_files(image, files)
        ranges = data_ranges(image, 0, partition.size_bytes)
        pieces = tuple((offset, os.pread(image, length, offset)) for offset, length in ranges)
    return Esp(partition.start_bytes, pieces)


def write_esp(fd: int, esp: Esp) -> None:
    """Put an ESP in its place on a disk.

    What the partition held before is gone: what of it is not overwritten, no file refers to. Nothing is synced.

    Args:
        fd: the disk, open for (buffered) writing; outside the partition it is not touched.
        esp: what is written.

    Raises:
        DeviceError: the disk cannot be written.
    """
    for offset, piece in esp.pieces:
        write_all(fd, piece, esp.start_bytes + offset)


def _make_file_system(image: int, first_sector: int, sector_size: int, volume_id: str) -> None:
    """An empty FAT32 file system that knows where on the disk it will lie."""
    run(
        [
            # --invariant brings a volume id of its own, the same for all, so ours comes after it.
            *("mkfs.vfat", "--invariant", "-i", volume_id, "-n", "ESP", "-F", "32", "-s", "1"),
            *("-S", str(sector_size), "-h", str(first_sector), path_of(image)),
        ],
        pass_fds=(image,),
    )


def _add_files(image: int, files: Mapping[str, bytes]) -> None:
    target = path_of(image)
    parents = sorted({str(parent) for path in files for parent in PurePosixPath(path).parents} - {"."})
    run(["mmd", "-i", target, *(f"::/{parent}" for parent in parents)], env=_MTOOLS_ENVIRONMENT, pass_fds=(image,))
    for path, content in files.items():
        words = ["mcopy", "-i", target, "-", f"::/{path}"]
        run(words, env=_MTOOLS_ENVIRONMENT, stdin=content, pass_fds=(image,))
