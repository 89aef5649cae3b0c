"""A disk that we write to, or take an image of: looked at, then claimed.

A claim holds, as far as the kernel lets us, everybody else away: for a block device O_EXCL (so no mount, no
device-mapper, no swap, no second claim), and always the exclusive flock(2) on its node that makes udev leave it alone
(https://systemd.io/BLOCK_DEVICE_LOCKING). A lock of our own under the run directory tells two runs of osprovider from
udev, which takes the same flock for a moment and must be waited for. A disk that is only read is claimed likewise, and
QEMU is kept from starting on it meanwhile, by the locks that QEMU itself looks at.
Not for: writing (:mod:`osprovider.disk.copy`, :mod:`osprovider.disk.wipe`, :mod:`osprovider.disk.table`).
"""

from __future__ import annotations

import errno
import fcntl
import math
import os
import stat
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from osprovider.descriptors import opened
from osprovider.disk.users import find_users, openers
from osprovider.disk.zero import Zeroing
from osprovider.errors import DeviceError, reason_of
from osprovider.layout import DiskFacts
from osprovider.linux import block_device_size, is_write_protected, sector_size
from osprovider.log import reporter

__all__ = ["Device", "claim", "probe"]

_UDEV_SECONDS = 5.0  # how long udev may hold its shared lock while it looks at a device that has just come into being
_DEAD_SECONDS = 30.0  # how long the kernel may take to unmount what a killed run of ours had mounted
_ALIGNMENT = 1 << 20
_LARGEST_ALIGNMENT = 64 << 20  # what some bridges say beyond this is not a stripe's size but a mistake

# struct flock, as F_OFD_GETLK and F_OFD_SETLK take it
_FLOCK = struct.Struct("=hhxxxxqqixxxx")
_WHOLE_FILE = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
# Whoever holds this byte suffers no other writer (QEMU's block/file-posix.c: RAW_LOCK_SHARED_BASE + 1, BLK_PERM_WRITE).
_NO_OTHER_WRITER = _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, 201, 1, 0)


@dataclass(frozen=True, slots=True)
class Device:
    """A disk that is ours until the claim ends.

    Attributes:
        path: as the operator knows it.
        fd: open for reading, and for writing unless it was claimed to be read.
        facts: its size and sectors.
        is_block: a block device; a plain file otherwise.
        zeroing: makes zeros on it, and knows what it has refused so far.
    """

    path: Path
    fd: int
    facts: DiskFacts
    is_block: bool
    zeroing: Zeroing


def probe(path: Path) -> DiskFacts:
    """Look at a disk without touching it.

    Args:
        path: a block device or a plain file, or a symbolic link to one, as Ganeti passes it.

    Raises:
        DeviceError: there is nothing, it is neither, it cannot be opened, or it has no size.
    """
    with opened(_open(path, os.O_RDONLY)) as fd:
        return _facts(path, fd)


@contextmanager
def claim(path: Path, run_directory: Path, *, read_only: bool = False) -> Iterator[Device]:
    """Take a disk, so that nobody else writes to it.

    Args:
        path: as for :func:`probe`.
        run_directory: where our locks lie; made when missing.
        read_only: only to read it; it may be write-protected.

    Yields:
        the disk.

    Raises:
        DeviceError: as for :func:`probe`; or it is read-only, or in use, with every user named that can be found.
    """
    mode = os.O_RDONLY if read_only else os.O_RDWR
    with ExitStack() as stack:
        fd = _open(path, mode)
        stack.callback(_close, fd)
        status = os.fstat(fd)
        was_killed = stack.enter_context(_lock_of_ours(path, status, run_directory))
        if was_killed:
            _wait_for_dead(path, status)
        _refuse_if_used(path, fd, status)
        is_block = stat.S_ISBLK(status.st_mode)
        if is_block:
            fd = _open(path, mode | os.O_EXCL)
            stack.callback(_close, fd)
            if os.fstat(fd).st_rdev != status.st_rdev:
                raise DeviceError(f"{path}: led to another device a moment ago: something changes it; try again")
        facts = _facts(path, fd)
        if read_only:
            _keep_writers_away(path, fd)
        else:
            _lock_against_udev(path, fd)
        yield Device(path, fd, facts, is_block, Zeroing(fd))


def _open(path: Path, flags: int) -> int:
    """Open a disk; DeviceError with the way out where that does not work."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode) or not (stat.S_ISBLK(mode) or stat.S_ISREG(mode)):
            raise DeviceError(f"{path}: is neither a block device nor a plain file: give the disk itself")
        fd = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise DeviceError(f"{path}: does not exist: is the disk activated (gnt-instance activate-disks)?") from error
    except OSError as error:
        raise DeviceError(f"{path}: {_reason(path, error)}") from error
    # The path may lead elsewhere since stat(2): what is open decides.
    status = os.fstat(fd)
    if not (stat.S_ISBLK(status.st_mode) or stat.S_ISREG(status.st_mode)):
        os.close(fd)
        raise DeviceError(f"{path}: is neither a block device nor a plain file: give the disk itself")
    if flags & os.O_RDWR and stat.S_ISBLK(status.st_mode) and is_write_protected(fd):
        os.close(fd)
        raise DeviceError(f"{path}: is read-only: make it writable (blockdev --setrw {path})")
    return fd


def _close(fd: int) -> None:
    # What the disk could not store was told when it was synced. Closing may tell it again (a network's file system),
    # and must not take the place of the first error.
    with suppress(OSError):
        os.close(fd)


def _reason(path: Path, error: OSError) -> str:
    """Why a disk could not be opened, and what to do."""
    match error.errno:
        case errno.EROFS:
            return "is read-only: remount the file system that it is on, or make the device writable"
        case errno.EACCES | errno.EPERM:
            return "may not be written: it is read-only or immutable (blockdev --setrw, chattr -i)"
        case errno.ETXTBSY:
            return "is in use by the kernel (swap, or a program that runs from it): end that first"
        case errno.EBUSY:
            who = ", ".join(find_users(path.stat()))
            # Else who has it open, who need not be the one that keeps us from it.
            who = who or " or ".join([*openers(path), "something in another mount namespace"])
            return f"is in use: {who}; end that first"
        case _:
            return f"cannot be opened: {reason_of(error)}"


def _facts(path: Path, fd: int) -> DiskFacts:
    """Size, sectors and alignment of an open disk."""
    status = os.fstat(fd)
    if stat.S_ISBLK(status.st_mode):
        facts = DiskFacts(block_device_size(fd), sector_size(fd), _alignment(status.st_rdev))
    else:
        facts = DiskFacts(status.st_size // 512 * 512)
    if facts.size_bytes == 0:
        raise DeviceError(
            f"{path}: has {status.st_size} bytes, less than a sector: create the disk first, or activate it"
        )
    return facts


def _alignment(device: int) -> int:
    """Where partitions should start: at multiples of 1 MiB, and of the device's stripe where it names one."""
    directory = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    for queue in (directory / "queue", directory.parent / "queue"):  # a partition's is its disk's
        with suppress(OSError, ValueError):
            stripe = int((queue.resolve() / "optimal_io_size").read_text())
            both = math.lcm(_ALIGNMENT, stripe) if stripe else _ALIGNMENT
            return both if both <= _LARGEST_ALIGNMENT else _ALIGNMENT
    return _ALIGNMENT


@contextmanager
def _lock_of_ours(path: Path, status: os.stat_result, run_directory: Path) -> Iterator[bool]:
    """The lock among runs of osprovider on this node, by what the path leads to. Yields: was its last owner killed."""
    is_block = stat.S_ISBLK(status.st_mode)
    number = status.st_rdev if is_block else status.st_dev
    name = f"disk-{os.major(number)}:{os.minor(number)}" + ("" if is_block else f"-{status.st_ino}")
    lock = run_directory / "locks" / name
    try:
        lock.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd, was_killed = _take_lock(path, lock)
    except OSError as error:
        raise DeviceError(
            f"{path}: cannot be locked: {lock}: {reason_of(error)}; what that lies in has to be a directory, writable "
            "and not full"
        ) from error
    try:
        yield was_killed
    finally:
        lock.unlink(missing_ok=True)
        os.close(fd)


def _take_lock(path: Path, lock: Path) -> tuple[int, bool]:
    """Lock a file that says who holds it. Returns the descriptor that holds the lock; and whether it still said so."""
    while True:
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its last owner may have removed it between our opening and locking it.
            if _is_same(lock, fd):
                was_killed = os.fstat(fd).st_size > 0
                os.ftruncate(fd, 0)
                os.write(fd, f"{os.getpid()}\n".encode())
                return fd, was_killed
        except BlockingIOError as error:
            owner = os.read(fd, 20).decode().strip() or "?"
            os.close(fd)
            if owner == str(os.getpid()):
                raise DeviceError(
                    f"{path}: is another disk of the instance as well: give each a path of its own (DISK_n_PATH)"
                ) from error
            raise DeviceError(
                f"{path}: another osprovider (process {owner}) is at work on it: wait for its end"
            ) from error
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _is_same(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(fd))
    except FileNotFoundError:
        return False


def _wait_for_dead(path: Path, status: os.stat_result) -> None:
    """Wait until the kernel has given back what a killed run of ours had of a disk: mounts, and loop devices on it.

    They go with its last program, once that has ended and all that was written is stored. What is still there then is
    somebody else's.
    """
    deadline = time.monotonic() + _DEAD_SECONDS
    if find_users(status):
        reporter.info(f"{path}: a killed run still has it; waiting up to {_DEAD_SECONDS:.0f} s for the kernel")
    while find_users(status) and time.monotonic() < deadline:
        time.sleep(0.05)


def _refuse_if_used(path: Path, fd: int, status: os.stat_result) -> None:
    users = find_users(status)
    if not users and _locked_by_somebody(fd):
        users = openers(path) or ["a process that is not to be seen from here, which has locked it"]
    if users:
        raise DeviceError(f"{path}: is in use: {', '.join(users)}; end that first")


def _locked_by_somebody(fd: int) -> bool:
    """Has another open file description a record lock on it, as QEMU takes them on its images."""
    with suppress(OSError):  # a file system without locks has none
        answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _WHOLE_FILE)
        (kind,) = struct.unpack_from("=h", answer)
        return int(kind) != fcntl.F_UNLCK
    return False


def _keep_writers_away(path: Path, fd: int) -> None:
    """Have a QEMU that starts refuse to write to the disk, as long as it is open."""
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _NO_OTHER_WRITER)
    except BlockingIOError as error:
        who = ", ".join(openers(path)) or "a process that is not to be seen from here"
        raise DeviceError(f"{path}: is in use: {who}; end that first") from error
    except OSError:  # a file system without locks: QEMU does without them there, too
        pass


def _lock_against_udev(path: Path, fd: int) -> None:
    """Take the flock that udev respects, once it has done with its own look at the device."""
    deadline = time.monotonic() + _UDEV_SECONDS
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                who = ", ".join(openers(path)) or "something that is not to be seen from here"
                raise DeviceError(f"{path}: is locked (flock) by {who}: wait for its end") from error
            time.sleep(0.02)
        else:
            return
