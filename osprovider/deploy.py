"""Carrying a plan out: a prepared image becomes an installed instance.

The order is what makes it safe. All disks are claimed and looked at, and everything that can be refused is refused
first. Then disk 0's old table is taken away, so that a half-written disk never looks installed; swap and data disks are
made; the template is copied, gets its own identity, grows and is customized; the boot code is written; all of it is
synced; and only then comes the new table.
Not for: deciding (:mod:`osprovider.plan`).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from osprovider import linux
from osprovider.background import background
from osprovider.config.load import Settings, load
from osprovider.config.model import Image
from osprovider.config.parameters import OS_IMAGE
from osprovider.customize.context import Context
from osprovider.customize.hooks import Hook, refuse_programs, select
from osprovider.customize.installation import context_of
from osprovider.customize.runner import HookRunner
from osprovider.datadisks import DiskPlan
from osprovider.descriptors import path_of
from osprovider.disk import bootsector, btrfs, changing, datadisks, fill, integrity, loader, partitions, wipe
from osprovider.disk.copy import DamagedTemplate, copy_extents, verify_extents
from osprovider.disk.datadisks import ClaimedDisk
from osprovider.disk.device import Device, claim
from osprovider.disk.loop import loop_device
from osprovider.disk.raw import sync
from osprovider.disk.renewal import own_blocks, renewing
from osprovider.disk.table import make_table, write_table
from osprovider.errors import DeviceError, GuestError, HookError, ImageError, ToolError, reason_of
from osprovider.ganeti.request import Request
from osprovider.guest.host import HostGuest
from osprovider.guest.mounting import Volume
from osprovider.images.store import Store
from osprovider.layout import PartitionPlan, TablePlan, copy_rounds
from osprovider.log import reporter
from osprovider.manifest import Template
from osprovider.opening import guest_of, where_to_change
from osprovider.paths import Directories
from osprovider.plan import Plan, make_plan
from osprovider.signals import past_stopping
from osprovider.systemdisk import disk_0

__all__ = ["create"]


@dataclass(frozen=True, slots=True)
class _Order:
    """What was asked for, as far as it is settled before the disk and the image are looked at."""

    request: Request
    directories: Directories
    settings: Settings
    image: Image
    image_name: str
    hooks: tuple[Hook, ...]
    others: tuple[ClaimedDisk, ...] = ()

    def plan(self, device: Device, template: Template | None = None) -> Plan:
        """The plan for a disk, complete once there is a template; refused where this node cannot carry it out."""
        names = [hook.name for hook in self.hooks]
        manifest = template.manifest if template else None
        key = manifest.key if manifest else None
        disks = [disk.plan for disk in self.others]
        plan = make_plan(self.request, self.settings, names, device.facts, key=key, manifest=manifest, disks=disks)
        if plan.isolation == "sandbox" and template:
            plan = dataclasses.replace(plan, isolation=_isolation(self.settings.variant.isolation, plan, template))
        if plan.isolation == "appliance":
            from osprovider.guest.appliance import require_appliance  # dear to import

            require_appliance()
        if plan.isolation != "host":
            refuse_programs(self.hooks)
        elif plan.table is not None and manifest is not None and not manifest.built_here:
            kinds = (part.filesystem for part in plan.table.partitions if part.filesystem)
            changing.require(kinds, f"image {self.image_name} (isolation: host)")
        if plan.filled:
            fill.require(self.settings.variant.layout.filesystem)
        if plan.loader == "extlinux":
            from osprovider.disk import extlinux  # few need it

            extlinux.require()
        return plan


def _isolation(configured: str, plan: Plan, template: Template) -> str:
    """Where a guest is opened that was not made here."""
    partitions = plan.table.partitions if plan.table else ()
    held = [
        (part.filesystem, part.source_bytes or 0) for part in partitions if part.role == "root" or part.source_bytes
    ]
    filesystems = [(filesystem, start) for filesystem, start in held if filesystem is not None]
    return where_to_change(configured, Path(path_of(template.fd)), filesystems)


@dataclass(frozen=True, slots=True)
class _Job:
    """What every step of an installation needs."""

    order: _Order
    plan: Plan
    device: Device
    template: Template
    preserve_on_error: bool


def create(request: Request, directories: Directories, *, preserve_on_error: bool = False) -> None:
    """Install the instance: Ganeti's ``create``.

    Args:
        request: Ganeti's.
        directories: where configuration, cache and run-time files are.
        preserve_on_error: leave the disk as it is when something fails, for a look at it.

    Raises:
        OsproviderError: something was refused or failed. What had been written is not bootable.
    """
    name, began = request.require_instance().name, time.monotonic()
    with reporter.step(f"plan {name}"):
        settings = load(directories, request.variant, instance=name, parameters=request.parameters)
        hooks = select(directories, settings.variant.hooks, "create")
        asked = make_plan(request, settings, [hook.name for hook in hooks], None)
    if settings.image is None or settings.image_name is None:
        whose = "os-image" if OS_IMAGE in request.parameters else f"variant {settings.variant_name} (image: none)"
        reporter.info(f"{name}: the disks are left alone, as {whose} says")
        return
    order = _Order(request, directories, settings, settings.image, settings.image_name, hooks)
    linux.private_mount_namespace()
    with _claimed(order, asked.disks) as (order, device):
        order.plan(device)  # what is impossible with any image is said before one is built for minutes
        store = Store(directories)
        try:
            _install_prepared(order, device, store, preserve_on_error=preserve_on_error)
        except DamagedTemplate as damage:
            reporter.warning(f"{damage}; preparing image {order.image_name} again")
            store.invalidate_opened()
            _install_prepared(order, device, store, preserve_on_error=preserve_on_error)
    reporter.info(f"{name} is installed: {time.monotonic() - began:.2f} s")


@contextmanager
def _claimed(order: _Order, plans: Sequence[DiskPlan]) -> Iterator[tuple[_Order, Device]]:
    """All disks that are written: disk 0, and in the order the others, with what becomes of them."""
    with _system_disk(order) as device, datadisks.claimed(plans, order.directories.run) as others:
        yield dataclasses.replace(order, others=others), device


@contextmanager
def _system_disk(order: _Order) -> Iterator[Device]:
    """Disk 0; of one that only userspace reaches, a file that is sent there in the end."""
    disk, directories = disk_0(order.request), order.directories
    if disk.path is not None:
        with claim(disk.path, directories.run) as device:
            yield device
    else:
        from osprovider.disk.userspace import staged  # few need it

        verify = order.settings.variant.verify_copy
        with staged(disk.uri or "", directories.cache, directories.run, verify=verify) as device:
            yield device


def _install_prepared(order: _Order, device: Device, store: Store, *, preserve_on_error: bool) -> None:
    """Install from the image's template, which is made now where it is missing."""
    with store.opened(order.image_name, order.image, order.settings.variant) as template:
        manifest = template.manifest
        reporter.info(f"template {manifest.key[:12]} of image {order.image_name}: made at {manifest.created}")
        _install(_Job(order, order.plan(device, template), device, template, preserve_on_error))


@contextmanager
def _no_table_left_on_error(device: Device, *, preserve_on_error: bool) -> Iterator[None]:
    """Whatever fails, the disk does not look installed afterwards, and the first error is the one that is shown."""
    try:
        yield
    except BaseException:
        if preserve_on_error:
            reporter.warning(f"{device.path} is left as it is, half written, for a look at it")
        else:
            try:
                wipe.clear_signatures(device)
            except Exception as error:  # the first error is the one to show
                reporter.warning(f"{device.path} could not be made unbootable: {error}")
        raise


def _install(job: _Job) -> None:
    """Write the disk, the table last; see the module for the order."""
    plan, device, template = job.plan, job.device, job.template
    table = plan.table
    if table is None:
        raise ImageError("the plan has no partition table")
    root = _root(table)
    boot_loader = loader.choose(plan.loader, table, plan.firmware) if plan.loader else None
    for note in plan.notes:
        reporter.warning(note)
    _look_into(template, plan)
    with ExitStack() as stack:
        runner = stack.enter_context(HookRunner(job.order.hooks, _context(job), job.order.directories.run))
        stack.enter_context(_no_table_left_on_error(device, preserve_on_error=job.preserve_on_error))
        wipe.clear_signatures(device)
        all_zero = wipe.wipe(device, job.order.settings.variant.wipe)
        datadisks.make(job.order.others, template.manifest.distribution, job.order.settings.variant.wipe)
        # Beside the copy, and not before: importing libparted keeps Python from getting there.
        start = stack.enter_context(background("make"))
        new_table = start(make_table, device, table)
        boot_code = start(boot_loader.make) if boot_loader else None
        _make_filesystems(job, table, root, all_zero=all_zero)
        with _naming(device), _opened_guest(job, table) as (guest, devices):
            _rewrite_names(template, table, guest)
            root_device, boot_device = devices["/"], devices.get("/boot")
            runner.run_all(guest, root_device=root_device, boot_device=boot_device, target=guest.mountpoint)
            if boot_loader and boot_code:
                boot_code.result()
                boot_loader.install(guest)
        if boot_loader:
            with reporter.step(f"{plan.loader} for {' and '.join(plan.firmware)}"):
                boot_loader.write(device)
        with reporter.step(f"sync {device.path}"):
            sync(device.fd)
        if table.type != "none":
            with reporter.step("partition table"):
                write_table(device, new_table.result())
        if disk_0(job.order.request).path is not None:  # else it is still to be sent to where userspace reaches it
            past_stopping()  # who is told that it failed shall have no disk that looks installed


def _look_into(template: Template, plan: Plan) -> None:
    """Refuse, before anything is written, what only the template itself tells."""
    if plan.filled:
        integrity.refuse_damaged(template, cached=True)  # the kernel is given no file system that nobody made
    if template.manifest.table is None and plan.table is not None:
        partitions.refuse_small_boot(template, plan.table)


def _make_filesystems(job: _Job, table: TablePlan, root: PartitionPlan, *, all_zero: bool) -> None:
    """Bring the template to the disk, and make what else the plan has on it."""
    if job.plan.filled:
        _fill(job, root)
    else:
        _copy(job, table, all_zero=all_zero)
    manifest = job.template.manifest
    if manifest.table is None:
        with _naming(job.device):
            partitions.make_partitions(job.device, table, manifest.distribution)


def _fill(job: _Job, root: PartitionPlan) -> None:
    """Make the root's file system and fill it from the template's tree."""
    with _naming(job.device):
        fill.fill(job.template, job.device, root, job.order.directories.run)
    if job.order.settings.variant.verify_copy:
        reporter.warning(f"verify_copy: a root of {root.filesystem} is filled file by file, and not read back")


def _copy(job: _Job, table: TablePlan, *, all_zero: bool) -> None:
    """Copy the template to its place: the root's, or what the table says of a disk image's parts.

    It is read back where the variant asks, before anything of it is changed.
    """
    device, template, manifest = job.device, job.template, job.template.manifest
    rounds = copy_rounds(table, manifest.size_bytes)
    with renewing(template, table) as renewal:
        with reporter.progress(f"copy image {job.plan.image} to {device.path}", manifest.data_bytes) as advance:
            zeroing = None if all_zero else device.zeroing
            for number, placements in enumerate(rounds):
                if number:
                    sync(device.fd)
                end = max(each.source_bytes + each.size_bytes for each in placements)
                extents = [each for each in manifest.extents if each.offset < end]
                copy_extents(template.fd, device.fd, placements, extents, advance, zeroing=zeroing)
        if job.order.settings.variant.verify_copy:
            everywhere = sorted((each for some in rounds for each in some), key=lambda each: each.source_bytes)
            size = sum(each.size_bytes for each in everywhere)
            with reporter.progress(f"verify {device.path}", size) as advance:
                verify_extents(template.fd, device.fd, everywhere, manifest.extents, advance)
        # These change what the template has, and so come after the comparison.
        bootsector.tell_moved(device.fd, table)
        btrfs.renew_devices(device.fd, table)
        with _naming(device):
            renewal.apply(device)


def _root(table: TablePlan) -> PartitionPlan:
    root = table.find("root")
    if root is None or root.filesystem is None:
        raise ImageError("the plan has no root partition")
    return root


def _rewrite_names(template: Template, table: TablePlan, guest: HostGuest) -> None:
    """Have what others made name the instance's file systems; what was built here names none."""
    if template.manifest.built_here:
        return
    from osprovider.disk import reidentify  # few need it

    with reporter.step("names of file systems") as detail:
        changed = reidentify.rewrite(guest, reidentify.renaming(template.manifest, table))
        detail(f"{changed} files")


@contextmanager
def _opened_guest(job: _Job, table: TablePlan) -> Iterator[tuple[HostGuest, dict[str | None, Path]]]:
    """The guest with all its file systems, each with its new UUID and size; and their devices by where it has them."""
    manifest = job.template.manifest
    sizes = {part.number: part.size_bytes for part in manifest.table.partitions} if manifest.table else {}
    with ExitStack() as stack:
        volumes = []
        for part in table.partitions:
            mount = "/" if part.role == "root" else part.mount
            if part.filesystem is None or (mount is None and part.filesystem_uuid is None):
                continue
            if manifest.table is None and part.role not in ("root", "boot"):
                continue  # an EFI system partition of ours is made later, and swap has no files
            is_empty = manifest.table is None and part.role == "boot"
            has_its_own = is_empty or job.plan.filled or bool(own_blocks(manifest, part))
            loop = loop_device(job.device.path, offset_bytes=part.start_bytes, size_bytes=part.size_bytes)
            size = sizes.get(part.number, manifest.size_bytes)
            volumes.append(
                Volume(
                    device=stack.enter_context(loop),
                    filesystem=part.filesystem,
                    mount=mount,
                    uuid=None if has_its_own else part.filesystem_uuid,
                    grow=part.size_bytes > size and not (is_empty or job.plan.filled),
                    is_new=True,
                    fill=is_empty,
                    subvolumes=part.subvolumes,
                )
            )
        volumes.sort(key=lambda volume: volume.mount != "/")
        guest = stack.enter_context(guest_of(volumes, job.plan.isolation, job.order.directories))
        yield guest, {volume.mount: volume.device for volume in volumes}


@contextmanager
def _naming(device: Device) -> Iterator[None]:
    """Have what fails name the disk: tools, the kernel and hooks only know the loop device on it."""
    try:
        yield
    except (GuestError, HookError, ToolError) as error:
        raise DeviceError(f"{device.path}: {error}") from error
    except OSError as error:  # a file system in which something failed before refuses whatever comes next
        where = f"{error.filename}: " if error.filename else ""
        raise DeviceError(f"{device.path}: {where}{reason_of(error)}; see the kernel's log (dmesg)") from error


def _context(job: _Job) -> Context:
    """What hooks are told."""
    order = job.order
    return context_of(
        order.request, order.settings.variant, job.plan, job.template.manifest, job.device.path, order.directories
    )
