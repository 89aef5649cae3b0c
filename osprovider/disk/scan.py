"""What of a template has to be copied: its data, in extents, each with a checksum.

Not for: copying them (:mod:`osprovider.disk.copy`).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator

from osprovider.disk.crew import LARGEST_EXTENT, Crew
from osprovider.disk.raw import BLOCK, data_ranges, name_of, read_all
from osprovider.errors import ImageError, reason_of
from osprovider.manifest import Extent

__all__ = ["scan_extents", "scan_ranges"]

_STEP = 64 << 10


def scan_extents(fd: int, size_bytes: int) -> tuple[Extent, ...]:
    """Find what has to be copied of a sparse file.

    Args:
        fd: the file, open for reading.
        size_bytes: how much of it counts; a multiple of 4096.

    Returns:
        its data as extents of at most 4 MiB that begin and end at multiples of 4096 bytes, sorted, without those of
        zeros only.

    Raises:
        ImageError: the size is not a multiple of 4096, or the file is shorter, or it cannot be read.
    """
    if size_bytes % BLOCK:
        raise ImageError(f"{name_of(fd)}: {size_bytes} bytes are not a multiple of {BLOCK}: pad the image")
    return _scanned(fd, data_ranges(fd, 0, size_bytes), _without_zeros)


def scan_ranges(fd: int, ranges: Iterable[tuple[int, int]]) -> tuple[Extent, ...]:
    """Ranges of a file as extents.

    Args:
        fd: the file, open for reading.
        ranges: offset and length of each, in multiples of 4096 bytes, sorted, without overlap.

    Returns:
        all of them, in extents of at most 4 MiB, sorted.

    Raises:
        ImageError: the file is shorter, or it cannot be read.
    """
    return _scanned(fd, ranges, lambda data: [(0, len(data))])


def _scanned(
    fd: int, ranges: Iterable[tuple[int, int]], choose: Callable[[memoryview], Iterable[tuple[int, int]]]
) -> tuple[Extent, ...]:
    """What is chosen of each piece of ranges, by where it begins and ends in the piece; with checksums."""
    extents: list[Extent] = []

    def scan(piece: Extent, buffer: memoryview) -> None:
        data = buffer[: piece.length]
        try:
            read_all(fd, data, piece.offset)
        except OSError as error:
            raise ImageError(f"{name_of(fd)}: cannot be read at byte {piece.offset}: {reason_of(error)}") from error
        for start, end in choose(data):
            extents.append(Extent(piece.offset + start, end - start, zlib.crc32(data[start:end])))

    with Crew(scan, _pieces(ranges)):
        pass
    return tuple(sorted(extents, key=lambda extent: extent.offset))


def _pieces(ranges: Iterable[tuple[int, int]]) -> Iterator[Extent]:
    """Ranges, cut at multiples of the largest extent's size; without checksums."""
    for start, length in ranges:
        position, end = start, start + length
        while position < end:
            part = min(end, (position // LARGEST_EXTENT + 1) * LARGEST_EXTENT) - position
            yield Extent(position, part, 0)
            position += part


def _without_zeros(data: memoryview) -> Iterator[tuple[int, int]]:
    """The parts (start and end) that are worth copying: runs of 64 KiB steps that are not all zeros."""
    zeros = bytes(_STEP)
    start: int | None = None
    for position in range(0, len(data), _STEP):
        part = data[position : position + _STEP]
        is_zero = part[0] == 0 and part.tobytes() == zeros[: len(part)]
        if is_zero and start is not None:
            yield start, position
            start = None
        elif not is_zero and start is None:
            start = position
    if start is not None:
        yield start, len(data)
