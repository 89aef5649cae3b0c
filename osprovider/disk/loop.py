"""Loop devices: how a partition, or an image, is reached by its offset and without the kernel's partition nodes.

A loop device is attached and described by one ioctl (LOOP_CONFIGURE, Linux 5.8) and with LO_FLAGS_AUTOCLEAR, so that
the kernel itself detaches it when its last descriptor closes, also when we are killed. While we hold it, it bears the
lock that makes udev leave it alone (https://systemd.io/BLOCK_DEVICE_LOCKING).
Needs Linux 5.15 (/sys/block/*/diskseq).
Sources: loop(4), <linux/loop.h>, drivers/block/loop.c.
Not for: looking at partitions (`losetup --partscan` needs a kernel that can, and a udev that is quick).
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import stat
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from osprovider.disk.users import find_users, openers
from osprovider.errors import DeviceError, reason_of
from osprovider.linux import sector_size as logical_sector_size
from osprovider.log import human_bytes, reporter

__all__ = ["loop_device"]

_CONTROL = Path("/dev/loop-control")
_LOOP_CTL_GET_FREE = 0x4C82
_LOOP_CONFIGURE = 0x4C0A
_LOOP_CLR_FD = 0x4C01

_READ_ONLY = 1
_AUTOCLEAR = 4

# struct loop_config: the descriptor and the block size, then struct loop_info64, of which only the offset, the size
# limit, the flags and a name to show are ours to set, then the reserved words.
_CONFIG = struct.Struct("=II QQQ QQ IIII 64s64s32s2Q 8Q")

_ATTACH_SECONDS = 30.0  # how long others may be quicker, or hold what the kernel calls free
_DETACH_SECONDS = 5.0  # how long somebody who only takes a look (blkid, losetup) may keep a device busy
_FULL = 32 << 20  # more than what an ext4 without room keeps to itself and calls free: 4096 blocks (sysfs-fs-ext4)


@contextmanager
def loop_device(
    path: Path,
    *,
    offset_bytes: int = 0,
    size_bytes: int | None = None,
    read_only: bool = False,
    sector_size: int | None = None,
) -> Iterator[Path]:
    """Attach a loop device to a range of a file or of a block device.

    What was written through it has reached ``path`` (its cache, where it is a file) when the context ends well.

    Args:
        path: the file or block device.
        offset_bytes: where the range begins; a multiple of the sector size.
        size_bytes: its length, likewise; to the end when None.
        read_only: nothing can write to it.
        sector_size: its logical sectors in bytes; as those of ``path`` when None (512 for a file).

    Yields:
        the device's node (``/dev/loop3``).

    Raises:
        DeviceError: it cannot be attached, writing through it failed, or may have, since its file had no room left; or
            something still uses it at the end (named).
    """
    fd, number = _attach(path, offset_bytes, size_bytes or 0, read_only=read_only, sector_size=sector_size)
    node = Path(f"/dev/loop{number}")
    sequence = _sequence(number)
    try:
        yield node
        if not read_only:
            _sync(fd, node, path)
    except BaseException:
        _detach(fd)
        try:
            _wait_until_detached(number, sequence, path)
        except DeviceError as error:  # the first error is the one that counts
            reporter.warning(str(error))
        raise
    _detach(fd)
    _wait_until_detached(number, sequence, path)


def _attach(path: Path, offset: int, size: int, *, read_only: bool, sector_size: int | None) -> tuple[int, int]:
    """Attach the first free loop device. Returns its descriptor and its number."""
    mode = (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC
    try:
        backing = os.open(path, mode)
    except OSError as error:
        raise DeviceError(f"{path}: cannot be opened for a loop device: {reason_of(error)}") from error
    try:
        if sector_size is None:
            is_block = stat.S_ISBLK(os.fstat(backing).st_mode)
            sector_size = logical_sector_size(backing) if is_block else 512
        flags = _AUTOCLEAR | (_READ_ONLY if read_only else 0)
        config = _CONFIG.pack(
            *(backing, sector_size),
            *(0, 0, 0, offset, size),
            *(0, 0, 0, flags),
            *(os.fsencode(path)[:63], b"", b"", 0, 0),
            *([0] * 8),
        )
        deadline = time.monotonic() + _ATTACH_SECONDS
        while time.monotonic() < deadline:
            number = _free_number(path)
            fd = _configure(number, mode, config, path)
            if fd is not None:
                return fd, number
            time.sleep(random.uniform(0.001, 0.02))  # noqa: S311 - not all at the same moment again
    finally:
        os.close(backing)
    raise DeviceError(f"{path}: no free loop device in {_ATTACH_SECONDS:.0f} s: others hold them; try again")


def _free_number(path: Path) -> int:
    """The number of a loop device that nothing uses at this moment; the kernel makes one where there is none."""
    try:
        control = os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise DeviceError(
            f"{path}: no loop device: {_CONTROL}: {reason_of(error)}; load the module: modprobe loop"
        ) from error
    try:
        return fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
    except OSError as error:
        raise DeviceError(f"{path}: the kernel has no free loop device: {reason_of(error)}") from error
    finally:
        os.close(control)


def _configure(number: int, mode: int, config: bytes, path: Path) -> int | None:
    """Attach loop device ``number``. Returns its descriptor, or None where somebody else was quicker."""
    node = f"/dev/loop{number}"
    try:
        fd = os.open(node, mode)
    except FileNotFoundError as error:
        way_out = f"mount devtmpfs on /dev, or: mknod {node} b 7 {number}"
        raise DeviceError(f"{path}: the kernel offers {node}, which is not in /dev; {way_out}") from error
    except OSError as error:
        if error.errno in {errno.ENXIO, errno.ENODEV, errno.EBUSY}:  # taken away, or being taken, meanwhile
            return None
        raise DeviceError(f"{path}: {node}: {reason_of(error)}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.ioctl(fd, _LOOP_CONFIGURE, config)
    except OSError as error:
        os.close(fd)
        if error.errno in {errno.EBUSY, errno.EAGAIN, errno.ENXIO}:
            return None
        raise DeviceError(f"{path}: cannot be attached to {node}: {reason_of(error)}") from error
    except BaseException:
        os.close(fd)
        raise
    return fd


def _sync(fd: int, node: Path, path: Path) -> None:
    try:
        os.fsync(fd)
    except OSError as error:
        raise DeviceError(f"{path}: what was written through {node} could not be stored: {reason_of(error)}") from error
    _refuse_full(node, path)


def _refuse_full(node: Path, path: Path) -> None:
    """See that nothing can have been lost for want of room in the file system that a sparse file lies on.

    A kernel may call a write done of which the file took the beginning alone (``lo_complete_rq`` in Linux 6.18's
    drivers/block/loop.c); no later fsync(2) fails for it either.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) or status.st_blocks * 512 >= status.st_size:
        return
    found = os.statvfs(path)
    free = found.f_bfree * found.f_frsize  # what is reserved for root is there for loop devices as well
    if found.f_blocks and free < _FULL:
        raise DeviceError(
            f"{path}: its file system is full ({human_bytes(free)} are free), and what was written through {node} may "
            "be lost: make room there, and do it again"
        )


def _sequence(number: int) -> str | None:
    """Which of its uses a loop device is in, by a number that the kernel gives only once; None where it is detached."""
    directory = Path(f"/sys/block/loop{number}")
    try:
        return (directory / "diskseq").read_text() if (directory / "loop").exists() else None
    except FileNotFoundError:
        return None


def _detach(fd: int) -> None:
    """Close a loop device, and have it detached when nobody else has it open.

    It is attached in such a way already; but a program that had its node may have changed that (LOOP_SET_STATUS64).
    """
    with suppress(OSError):  # it is detached
        fcntl.ioctl(fd, _LOOP_CLR_FD)
    os.close(fd)


def _wait_until_detached(number: int, sequence: str | None, path: Path) -> None:
    """See that the kernel has detached the device, which it does when the last descriptor is closed."""
    node = Path(f"/dev/loop{number}")
    deadline = time.monotonic() + _DETACH_SECONDS
    pause = 0.001
    while sequence is not None and _sequence(number) == sequence:
        if time.monotonic() > deadline:
            users = [*find_users(node.stat()), *openers(node)]
            if _sequence(number) != sequence:  # it ended while it was looked for, which takes seconds under load
                return
            who = ", ".join(users) or "something that is not to be seen from here"
            raise DeviceError(f"{path}: {node} is still in use by {who}; it goes away when that ends")
        time.sleep(pause)
        pause = min(pause * 2, 0.1)
