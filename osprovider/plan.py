"""What a request will do, as pure data: the plan, whose JSON is the dry run.

Making a plan reads neither disk nor guest; whatever can be refused for what was asked is refused here.
Not for: carrying it out (:mod:`osprovider.deploy`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from osprovider.addressing.resolve import resolve
from osprovider.booting import boots
from osprovider.config.load import Settings
from osprovider.datadisks import DiskPlan, plan_disks
from osprovider.errors import RequestError
from osprovider.ganeti import hypervisor
from osprovider.ganeti.hypervisor import SerialConsole
from osprovider.ganeti.request import Request
from osprovider.layout import DiskFacts, TablePlan
from osprovider.manifest import EXT, Manifest
from osprovider.nics import ResolvedNic
from osprovider.systemdisk import plan_system_disk

__all__ = ["Plan", "make_plan", "serial_console"]

_IN_THE_SANDBOX = EXT | {"vfat", "swap"}  # file systems that programs there change, in most of their shapes
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
        boots: what comes of these two, in words.
        serial_console: None without one.
        nics: as the guest will configure them; none where the disk is left alone.
        hooks: names in the order they run.
        wipe: what happens to what was on the disk.
        disks: what becomes of the other disks that the variant names; the rest is left alone.
        isolation: where the guest's file system is opened: ``host``, ``sandbox`` (or the appliance, where it turns out
            that this will not do) or ``appliance``.
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
    boots: str
    serial_console: SerialConsole | None
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


def serial_console(request: Request, configured: str) -> SerialConsole | None:
    """The serial console, None without one.

    Args:
        request: Ganeti's, whose hypervisor has a say.
        configured: the variant's ``boot.serial``: ``auto``, ``none`` or ``DEVICE[,SPEED]``.
    """
    if configured == "auto":
        return hypervisor.serial_console(request)
    if configured == "none":
        return None
    device, _, speed = configured.partition(",")
    return SerialConsole(device, int(speed or 115200))


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
    instance, variant = request.require_instance(), settings.variant
    system = plan_system_disk(request, settings, facts, manifest)
    if disks is None:
        disks = () if settings.leave_disk_alone else plan_disks(request, variant)
    return Plan(
        instance=instance.name,
        hostname=_hostname(variant.system.hostname, instance.name),
        variant=settings.variant_name,
        image=settings.image_name,
        template=key,
        template_ready=manifest is not None,
        disk=system.path,
        disk_size_bytes=facts.size_bytes if facts else None,
        table=system.table,
        copy_bytes=manifest.data_bytes if manifest else None,
        filled=system.filled,
        firmware=system.firmware,
        loader=system.loader,
        boots=boots(request, variant, system.firmware, system.loader, is_known=system.table is not None),
        serial_console=serial_console(request, variant.boot.serial),
        nics=_nics(request, settings, instance.name),
        hooks=tuple(hooks),
        wipe=variant.wipe,
        isolation=_isolation(variant.isolation, manifest, system.table),
        reinstall=request.reinstall,
        notes=(*_left_out(settings), *system.notes),
        disks=tuple(disks),
    )


def _nics(request: Request, settings: Settings, fqdn: str) -> tuple[ResolvedNic, ...]:
    """The NICs as the guest will configure them, which nobody does where there is no image."""
    if settings.leave_disk_alone:
        return ()
    return resolve(
        request.nics,
        settings.nics,
        settings.subnets,
        settings.variant.network,
        instance_file=f"instances/{fqdn}.yaml",
        dns=settings.dns,
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


def _isolation(configured: str, manifest: Manifest | None, table: TablePlan | None) -> str:
    """By itself the node's kernel only mounts what our own mkfs made."""
    if configured != "auto":
        return configured
    if manifest is None or manifest.built_here:
        return "host"
    held = {part.filesystem for part in table.partitions if part.filesystem} if table else set()
    return "sandbox" if held <= _IN_THE_SANDBOX else "appliance"
