"""What of a template has to be copied: its data, in extents, each with a checksum.

Not for: copying them (:mod:`osprovider.disk.copy`).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence

from osprovider.disk.crew import LARGEST_EXTENT, Crew
from osprovider.disk.raw import BLOCK, data_ranges, name_of, read_all
from osprovider.errors import ImageError
from osprovider.manifest import Extent

__all__ = ["scan_extents"]

_STEP = 64 << 10
_CLOSE = 1 << 20


def scan_extents(fd: int, size_bytes: int, metadata: Sequence[tuple[int, int]] = ()) -> tuple[Extent, ...]:
    """Find what has to be copied of a sparse file.

    Args:
        fd: the file, open for reading.
        size_bytes: how much of it counts; a multiple of 4096.
        metadata: where the file system in it has its own blocks: ranges (offset and length).

    Returns:
        its data as extents of at most 4 MiB that begin and end at multiples of 4096 bytes, sorted, without those of
        zeros only.

    Raises:
        ImageError: the size is not a multiple of 4096, or the file is shorter, or it cannot be read.
    """
    if size_bytes % BLOCK:
        raise ImageError(f"{name_of(fd)}: {size_bytes} bytes are not a multiple of {BLOCK}: pad the image")
    extents: list[Extent] = []
    around = _widened(metadata)

    def scan(piece: Extent, buffer: memoryview) -> None:
        data = buffer[: piece.length]
        try:
            read_all(fd, data, piece.offset)
        except OSError as error:
            raise ImageError(f"{name_of(fd)}: cannot be read at byte {piece.offset}: {error.strerror}") from error
        for start, end in _without_zeros(data):
            for begin, stop, is_metadata in _divided(piece.offset + start, piece.offset + end, around):
                checksum = zlib.crc32(data[begin - piece.offset : stop - piece.offset])
                extents.append(Extent(begin, stop - begin, checksum, is_metadata))

    with Crew(scan, _largest_extents(fd, size_bytes)):
        pass
    return tuple(sorted(extents, key=lambda extent: extent.offset))


def _largest_extents(fd: int, size_bytes: int) -> Iterator[Extent]:
    """What of a file are not holes, cut at multiples of the largest extent's size; without checksums."""
    for start, length in data_ranges(fd, 0, size_bytes):
        position, end = start, start + length
        while position < end:
            part = min(end, (position // LARGEST_EXTENT + 1) * LARGEST_EXTENT) - position
            yield Extent(position, part, 0)
            position += part


def _widened(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges (offset and length, sorted) as their begins and ends, in whole steps, with what lies between close ones.

    Of the directories between files, many small pieces would become.
    """
    found: list[tuple[int, int]] = []
    for offset, length in ranges:
        begin, end = offset // _STEP * _STEP, -(-(offset + length) // _STEP) * _STEP
        if found and begin - found[-1][1] < _CLOSE:
            begin = found.pop()[0]
        found.append((begin, end))
    return found


def _divided(begin: int, end: int, ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int, bool]]:
    """The parts (begin and end) of a range that are in one of others, and those that are not."""
    position = begin
    for start, stop in ((max(start, begin), min(stop, end)) for start, stop in ranges):
        if start < stop:
            if position < start:
                yield position, start, False
            yield start, stop, True
            position = stop
    if position < end:
        yield position, end, False


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
