"""A guest's file systems, opened by programs in the sandbox: the node's kernel parses none of them.

fuse2fs reads an ext file system. What is changed of it the kernel keeps beside it, in an overlay, and when all is done
debugfs changes the file system so; up to then nothing is written to it.
Sources: the kernel's Documentation/filesystems/overlayfs.rst.
Not for: file systems of other kinds, which are opened in the appliance (:mod:`osprovider.guest.appliance`).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path

from osprovider import linux
from osprovider.descriptors import opened, path_of
from osprovider.errors import GuestError, reason_of
from osprovider.guest import fuse2fs, writing
from osprovider.guest.changes import OVERLAYS_OWN, Changes
from osprovider.guest.host import HostGuest, reported
from osprovider.guest.mounting import FLAGS, Volume, at, fat_in_memory, together
from osprovider.guest.resolve import open_inside
from osprovider.linux import MountFlag
from osprovider.log import reporter

__all__ = ["Scratch", "changed_together", "read_together", "why_not_readable"]

Scratch = Callable[[int, str], AbstractContextManager[Path]]
"""Makes an empty file system for as many bytes, mounted at such a name in the run directory, and gives where."""

# A file of which only the owner or the mode is changed is not copied; directories can be renamed, which it may take to
# remove one.
_OVERLAY = "metacopy=on,redirect_dir=on,index=off,xino=off"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY


def why_not_readable(volumes: Sequence[Volume]) -> str | None:
    """Tell why a guest's file systems cannot be read so on this node.

    Args:
        volumes: on read-only block devices.

    Returns:
        words for people; None where they can.

    Raises:
        GuestError: one cannot be read at all.
    """
    whys = (fuse2fs.why_not(each.device, each.filesystem) for each in volumes if each.filesystem != "vfat")
    return next(filter(None, whys), None)


def read_together(volumes: Sequence[Volume], run_directory: Path) -> AbstractContextManager[HostGuest]:
    """A guest's file systems in one tree, to be read, as long as the body runs.

    Args:
        volumes: those that :func:`why_not_readable` allows, the root among them; what the guest has no directory for is
            left out.
        run_directory: where mount points are made (``Directories.run``).

    Raises:
        GuestError: one cannot be read.
    """
    return together(volumes, run_directory, _read, read_only=True)


def changed_together(
    volumes: Sequence[Volume], run_directory: Path, scratch: Scratch
) -> AbstractContextManager[HostGuest]:
    """Likewise, to be changed: when the body has ended well, what it did is stored.

    Args:
        volumes: those that :func:`osprovider.guest.writing.why_not` allows, and FAT.
        run_directory: as for :func:`read_together`.
        scratch: for what is changed.

    Raises:
        GuestError: as for :func:`read_together`; or what was changed cannot be stored.
    """
    return together(volumes, run_directory, partial(_changed, scratch), read_only=False)


def _read(volume: Volume, _: str, mountpoint: Path) -> AbstractContextManager[HostGuest]:
    """A guest's file system by itself."""
    if volume.filesystem == "vfat":
        return fat_in_memory(volume.device, mountpoint, read_only=True)
    return _served(volume.device, mountpoint)


def _changed(scratch: Scratch, volume: Volume, _: str, mountpoint: Path) -> AbstractContextManager[HostGuest]:
    """Likewise, to be changed."""
    if volume.filesystem == "vfat":
        return fat_in_memory(volume.device, mountpoint, read_only=False)
    return _overlaid(volume.device, mountpoint, scratch)


@contextmanager
def _served(device: Path, mountpoint: Path, *, for_hooks: bool = False) -> Iterator[HostGuest]:
    """An ext file system that fuse2fs reads."""
    try:
        opened_connection = fuse2fs.CONNECTION.open("r+b", buffering=0)
    except OSError as error:  # a kernel without fuse may have the device node
        raise GuestError(f"cannot read {device} in the sandbox: {fuse2fs.CONNECTION}: {reason_of(error)}") from error
    with opened_connection as connection:
        server = fuse2fs.serving(device, connection, for_hooks=for_hooks)
        flags = FLAGS | MountFlag.RDONLY
        with at(mountpoint, str(device), "fuse", flags, fuse2fs.options(connection), server) as guest:
            yield guest
            with reported("look at", "/"):  # has it answered to the end?
                os.fstatvfs(guest.root_fd)


@contextmanager
def _overlaid(device: Path, mountpoint: Path, scratch: Scratch) -> Iterator[HostGuest]:
    """An ext file system that fuse2fs reads, and debugfs changes in the end."""
    with ExitStack() as stack:
        with _served(device, mountpoint.with_name(f"{mountpoint.name}-below"), for_hooks=True) as below:
            with reported("look at", "/"):
                room = os.fstatvfs(below.root_fd)
            place = stack.enter_context(scratch(2 * room.f_bfree * room.f_frsize, f"{mountpoint.name}-scratch"))
            for name in ("upper", "work", "values"):
                (place / name).mkdir()
            upper = stack.enter_context(opened(os.open(place / "upper", _DIRECTORY)))
            with reported("look at", "/"):
                _take_after(below.root_fd, upper)
            with (
                opened(os.open(place / "work", _DIRECTORY)) as work,
                at(mountpoint, "overlay", "overlay", FLAGS, _layers(below.root_fd, upper, work)) as guest,
            ):
                yield _OverlaidGuest(guest.root_fd)  # there is no way to it but the protocol
            with reported("store what was changed in", "/"):
                linux.syncfs(upper)  # what the scratch lost would be zeros for debugfs
            with reported("look at what was changed in", "/"):
                changes = Changes(
                    upper,
                    below.root_fd,
                    place / "values",
                    inside=f"{writing.INSIDE}/values",
                    inodes=writing.inodes_of(device),
                )
                told = changes.told()
        with reporter.step("store the guest's changes"):
            writing.change(device, place, "upper", told)


class _OverlaidGuest(HostGuest):
    """An overlay, in which a file that has several names becomes several files when it is changed."""

    def chmod(self, path: str, mode: int) -> None:
        self._refuse_linked("change the mode of", path)
        super().chmod(path, mode)

    def chown(self, path: str, uid: int, gid: int) -> None:
        self._refuse_linked("change the owner of", path)
        super().chown(path, uid, gid)

    def _refuse_linked(self, what: str, path: str) -> None:
        with reported(what, path) as inside, opened(open_inside(self.root_fd, inside, os.O_PATH)) as found:
            status = os.fstat(found)
            if not stat.S_ISDIR(status.st_mode) and status.st_nlink > 1:
                raise OSError(errno.EMLINK, "it has other names, which the sandbox loses: set isolation to appliance")


def _layers(lower: int, upper: int, work: int) -> str:
    """The options of an overlay; descriptors have no signs in them that it would take for its own."""
    return f"lowerdir={path_of(lower)},upperdir={path_of(upper)},workdir={path_of(work)},{_OVERLAY}"


def _take_after(source: int, target: int) -> None:
    """Have a directory look like another: that is what the overlay shows of its root."""
    status = os.fstat(source)
    for name in os.listxattr(source):
        if not name.startswith(OVERLAYS_OWN):  # one may have been made of another overlay's directory
            os.setxattr(target, name, os.getxattr(source, name))
    os.fchown(target, status.st_uid, status.st_gid)
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
