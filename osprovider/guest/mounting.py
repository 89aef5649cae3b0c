"""A guest's file systems: where each lies, what it is to become, where the guest has it; and mounting them here.

Not for: deciding which file system may be mounted on the node, that is the plan's; the sandbox's way
(:mod:`osprovider.guest.confined`) or the appliance's (:mod:`osprovider.guest.appliance`); files in them
(:mod:`osprovider.guest.host`).
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from osprovider import linux
from osprovider.descriptors import opened, path_of
from osprovider.errors import GuestError, ToolError, reason_of
from osprovider.guest import fat, files
from osprovider.guest.host import HostGuest, reported
from osprovider.guest.resolve import joined, open_inside
from osprovider.linux import MountFlag, Umount

__all__ = ["DRIVERS", "FLAGS", "Volume", "at", "fat_in_memory", "mounted", "mounted_together", "together"]

# A write after an error fails, in place of making it worse (xfs and btrfs do so anyway). Inode tables are left for the
# guest's kernel to zero: ours would begin with it beside us, and a grown file system has gigabytes of them.
_EXT = ("ext4", "errors=remount-ro,noinit_itable")
# What is written beyond a hole takes no more of an xfs than that.
_XFS = ("xfs", "nouuid,allocsize=4096")
DRIVERS = {"ext2": _EXT, "ext3": _EXT, "ext4": _EXT, "xfs": _XFS, "btrfs": ("btrfs", "")}
"""What a guest's root file system may be, and how each is mounted: by which driver, with which options."""

# No journal is written, and nothing waits for the disk.
_NEW = {"ext4": "noload,nobarrier", "xfs": "", "btrfs": "nobarrier"}
_NO_REPLAY = {"ext4": "noload", "xfs": "norecovery", "btrfs": "rescue=nologreplay"}

FLAGS = MountFlag.NOSUID | MountFlag.NODEV | MountFlag.NOEXEC | MountFlag.NOATIME
"""With which whatever is a guest's is mounted."""

_BUSY_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Volume:
    """A file system of a guest.

    Attributes:
        device: the file or block device that it fills; a loop device at the partition's offset.
        filesystem: what it is, never guessed: as blkid(8) has it.
        mount: where the guest has it; None where it is only given its UUID.
        uuid: what it gets before it is mounted, as blkid(8) writes it; None to leave it.
        grow: it is to fill its device.
        is_new: nothing in it has to outlive a crash yet: nothing that is written to it waits for the disk.
        fill: it is empty, and gets what the root has in ``mount``, which is empty then.
        subvolumes: of a btrfs, in place of ``mount``: where the guest has which of them, the root first; the one
            without a name is the default one.
    """

    device: Path
    filesystem: str
    mount: str | None = "/"
    uuid: str | None = None
    grow: bool = False
    is_new: bool = False
    fill: bool = False
    subvolumes: tuple[tuple[str, str], ...] = ()


@contextmanager
def mounted(
    device: Path,
    filesystem: str,
    run_directory: Path,
    *,
    read_only: bool = False,
    is_new: bool = False,
    place: str = "mnt",
    subvolume: str = "",
) -> Iterator[HostGuest]:
    """Mount a guest's root file system, ``nosuid,nodev,noexec,noatime``, as long as the body runs.

    The caller is in a mount namespace of its own (:func:`osprovider.linux.private_mount_namespace`): the mount is seen
    by nobody else, every caller may use the same mount point, and it is gone with the caller, however that ends.

    Args:
        device: the block device that the file system fills.
        filesystem: what is on it, never guessed; of :data:`DRIVERS`.
        run_directory: where the mount point is made (``Directories.run``).
        read_only: nothing is written to the device, and a journal is not replayed.
        is_new: it was unmounted well, and is lost if the node crashes meanwhile: there is no journal, and nothing that
            is written waits for the disk itself.
        place: the mount point's name.
        subvolume: of a btrfs; empty for the default one.

    Raises:
        GuestError: it cannot be mounted, what was written could not be stored, or it cannot be unmounted.
    """
    _refuse_unknown(device, filesystem)
    driver, options = DRIVERS[filesystem]
    more = (_NO_REPLAY if read_only else _NEW)[driver] if read_only or is_new else ""
    options = ",".join(filter(None, (options, more, f"subvol={subvolume}" if subvolume else "")))
    flags = FLAGS | MountFlag.RDONLY if read_only else FLAGS
    with at(run_directory / place, str(device), driver, flags, options) as guest:
        yield guest
        if not read_only:
            _sync(guest.root_fd, device)


def mounted_together(
    volumes: Sequence[Volume], run_directory: Path, *, read_only: bool = False
) -> AbstractContextManager[HostGuest]:
    """Mount a guest's file systems in one tree, as :func:`mounted` does each, as long as the body runs.

    Args:
        volumes: the root, and what the guest has mounted inside of it; those to be filled are.
        run_directory: where mount points are made (``Directories.run``).
        read_only: nothing is written; what the guest has no directory for is left out.

    Raises:
        GuestError: as for :func:`mounted`; or a mount point can be no directory, or one does not hold what it is to be
            filled with.
    """
    return together(volumes, run_directory, partial(_one, read_only=read_only), read_only=read_only)


@contextmanager
def together(
    volumes: Sequence[Volume],
    run_directory: Path,
    one: Callable[[Volume, str, Path], AbstractContextManager[HostGuest]],
    *,
    read_only: bool,
) -> Iterator[HostGuest]:
    """Have a guest's file systems in one tree, each opened by itself.

    Args:
        volumes: as for :func:`mounted_together`.
        run_directory: likewise.
        one: opens one of them, of a btrfs a subvolume, at a mount point.
        read_only: as for :func:`mounted_together`.
    """
    (_, subvolume, root), *others = sorted(_places(volumes), key=lambda each: each[0])
    with ExitStack() as stack:
        guest = stack.enter_context(one(root, subvolume, run_directory / "mnt"))
        for number, (mount, subvolume, volume) in enumerate(others, start=1):
            if not read_only:
                guest.mkdir(mount)
            elif not guest.is_directory(mount):
                continue
            own = stack.enter_context(one(volume, subvolume, run_directory / f"mnt{number}"))
            if volume.fill:
                _move(guest, own, mount)
            stack.enter_context(_inside(guest, own, mount))
        yield guest


def _places(volumes: Sequence[Volume]) -> Iterator[tuple[str, str, Volume]]:
    """Where the guest has what, with the subvolume that it is."""
    for volume in volumes:
        for mount, subvolume in volume.subvolumes or ((volume.mount, ""),):
            if mount is not None:
                yield mount, subvolume, volume


def _one(volume: Volume, subvolume: str, mountpoint: Path, *, read_only: bool) -> AbstractContextManager[HostGuest]:
    """A guest's file system by itself."""
    if volume.filesystem == "vfat":
        return fat_in_memory(volume.device, mountpoint, read_only=read_only)
    return mounted(
        volume.device,
        volume.filesystem,
        mountpoint.parent,
        read_only=read_only,
        is_new=volume.is_new,
        place=mountpoint.name,
        subvolume=subvolume,
    )


@contextmanager
def fat_in_memory(device: Path, mountpoint: Path, *, read_only: bool) -> Iterator[HostGuest]:
    """The files of a FAT, in memory, as long as the body runs; what is changed of them is stored in the end.

    Args:
        device: the block device that it fills.
        mountpoint: where they are mounted.
        read_only: nothing is written.

    Raises:
        GuestError: it cannot be read, or written.
    """
    with (
        at(mountpoint, "tmpfs", "tmpfs", FLAGS, f"mode=0755,{fat.LIMITS}") as guest,
        fat.unpacked(device, mountpoint, read_only=read_only),
    ):
        if read_only:
            linux.mount(None, str(mountpoint), None, FLAGS | MountFlag.REMOUNT | MountFlag.RDONLY)
        yield guest


@contextmanager
def at(
    mountpoint: Path,
    source: str,
    driver: str,
    flags: MountFlag,
    options: str,
    server: AbstractContextManager[None] | None = None,
) -> Iterator[HostGuest]:
    """Mount something at a mount point, which is made, as long as the body runs.

    Args:
        mountpoint: where.
        source: what, for mount(2) and for messages.
        driver: the file system's type for the kernel.
        flags: of mount(2).
        options: the file system's own.
        server: answers for it meanwhile.

    Raises:
        GuestError: it cannot be mounted, or unmounted.
    """
    leave = _detach if server else _unmount
    mountpoint.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        linux.mount(source, str(mountpoint), driver, flags, options)
    except OSError as error:
        raise GuestError(f"cannot mount {source} as {driver}: {reason_of(error)}; see the kernel's log") from error
    try:
        # Opened before the first write: syncfs(2) reports what went wrong since then.
        with server or nullcontext(), opened(_open_root(mountpoint)) as root:
            yield HostGuest(root, mountpoint=mountpoint)
    except BaseException:
        with suppress(GuestError):  # the first error is the one to show
            leave(mountpoint)
        raise
    leave(mountpoint)


def _open_root(mountpoint: Path) -> int:
    with reported("open", "/"):
        return os.open(mountpoint, os.O_RDONLY | os.O_DIRECTORY)


@contextmanager
def _inside(guest: HostGuest, own: HostGuest, path: str) -> Iterator[None]:
    """Have a guest see a mounted file system of its own at its place, which is a directory."""
    with reported("mount a file system at", path):
        with opened(open_inside(guest.root_fd, path, os.O_PATH | os.O_DIRECTORY)) as directory:
            place = os.readlink(path_of(directory))  # noqa: PTH115
            linux.mount(path_of(own.root_fd), path_of(directory), None, MountFlag.BIND)
        try:
            mount = os.open(place, os.O_PATH | os.O_DIRECTORY)
        except OSError:
            linux.umount(place, Umount.NOFOLLOW | Umount.DETACH)
            raise
    try:
        with opened(mount), joined(guest.root_fd, mount):
            yield
    except BaseException:
        with suppress(GuestError):  # the first error is the one to show
            _unmount(Path(place))
        raise
    _unmount(Path(place))


def _move(guest: HostGuest, own: HostGuest, path: str) -> None:
    """Have an empty file system get what is in a directory of the guest's, and nothing stay there."""
    with opened(open_inside(guest.root_fd, path, os.O_RDONLY | os.O_DIRECTORY)) as source:
        try:
            files.copy_tree(source, own.root_fd)
        except ToolError as error:
            raise GuestError(f"{path} cannot be copied to its own partition: {error}") from error
        for name in os.listdir(source):  # noqa: PTH208
            guest.remove(f"{path}/{name}")


def _refuse_unknown(device: Path, filesystem: str) -> None:
    """Raise a :class:`GuestError` where a file system is none that may be mounted."""
    if filesystem not in DRIVERS:
        raise GuestError(f"cannot mount {device}: its file system, {filesystem}, is none of {', '.join(DRIVERS)}")


def _sync(fd: int, device: Path) -> None:
    """Store all that was written to a file system, and say whether any of it was lost."""
    try:
        linux.syncfs(fd)
    except OSError as error:
        reason = reason_of(error)
        raise GuestError(f"{device} lost what was written to the guest: {reason}; see the kernel's log") from error


def _unmount(mountpoint: Path) -> None:
    """Unmount; what keeps it busy is waited for briefly, and then named, and the mount is taken out of sight."""
    end = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            linux.umount(str(mountpoint), Umount.NOFOLLOW)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise GuestError(f"cannot unmount {mountpoint}: {reason_of(error)}") from error
        else:
            return
        if time.monotonic() > end:
            break
        time.sleep(0.02)
    holders = ", ".join(_holders(mountpoint)) or "the kernel"
    linux.umount(str(mountpoint), Umount.NOFOLLOW | Umount.DETACH)
    raise GuestError(f"cannot unmount {mountpoint}: it is in use by {holders}; end that and try again")


def _detach(mountpoint: Path) -> None:
    """Take what a program answered for out of sight, and what is mounted in there: the way to that leads through it."""
    linux.umount(str(mountpoint), Umount.NOFOLLOW | Umount.DETACH)


def _holders(mountpoint: Path) -> list[str]:
    """The processes that have a file of this mount open or work in it: ``vi (process 1234)``."""
    device = mountpoint.stat().st_dev
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        links = [process / "cwd", process / "root"]
        with suppress(OSError):  # it may end meanwhile
            links += (process / "fd").iterdir()
            if any(_is_on(link, device) for link in links):
                found.append(f"{(process / 'comm').read_text().strip()} (process {process.name})")
    return found


def _is_on(link: Path, device: int) -> bool:
    with suppress(OSError):
        return link.stat().st_dev == device
    return False
