"""What becomes of the disks beside disk 0: swap and data disks, as pure data.

A variant names them by index or by Ganeti's name. At a first install each is made anew. At a reinstall a data disk that
holds a file system is kept, whatever it is, and mounted by the UUID that it has; unless ``data_disks: renew``
says so, best as a secret OS parameter: those alone Ganeti forgets, and any other comes with the next reinstall as well.
What looks like anything else is never written over then, but refused. The disk that a UEFI firmware has its variables
on, which Ganeti puts behind all others, is refused in any case. Disks that the variant does not name are left alone.
Source: ``LUInstanceReinstall`` in Ganeti 3.0's ``lib/cmdlib/instance_operation.py`` (what is kept of parameters).
Not for: looking at disks or writing to them (:mod:`osprovider.disk.datadisks`), nor disk 0
(:mod:`osprovider.systemdisk`).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from osprovider.config.model import DataDisk, Variant
from osprovider.errors import DeviceError, RequestError
from osprovider.ganeti.hypervisor import CONTAINERS
from osprovider.ganeti.request import Disk, Request
from osprovider.layout import MIB, derived_filesystem_uuid, size_refusal

__all__ = ["DiskPlan", "Signature", "plan_disks", "settle"]

# mkfs.xfs(8) and mkfs.btrfs(8) refuse less; of the others that is the least of use.
_LEAST_BYTES = {"ext2": 16 * MIB, "ext3": 16 * MIB, "ext4": 16 * MIB, "xfs": 300 * MIB, "btrfs": 128 * MIB, "swap": MIB}
_LONGEST_LABEL = {"ext2": 16, "ext3": 16, "ext4": 16, "xfs": 12, "btrfs": 255}
# An empty file system there would hide what the system needs to boot, or what the kernel has there.
_PROGRAMS = ("/bin", "/lib", "/lib32", "/lib64", "/libx32", "/sbin")  # links to those in /usr, or the other way round
_SYSTEM = frozenset({*_PROGRAMS, *(f"/usr{path}" for path in _PROGRAMS), "/usr", "/var"})
_ALL_OF_IT = ("/boot/", "/dev/", "/efi/", "/etc/", "/proc/", "/run/", "/sys/")  # and what is below
_UUID = re.compile(r"[0-9A-Fa-f-]{4,36}")


@dataclass(frozen=True, slots=True)
class DiskPlan:
    """What becomes of one disk.

    Attributes:
        index: Ganeti's; never 0.
        path: the device or file; None for a dry run that knows the size alone.
        size_bytes: None where nobody has said it yet.
        use: ``swap`` or ``data``.
        filesystem: what is on it, as blkid(8) has it (``swap``).
        uuid: the file system's, likewise.
        label: may be empty.
        mount: where the guest has it; None where it has it nowhere.
        options: of fstab(5).
        keep: what is there stays as it is. In a plan that was made without a look at the disk: if it is a file system.
    """

    index: int
    path: str | None
    size_bytes: int | None
    use: Literal["swap", "data"]
    filesystem: str
    uuid: str
    label: str
    mount: str | None
    options: tuple[str, ...]
    keep: bool

    @property
    def name(self) -> str:
        """As messages name it."""
        return f"disk {self.index}{f' ({self.path})' if self.path else ''}"


@dataclass(frozen=True, slots=True)
class Signature:
    """What tells of something on a disk, as wipefs(8) finds it.

    Attributes:
        type: ``ext4``, ``LVM2_member``, ``gpt``.
        usage: ``filesystem``, ``raid``, ``crypto``, ``partition-table`` or ``other``; or ``firmware``, which is ours.
        uuid: empty where there is none.
        label: likewise.
    """

    type: str
    usage: str
    uuid: str = ""
    label: str = ""


def plan_disks(request: Request, variant: Variant) -> tuple[DiskPlan, ...]:
    """Decide about every disk that the variant names, by index, before any is looked at.

    Args:
        request: Ganeti's.
        variant: the merged configuration.

    Raises:
        RequestError: the instance has no such disk, two are the same, one is disk 0 or cannot be written, or mount
            points or labels are no good; or the hypervisor gives the guest none of them.
        DeviceError: one is too small, or too large for its file system; says both sizes.
    """
    instance = request.require_instance()
    wanted = [(f"disks.{name}", name, spec) for name, spec in variant.disks.items()]
    swap = variant.layout.swap
    keep = request.reinstall and variant.data_disks == "keep"
    if instance.hypervisor in CONTAINERS:
        _refuse_unreachable(instance.hypervisor, variant)
    plans: dict[int, DiskPlan] = {}
    said: dict[int, str] = {}
    for setting, name, spec in [*([("layout.swap", swap.disk or "", None)] if swap.kind == "disk" else []), *wanted]:
        disk = _find(request.disks, name, setting)
        if disk.index in said:
            raise RequestError(
                f"{setting} and {said[disk.index]} are both disk {disk.index}: one disk is for one thing; "
                "take one of them out of the variant"
            )
        said[disk.index] = setting
        plans[disk.index] = _planned(disk, spec, setting, instance.uuid, keep=keep)
        if not keep:
            _refuse_size(plans[disk.index])
    _refuse_clashes([(setting, spec.mount) for setting, _, spec in wanted if spec.mount is not None])
    return tuple(plans[index] for index in sorted(plans))


def settle(plan: DiskPlan, size_bytes: int, signatures: Sequence[Signature]) -> DiskPlan:
    """The plan for a disk that was looked at.

    Args:
        plan: as :func:`plan_disks` made it.
        size_bytes: of the disk.
        signatures: what is on the disk.

    Returns:
        the plan with what is there, where that is kept; ``keep`` is false where something is made.

    Raises:
        DeviceError: it holds what is neither to be kept nor to be written over, or has no size for what is made.
    """
    plan = dataclasses.replace(plan, size_bytes=size_bytes)
    types = sorted({each.type for each in signatures})
    if any(each.usage == "firmware" for each in signatures):
        raise DeviceError(
            f"{plan.name}: holds the variables of the instance's UEFI firmware, which boots by them: take it out of "
            "the variant (Ganeti has the firmware's disk last), or zero its first MiB if no firmware has it any more"
        )
    if not plan.keep or not types or (plan.use == "swap" and types == ["swap"]):
        _refuse_size(plan)
        return dataclasses.replace(plan, keep=False)
    found = signatures[0]
    if plan.use == "swap":
        raise _in_the_way(plan, f"is to be swap, and holds {' and '.join(types)}")
    if len(types) > 1 or found.usage != "filesystem" or not _UUID.fullmatch(found.uuid):
        nameless = ", which has no UUID" if found.usage == "filesystem" and len(types) == 1 else ""
        raise _in_the_way(plan, f"is to be mounted, and holds {' and '.join(types)}{nameless}")
    return dataclasses.replace(plan, filesystem=found.type, uuid=found.uuid, label=found.label, keep=True)


def _in_the_way(plan: DiskPlan, what: str) -> DeviceError:
    return DeviceError(
        f"{plan.name}: {what}: take it out of the variant, or have it made anew, and lose what it holds "
        "(gnt-instance reinstall --os-parameters-secret data_disks=renew)"
    )


def _find(disks: Sequence[Disk], name: str, setting: str) -> Disk:
    """The disk of this index or name, which may be written."""
    if name.isdecimal():
        found = next((disk for disk in disks if disk.index == int(name)), None)
        way_out = "add one (gnt-instance modify --disk add:size=10g), or take it out of the variant"
    else:
        found = next((disk for disk in disks if disk.name == name), None)
        way_out = f"name one of its disks so (gnt-instance modify --disk 1:modify,name={name}), or give its index"
    if found is None:
        there = ", ".join(f"{disk.index}{f' ({disk.name})' if disk.name else ''}" for disk in disks)
        raise RequestError(f"{setting}: the instance has no disk {name}, but {there or 'none'}: {way_out}")
    if found.index == 0:
        raise RequestError(f"{setting}: disk {name} is disk 0, which is the system's: name another one")
    if found.access != "rw":
        raise RequestError(
            f"DISK_{found.index}_ACCESS is '{found.access}', and {setting} is to be written: set its access mode to rw"
        )
    if found.path is None:
        raise RequestError(
            f"DISK_{found.index}_PATH is not set: {setting} is reached by userspace only ({found.uri}), and only disk "
            "0 may be; set the disk template's access parameter to kernelspace"
        )
    return found


def _planned(disk: Disk, spec: DataDisk | None, setting: str, instance_uuid: str, *, keep: bool) -> DiskPlan:
    if spec is not None and spec.label is not None and len(spec.label.encode()) > _LONGEST_LABEL[spec.filesystem]:
        raise RequestError(
            f"{setting}.label: {spec.label} has {len(spec.label.encode())} bytes, and {spec.filesystem} takes "
            f"{_LONGEST_LABEL[spec.filesystem]} at most: shorten it"
        )
    filesystem = spec.filesystem if spec else "swap"
    return DiskPlan(
        index=disk.index,
        path=str(disk.path),
        size_bytes=disk.size_mib << 20 if disk.size_mib else None,
        use="data" if spec else "swap",
        filesystem=filesystem,
        uuid=derived_filesystem_uuid(instance_uuid, f"disk {disk.index}", filesystem),
        label=(spec.label or "") if spec else "",
        mount=spec.mount if spec else None,
        options=spec.options if spec else (),
        keep=keep,
    )


def _refuse_unreachable(hypervisor: str, variant: Variant) -> None:
    """A container's guest has disk 0 alone (``StartInstance`` in Ganeti's ``hv_lxc.py`` and ``hv_chroot.py``)."""
    if variant.layout.swap.kind == "disk":
        raise RequestError(
            f"layout.swap: a guest of the hypervisor {hypervisor} swaps to what the node has: set it to none"
        )
    for name, spec in variant.disks.items():
        if spec.mount is not None:
            raise RequestError(
                f"disks.{name}.mount: the hypervisor {hypervisor} mounts disk 0 alone, so nothing would be at "
                f"{spec.mount}: take mount out of the variant, and have the node mount the disk; or take the disk out"
            )


def _refuse_size(plan: DiskPlan) -> None:
    least = _LEAST_BYTES[plan.filesystem]
    if plan.size_bytes is None:
        return
    if refusal := size_refusal(plan.filesystem, plan.size_bytes):
        raise DeviceError(f"{plan.name} is too large: it {refusal}: make it ext4, xfs or btrfs")
    if plan.size_bytes < least:
        raise DeviceError(
            f"{plan.name} is too small: it has {plan.size_bytes // MIB} MiB, and {plan.filesystem} needs "
            f"{least // MIB} MiB; give the instance a larger disk"
        )


def _refuse_clashes(mounts: Sequence[tuple[str, str]]) -> None:
    """Two disks at one place, or one where the system itself is."""
    taken: dict[str, str] = {}
    for setting, mount in mounts:
        if mount in _SYSTEM or f"{mount}/".startswith(_ALL_OF_IT):
            raise RequestError(
                f"{setting}.mount: {mount} is the system's own, which a disk there would hide: mount it elsewhere "
                "(/srv)"
            )
        if mount in taken:
            raise RequestError(f"{setting}.mount and {taken[mount]}.mount are both {mount}: give one another place")
        taken[mount] = setting
