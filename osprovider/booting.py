"""How an instance boots, decided: under which firmware, by which loader, from which partition; pure data.

Not for: the loaders themselves (:mod:`osprovider.disk.loader`), what hypervisors do
(:mod:`osprovider.ganeti.hypervisor`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from osprovider.config.model import Layout, Variant
from osprovider.errors import RequestError
from osprovider.ganeti.hypervisor import has_external_kernel, has_firmware
from osprovider.ganeti.request import Request
from osprovider.layout import MSDOS_TYPES, TYPES, TablePlan
from osprovider.manifest import Manifest

__all__ = ["LEGACY_BOOT", "boots", "firmware_of", "marked_for", "refuse_unbootable"]

LEGACY_BOOT = 1 << 2
"""The attribute of a GPT's partition that a BIOS's boot code looks for (UEFI 2.10, table 5.8)."""

_ESP_TYPES = {TYPES["esp"], MSDOS_TYPES["esp"]}
_EXTLINUX_READS = frozenset({"ext4", "ext3", "ext2"})


def firmware_of(request: Request, variant: Variant, manifest: Manifest | None) -> tuple[str, ...]:
    """What the disk boots under by itself: a disk image under what it has a place for a boot loader for.

    Nothing where the hypervisor has no firmware to start it with, whether it brings a kernel or, as a GRUB for Xen
    does, reads the disk's menu.

    Args:
        request: Ganeti's.
        variant: the merged configuration.
        manifest: of the template; None where the image still has to be prepared.
    """
    if not has_firmware(request) or variant.boot.loader == "none":
        return ()
    image = manifest.table if manifest else None
    if image is None:
        return variant.layout.firmware
    types = {part.type for part in image.partitions}  # an EFI system partition at /boot has the role of one for that
    has_bios = image.type == "msdos" or TYPES["bios_boot"] in types
    return (*(["bios"] if has_bios else []), *(["uefi"] if types & _ESP_TYPES else []))


def refuse_unbootable(request: Request, variant: Variant, manifest: Manifest | None, image: str | None) -> None:
    """Refuse what could not boot afterwards.

    Args:
        request: Ganeti's.
        variant: the merged configuration.
        manifest: of the template; None where the image still has to be prepared.
        image: how messages name it.

    Raises:
        RequestError: says what to set.
    """
    loader = variant.boot.loader
    if loader == "none" or has_external_kernel(request) or (manifest is not None and manifest.table is not None):
        return
    if manifest is not None and not manifest.kernels and (variant.layout.firmware or not has_firmware(request)):
        raise RequestError(
            f"image {image} has no kernel to boot: add one to its packages (linux-image-amd64), "
            "or set boot.loader: none"
        )
    if loader == "extlinux":
        _refuse_extlinux(variant, manifest, has_firmware=has_firmware(request))


def boots(request: Request, variant: Variant, firmware: Sequence[str], loader: str | None, *, is_known: bool) -> str:
    """How an instance boots, in the words that follow "it boots".

    Args:
        request: Ganeti's.
        variant: the merged configuration.
        firmware: what its disk boots under by itself.
        loader: the boot loader that it gets; None where it gets none, or brings one.
        is_known: how the disk is divided.
    """
    if not has_firmware(request):
        return "by what the hypervisor brings"
    if variant.boot.loader == "none":
        return "by what the image brings, if anything: boot.loader is none"
    if not is_known:
        return "as the image is made, which is known once it is prepared"
    if not firmware:
        why = "the image brings no boot loader" if variant.layout.firmware else "layout.firmware is empty"
        return f"by nothing: {why}"
    return f"under {' and '.join(firmware)}, by {loader or 'the loader that the image brings'}"


def marked_for(loader: str, table: TablePlan) -> TablePlan:
    """The table with its partition marked that the loader's boot code starts from, where that needs a mark.

    That is the boot partition, or else the root, in a GPT; an msdos table has its active flag whatever the loader.
    """
    home = table.find("boot") or table.find("root")
    if loader != "extlinux" or table.type != "gpt" or home is None:
        return table
    marked = dataclasses.replace(home, attributes=home.attributes | LEGACY_BOOT)
    return dataclasses.replace(table, partitions=tuple(marked if part is home else part for part in table.partitions))


def _refuse_extlinux(variant: Variant, manifest: Manifest | None, *, has_firmware: bool) -> None:
    layout = variant.layout
    filesystem = layout.boot.filesystem if layout.boot else _root_filesystem(layout, manifest)
    if not has_firmware or layout.firmware != ("bios",):
        raise RequestError(
            "boot.loader: extlinux starts from a BIOS alone: set layout.firmware to [bios], or the loader to grub"
        )
    if layout.table == "none":
        raise RequestError("boot.loader: extlinux starts from a partition: set layout.table to gpt or msdos")
    if filesystem not in _EXTLINUX_READS:
        raise RequestError(
            f"boot.loader: extlinux is installed on ext4, ext3 or ext2, and the root is {filesystem}: "
            "give it a boot partition (layout.boot: {size: 1GiB}), or set the loader to grub"
        )
    if variant.isolation == "appliance":
        raise RequestError(
            "boot.loader: extlinux is installed by the node into a file system that it mounts: set isolation to auto"
        )


def _root_filesystem(layout: Layout, manifest: Manifest | None) -> str:
    return layout.filesystem if manifest is None or manifest.built_here else manifest.filesystem.type
