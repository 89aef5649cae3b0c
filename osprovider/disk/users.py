"""Who uses a disk: mounts, swap, device-mapper and other holders, loop devices, processes; each in an operator's words.

What is on top of a user counts as well: a file with a loop device whose partition is mounted is told as just that.
Sources: proc(5) (mountinfo, swaps, fd), /sys/dev/block, loop(4).
Not for: keeping others away; :mod:`osprovider.disk.device` takes the locks.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["find_users", "openers"]

_LOOP_GET_STATUS64 = 0x4C05
_LOOP_INFO_SIZE = 232  # struct loop_info64; it begins with the backing file's device, inode and device number


@dataclass(frozen=True, slots=True)
class _Identity:
    """Which thing a path leads to, whatever the path: a block device's number and 0, or a file's device and inode."""

    device: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> _Identity:
        return cls(status.st_rdev, 0) if stat.S_ISBLK(status.st_mode) else cls(status.st_dev, status.st_ino)

    @classmethod
    def at(cls, path: str | Path) -> _Identity | None:
        """What is at ``path``; None where nothing is."""
        try:
            return cls.of(Path(path).stat())
        except OSError:
            return None


def find_users(status: os.stat_result) -> list[str]:
    """Everything in the kernel that uses a disk.

    Args:
        status: of the block device or file, as fstat(2) has it.

    Returns:
        one phrase a user (``/dev/loop3, mounted on /mnt``), empty where nobody uses it. Mounts in other mount
        namespaces are not to be seen; O_EXCL fails for them.
    """
    if stat.S_ISBLK(status.st_mode):
        return [user for device in _with_partitions(status.st_rdev) for user in _block_users(device)]
    identity = _Identity.of(status)
    return [*_swaps(identity), *(user for loop in _loops_on(identity) for user in _described(loop))]


def openers(path: Path) -> list[str]:
    """The processes, ourselves excepted, that have a file or device open: ``qemu-system-x86 (process 4711)``.

    Looks at every process, so for saying why something failed only.
    """
    wanted = _Identity.at(path)
    found = []
    for directory in sorted(Path("/proc").glob("[0-9]*"), key=lambda entry: int(entry.name)):
        if int(directory.name) == os.getpid():
            continue
        with suppress(OSError):  # ended meanwhile
            if any(_Identity.at(entry.path) == wanted for entry in os.scandir(directory / "fd")):
                found.append(f"{(directory / 'comm').read_text().strip()} (process {directory.name})")
    return found


def _block_users(device: int) -> Iterator[str]:
    """What uses one block device, and what is on top of that."""
    yield from _mounts(device)
    yield from _swaps(_Identity(device, 0))
    for holder in sorted(_sysfs(device).glob("holders/*")):
        yield from _described(holder.name)
    for loop in _loops_on(_Identity(device, 0)):
        yield from _described(loop)


def _described(name: str) -> Iterator[str]:
    """The block device with this kernel name as a user, with each user that it has in turn."""
    directory = Path("/sys/class/block") / name
    what = f"/dev/{name}"
    with suppress(OSError):
        what += f" ({(directory / 'dm/name').read_text().strip()})"
    above: list[str] = []
    with suppress(OSError, ValueError):
        major, minor = (directory / "dev").read_text().split(":")
        for device in _with_partitions(os.makedev(int(major), int(minor))):
            above += _block_users(device)
    if not above:
        yield what
    for user in above:
        yield f"{what}, {user}"


def _sysfs(device: int) -> Path:
    return Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")


def _with_partitions(device: int) -> Iterator[int]:
    """The device and its partitions, where the kernel knows any."""
    yield device
    for attribute in sorted(_sysfs(device).glob("*/partition")):
        with suppress(OSError, ValueError):
            major, minor = (attribute.parent / "dev").read_text().split(":")
            yield os.makedev(int(major), int(minor))


def _mounts(device: int) -> Iterator[str]:
    """Where this mount namespace has a block device mounted."""
    numbers = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        source = _unescape(after.split(" ")[1])
        # btrfs shows a number of its own, so that only its source tells the device.
        of_its_own = fields[2].startswith("0:") and source.startswith("/")
        if fields[2] == numbers or (of_its_own and _Identity.at(source) == _Identity(device, 0)):
            yield f"mounted on {_unescape(fields[4])}"


def _swaps(identity: _Identity) -> Iterator[str]:
    """Whether the kernel swaps to it."""
    for line in Path("/proc/swaps").read_text(errors="surrogateescape").splitlines()[1:]:
        path = _unescape(line.split()[0])
        if _Identity.at(path) == identity:
            yield f"in use as swap ({path})"


def _loops_on(identity: _Identity) -> Iterator[str]:
    """The kernel names of the loop devices whose backing file or device it is."""
    for attribute in sorted(Path("/sys/block").glob("loop*/loop/backing_file")):
        name = attribute.parts[3]
        if _backing(name, attribute) == identity:
            yield name


def _backing(name: str, attribute: Path) -> _Identity | None:
    """What a loop device is attached to; None where it was detached meanwhile."""
    # The ioctl knows the inode; sysfs only a path, which means something else, or nothing, in another mount namespace.
    with suppress(OSError):
        fd = os.open(f"/dev/{name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            status = fcntl.ioctl(fd, _LOOP_GET_STATUS64, bytes(_LOOP_INFO_SIZE))
        finally:
            os.close(fd)
        file_system, inode, device = struct.unpack_from("=QQQ", status)
        return _Identity(device, 0) if device else _Identity(file_system, inode)
    with suppress(OSError):
        return _Identity.at(attribute.read_text(errors="surrogateescape").rstrip("\n"))
    return None


def _unescape(text: str) -> str:
    r"""A path as proc(5) writes it, with ``\040`` for a blank and the like."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
