"""What becomes of disk 0, decided: how it is divided, what its root is made from, what it boots by; pure data.

Not for: the other disks (:mod:`osprovider.datadisks`), the arithmetic of tables (:mod:`osprovider.division`,
:mod:`osprovider.adoption`), carrying it out (:mod:`osprovider.deploy`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from osprovider.adoption import adopt, keeping_uuids, unused_bytes, why_unused
from osprovider.booting import firmware_of, marked_for, refuse_unbootable
from osprovider.config.load import Settings
from osprovider.config.model import Layout
from osprovider.config.sizes import parse_size
from osprovider.division import lay_out
from osprovider.errors import DeviceError, RequestError
from osprovider.ganeti import hypervisor
from osprovider.ganeti.request import Disk, Request
from osprovider.layout import (
    FILLED,
    MIB,
    DiskFacts,
    InstanceDisk,
    TablePlan,
    least_filled_bytes,
    less_than_said,
    root_limit_bytes,
    with_subvolume,
)
from osprovider.log import human_bytes
from osprovider.manifest import ImageTable, Manifest
from osprovider.rootpath import check_root_path, root_number

__all__ = ["SystemDisk", "disk_0", "disk_0_path", "plan_system_disk"]

_WORTH_A_NOTE = 64 << 20
_BESIDE_SWAP_FILE = 64 << 20  # for the file system's own, and for what hooks write


@dataclass(frozen=True, slots=True)
class SystemDisk:
    """What becomes of disk 0; the attributes as :class:`osprovider.plan.Plan` has them.

    Attributes:
        path: the device or file; ``disk`` there.
        table: how it is divided.
        filled: the root is filled, not copied.
        firmware: what it boots under by itself.
        loader: which boot loader it gets.
        notes: what should be known before, each a line.
    """

    path: str | None
    table: TablePlan | None
    filled: bool
    firmware: tuple[str, ...]
    loader: str | None
    notes: tuple[str, ...]


def disk_0(request: Request) -> Disk:
    """The disk that the system goes to: disk 0.

    Raises:
        RequestError: there is none, or it is read-only.
    """
    if not request.disks:
        raise RequestError(
            "DISK_COUNT is 0: the instance has no disk to install on; add one (gnt-instance modify --disk add:size=10g)"
        )
    disk = request.disks[0]
    if disk.access != "rw":
        raise RequestError("DISK_0_ACCESS is 'ro': disk 0 is read-only; set its access mode to rw")
    return disk


def disk_0_path(request: Request) -> Path:
    """The device or file of the disk that the system is on.

    Raises:
        RequestError: as for :func:`disk_0`; or this node's kernel can't reach it.
    """
    disk = disk_0(request)
    if disk.path is None:
        raise RequestError(
            f"DISK_0_PATH is not set: disk 0 is reached by userspace only ({disk.uri}), and only create knows how; "
            "set the disk template's access parameter to kernelspace"
        )
    return disk.path


def plan_system_disk(
    request: Request, settings: Settings, facts: DiskFacts | None, manifest: Manifest | None
) -> SystemDisk:
    """Decide what becomes of disk 0.

    Args:
        request: Ganeti's.
        settings: the merged configuration.
        facts: of the disk; None where it is left alone.
        manifest: of the template; None where the image still has to be prepared.

    Raises:
        RequestError: the request can't be carried out with this configuration.
        DeviceError: the disk is too small; says both sizes.
    """
    image, variant = settings.image, settings.variant
    firmware = firmware_of(request, variant, manifest)
    found = disk_0(request) if facts else None
    path = (str(found.path) if found.path else found.uri) if found else None
    if image is None:
        return SystemDisk(path, None, False, firmware, None, ())
    if manifest is None and image.source is not None:
        # What it brings is not known: neither whether it has a table, nor what is in it.
        when = f"is known once the image is prepared (osprovider image build {settings.image_name})"
        loader = variant.boot.loader if firmware else None
        return SystemDisk(path, None, False, firmware, loader, (f"how the disk is divided {when}",))
    layout = _layout(request, settings)
    brings_table = manifest is not None and manifest.table is not None
    refuse_unbootable(request, variant, manifest, settings.image_name)
    if not brings_table:
        root_number(request, layout.table)  # refuses what cannot be, disk or no disk
    table = None
    if facts and path:
        facts = dataclasses.replace(facts, sector_size=hypervisor.guest_sector_size(request, facts.sector_size))
        table = _table(request, facts, layout, firmware, manifest, path)
        check_root_path(request, table)
        if firmware and not brings_table:
            table = marked_for(variant.boot.loader, table)
        _refuse_swap_file(layout, manifest, table, path)
    return SystemDisk(
        path=path,
        table=table,
        filled=_filled(layout, manifest),
        firmware=firmware,
        loader=variant.boot.loader if firmware and not brings_table else None,
        notes=(*_less_than_said(found, facts), *_notes(layout, facts, manifest, table)),
    )


def _layout(request: Request, settings: Settings) -> Layout:
    """The variant's; nobody reads a boot partition where the kernel is the hypervisor's."""
    layout = settings.variant.layout
    return dataclasses.replace(layout, boot=None) if hypervisor.has_external_kernel(request) else layout


def _table(
    request: Request,
    facts: DiskFacts,
    layout: Layout,
    firmware: Sequence[str],
    manifest: Manifest | None,
    path: str,
) -> TablePlan:
    """The disk's table: the image's own, or one that the variant describes."""
    disk = InstanceDisk(facts, request.require_instance().uuid, path)
    swap_file = _swap_file_bytes(layout)
    if manifest is not None and manifest.table is not None:
        return adopt(disk, layout, manifest.table, manifest.size_bytes)
    needs, filesystem = (manifest.size_bytes, manifest.filesystem.type) if manifest else (0, None)
    if _filled(layout, manifest):
        needs, filesystem = least_filled_bytes(needs), None
    table = lay_out(
        disk,
        layout,
        firmware,
        needs + swap_file if needs else 0,
        filesystem,
        swap_bytes=_swap_bytes(request, layout),
        root_number=root_number(request, layout.table),
    )
    # A GRUB of the hypervisor's looks for /boot where the file system begins.
    boots_by_itself = bool(firmware) or hypervisor.has_external_kernel(request)
    return with_subvolume(table) if boots_by_itself and _filled(layout, manifest) else table


def _swap_bytes(request: Request, layout: Layout) -> int:
    """How large the partition for swap is; 0 for none."""
    if layout.swap.kind == "partition":
        return parse_size(layout.swap.size or "")
    if layout.swap.kind != "memory":
        return 0
    memory = hypervisor.memory_mib(request)
    if memory is None:
        raise RequestError(
            "INSTANCE_BE_maxmem is not set, and layout.swap is memory: set layout.swap to a size such as 2GiB"
        )
    return memory * MIB


def _swap_file_bytes(layout: Layout) -> int:
    """How large the swap file is; 0 for none."""
    return parse_size(layout.swap.size or "") if layout.swap.kind == "file" else 0


def _refuse_swap_file(layout: Layout, manifest: Manifest | None, table: TablePlan, disk: str) -> None:
    """Refuse a swap file that has no place on the root, or that the guest could not swap to."""
    root, size = table.find("root"), _swap_file_bytes(layout)
    if manifest is None or root is None or not size:
        return
    if root.filesystem == "btrfs" and not manifest.built_here:
        raise RequestError(
            "layout.swap: a file on a btrfs that others made can't be kept from being copied on write: use a disk "
            "({disk: 1})"
        )
    needed = manifest.filesystem.used_bytes + size + _BESIDE_SWAP_FILE
    if needed > root.size_bytes:
        raise DeviceError(
            f"disk 0 ({disk}) is too small: its root has {root.size_bytes // MIB} MiB, and the image and layout.swap's "
            f"file need {-(-needed // MIB)} MiB; give the instance a larger disk, or less swap"
        )


def _filled(layout: Layout, manifest: Manifest | None) -> bool:
    """Is the root to be filled: never from what others made, which stays what it is."""
    return layout.filesystem in FILLED and (manifest is None or manifest.built_here)


def _notes(
    layout: Layout, facts: DiskFacts | None, manifest: Manifest | None, table: TablePlan | None
) -> tuple[str, ...]:
    """What should be known of a disk image, which keeps its partitions and some of their names."""
    image = manifest.table if manifest else None
    if image is None:
        return ()
    unused = _unused(layout, facts, image, table) if facts and table else ()
    return (*_left_to_image(layout), *keeping_uuids(image), *unused)


def _less_than_said(disk: Disk | None, facts: DiskFacts | None) -> tuple[str, ...]:
    """What to say of disk 0 where Ganeti has another size for it; nothing where it has not."""
    if disk is None or facts is None or disk.size_mib is None:
        return ()
    found = less_than_said(disk.index, facts.size_bytes, disk.size_mib * MIB)
    return (found,) if found else ()


def _unused(layout: Layout, facts: DiskFacts, image: ImageTable, table: TablePlan) -> tuple[str, ...]:
    """What of a disk that is larger than its image cannot be used, and why."""
    root = table.find("root")
    if not layout.grow or root is None:
        return ()
    why, unused = why_unused(facts, image), unused_bytes(facts, table)
    may_grow = root.size_bytes + MIB <= root_limit_bytes(facts, layout, 0)
    if why is None or unused < _WORTH_A_NOTE or not may_grow:
        return ()
    return (f"the root stays at {human_bytes(root.size_bytes)}: {why}; {human_bytes(unused)} of the disk stay unused",)


def _left_to_image(layout: Layout) -> tuple[str, ...]:
    """What of a layout nobody does where the image brings its partitions."""
    keys = [
        *(["layout.boot"] if layout.boot else []),
        *([f"layout.swap ({layout.swap.write()})"] if layout.swap.kind in ("memory", "partition") else []),
    ]
    options = ",".join(layout.mount_options)
    return (
        *([f"the image brings its own partitions: nothing is made for {' and '.join(keys)}"] if keys else []),
        *([f"the image brings its own fstab: layout.mount_options ({options}) are not in it"] if options else []),
    )
