"""GRUB as the boot loader of a disk: its images made from the node's own, or the guest's signed ones for UEFI.

A guest whose packages brought a signed shim and a signed GRUB boots with them, also under Secure Boot: both stand in
the removable path, where shim looks for ``grubx64.efi`` beside itself. The signed GRUB has its prefix baked in
(``/EFI/debian``), and is sent on from there to the guest's own menu.
Sources: shim's README; Debian's ``grub-install`` (``--force-extra-removable``) and ``build-efi-images``.
Not for: the images (:mod:`osprovider.disk.grub_images`), the menu (the hook ``grub``).
"""

# ruff: noqa: D102 (the protocol documents the methods)

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from osprovider.disk import grub_images
from osprovider.disk.device import Device
from osprovider.disk.esp import REMOVABLE_PATH, Esp, make_esp, write_esp
from osprovider.errors import DeviceError
from osprovider.guest.protocol import Guest
from osprovider.layout import TablePlan

__all__ = ["Grub"]

_SHIM = "/usr/lib/shim/shimx64.efi.signed"
_SIGNED_GRUB = "/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"

_PREFIX = re.compile(rb"\0/(EFI/[A-Za-z0-9._-]+)\0")


class Grub:
    """See :class:`osprovider.disk.loader.Loader`.

    Args:
        table: the disk's, with a root or a boot partition, which holds GRUB's directory.
        firmware: what the disk must boot under, of ``bios`` and ``uefi``.
    """

    def __init__(self, table: TablePlan, firmware: Sequence[str]) -> None:
        self._table = table
        self._firmware = tuple(firmware)
        self._code = grub_images.BootCode()
        self._esp: Esp | None = None

    def make(self) -> None:
        self._code = grub_images.make_boot_code(self._table, self._firmware)
        if self._code.efi_image is not None:
            self._esp = self._make_esp({REMOVABLE_PATH: self._code.efi_image})

    def install(self, guest: Guest) -> None:
        if self._esp is not None and (files := _signed_files(guest, self._table)):
            self._esp = self._make_esp(files)

    def write(self, device: Device) -> None:
        if self._code.core_image is not None:
            grub_images.write_bios(device.fd, self._table, self._code)
        if self._esp is not None:
            write_esp(device.fd, self._esp)

    def _make_esp(self, files: Mapping[str, bytes]) -> Esp:
        partition = self._table.find("esp")
        if partition is None or partition.filesystem_uuid is None:
            raise DeviceError("no EFI system partition to put a boot loader in")
        volume_id = partition.filesystem_uuid.replace("-", "").lower()
        return make_esp(partition, self._table.sector_size, files, volume_id)


def _signed_files(guest: Guest, table: TablePlan) -> dict[str, bytes]:
    """What an ESP has for the guest's signed shim and GRUB, by path; nothing where the guest lacks one of them.

    Args:
        guest: the tree.
        table: the disk's, whose boot partition, or else root, holds GRUB's directory.

    Raises:
        GuestError: they cannot be read.
        DeviceError: the partition has no UUID to be found by.
    """
    if not (guest.exists(_SHIM) and guest.exists(_SIGNED_GRUB)):
        return {}
    image = guest.read(_SIGNED_GRUB)
    baked_in = _PREFIX.search(image)
    if baked_in is None:
        return {}
    home = table.find("boot") or table.find("root")
    if home is None or home.filesystem_uuid is None:
        raise DeviceError("no partition with a UUID that GRUB could find its menu on")
    top = f"/{home.subvolume}" if home.subvolume else ""
    directory = "/grub" if home.role == "boot" else f"{top}/boot/grub"
    redirect = (
        f"search.fs_uuid {home.filesystem_uuid} root\nset prefix=($root)'{directory}'\nconfigfile $prefix/grub.cfg\n"
    )
    return {
        REMOVABLE_PATH: guest.read(_SHIM),
        "EFI/BOOT/grubx64.efi": image,
        f"{baked_in[1].decode()}/grub.cfg": redirect.encode(),
    }
