"""The guest protocol on a directory of this machine, and the mounting of a guest's file system.

What a guest's owner laid is never trusted: paths are resolved inside the root (:mod:`osprovider.guest.resolve`), and
only regular files are ever opened; a FIFO cannot block us and a device node is not touched.
Not for: deciding which file system may be mounted here, that is the plan's; nor for running anything of the guest's.
"""

# ruff: noqa: D102 (the protocol documents the methods)

from __future__ import annotations

import errno
import fnmatch
import itertools
import os
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from osprovider import linux
from osprovider.errors import GuestError, ToolError
from osprovider.guest import files
from osprovider.guest.protocol import Guest
from osprovider.guest.resolve import ABSENT, entry, joined, make_directory_at, open_inside, opened, reopenable
from osprovider.guest.volume import Volume
from osprovider.linux import MountFlag, Umount

__all__ = ["DRIVERS", "MOST_FOUND", "READ_LIMIT", "HostGuest", "mounted", "mounted_together"]

READ_LIMIT = 16 << 20
"""The largest file that ``read`` returns, in bytes."""

MOST_FOUND = 100_000
"""How many files ``glob`` finds at most: a guest may have made any number of them."""

_CHUNK = 1 << 20
_WAYS_OUT = {
    errno.ENOSPC: "the guest's file system is full; make the disk larger",
    errno.EROFS: "the guest's file system is read-only, or became so after an error; look at the kernel's log",
    errno.EXDEV: "something is mounted there, and a guest is one file system",
}

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

_FLAGS = MountFlag.NOSUID | MountFlag.NODEV | MountFlag.NOEXEC | MountFlag.NOATIME
_BUSY_SECONDS = 3.0


class HostGuest(Guest):
    """A guest's root file system, reached through a descriptor of its root directory.

    Implements :class:`osprovider.guest.protocol.Guest`; see there for the methods.

    Args:
        root_fd: the root directory; the caller's to close, after the last use of this.
        mountpoint: the same directory as a path that other programs can use; None where there is none.
    """

    def __init__(self, root_fd: int, *, mountpoint: Path | None = None) -> None:
        self._root = root_fd
        self.mountpoint = mountpoint

    @property
    def root_fd(self) -> int:
        """The root directory, for a program that is passed it."""
        return self._root

    def read(self, path: str) -> bytes:
        with _reported("read", path) as inside, opened(open_inside(self._root, inside, os.O_PATH)) as found:
            status = os.fstat(found)
            files.refuse_special(status.st_mode)
            content = b""
            if status.st_size <= READ_LIMIT:
                with open(reopenable(found), "rb") as file:  # noqa: PTH123
                    content = file.read(READ_LIMIT + 1)
            if max(status.st_size, len(content)) > READ_LIMIT:
                raise OSError(errno.EFBIG, "it is larger than 16 MiB")
            return content

    def read_text(self, path: str) -> str:
        return self.read(path).decode("utf-8", "surrogateescape")

    def write(
        self, path: str, content: str | bytes, *, mode: int | None = None, owner: tuple[int, int] | None = None
    ) -> None:
        data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
        with _reported("write", path) as inside, entry(self._root, inside, follow=True, make_parents=True) as place:
            files.put(*place, [data], mode=mode, owner=owner)

    def allocate(self, path: str, size_bytes: int, *, head: bytes = b"", written: bool = False) -> None:
        with _reported("make", path) as inside, entry(self._root, inside, follow=False, make_parents=True) as place:
            files.allocate(*place, size_bytes, head, written=written)

    def exists(self, path: str) -> bool:
        with _reported("look at", path) as inside:
            return self._kind(inside) is not None

    def is_directory(self, path: str) -> bool:
        with _reported("look at", path) as inside:
            return self._kind(inside) == stat.S_IFDIR

    def is_symlink(self, path: str) -> bool:
        with _reported("look at", path) as inside:
            return self._kind(inside, os.O_NOFOLLOW) == stat.S_IFLNK

    def glob(self, pattern: str) -> list[str]:
        with _reported("list", pattern) as inside:
            found = [""]
            for component in filter(None, inside.split("/")):
                below: list[str] = []
                for place in found:
                    below += (f"{place}/{name}" for name in self._matches(place, component))
                    if len(below) > MOST_FOUND:
                        raise OSError(errno.E2BIG, f"more than {MOST_FOUND} are there; remove what the guest needs not")
                found = below
            return sorted(place or "/" for place in found)

    def remove(self, path: str) -> None:
        with _reported("remove", path) as inside:
            if self._kind(inside, os.O_NOFOLLOW) is None:
                return
            with entry(self._root, inside, follow=False, make_parents=False) as place:
                files.remove(*place)

    def mkdir(self, path: str, *, mode: int = 0o755, owner: tuple[int, int] = (0, 0)) -> None:
        with _reported("make the directory", path) as inside:
            kind = self._kind(inside)
            if kind is None:
                with entry(self._root, inside, follow=True, make_parents=True) as (parent, name):
                    make_directory_at(parent, name, mode, owner)
            elif kind != stat.S_IFDIR:
                raise OSError(errno.EEXIST, "a file is in its place")

    def symlink(self, target: str, path: str) -> None:
        with (
            _reported("make the link", path) as inside,
            entry(self._root, inside, follow=False, make_parents=True) as (parent, name),
            files.renamed_into_place(parent, name) as temporary,
        ):
            os.symlink(target, temporary, dir_fd=parent)
            os.chown(temporary, 0, 0, dir_fd=parent, follow_symlinks=False)

    def chmod(self, path: str, mode: int) -> None:
        with (
            _reported("change the mode of", path) as inside,
            opened(open_inside(self._root, inside, os.O_PATH)) as found,
        ):
            os.chmod(reopenable(found), mode)  # noqa: PTH101

    def chown(self, path: str, uid: int, gid: int) -> None:
        with (
            _reported("change the owner of", path) as inside,
            opened(open_inside(self._root, inside, os.O_PATH)) as found,
        ):
            os.chown(reopenable(found), uid, gid)

    def copy_in(self, source: Path, path: str) -> None:
        self.mkdir(path)
        try:
            with os.scandir(source) as listing:
                items = sorted(listing, key=lambda item: item.name)
        except OSError as error:
            raise GuestError(f"cannot copy {source} into the guest: {_reason(error)}") from error
        for item in items:
            place = f"{path.rstrip('/')}/{item.name}"
            mode = stat.S_IMODE(item.stat(follow_symlinks=False).st_mode)
            if item.is_symlink():
                self.symlink(os.readlink(item.path), place)  # noqa: PTH115 (Path would tidy the target up)
            elif item.is_dir():
                self.mkdir(place, mode=mode)
                self.copy_in(Path(item.path), place)
            elif item.is_file():
                self._copy_file(Path(item.path), place, mode)
            else:
                raise GuestError(f"cannot copy {item.path} into the guest: it is no file, directory or link; remove it")

    def _copy_file(self, source: Path, path: str, mode: int) -> None:
        with (
            _reported("write", path) as inside,
            entry(self._root, inside, follow=False, make_parents=True) as place,
            source.open("rb", buffering=0) as file,
        ):
            files.put(*place, iter(lambda: file.read(_CHUNK), b""), mode=mode, owner=(0, 0))

    def _kind(self, path: str, flags: int = 0) -> int | None:
        """The file type bits of what is at ``path``; None where there is nothing."""
        try:
            with opened(open_inside(self._root, path, os.O_PATH | flags)) as found:
                return stat.S_IFMT(os.fstat(found).st_mode)
        except OSError as error:
            if error.errno in ABSENT:
                return None
            raise

    def _matches(self, directory: str, pattern: str) -> list[str]:
        """The names in ``directory`` that one component of a pattern matches: all, or more than may be."""
        if not any(sign in pattern for sign in "*?["):
            return [pattern] if self._kind(f"{directory}/{pattern}", os.O_NOFOLLOW) is not None else []
        try:
            with (
                opened(open_inside(self._root, directory or "/", os.O_RDONLY | os.O_DIRECTORY)) as found,
                os.scandir(found) as entries,  # nobody knows how large it is
            ):
                names = (each.name for each in entries if pattern.startswith(".") or not each.name.startswith("."))
                matching = (name for name in names if fnmatch.fnmatchcase(name, pattern))
                return list(itertools.islice(matching, MOST_FOUND + 1))
        except OSError as error:
            if error.errno in ABSENT:
                return []
            raise


@contextmanager
def _reported(what: str, path: str) -> Iterator[str]:
    """Check a guest's path, yield it without trailing slashes, and name it in every error.

    Raises:
        GuestError: in place of every ``OSError`` of the body.
    """
    shown = path if path.isprintable() else ascii(path)
    if not path.startswith("/") or "\0" in path:
        raise GuestError(f"cannot {what} {shown} in the guest: paths are absolute and without null bytes")
    try:
        yield path.rstrip("/") or "/"
    except OSError as error:
        raise GuestError(f"cannot {what} {shown} in the guest: {_reason(error)}") from error


def _reason(error: OSError) -> str:
    """What the system says, as the middle of a line."""
    reason = _WAYS_OUT.get(error.errno or 0) or error.strerror or str(error)
    return reason[:1].lower() + reason[1:]


@contextmanager
def mounted(
    device: Path, filesystem: str, run: Path, *, read_only: bool = False, is_new: bool = False, place: str = "mnt"
) -> Iterator[HostGuest]:
    """Mount a guest's root file system, ``nosuid,nodev,noexec,noatime``, as long as the body runs.

    The caller is in a mount namespace of its own (:func:`osprovider.linux.private_mount_namespace`): the mount is seen
    by nobody else, every caller may use the same mount point, and it is gone with the caller, however that ends.

    Args:
        device: the block device that the file system fills.
        filesystem: what is on it, never guessed; of :data:`DRIVERS`.
        run: where the mount point is made (``Directories.run``).
        read_only: nothing is written to the device, and a journal is not replayed.
        is_new: it was unmounted well, and is lost if the node crashes meanwhile: there is no journal, and nothing that
            is written waits for the disk itself.
        place: the mount point's name.

    Raises:
        GuestError: it cannot be mounted, what was written could not be stored, or it cannot be unmounted.
    """
    _refuse_unknown(device, filesystem)
    driver, options = DRIVERS[filesystem]
    if read_only or is_new:
        options = ",".join(filter(None, (options, (_NO_REPLAY if read_only else _NEW)[driver])))
    mountpoint = run / place
    mountpoint.mkdir(mode=0o700, parents=True, exist_ok=True)
    flags = _FLAGS | MountFlag.RDONLY if read_only else _FLAGS
    try:
        linux.mount(str(device), str(mountpoint), driver, flags, options)
    except OSError as error:
        raise GuestError(f"cannot mount {device} as {filesystem}: {_reason(error)}; see the kernel's log") from error
    try:
        # Opened before the first write: syncfs(2) reports what went wrong since then.
        with opened(os.open(mountpoint, os.O_RDONLY | os.O_DIRECTORY)) as root:
            yield HostGuest(root, mountpoint=mountpoint)
            if not read_only:
                _sync(root, device)
    except BaseException:
        with suppress(GuestError):  # the first error is the one to show
            _unmount(mountpoint)
        raise
    _unmount(mountpoint)


@contextmanager
def mounted_together(volumes: Sequence[Volume], run_directory: Path) -> Iterator[HostGuest]:
    """Mount a guest's file systems in one tree, as :func:`mounted` does each, as long as the body runs.

    Args:
        volumes: the root, and what the guest has mounted inside of it; those to be filled are.
        run_directory: where mount points are made (``Directories.run``).

    Raises:
        GuestError: as for :func:`mounted`; or a mount point can be no directory, or one does not hold what it is to be
            filled with.
    """
    root, *others = volumes
    with ExitStack() as stack:
        guest = stack.enter_context(mounted(root.device, root.filesystem, run_directory, is_new=root.is_new))
        for number, volume in enumerate(sorted(others, key=lambda each: each.mount or "")):
            if volume.mount is not None:
                place = f"mnt{number + 1}"
                own = stack.enter_context(
                    mounted(volume.device, volume.filesystem, run_directory, is_new=volume.is_new, place=place)
                )
                stack.enter_context(_inside(guest, own, volume))
        yield guest


@contextmanager
def _inside(guest: HostGuest, own: HostGuest, volume: Volume) -> Iterator[None]:
    """Have a guest see a mounted file system of its own at its place."""
    path = volume.mount or ""
    guest.mkdir(path)
    if volume.fill:
        _move(guest, own, path)
    with _reported("mount a file system at", path):
        with opened(open_inside(guest.root_fd, path, os.O_PATH | os.O_DIRECTORY)) as directory:
            place = os.readlink(reopenable(directory))  # noqa: PTH115
            linux.mount(reopenable(own.root_fd), reopenable(directory), None, MountFlag.BIND)
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
        reason = (error.strerror or str(error)).lower()  # the device's, not the guest's
        raise GuestError(f"{device} lost what was written to the guest: {reason}; see the kernel's log") from error


def _unmount(mountpoint: Path) -> None:
    """Unmount; what keeps it busy is waited for briefly, and then named, and the mount is taken out of sight."""
    end = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            linux.umount(str(mountpoint), Umount.NOFOLLOW)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise GuestError(f"cannot unmount {mountpoint}: {_reason(error)}") from error
        else:
            return
        if time.monotonic() > end:
            break
        time.sleep(0.02)
    holders = ", ".join(_holders(mountpoint)) or "the kernel"
    linux.umount(str(mountpoint), Umount.NOFOLLOW | Umount.DETACH)
    raise GuestError(f"cannot unmount {mountpoint}: it is in use by {holders}; end that and try again")


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
