"""Sparse files: what is data is copied and written, and what is zeros becomes a hole.

Not for: templates on their way to a disk, which have checksums (:mod:`osprovider.disk.copy`).
"""

from __future__ import annotations

from collections.abc import Callable

from osprovider.disk.raw import data_ranges, read_all, write_all

__all__ = ["copy_data", "write_data"]

_BUFFER = 1 << 20
_PIECE = 64 << 10
_ZEROS = bytes(_PIECE)


def copy_data(
    source: int,
    target: int,
    start: int,
    end: int,
    advance: Callable[[int], None],
    unreadable: Callable[[int, OSError], Exception],
) -> None:
    """Copy a range, without its zeros, to the same place of a file that has none but them.

    Args:
        source: a file or a block device.
        target: the file.
        start: where the range begins, in bytes.
        end: where it ends.
        advance: called with each number of bytes done, holes included.
        unreadable: the error for a place that cannot be read.

    Raises:
        DeviceError: the file cannot be written.
    """
    buffer = memoryview(bytearray(_BUFFER))
    done = start
    for offset, length in data_ranges(source, start, end):
        for position in range(offset, offset + length, _BUFFER):
            piece = buffer[: min(_BUFFER, offset + length - position)]
            try:
                read_all(source, piece, position)
            except OSError as error:
                raise unreadable(position, error) from error
            write_data(target, piece, position)
            advance(position + len(piece) - done)
            done = position + len(piece)
    advance(end - done)


def write_data(fd: int, data: memoryview, offset: int) -> None:
    """Write what is not zeros, in pieces of 64 KiB.

    Raises:
        DeviceError: the file cannot be written.
    """
    for start in range(0, len(data), _PIECE):
        piece = data[start : start + _PIECE]
        if piece[0] or piece.tobytes() != _ZEROS[: len(piece)]:  # a view is compared byte by byte
            write_all(fd, piece, offset + start)
