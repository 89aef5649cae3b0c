"""Making ranges of a disk zeros, in the cheapest way that proves it.

A zero is skipped only where it is proved: what is left out here has been made zeros by the file system or by the device
itself. Discarding proves nothing and is not used.
A file's old blocks are marked as zeros (``ZERO_RANGE``) and stay where they are, rather than given back by a hole: the
copy wants most of them again, and a file system mounted with ``discard`` is slow to free (400 MiB: 4 s against 0.06 s).
A block device is asked to make zeros, and may unmap (``PUNCH_HOLE``): thin volumes stay thin, and so does the file
beneath a loop device, which pays with that same time where its file system discards (400 MiB: 1 to 1.7 s; as
``ZERO_RANGE`` it were 3 ms, and all of the file allocated).
Not for: which ranges (:mod:`osprovider.disk.copy`, :mod:`osprovider.disk.wipe`).
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from osprovider.disk.raw import data_ranges, directly, failure, start_writing, write_all
from osprovider.linux import Fallocate, fallocate

__all__ = ["Zeroing"]

_ZEROS = memoryview(mmap.mmap(-1, 1 << 20))  # aligned, as O_DIRECT wants it
_AT_ONCE = 1 << 30  # so that a signal is not kept waiting while a device makes zeros
# No room to note what is zero is no reason to give up either: other ways need less of it, or say so themselves.
_CANNOT = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV, errno.ENOSPC})


class Zeroing:
    """Makes ranges of one disk zeros, and remembers what that disk cannot do: what it has refused is not asked again.

    A block device whose queue says in sysfs that it makes no zeros is not asked at all.

    Args:
        fd: the disk, open for writing as long as this is used.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        status = os.fstat(fd)
        self._is_block = stat.S_ISBLK(status.st_mode)
        self._ways = [Fallocate.ZERO_RANGE, Fallocate.PUNCH_HOLE]
        self._is_quick = True
        if self._is_block:
            # PUNCH_HOLE is refused where zeros would have to be written one by one (BLKDEV_ZERO_NOFALLBACK in the
            # kernel's block/fops.c). ZERO_RANGE would have the kernel do just that.
            can = _limit(status.st_rdev, "write_zeroes_max_bytes") != 0
            self._ways = [Fallocate.PUNCH_HOLE] if can else []
            self._is_quick = bool(_limit(status.st_rdev, "discard_max_bytes"))

    def zero(self, offset: int, length: int, advance: Callable[[int], None] | None = None) -> None:
        """Make a range zeros: as :meth:`by_itself` where that works; else zeros are written.

        Args:
            offset: in bytes, a multiple of the disk's sectors.
            length: in bytes, likewise.
            advance: called with each number of bytes done.

        Raises:
            DeviceError: the disk cannot be written.
        """
        end = offset + length
        with directly(self._fd) as fd:
            while offset < end:
                count = min(_AT_ONCE, end - offset)
                if not self._ask(offset, count):
                    count = min(len(_ZEROS), count)
                    write_all(fd, _ZEROS[:count], offset)
                    start_writing(fd, offset, count)
                offset += count
                if advance:
                    advance(count)

    def by_itself(self, offset: int, length: int) -> bool:
        """Have the file system or the device make a range zeros, where it is quick at that.

        What is no hole of a file is marked as zeros, or becomes a hole where its file system can't mark it. A block
        device is quick that unmaps as well, as thin volumes and flash do; one that only writes zeros on its own is not.

        Args:
            offset: in bytes.
            length: in bytes.

        Returns:
            all of it is zeros; False where that cannot be done, and a part may be.

        Raises:
            DeviceError: the disk cannot be written.
        """
        end = offset + length
        return self._is_quick and all(
            self._ask(start, min(_AT_ONCE, end - start)) for start in range(offset, end, _AT_ONCE)
        )

    def _ask(self, offset: int, length: int) -> bool:
        """Have the file system or the device make zeros; False where it cannot."""
        while self._ways:
            ranges = [(offset, length)] if self._is_block else data_ranges(self._fd, offset, offset + length)
            try:
                for start, count in ranges:
                    fallocate(self._fd, self._ways[0] | Fallocate.KEEP_SIZE, start, count)
            except OSError as error:
                if error.errno not in _CANNOT:
                    raise failure(self._fd, f"cannot be zeroed at byte {offset}", error) from error
                del self._ways[0]
            else:
                return True
        return False


def _limit(device: int, name: str) -> int | None:
    """What a block device's queue says in sysfs; None where it says nothing."""
    directory = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve()
    for queue in (directory / "queue", directory.parent / "queue"):  # a partition's is its disk's
        with suppress(OSError, ValueError):
            return int((queue / name).read_text())
    return None
