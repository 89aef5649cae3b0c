"""EXTLINUX as the boot loader of a disk, for BIOS: syslinux's loader for ext file systems, from the node's package.

``extlinux --install`` puts ``ldlinux.sys`` and ``ldlinux.c32`` into a directory of a mounted file system and names
their blocks in that file system's boot sector. The disk's own boot code, which finds the partition by its active flag
(msdos) or its attribute "legacy BIOS bootable" (GPT), is written at last. Debian's syslinux 6.04 reads ext4 with
``64bit`` and ``metadata_csum``, as :mod:`osprovider.disk.filesystem` makes it: a test boots one.
Sources: extlinux(1); syslinux's doc/extlinux.txt and doc/gpt.txt; UEFI 2.10, table 5.8.
Not for: its menu (the hook ``extlinux``).
"""

# ruff: noqa: D102 (the protocol documents the methods)

from __future__ import annotations

import os
from pathlib import Path

from osprovider.descriptors import opened, path_of
from osprovider.disk.device import Device
from osprovider.disk.raw import write_all
from osprovider.errors import DeviceError, RequestError, reason_of
from osprovider.guest.host import HostGuest
from osprovider.guest.resolve import open_inside
from osprovider.layout import BOOT_CODE_BYTES, TablePlan, bios_refusal
from osprovider.programs import is_installed
from osprovider.run import run

__all__ = ["DIRECTORY", "Extlinux", "require"]

DIRECTORY = "/boot/extlinux"

_BOOT_CODE = {"msdos": Path("/usr/lib/EXTLINUX/mbr.bin"), "gpt": Path("/usr/lib/EXTLINUX/gptmbr.bin")}
_LOADER_FILES = ("ldlinux.sys", "ldlinux.c32")


def require() -> None:
    """Refuse, before anything is written, where this node lacks it.

    Raises:
        RequestError: says what to install.
    """
    if not is_installed("extlinux") or not all(path.exists() for path in _BOOT_CODE.values()):
        raise RequestError("boot.loader is extlinux, and this node does not have it: apt install extlinux")


class Extlinux:
    """See :class:`osprovider.disk.loader.Loader`.

    Args:
        table: the disk's, with a root or a boot partition of ext4, ext3 or ext2 that is marked to be booted from.
    """

    def __init__(self, table: TablePlan) -> None:
        self._table = table
        self._boot_code = b""

    def make(self) -> None:
        if refusal := bios_refusal(self._table.sector_size):
            raise DeviceError(refusal)
        path = _BOOT_CODE.get(self._table.type)
        if path is None:
            raise DeviceError("extlinux needs a partition table: set layout.table to gpt or msdos")
        try:
            self._boot_code = path.read_bytes()
        except OSError as error:
            raise DeviceError(f"{path}: {reason_of(error)}; install extlinux on this node") from error
        if len(self._boot_code) > BOOT_CODE_BYTES:
            raise DeviceError(f"{path}: has {len(self._boot_code)} bytes, and a disk has room for {BOOT_CODE_BYTES}")

    def install(self, guest: HostGuest) -> None:
        if guest.mountpoint is None:
            raise DeviceError("extlinux is installed from the node, and this guest is not mounted there")
        guest.mkdir(DIRECTORY)
        for name in _LOADER_FILES:  # extlinux writes to what is there, also through a link
            guest.remove(f"{DIRECTORY}/{name}")
        with opened(open_inside(guest.root_fd, DIRECTORY, os.O_RDONLY | os.O_DIRECTORY)) as directory:
            run(["extlinux", "--install", path_of(directory)], pass_fds=(directory,))

    def write(self, device: Device) -> None:
        write_all(device.fd, self._boot_code, 0)
