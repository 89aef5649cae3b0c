"""What a request will do, as pure data: the plan, whose JSON is the dry run.

Making a plan reads neither disk nor guest; whatever can be refused for what was asked is refused here.
Not for: carrying it out (:mod:`osprovider.deploy`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osprovider.addressing.resolve import resolve
from osprovider.adoption import adopt, keeping_uuids, unused_bytes, why_unused
from osprovider.booting import firmware_of, marked_for, refuse_unbootable
from osprovider.config.load import Settings
from osprovider.config.model import Layout
from osprovider.config.sizes import parse_size
from osprovider.datadisks import DiskPlan, plan_disks
from osprovider.division import lay_out
from osprovider.errors import DeviceError, RequestError
from osprovider.ganeti import hypervisor
from osprovider.ganeti.request import Disk, Request
from osprovider.images.manifest import Manifest
from osprovider.layout import (
    FILLED,
    MIB,
    DiskFacts,
    TablePlan,
    least_filled_bytes,
    root_limit_bytes,
    with_subvolume,
)
from osprovider.log import human_bytes
from osprovider.nics import ResolvedNic
from osprovider.rootpath import check_root_path, root_number

__all__ = ["Plan", "make_plan", "serial_console", "target", "target_path"]

_WORTH_A_NOTE = 64 << 20
_BESIDE_SWAP_FILE = 64 << 20  # for the file system's own, and for what hooks write
_LONGEST_HOSTNAME = 64  # HOST_NAME_MAX in limits.h: what sethostname(2) takes


@dataclass(frozen=True, slots=True)
class Plan:
    """What ``create`` will do.

    Attributes:
        instance: the FQDN.
        hostname: what the guest is called.
        variant: the variant's name.
        image: the image definition's name; None leaves the disk alone.
        template: the key of the prepared image, and whether it has to be prepared first.
        template_ready: it is in the store.
        disk: the device or file that is written; None also for a dry run that knows the size alone.
        disk_size_bytes: its size.
        table: the partition table; None where the disk is left alone, or where nobody knows yet whether the image
            brings one.
        copy_bytes: how much is copied; None until the image is prepared.
        filled: the root's file system is made at its final size and filled from the template's tree, in place of the
            template's being copied and grown.
        firmware: what the disk boots under by itself; empty with an external kernel.
        loader: which boot loader it gets; None where it gets none, or brings one.
        serial_console: the kernel's device and its speed in bits/s, None without one.
        nics: as the guest will configure them; none where the disk is left alone.
        hooks: names in the order they run.
        wipe: what happens to what was on the disk.
        disks: what becomes of the other disks that the variant names; the rest is left alone.
        isolation: where the guest's file system is mounted: ``host`` or ``appliance``.
        reinstall: the instance was installed before.
        notes: what should be known before, each a line.
    """

    instance: str
    hostname: str
    variant: str
    image: str | None
    template: str | None
    template_ready: bool
    disk: str | None
    disk_size_bytes: int | None
    table: TablePlan | None
    copy_bytes: int | None
    filled: bool
    firmware: tuple[str, ...]
    loader: str | None
    serial_console: tuple[str, int] | None
    nics: tuple[ResolvedNic, ...]
    hooks: tuple[str, ...]
    wipe: str
    isolation: str
    reinstall: bool
    notes: tuple[str, ...]
    disks: tuple[DiskPlan, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The plan, JSON-ready."""
        return dataclasses.asdict(self)


def target(request: Request) -> Disk:
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


def target_path(request: Request) -> Path:
    """The device or file of the disk that the system is on.

    Raises:
        RequestError: as for :func:`target`; or this node's kernel can't reach it.
    """
    disk = target(request)
    if disk.path is None:
        raise RequestError(
            f"DISK_0_PATH is not set: disk 0 is reached by userspace only ({disk.uri}), and only create knows how; "
            "set the disk template's access parameter to kernelspace"
        )
    return disk.path


def serial_console(request: Request, configured: str) -> tuple[str, int] | None:
    """The kernel's serial console and its speed in bits/s, None without one.

    Args:
        request: Ganeti's, whose hypervisor has a say.
        configured: the variant's ``boot.serial``: ``auto``, ``none`` or ``DEVICE[,SPEED]``.
    """
    if configured == "auto":
        return hypervisor.serial_console(request)
    if configured == "none":
        return None
    device, _, speed = configured.partition(",")
    return device, int(speed or 115200)


def make_plan(
    request: Request,
    settings: Settings,
    hooks: Sequence[str],
    facts: DiskFacts | None,
    *,
    key: str | None = None,
    manifest: Manifest | None = None,
    disks: Sequence[DiskPlan] | None = None,
) -> Plan:
    """Decide all that ``create`` will do.

    Args:
        request: Ganeti's.
        settings: the merged configuration.
        hooks: names in the order they run.
        facts: of disk 0; None where the disk is left alone.
        key: of the template.
        manifest: of the template; None where the image still has to be prepared.
        disks: what becomes of the others, where they have been looked at.

    Raises:
        ConfigurationError: a NIC can't be configured as the files say.
        RequestError: the request can't be carried out with this configuration.
        DeviceError: the disk is too small for the image; says both sizes.
    """
    instance = request.instance
    if instance is None:
        raise RequestError("INSTANCE_NAME is not set: this is for an instance")
    variant = settings.variant
    nics: tuple[ResolvedNic, ...] = ()
    if not settings.leave_disk_alone:
        nics = resolve(
            request.nics,
            settings.nics,
            settings.subnets,
            variant.network,
            instance_file=f"instances/{instance.name}.yaml",
            dns=settings.dns,
        )
    if facts is not None:
        facts = dataclasses.replace(facts, sector_size=hypervisor.guest_sector_size(request, facts.sector_size))
    firmware = firmware_of(request, variant, manifest)
    external = hypervisor.has_external_kernel(request)
    layout = dataclasses.replace(variant.layout, boot=None) if external else variant.layout
    found = target(request) if facts else None
    disk = (str(found.path) if found.path else found.uri) if found else None
    is_known = manifest is not None or settings.image is None or settings.image.source is None
    table = None
    filled = is_known and settings.image is not None and _filled(layout, manifest)
    if is_known and settings.image is not None:
        refuse_unbootable(request, variant, manifest, settings.image_name)
        if manifest is None or manifest.table is None:
            root_number(request, layout.table)  # refuses what cannot be, disk or no disk
    if facts and disk and is_known:
        table = _table(request, facts, layout, firmware, manifest, disk)
        check_root_path(request, table)
        if firmware and not (manifest and manifest.table):
            table = marked_for(variant.boot.loader, table)
    if manifest is not None and table is not None:
        _refuse_swap_file(layout, manifest, table, disk or "")
    if disks is None:
        disks = () if settings.leave_disk_alone else plan_disks(request, variant)
    return Plan(
        instance=instance.name,
        hostname=_hostname(variant.system.hostname, instance.name),
        variant=settings.variant_name,
        image=settings.image_name,
        template=key,
        template_ready=manifest is not None,
        disk=disk,
        disk_size_bytes=facts.size_bytes if facts else None,
        table=table,
        copy_bytes=manifest.data_bytes if manifest else None,
        filled=filled,
        firmware=firmware,
        loader=variant.boot.loader if firmware and not (manifest and manifest.table) else None,
        serial_console=serial_console(request, variant.boot.serial),
        nics=nics,
        hooks=tuple(hooks),
        wipe=variant.wipe,
        isolation=_isolation(variant.isolation, manifest, settings.image_name),
        reinstall=request.reinstall,
        notes=(
            *_left_out(settings),
            *((*_left_to_image(layout), *keeping_uuids(manifest.table)) if manifest and manifest.table else ()),
            *(_notes(layout, facts, manifest, table) if is_known else _unknown(settings.image_name)),
        ),
        disks=tuple(disks),
    )


def _left_out(settings: Settings) -> tuple[str, ...]:
    """What the variant says and nobody does."""
    if not settings.variant.packages or settings.image is None or settings.image.build is not None:
        return ()
    listed = " ".join(settings.variant.packages)
    return (f"image {settings.image_name} is not built here, so the variant's packages are not added: {listed}",)


def _hostname(configured: str, fqdn: str) -> str:
    """What the guest is called; a longer name would be passed over when it boots."""
    name = {"fqdn": fqdn, "short": fqdn.partition(".")[0]}.get(configured, configured)
    if len(name) > _LONGEST_HOSTNAME:
        raise RequestError(
            f"INSTANCE_NAME: {name} has {len(name)} characters, and a host's name has {_LONGEST_HOSTNAME} at most: "
            "set system.hostname to short or to another name (gnt-instance -O hostname=short)"
        )
    return name


def _table(
    request: Request,
    facts: DiskFacts,
    layout: Layout,
    firmware: Sequence[str],
    manifest: Manifest | None,
    disk: str,
) -> TablePlan:
    """The disk's table: the image's own, or one that the variant describes."""
    uuid = request.instance.uuid if request.instance else ""
    swap_file = _swap_file_bytes(layout)
    if manifest is not None and manifest.table is not None:
        return adopt(facts, layout, manifest.table, manifest.size_bytes, uuid, disk)
    needs, filesystem = (manifest.size_bytes, manifest.filesystem.type) if manifest else (0, None)
    if _filled(layout, manifest):
        needs, filesystem = least_filled_bytes(needs), None
    table = lay_out(
        facts,
        layout,
        firmware,
        needs + swap_file if needs else 0,
        uuid,
        disk,
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
    """How large the file for swap is; 0 for none."""
    return parse_size(layout.swap.size or "") if layout.swap.kind == "file" else 0


def _refuse_swap_file(layout: Layout, manifest: Manifest, table: TablePlan, disk: str) -> None:
    """Refuse a file for swap that has no place on the root, or that the guest could not swap to."""
    root, size = table.find("root"), _swap_file_bytes(layout)
    if root is None or not size:
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


def _unknown(image: str | None) -> tuple[str, ...]:
    """What is not known of an image from elsewhere."""
    return (f"how the disk is divided is known once the image is prepared (osprovider image build {image})",)


def _notes(
    layout: Layout, facts: DiskFacts | None, manifest: Manifest | None, table: TablePlan | None
) -> tuple[str, ...]:
    """What of a disk that is larger than its image cannot be used, and why."""
    image = manifest.table if manifest else None
    root = table.find("root") if table else None
    if not layout.grow or facts is None or image is None or table is None or root is None:
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
    return (f"the image brings its own partitions: nothing is made for {' and '.join(keys)}",) if keys else ()


def _isolation(configured: str, manifest: Manifest | None, image: str | None) -> str:
    """Only what our own mkfs made is mounted by the host's kernel."""
    if configured == "host" and manifest is not None:
        what = "a disk image" if manifest.table is not None else manifest.filesystem.type
        if not what.startswith("ext"):
            raise RequestError(
                f"isolation: host is for images that are one ext4, ext3 or ext2, and {image} is {what}: set it to auto"
            )
    if configured != "auto":
        return configured
    return "host" if manifest is None or manifest.built_here else "appliance"
