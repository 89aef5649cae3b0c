"""Reading and writing a disk by byte offsets: all of it or an error that names the disk, the byte and what to do.

Not for: what is written (:mod:`osprovider.disk.copy`, :mod:`osprovider.disk.zero`).
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from osprovider.descriptors import path_of
from osprovider.errors import DeviceError, ImageError, reason_of
from osprovider.linux import start_writeback

__all__ = [
    "BLOCK",
    "data_ranges",
    "directly",
    "failure",
    "first_failing",
    "name_of",
    "read_all",
    "start_writing",
    "sync",
    "write_all",
]

BLOCK = 4096
"""What extents, and the ranges of a file, begin and end at multiples of, in bytes."""


@contextmanager
def directly(fd: int, granularity: int = 1) -> Iterator[int]:
    """A descriptor that writes and reads past the page cache (``O_DIRECT``) where that can be; else ``fd`` itself.

    That is on a block device, and on a file whose file system shows that it can, whole blocks of 4096 bytes at a time.

    Args:
        fd: the disk.
        granularity: what all offsets and lengths will be multiples of, in bytes; a block device is always used in whole
            sectors. Memory has to be aligned to pages.

    Raises:
        DeviceError: it cannot be opened again, or what was written could not be stored when it was closed (close(2)).
    """
    try:
        is_block = stat.S_ISBLK(os.fstat(fd).st_mode)
        direct = None
        if is_block or granularity % BLOCK == 0:
            with nullcontext() if is_block else suppress(OSError):
                direct = os.open(path_of(fd), os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
    except OSError as error:
        raise failure(fd, "cannot be opened again", error) from error
    if direct is None:
        yield fd
        return
    try:
        yield direct if is_block or _reads_blocks(direct) else fd
    except BaseException:
        with suppress(OSError):  # the first error is the one that counts
            os.close(direct)
        raise
    try:
        os.close(direct)
    except OSError as error:
        raise _not_stored(fd, error) from error


def _reads_blocks(fd: int) -> bool:
    """Can a file that was opened with ``O_DIRECT`` be used so: some file systems refuse only that, or want more."""
    try:
        os.preadv(fd, [mmap.mmap(-1, BLOCK)], BLOCK)
    except OSError:
        return False
    return True


def write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of ``data`` at ``offset`` of a disk.

    Raises:
        DeviceError: the disk took only a part, or none; with its name and the first byte that is missing.
    """
    view = memoryview(data)
    while view:
        try:
            count = os.pwrite(fd, view, offset)
        except OSError as error:

            def write(position: int, length: int, rest: memoryview = view, begin: int = offset) -> None:
                os.pwrite(fd, rest[position - begin : position - begin + length], position)

            position = first_failing(write, offset, len(view))
            raise failure(fd, f"cannot be written at byte {position}", error) from error
        if count == 0:
            raise DeviceError(f"{name_of(fd)}: ends at byte {offset}, sooner than it said")
        view = view[count:]
        offset += count


def read_all(fd: int, data: memoryview, offset: int) -> None:
    """Fill ``data`` from ``offset`` of a file on; OSError where it ends before."""
    while data:
        count = os.preadv(fd, [data], offset)
        if count == 0:
            raise OSError(errno.EIO, "the file ends there", name_of(fd))
        data = data[count:]
        offset += count


def sync(fd: int) -> None:
    """Have everything that was written reach the disk itself.

    Raises:
        DeviceError: it could not be written; what is on the disk is not to be trusted.
    """
    try:
        os.fsync(fd)
    except OSError as error:
        raise _not_stored(fd, error) from error


def _not_stored(fd: int, error: OSError) -> DeviceError:
    return failure(fd, "what was written could not be stored", error)


def start_writing(fd: int, offset: int, length: int) -> None:
    """Have the kernel begin early to store a range; what it cannot store, :func:`sync` tells."""
    with suppress(OSError):
        start_writeback(fd, offset, length)


def data_ranges(fd: int, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """The ranges (offset and length) of a file that are not holes: whole blocks of 4096 bytes, cut at both ends.

    Args:
        fd: the file.
        begin: where to begin, in bytes.
        end: where to end, likewise.

    Raises:
        ImageError: the file cannot be searched.
    """
    position = begin
    while position < end:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA) // BLOCK * BLOCK
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole to the end
                return
            raise ImageError(f"{name_of(fd)}: cannot be searched for data: {reason_of(error)}") from error
        position = max(start, position)
        if position >= end:
            return
        stop = min(-(-os.lseek(fd, position, os.SEEK_HOLE) // BLOCK) * BLOCK, end)
        yield position, stop - position
        position = stop


def first_failing(attempt: Callable[[int, int], None], offset: int, length: int) -> int:
    """Where in a range that has failed the failure is: attempts it block by block.

    Args:
        attempt: does it for an offset and a length; OSError where it fails.
        offset: where the range begins.
        length: of the range.

    Returns:
        the offset of the first block that fails; ``offset`` where none does now.
    """
    if length > BLOCK:
        for position in range(offset, offset + length, BLOCK):
            try:
                attempt(position, min(BLOCK, offset + length - position))
            except OSError:
                return position
    return offset


def failure(fd: int, what: str, error: OSError) -> DeviceError:
    """The error for a system call on a disk that failed: its name, what happened, why, and what to do.

    Args:
        fd: the disk.
        what: with the byte, where there is one (``cannot be written at byte 4096``).
        error: the system call's.
    """
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            way_out = "what it lies on is full, or it is shorter than it says: make room there"
        case errno.EROFS | errno.EPERM | errno.EACCES:
            way_out = "it has become read-only: see the kernel's log (dmesg), and make it writable (blockdev --setrw)"
        case errno.ENODEV | errno.ENXIO | errno.ENOTCONN:
            way_out = "it has gone away: activate it again (gnt-instance activate-disks)"
        case _:
            way_out = "the disk, or what it lies on, is failing: see the kernel's log (dmesg)"
    return DeviceError(f"{name_of(fd)}: {what}: {reason_of(error)}; {way_out}")


def name_of(fd: int) -> str:
    """What a descriptor was opened as; the kernel's word for it, for messages."""
    return str(Path(path_of(fd)).readlink())
