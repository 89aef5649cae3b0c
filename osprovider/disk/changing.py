"""A guest's file systems on the node: each gets its UUID, and fills its device, by the node's own tools.

What a copy of a disk image consists of has the image's UUIDs until then. The appliance does the same in
:mod:`osprovider.guest.appliance_process`.
Sources: tune2fs(8), resize2fs(8), xfs_admin(8), xfs_growfs(8), btrfstune(8), btrfs-filesystem(8), swaplabel(8).
Not for: deciding whether they are opened on the node (:mod:`osprovider.plan`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from osprovider import linux
from osprovider.descriptors import opened
from osprovider.disk import filesystem
from osprovider.errors import GuestError, NodeError
from osprovider.guest import fat, volume_id
from osprovider.guest.mounting import Volume, mounted
from osprovider.guest.unclean import why_unclean
from osprovider.log import human_bytes, reporter
from osprovider.manifest import EXT
from osprovider.programs import require as require_programs
from osprovider.run import run
from osprovider.sandbox import confine

__all__ = ["called", "change", "grow_mounted", "require"]

_PROGRAMS = {
    "xfs": ("xfs_admin", "xfs_growfs", "xfs_logprint"),
    "btrfs": ("btrfs", "btrfstune"),
    "vfat": fat.PROGRAMS,
}
_GROWING_MOUNTED = {"xfs": ("xfs_growfs",), "btrfs": ("btrfs", "filesystem", "resize", "max")}
_MOUNTED = EXT | {"xfs", "btrfs"}


def called(mount: str | None, filesystem: str | None) -> str:
    """What messages call a guest's file system, by its mount point or else its type."""
    return "file system" if mount == "/" else f"file system {mount or filesystem}"


def require(filesystems: Iterable[str], what: str) -> None:
    """Refuse, before anything is written, where this node cannot change and mount file systems.

    Args:
        filesystems: their types.
        what: whose they are, for the message.

    Raises:
        NodeError: says what is missing.
    """
    for kind in sorted(set(filesystems)):
        require_programs(*_PROGRAMS.get(kind, ()), what=what)
        if kind in _MOUNTED and not linux.has_filesystem(kind):
            raise NodeError(f"{what}: this node's kernel cannot mount {kind}: see modprobe {kind}")


def change(volume: Volume, run_directory: Path, *, confined: bool = False) -> None:
    """Give a file system that is not mounted its UUID, and have it fill its device where that can be done so.

    Args:
        volume: see there.
        run_directory: where mount points are made (``Directories.run``).
        confined: its tools read it in the sandbox: it is none that has to be mounted.

    Raises:
        DeviceError: it is broken beyond repair.
        GuestError: it cannot be changed.
        ToolError: one of its tools failed.
    """
    if volume.uuid is not None:
        with reporter.step(f"{called(volume.mount, volume.filesystem)}: new UUID"):
            _RENEWING[volume.filesystem](volume.device, volume.uuid, run_directory, confined)
    if volume.grow and volume.filesystem in EXT:
        with reporter.step(f"{called(volume.mount, volume.filesystem)}: new size") as detail:
            filesystem.grow(volume.device, confined=confined)
            detail(human_bytes(filesystem.read_superblock(volume.device).size_bytes))


def grow_mounted(volume: Volume, mountpoint: Path) -> None:
    """Have a file system that is mounted fill its device where that can only be done so.

    Args:
        volume: see there.
        mountpoint: where it is mounted.

    Raises:
        ToolError: one of its tools failed.
    """
    words = _GROWING_MOUNTED.get(volume.filesystem)
    if volume.grow and words:
        with reporter.step(f"{called(volume.mount, volume.filesystem)}: new size"):
            run([*words, mountpoint])


def _renew_ext(device: Path, uuid: str, _: Path, confined: bool) -> None:
    filesystem.check(device, confined=confined)  # replays the journal; tune2fs and resize2fs want it checked
    filesystem.set_uuid(device, uuid, confined=confined)


def _renew_xfs(device: Path, uuid: str, run_directory: Path, _: bool) -> None:
    with mounted(device, "xfs", run_directory):
        pass  # replays the log: xfs_admin changes none with one
    run(["xfs_admin", "-U", uuid, device])


def _renew_btrfs(device: Path, uuid: str, _: Path, __: bool) -> None:
    # Mounted, its log would be replayed; but one of its old UUID may be mounted, and is the same to the kernel.
    if why := why_unclean(device, "btrfs"):
        raise GuestError(f"{device}: {why}, which only the appliance replays: set isolation to auto")
    run(confine(["btrfstune", "-f", "-U", uuid, device], devices=[device]))  # it looks at all devices that it finds


def _renew_fat(device: Path, uuid: str, _: Path, __: bool) -> None:
    with opened(os.open(device, os.O_RDWR | os.O_CLOEXEC)) as fd:
        try:
            for place in volume_id.places(os.pread(fd, volume_id.BOOT_SECTOR_SIZE, 0)):
                os.pwrite(fd, volume_id.packed(uuid), place)
        except ValueError as error:
            raise GuestError(f"{device}: {error}") from error


def _renew_swap(device: Path, uuid: str, _: Path, __: bool) -> None:
    run(confine(["swaplabel", "-U", uuid, device], devices=[device]))


_RENEWING: Mapping[str, Callable[[Path, str, Path, bool], None]] = {
    **dict.fromkeys(EXT, _renew_ext),
    "xfs": _renew_xfs,
    "btrfs": _renew_btrfs,
    "vfat": _renew_fat,
    "swap": _renew_swap,
}
