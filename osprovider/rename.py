"""Ganeti's ``rename``: an installed system gets its new name.

The system has run since it was installed, so its file system is somebody else's: unless the configuration says
``host``, it is looked for in the sandbox or the appliance, and only the appliance changes it.
Not for: what becomes of the old name in the guest's files (the hook ``hostname``).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

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
from osprovider.guest.host import HostGuest
from osprovider.guest.mounting import Volume
from osprovider.images.diskimage.contents import find_partitions
from osprovider.layout import msdos_partition_uuid
from osprovider.log import reporter
from osprovider.manifest import ImagePartition
from osprovider.opening import guest_of, where_to_change
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
    isolation = settings.variant.isolation
    if isolation != "host":
        refuse_programs(hooks)
    with claim(disk_0_path(request), directories.run) as device:
        system = _find(device, directories, isolation, guest_sector_size(request, device.facts.sector_size))
        context = Context(
            event="rename",
            instance=instance,
            hostname=plan.hostname,
            variant=settings.variant,
            nics=plan.nics,
            disks=(system.disk,),
            old_name=request.old_name,
            environment=request.environment,
            templates=directories.templates,
        )
        with (
            HookRunner(hooks, context, directories.run) as runner,
            _opened(device, system, isolation, directories) as (guest, root_device),
        ):
            runner.run_all(guest, root_device=root_device, target=guest.mountpoint)
        with reporter.step(f"sync {device.path}"):
            sync(device.fd)
    reporter.info(f"{plan.instance} is renamed: {time.monotonic() - began:.2f} s")


@dataclass(frozen=True, slots=True)
class _System:
    """Where a system is on its disk.

    Attributes:
        disk: as hooks are told of it; without a table it has one partition, of number 0.
        root: the partition with the root.
        subvolumes: see :class:`osprovider.guest.mounting.Volume`.
    """

    disk: ContextDisk
    root: ContextPartition
    subvolumes: tuple[tuple[str, str], ...]


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
    guid, sectors = (table.id or None, table.sector_size) if table else (None, device.facts.sector_size)
    partitions = tuple(_partition(part, guid) for part in parts)
    index = next(index for index, part in enumerate(parts) if part.role == "root")
    held = parts[index].filesystem
    return _System(
        disk=ContextDisk(0, device.path, device.facts.size_bytes, sectors, guid, partitions),
        root=partitions[index],
        subvolumes=held.subvolumes if held else (),
    )


def _partition(part: ImagePartition, disk_id: str | None) -> ContextPartition:
    """A partition as hooks are told of it; a PARTUUID it has in any table."""
    guid = part.guid or (msdos_partition_uuid(disk_id, part.number) if disk_id else "")
    return ContextPartition(part.number, part.role, part.start_bytes, part.size_bytes, guid, None, None)


@contextmanager
def _opened(
    device: Device, system: _System, isolation: str, directories: Directories
) -> Iterator[tuple[HostGuest, Path]]:
    """The guest with its root's file system, and the loop device that this is on."""
    root = system.root
    with loop_device(device.path, offset_bytes=root.start_bytes, size_bytes=root.size_bytes) as loop:
        volume = Volume(loop, filesystem.type_of(loop), subvolumes=system.subvolumes)
        where = where_to_change(isolation, loop, [(volume.filesystem, 0)])
        with guest_of([volume], where, directories) as guest:
            yield guest, loop
