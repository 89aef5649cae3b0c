"""GRUB's images for an instance's disk, made by the node's own GRUB: nothing of the guest's is run or mounted.

They hold every module that a grub.cfg needs, one of grub-mkconfig's included, so that no directory of modules has
to lie in the guest, where its own GRUB, of another version, would find it.

They find the guest's ``/boot/grub`` by a prefix without a drive, ``(,gpt3)/boot/grub``, or ``(,msdos1)/grub`` in a
partition for ``/boot``: GRUB completes it with the drive that the firmware booted (``grub_set_prefix_and_root``, its
kern/main.c). So neither the order of the disks nor a clone of this one beside it leads astray, and no device is named.

Not for: GRUB as a boot loader among others (:mod:`osprovider.disk.grub`), the EFI system partition
(:mod:`osprovider.disk.esp`), grub.cfg (the hook ``grub``), the partition table.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from osprovider.descriptors import in_memory, path_of
from osprovider.disk.raw import write_all
from osprovider.errors import DeviceError, reason_of
from osprovider.layout import BOOT_CODE_BYTES, TablePlan, bios_refusal
from osprovider.run import run

__all__ = ["BootCode", "make_boot_code", "write_bios"]

_BOOT_IMG = Path("/usr/lib/grub/i386-pc/boot.img")

# What all of these are for: the table; the file systems that a root or an ESP may have; what 00_header,
# 05_debian_theme, 10_linux, 30_uefi-firmware and 40_custom of grub-mkconfig write; a person at GRUB's command line.
_MODULES = (
    *("part_gpt", "part_msdos", "ext2", "xfs", "btrfs", "fat"),
    *("gzio", "xzio", "lzopio", "zstd"),
    *("normal", "configfile", "linux", "boot", "chain", "loadenv", "password_pbkdf2", "gettext"),
    *("search", "search_fs_file", "search_fs_uuid", "search_label", "probe", "regexp", "test", "true", "cpuid"),
    *("serial", "terminal", "font", "gfxterm", "all_video", "keystatus"),
    *("echo", "ls", "cat", "help", "minicmd", "sleep", "date", "halt", "reboot"),
)
_PLATFORM_MODULES = {"i386-pc": ("biosdisk",), "x86_64-efi": ("efifwsetup",)}

# include/grub/i386/pc/boot.h: GRUB_BOOT_MACHINE_DRIVE_CHECK, _KERNEL_SECTOR; and the one entry of the block list that
# grub-mkimage leaves at the end of core.img's first sector (struct grub_pc_bios_boot_blocklist).
_SECTOR = 512
_DRIVE_CHECK_OFFSET = 0x66
_KERNEL_SECTOR_OFFSET = 0x5C
_NOPS = b"\x90\x90"
_BLOCK_LIST = struct.Struct("<QHH")
_BLOCK_LIST_OFFSET = _SECTOR - _BLOCK_LIST.size


@dataclass(frozen=True, slots=True)
class BootCode:
    """What a disk needs to be booted, by firmware; None for a firmware that it need not boot under.

    Attributes:
        boot_image: for LBA 0 under BIOS, 440 bytes, not yet knowing where ``core_image`` lies.
        core_image: for the BIOS boot partition or the gap behind an msdos table, likewise.
        efi_image: for ``EFI/BOOT/BOOTX64.EFI`` of the ESP.
    """

    boot_image: bytes | None = None
    core_image: bytes | None = None
    efi_image: bytes | None = None


def make_boot_code(table: TablePlan, firmware: Sequence[str]) -> BootCode:
    """Make what the disk boots with, by the node's ``grub-mkimage``. Touches no disk; may run in any thread.

    Args:
        table: the disk's, with a root, which holds ``/boot/grub``.
        firmware: what the disk must boot under, of ``bios`` and ``uefi``.

    Raises:
        DeviceError: the table has no root.
        ToolError: grub-mkimage failed, or the node lacks it or its modules.
    """
    root = table.find("root")
    if root is None:
        raise DeviceError("no boot loader without a root partition that holds /boot/grub")
    boot = table.find("boot")
    top = f"/{root.subvolume}" if root.subvolume else ""
    prefix = f"(,{table.type}{boot.number})/grub" if boot else f"(,{table.type}{root.number}){top}/boot/grub"
    bios, uefi = "bios" in firmware, "uefi" in firmware
    return BootCode(
        boot_image=_read_boot_image() if bios else None,
        core_image=_make_image("i386-pc", prefix) if bios else None,
        efi_image=_make_image("x86_64-efi", prefix) if uefi else None,
    )


def write_bios(fd: int, table: TablePlan, code: BootCode) -> None:
    """Put boot.img into LBA 0 and core.img into its place, each told where the rest lies.

    The place is the BIOS boot partition of a GPT; of an msdos table, the gap from its sector to the first partition.
    Leaves the partition table alone: of LBA 0 only the first 440 bytes are written. Nothing is synced.

    Args:
        fd: the disk, open for (buffered) writing.
        table: its partition table.
        code: with both images.

    Raises:
        DeviceError: the sectors are too large for a BIOS, there is no place for core.img, it does not fit there, or the
            disk cannot be written. All but the last are found before anything is written.
    """
    if code.boot_image is None or code.core_image is None:
        raise DeviceError("no boot code was made for BIOS")
    if refusal := bios_refusal(table.sector_size):
        raise DeviceError(refusal)
    start, size, name = _place_of_core(table)
    core = code.core_image + bytes(-len(code.core_image) % _SECTOR)
    if len(core) > size:
        raise DeviceError(f"GRUB's core.img ({len(core)} bytes) does not fit in {name}{size} bytes): make it larger")
    first_sector = start // _SECTOR
    write_all(fd, _with_block_list(core, first_sector), start)
    write_all(fd, _with_core_sector(code.boot_image, first_sector), 0)


def _place_of_core(table: TablePlan) -> tuple[int, int, str]:
    """Where core.img goes, how much room there is, in bytes, and what that is called."""
    if table.type == "msdos":
        end = min((part.start_bytes for part in table.partitions), default=0)
        return _SECTOR, max(end - _SECTOR, 0), "the gap behind the msdos table ("
    partition = table.find("bios_boot")
    if partition is None:
        raise DeviceError("no BIOS boot partition to put GRUB's core.img in")
    return partition.start_bytes, partition.size_bytes, f"the BIOS boot partition (partition {partition.number}, "


def _read_boot_image() -> bytes:
    """The boot code of the node's boot.img."""
    try:
        image = _BOOT_IMG.read_bytes()
    except OSError as error:
        raise DeviceError(f"{_BOOT_IMG}: {reason_of(error)}; install grub-pc-bin on this node") from error
    return image[:BOOT_CODE_BYTES]


def _make_image(platform: str, prefix: str) -> bytes:
    """A GRUB image of the node's for ``platform``, with all our modules."""
    # In memory, so that nothing stays behind; not by a pipe, which grub-mkimage fails to sync.
    with in_memory(f"grub-{platform}") as fd:
        run(
            [
                *("grub-mkimage", f"--format={platform}", f"--prefix={prefix}", f"--output={path_of(fd)}"),
                *_PLATFORM_MODULES[platform],
                *_MODULES,
            ],
            pass_fds=(fd,),
        )
        return os.pread(fd, os.fstat(fd).st_size, 0)


def _with_block_list(core: bytes, first_sector: int) -> bytes:
    """core.img for this place: its first sector loads the others, which it knows by their absolute number."""
    _start, _count, segment = _BLOCK_LIST.unpack_from(core, _BLOCK_LIST_OFFSET)
    image = bytearray(core)
    _BLOCK_LIST.pack_into(image, _BLOCK_LIST_OFFSET, first_sector + 1, len(core) // _SECTOR - 1, segment)
    return bytes(image)


def _with_core_sector(boot_image: bytes, core_sector: int) -> bytes:
    """boot.img that loads core.img from this sector."""
    image = bytearray(boot_image)
    struct.pack_into("<Q", image, _KERNEL_SECTOR_OFFSET, core_sector)
    # As grub-bios-setup does for hard disks: a BIOS that passes no proper drive number has booted the first one.
    image[_DRIVE_CHECK_OFFSET : _DRIVE_CHECK_OFFSET + len(_NOPS)] = _NOPS
    return bytes(image)
