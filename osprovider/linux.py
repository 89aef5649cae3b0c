"""System calls that Python 3.11's ``os`` lacks, through libc or ioctl(2); each raises ``OSError`` as ``os`` would.

Sources: unshare(2), mount(2), umount2(2), openat2(2), rename(2), fallocate(2), sync_file_range(2), syncfs(2),
ioctl_ficlone(2); <linux/falloc.h>, <linux/fs.h>, <linux/openat2.h>.
Not for: policy; callers decide what to mount or to punch.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from enum import IntFlag

__all__ = [
    "Fallocate",
    "MountFlag",
    "Resolve",
    "Umount",
    "block_device_size",
    "clone_file",
    "clone_range",
    "discard",
    "exchange",
    "fallocate",
    "has_filesystem",
    "is_write_protected",
    "memory_filesystem",
    "mount",
    "openat2",
    "overwrite_in_place",
    "private_mount_namespace",
    "private_network_namespace",
    "sector_size",
    "start_writeback",
    "syncfs",
    "umount",
]

_libc = ctypes.CDLL(None, use_errno=True)

_CLONE_NEWNS = 0x00020000
_CLONE_NEWNET = 0x40000000
# The same on every architecture.
_SYS_OPENAT2 = 437
_SYS_FSOPEN, _SYS_FSCONFIG, _SYS_FSMOUNT = 430, 431, 432
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_SYNC_FILE_RANGE_WRITE = 2

# <linux/mount.h>
_CLOEXEC = 1
_SET_STRING, _CREATE = 1, 6
_ATTR_NOSUID, _ATTR_NODEV, _ATTR_NOEXEC = 2, 4, 8

# <linux/fs.h>
_BLKROGET = 0x125E
_BLKSSZGET = 0x1268
_BLKDISCARD = 0x1277
_BLKGETSIZE64 = 0x80081272
_FICLONE = 0x40049409
_FICLONERANGE = 0x4020940D
_FS_IOC_GETFLAGS = 0x80086601
_FS_IOC_SETFLAGS = 0x40086602
_FS_NOCOW_FL = 0x00800000

# netdevice(7), <linux/sockios.h>, <linux/if.h>
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1
_IFREQ = struct.Struct("16sh22x")


class MountFlag(IntFlag):
    """Of mount(2)."""

    RDONLY = 1
    NOSUID = 2
    NODEV = 4
    NOEXEC = 8
    REMOUNT = 32
    NOATIME = 1024
    BIND = 4096
    REC = 16384
    SLAVE = 1 << 19


class Umount(IntFlag):
    """Of umount2(2)."""

    NONE = 0
    DETACH = 2
    NOFOLLOW = 8


class Resolve(IntFlag):
    """Of openat2(2)."""

    NO_XDEV = 1
    NO_MAGICLINKS = 2
    NO_SYMLINKS = 4
    BENEATH = 8
    IN_ROOT = 16


class Fallocate(IntFlag):
    """Of fallocate(2)."""

    NONE = 0
    KEEP_SIZE = 1
    PUNCH_HOLE = 2
    ZERO_RANGE = 16


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def _check(result: int, path: str | None = None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result


def _syscall(number: int, *arguments: object, path: str | None = None) -> int:
    """A system call that libc has no function for; ``path`` is for the error."""
    words = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    return _check(_libc.syscall(ctypes.c_long(number), *words), path)


def private_mount_namespace() -> None:
    """Give this thread, and what it starts, a mount namespace of its own.

    What is mounted in it is gone with its last process, however that ends. Mounts of the node go on arriving, so that
    the namespace never keeps something busy that the node unmounts.
    """
    _check(_libc.unshare(_CLONE_NEWNS))
    mount(None, "/", None, MountFlag.REC | MountFlag.SLAVE)


def private_network_namespace() -> None:
    """Give this process, and what it starts, a network namespace of its own: a loopback interface that leads nowhere.

    Abstract unix sockets belong to it as well; those that have a path do not (network_namespaces(7)).
    """
    import socket  # dear to import, and few need it

    _check(_libc.unshare(_CLONE_NEWNET))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, _IFREQ.pack(b"lo", _IFF_UP))


def mount(
    source: str | None, target: str, filesystem: str | None, flags: MountFlag, options: str | None = None
) -> None:
    """Put the file system in ``source`` on ``target``."""
    _check(
        _libc.mount(
            source.encode() if source else None,
            os.fsencode(target),
            filesystem.encode() if filesystem else None,
            ctypes.c_ulong(flags),
            options.encode() if options else None,
        ),
        target,
    )


def umount(target: str, flags: Umount = Umount.NONE) -> None:
    """Unmount what is mounted on ``target``; see umount2(2)."""
    _check(_libc.umount2(os.fsencode(target), ctypes.c_int(flags)), target)


def has_filesystem(filesystem: str) -> bool:
    """Can the kernel mount file systems of this type; a module that has it is loaded now.

    A mount is tried of what is no block device, which fails, but with ENODEV only where the type is not known.
    """
    try:
        mount("/dev/null", "/", filesystem, MountFlag.RDONLY)
    except OSError as error:
        return error.errno != errno.ENODEV
    return True


def memory_filesystem(size_bytes: int) -> int:
    """Make a tmpfs of that size at most. It is mounted nowhere, and ends with the last descriptor of what is in it.

    Returns:
        a file descriptor of its root directory, close-on-exec.
    """
    context = _syscall(_SYS_FSOPEN, b"tmpfs", _CLOEXEC)
    try:
        _syscall(_SYS_FSCONFIG, context, _SET_STRING, b"size", str(size_bytes).encode(), 0)
        _syscall(_SYS_FSCONFIG, context, _CREATE, None, None, 0)
        return _syscall(_SYS_FSMOUNT, context, _CLOEXEC, _ATTR_NOSUID | _ATTR_NODEV | _ATTR_NOEXEC)
    finally:
        os.close(context)


def openat2(directory_fd: int, path: str, flags: int, *, resolve: Resolve) -> int:
    """Open ``path`` in a way that can keep its resolution inside ``directory_fd``.

    Returns:
        a file descriptor, close-on-exec.
    """
    how = _OpenHow(flags | os.O_CLOEXEC, 0, int(resolve))
    return _syscall(_SYS_OPENAT2, directory_fd, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how), path=path)


def exchange(one: str, other: str) -> None:
    """Have each of two paths name what the other named, at once. OSError (EINVAL) where the file system cannot."""
    names = os.fsencode(one), os.fsencode(other)
    _check(_libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], ctypes.c_uint(_RENAME_EXCHANGE)), one)


def fallocate(fd: int, mode: Fallocate, offset: int, length: int) -> None:
    """Punch, zero or reserve ``length`` bytes of space from ``offset`` on.

    On a block device ``PUNCH_HOLE | KEEP_SIZE`` has the device itself make zeros and fails with EOPNOTSUPP where it
    cannot (``blkdev_fallocate`` in the kernel's block/fops.c).
    """
    _check(_libc.fallocate64(fd, ctypes.c_int(mode), ctypes.c_int64(offset), ctypes.c_int64(length)))


def overwrite_in_place(fd: int) -> None:
    """Have a btrfs write a new and empty file over in place, uncompressed, in place of copying what changes."""
    flags = struct.unpack_from("=i", fcntl.ioctl(fd, _FS_IOC_GETFLAGS, bytes(8)))[0]
    fcntl.ioctl(fd, _FS_IOC_SETFLAGS, struct.pack("=q", flags | _FS_NOCOW_FL))


def start_writeback(fd: int, offset: int, length: int) -> None:
    """Have the kernel start writing this range to the device, without waiting; see sync_file_range(2)."""
    _check(
        _libc.sync_file_range(fd, ctypes.c_int64(offset), ctypes.c_int64(length), ctypes.c_uint(_SYNC_FILE_RANGE_WRITE))
    )


def syncfs(fd: int) -> None:
    """Store all that was written to a file system. OSError where some was lost since the descriptor was opened."""
    _check(_libc.syncfs(fd))


def block_device_size(fd: int) -> int:
    """The size of a block device, in bytes."""
    (size,) = struct.unpack("=Q", fcntl.ioctl(fd, _BLKGETSIZE64, bytes(8)))
    return int(size)


def sector_size(fd: int) -> int:
    """The logical sector size of a block device, in bytes: 512 or 4096."""
    (size,) = struct.unpack("=i", fcntl.ioctl(fd, _BLKSSZGET, bytes(4)))
    return int(size)


def is_write_protected(fd: int) -> bool:
    """Does the kernel refuse to write to this block device."""
    (flag,) = struct.unpack("=i", fcntl.ioctl(fd, _BLKROGET, bytes(4)))
    return bool(flag)


def clone_file(source_fd: int, target_fd: int) -> None:
    """Have a file share all its blocks with another on its file system, where that can (Btrfs, XFS)."""
    fcntl.ioctl(target_fd, _FICLONE, source_fd)


def clone_range(source_fd: int, offset: int, length: int, target_fd: int, place: int) -> None:
    """Have a file share a range's blocks with another one of its file system, until either is written there.

    Offsets and length are multiples of the file system's block size. OSError where it cannot: ioctl_ficlonerange(2).
    """
    fcntl.ioctl(target_fd, _FICLONERANGE, struct.pack("=qQQQ", source_fd, offset, length, place))


def discard(fd: int, offset: int, length: int) -> None:
    """Tell a block device that ``length`` bytes from ``offset`` on are not needed. They may read as anything then."""
    fcntl.ioctl(fd, _BLKDISCARD, struct.pack("=QQ", offset, length))
