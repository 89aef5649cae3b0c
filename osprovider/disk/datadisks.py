"""Swap and data disks: claimed, looked at, and made.

What lies on them may be anybody's: the node's kernel mounts none of it, and wipefs(8) reads it where it can do no
harm. All disks are claimed and looked at before the first byte is written to any.
Sources: wipefs(8), mkswap(8).
Not for: deciding (:mod:`osprovider.datadisks`), nor a guest's fstab (the hook ``fstab``).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from osprovider.datadisks import DiskPlan, Signature, settle
from osprovider.descriptors import path_of
from osprovider.disk import features, filesystem, fill, wipe
from osprovider.disk.device import Device, claim
from osprovider.disk.loop import loop_device
from osprovider.disk.raw import sync
from osprovider.errors import DeviceError, RequestError, ToolError
from osprovider.layout import FILLED, less_than_said
from osprovider.log import human_bytes, plain, reporter
from osprovider.manifest import Distribution
from osprovider.run import run
from osprovider.sandbox import confine

__all__ = ["ClaimedDisk", "claimed", "make"]

_XFS_IN_PROGRESS = 126  # sb_inprogress: mkfs.xfs clears it last; the other mkfs write what tells of them last
_FIRMWARE_VOLUME = (40, b"_FVH")  # the start of an OVMF_VARS.fd (UEFI PI specification 1.7, volume 3, section 3.2.1)


@dataclass(frozen=True, slots=True)
class ClaimedDisk:
    """A disk that is ours until the claim ends, and what becomes of it now that it was looked at.

    Attributes:
        plan: the final one.
        device: the disk.
        lost: what it holds and will not hold any more, for people; empty where that is nothing.
    """

    plan: DiskPlan
    device: Device
    lost: str = ""


@contextmanager
def claimed(plans: Sequence[DiskPlan], run_directory: Path) -> Iterator[tuple[ClaimedDisk, ...]]:
    """Take all of them, look at each, and settle what becomes of it.

    Args:
        plans: what becomes of them, made without a look.
        run_directory: as for :func:`osprovider.disk.device.claim`.

    Raises:
        DeviceError: as for :func:`osprovider.disk.device.claim` and :func:`osprovider.datadisks.settle`; or one cannot
            be looked at.
        RequestError: this node cannot make a file system that one is to have.
    """
    with ExitStack() as stack:
        disks = []
        for plan in plans:
            device = stack.enter_context(claim(Path(plan.path or ""), run_directory))
            size = device.facts.size_bytes
            if plan.size_bytes is not None and (warning := less_than_said(plan.index, size, plan.size_bytes)):
                reporter.warning(warning)
            found = _look(device)
            settled = settle(plan, size, found)
            types = sorted({each.type for each in found} - {settled.filesystem if settled.use == "swap" else ""})
            disks.append(ClaimedDisk(settled, device, "" if settled.keep else " and ".join(types)))
        _require([disk.plan for disk in disks if not disk.plan.keep])
        yield tuple(disks)


def make(
    disks: Sequence[ClaimedDisk], distribution: Distribution, policy: Literal["auto", "zero", "discard", "none"]
) -> None:
    """Make what the plans say on all disks that are not kept, and wait until they have it.

    Args:
        disks: with their final plans.
        distribution: the guest's, which has to understand them.
        policy: what happens to their old contents.

    Raises:
        DeviceError: one could not be made or stored; names the disk, which holds nothing then that anybody would mount.
    """
    for disk in disks:
        plan, device = disk.plan, disk.device
        if plan.keep:
            label = f" ({plain(plan.label)})" if plan.label else ""
            reporter.info(f"{plan.name}: its {plan.filesystem}{label} is kept")
            continue
        if disk.lost:
            reporter.info(f"{plan.name}: its {disk.lost} is lost")
        wipe.clear_signatures(device)
        wipe.wipe(device, policy)
        try:
            _make(plan, device, distribution)
        except BaseException as error:
            with suppress(DeviceError):  # the first error is the one to show
                wipe.clear_signatures(device)
            if isinstance(error, ToolError):
                raise DeviceError(f"{plan.name}: {error}") from error
            raise


def _require(plans: Sequence[DiskPlan]) -> None:
    """Refuse where this node cannot make a file system."""
    for plan in plans:
        if lack := fill.lack_of_tools(plan.filesystem):
            raise RequestError(f"{plan.name} is to have {plan.filesystem}, and {lack}")


def _look(device: Device) -> tuple[Signature, ...]:
    """What tells of something on a disk; a file system whose making was cut short is none."""
    offset, magic = _FIRMWARE_VOLUME
    if os.pread(device.fd, len(magic), offset) == magic:
        return (Signature("firmware volume", "firmware"),)
    words = ["wipefs", "--json", "--noheadings", "--output", "TYPE,USAGE,UUID,LABEL", path_of(device.fd)]
    try:
        said = run(confine(words), pass_fds=[device.fd]).text
    except ToolError as error:
        raise DeviceError(f"{device.path}: what it holds cannot be read: {error}") from error
    listed = json.loads(said)["signatures"] if said else []
    return tuple(
        Signature(each["type"], each["usage"], each["uuid"] or "", each["label"] or "")
        for each in listed
        if each["type"] != "xfs" or os.pread(device.fd, 1, _XFS_IN_PROGRESS) == b"\0"
    )


def _make(plan: DiskPlan, device: Device, distribution: Distribution) -> None:
    unknown = features.unknown_to(distribution, plan.filesystem)
    size = device.facts.size_bytes
    what = "swap" if plan.use == "swap" else f"{plan.filesystem} for {plan.mount or 'data'}"
    with reporter.step(f"disk {plan.index}: {what}") as detail:
        with loop_device(device.path) as loop:
            if plan.use == "swap":
                run(["mkswap", "--pagesize", "4096", "--uuid", plan.uuid, loop])
            elif plan.filesystem in FILLED:
                fill.make(loop, plan.filesystem, plan.uuid, label=plan.label, without=unknown)
            else:
                filesystem.make(
                    loop,
                    plan.filesystem,
                    uuid=plan.uuid,
                    label=plan.label,
                    size_bytes=size // 4096 * 4096,
                    without=unknown,
                    reserved_percent=0,
                )
        sync(device.fd)
        detail(human_bytes(size))
