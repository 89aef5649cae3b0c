"""Ganeti's ``rename``: an installed system gets its new name.

The system has run since it was installed, so its file system is somebody else's: unless the configuration says
``host``, only the appliance opens it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from osprovider import linux
from osprovider.config.load import load
from osprovider.customize.context import Context, ContextDisk, ContextPartition
from osprovider.customize.hooks import refuse_programs, select
from osprovider.customize.runner import HookRunner
from osprovider.disk import filesystem
from osprovider.disk.device import Device, claim
from osprovider.disk.loop import loop_device
from osprovider.disk.raw import sync
from osprovider.errors import DeviceError, ImageError, NodeError
from osprovider.ganeti.hypervisor import guest_sector_size
from osprovider.ganeti.request import Request
from osprovider.guest.mounting import Volume
from osprovider.images.diskimage.contents import find_partitions
from osprovider.layout import PartitionPlan, msdos_partition_uuid
from osprovider.log import reporter
from osprovider.manifest import ImagePartition
from osprovider.opening import guest_of, isolation_of_others
from osprovider.paths import Directories
from osprovider.plan import make_plan
from osprovider.systemdisk import disk_0_path

__all__ = ["rename"]


def rename(request: Request, directories: Directories) -> None:
    """Run the hooks that follow a rename on disk 0.

    Args:
        request: Ganeti's; ``old_name`` is the name so far.
        directories: where configuration and run-time files are.

    Raises:
        OsproviderError: the disk has no system of ours, or a hook failed. The system keeps its old name then, or the
            part of it that was not written yet.
    """
    began = time.monotonic()
    instance = request.require_instance()
    settings = load(directories, request.variant, instance=instance.name, parameters=request.parameters)
    plan = make_plan(request, settings, [], None, disks=())  # the others are not looked at
    if settings.leave_disk_alone:
        reporter.info(f"{plan.instance}: the disks are left alone, as variant {settings.variant_name} says")
        return
    hooks = select(directories, settings.variant.hooks, "rename")
    linux.private_mount_namespace()
    isolation = isolation_of_others(settings.variant.isolation)
    if isolation == "appliance":
        refuse_programs(hooks)
    with claim(disk_0_path(request), directories.run) as device:
        sector_size = guest_sector_size(request, device.facts.sector_size)
        system = _find(device, directories, isolation, sector_size)
        root = system.root
        size, guid = device.facts.size_bytes, system.guid or None
        disk = ContextDisk(0, device.path, size, system.sector_size, guid, system.partitions)
        context = Context(
            event="rename",
            instance=instance,
            hostname=plan.hostname,
            variant=settings.variant,
            nics=plan.nics,
            disks=(disk,),
            old_name=request.old_name,
            environment=request.environment,
            templates=directories.templates,
        )
        with (
            HookRunner(hooks, context, directories.run) as runner,
            loop_device(device.path, offset_bytes=root.start_bytes, size_bytes=root.size_bytes) as loop,
            guest_of(
                [Volume(loop, filesystem.type_of(loop), subvolumes=system.subvolumes)], isolation, directories
            ) as guest,
        ):
            runner.run_all(guest, root_device=loop, target=guest.mountpoint)
        with reporter.step(f"sync {device.path}"):
            sync(device.fd)
    reporter.info(f"{plan.instance} is renamed: {time.monotonic() - began:.2f} s")


@dataclass(frozen=True, slots=True)
class _System:
    """Where a system is on its disk.

    Attributes:
        guid: the disk's, or an msdos table's signature; empty where there is no table.
        sector_size: in bytes.
        partitions: of the disk; without a table one of number 0.
        root: the one with the root.
        subvolumes: see :class:`osprovider.guest.mounting.Volume`.
    """

    guid: str
    sector_size: int
    partitions: tuple[ContextPartition, ...]
    root: ContextPartition
    subvolumes: tuple[tuple[str, str], ...] = ()


def _find(device: Device, directories: Directories, isolation: str, sector_size: int) -> _System:
    """The system is looked for: any image's layout may have become of it, or of its owner's making."""
    try:
        table, parts = find_partitions(
            device.path, str(device.path), directories, isolation, msdos_sector_size=sector_size
        )
    except NodeError:
        raise
    except ImageError as error:  # it is an instance's here
        raise DeviceError(str(error).removeprefix("image ")) from error
    root = next(part for part in parts if part.role == "root")
    subvolumes = root.filesystem.subvolumes if root.filesystem else ()
    guid, sector_size = (table.id, table.sector_size) if table else ("", device.facts.sector_size)
    return replace(_system(guid, sector_size, parts), subvolumes=subvolumes)


def _system(guid: str, sector_size: int, parts: Sequence[PartitionPlan | ImagePartition]) -> _System:
    partitions = tuple(
        ContextPartition(
            part.number,
            part.role,
            part.start_bytes,
            part.size_bytes,
            part.guid or (msdos_partition_uuid(guid, part.number) if guid else ""),
            None,
            None,
        )
        for part in parts
    )
    root = next(part for part in partitions if part.role == "root")
    return _System(guid, sector_size, partitions, root)
