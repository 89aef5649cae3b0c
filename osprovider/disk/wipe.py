"""What was on a disk before: made zeros where that is cheap or wanted, and never left looking like a system.

Not for: the template's own holes, which are always made zeros (:mod:`osprovider.disk.copy`).
"""

from __future__ import annotations

import errno
from typing import Literal

from osprovider import linux
from osprovider.disk.device import Device
from osprovider.disk.raw import data_ranges, failure, sync, write_all
from osprovider.layout import PartitionPlan
from osprovider.log import human_bytes, reporter

__all__ = ["clear_ends", "clear_signatures", "wipe"]

# Where file systems, RAIDs and volume managers have their signatures; and more than a GPT takes at either end: 33
# sectors of 512, or 6 of 4096 bytes.
_ENDS = 1 << 20
_AT_ONCE = 1 << 30  # so that a signal is not kept waiting


def clear_signatures(device: Device) -> None:
    """Zero the disk's first and last MiB, and wait until the disk has it.

    Both copies of a GPT lie there, and a boot sector: a disk that is half written, or whose installation failed, is not
    taken for an installed one.

    Raises:
        DeviceError: the disk cannot be written.
    """
    size = device.facts.size_bytes
    length = min(_ENDS, size)
    if not device.is_block and not any(
        any(data_ranges(device.fd, start, start + length)) for start in (0, size - length)
    ):
        return  # holes of a file, a new one say: waiting for the disk would take a tenth of the copy's time
    zeros = bytes(length)
    try:
        write_all(device.fd, zeros, 0)
    finally:  # where one end fails, the other's table would be used
        write_all(device.fd, zeros, size - length)
        sync(device.fd)


def clear_ends(device: Device, part: PartitionPlan) -> None:
    """Zero a partition's first and last MiB, beyond what a mkfs does there: nothing tells of its old contents then.

    Raises:
        DeviceError: the disk cannot be written.
    """
    length = min(_ENDS, part.size_bytes)
    device.zeroing.zero(part.start_bytes, length)
    device.zeroing.zero(part.start_bytes + part.size_bytes - length, length)


def wipe(device: Device, policy: Literal["auto", "zero", "discard", "none"]) -> bool:
    """Do with the disk's old contents what the variant says.

    Args:
        device: the disk, which nobody else uses.
        policy: ``auto`` makes all of it zeros where the file system or the device does that by itself, and otherwise
            leaves it and says so; ``zero`` makes zeros whatever it costs; ``discard`` tells the device that the
            contents are not needed, which proves nothing about what it reads as then; ``none`` leaves them.

    Returns:
        every byte of the disk is proved to read as zero now.

    Raises:
        DeviceError: the disk cannot be written.
    """
    size = device.facts.size_bytes
    match policy:
        case "none":
            return False
        case "zero":
            with reporter.progress(f"zero {device.path}", size) as advance:
                device.zeroing.zero(0, size, advance)
            return True
        case "discard" if device.is_block:
            _discard(device)
            return False
        case _:
            if _zero(device):
                return True
            reporter.info(
                f"{device.path} cannot zero itself: old contents stay where the new system has none (wipe: zero)"
            )
            return False


def _zero(device: Device) -> bool:
    """Have the file system or the device make zeros of everything. False where that would be slow or fails."""
    size = device.facts.size_bytes
    with reporter.step(f"wipe {device.path}") as detail:
        is_zero = device.zeroing.by_itself(0, size)
        detail(human_bytes(size) if is_zero else "not supported")
        return is_zero


def _discard(device: Device) -> None:
    size, offset = device.facts.size_bytes, 0
    try:
        for offset in range(0, size, _AT_ONCE):
            linux.discard(device.fd, offset, min(_AT_ONCE, size - offset))
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise failure(device.fd, f"cannot be discarded at byte {offset}", error) from error
        reporter.warning(
            f"{device.path} knows no discard: old contents stay where the new system has none (wipe: zero)"
        )
