"""What hooks are told of an installation: its plan, as their context.

Not for: what they are told of a rename (:mod:`osprovider.rename`), what a context is (``context``).
"""

from __future__ import annotations

from pathlib import Path

from osprovider.config.model import Variant
from osprovider.customize.context import Context, ContextDisk, ContextPartition
from osprovider.datadisks import DiskPlan
from osprovider.ganeti.hypervisor import has_external_kernel
from osprovider.ganeti.request import Disk, Request
from osprovider.layout import PartitionPlan
from osprovider.manifest import Manifest
from osprovider.paths import Directories
from osprovider.plan import Plan

__all__ = ["context_of"]


def context_of(
    request: Request, variant: Variant, plan: Plan, manifest: Manifest, path: Path, directories: Directories
) -> Context:
    """Make the context of an installation.

    Args:
        request: Ganeti's.
        variant: the merged configuration.
        plan: with a table.
        manifest: of the template.
        path: disk 0 as this node reaches it.
        directories: where Jinja2 templates are.

    Raises:
        RequestError: the request names no instance.
    """
    others = {disk.index: disk for disk in plan.disks}
    return Context(
        event="create",
        instance=request.require_instance(),
        hostname=plan.hostname,
        variant=variant,
        nics=plan.nics,
        disks=tuple(
            _other_disk(disk, others.get(disk.index)) if disk.index else _system_disk(plan, path)
            for disk in request.disks
        ),
        manifest=manifest,
        reinstall=request.reinstall,
        serial_console=plan.serial_console,
        external_kernel=has_external_kernel(request),
        environment=request.environment,
        templates=directories.templates,
    )


def _system_disk(plan: Plan, path: Path) -> ContextDisk:
    table = plan.table
    return ContextDisk(
        index=0,
        path=path,
        size_bytes=plan.disk_size_bytes,
        sector_size=table.sector_size if table else 512,
        guid=(table.guid or None) if table else None,
        partitions=tuple(_partition(part) for part in table.partitions) if table else (),
    )


def _partition(part: PartitionPlan) -> ContextPartition:
    return ContextPartition(
        number=part.number,
        role=part.role,
        start_bytes=part.start_bytes,
        size_bytes=part.size_bytes,
        guid=part.guid,
        filesystem=part.filesystem,
        filesystem_uuid=part.filesystem_uuid,
        mount="/" if part.role == "root" else part.mount,
        subvolume=part.subvolume,
    )


def _other_disk(disk: Disk, plan: DiskPlan | None) -> ContextDisk:
    return ContextDisk(
        index=disk.index,
        path=disk.path,
        size_bytes=disk.size_mib and disk.size_mib << 20,
        sector_size=512,
        guid=None,
        partitions=(_whole(plan),) if plan else (),
    )


def _whole(disk: DiskPlan) -> ContextPartition:
    """What fills a swap or data disk."""
    return ContextPartition(
        number=0,
        role=disk.use,
        start_bytes=0,
        size_bytes=disk.size_bytes or 0,
        guid="",
        filesystem=disk.filesystem,
        filesystem_uuid=disk.uuid,
        mount=disk.mount,
        options=disk.options,
    )
