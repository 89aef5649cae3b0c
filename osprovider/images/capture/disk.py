"""An image of a disk as it is: a sparse copy, because only there can free space be given back, and a qcow2 of that.

Not for: the tree alone (:mod:`osprovider.images.capture.tree`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

from osprovider.disk.device import Device
from osprovider.disk.raw import failure
from osprovider.disk.sparse import copy_data
from osprovider.errors import DeviceError, ImageError, ToolError
from osprovider.guest.appliance import appliance
from osprovider.images.capture.order import CaptureOrder, Found, naming, take_identity
from osprovider.images.diskimage.reading import volumes_of
from osprovider.images.newfile import raw_beside, to_qcow2
from osprovider.log import reporter
from osprovider.manifest import ImagePartition, ImageTable
from osprovider.paths import Directories

__all__ = ["copy_disk", "wanted_ranges"]

_SWAP_HEADER = 4096  # mkswap(8): the first page says what it is; the others are somebody's memory
_GPT_BACKUP = 1 << 20


def copy_disk(order: CaptureOrder, device: Device, found: Found, target: Path, directories: Directories) -> str:
    """Make a qcow2 of the disk.

    Args:
        order: what of.
        device: the disk.
        found: what is on it.
        target: a file that is there and empty.
        directories: where the appliance lies.

    Returns:
        what the system calls itself.

    Raises:
        DeviceError: the disk cannot be read.
        ImageError: the system cannot be captured, or the file not be written.
    """
    size = device.facts.size_bytes
    with raw_beside(target) as (fd, raw):
        os.ftruncate(fd, size)
        ranges = wanted_ranges(found.table, found.parts, size)
        with reporter.progress(f"image {order.name}: copy {order.source}", sum(b - a for a, b in ranges)) as advance:
            for start, end in ranges:
                copy_data(device.fd, fd, start, end, advance, partial(_unreadable, device.fd))
        with (
            naming(order),
            volumes_of(raw, found.parts, read_only=False) as volumes,
            appliance(volumes, directories, trim=True) as guest,
        ):
            system = take_identity(order, guest)
        try:
            to_qcow2(raw, target, f"image {order.name}")
        except ToolError as error:
            raise ImageError(f"{order.output}: cannot be written: {error}") from error
    return system


def wanted_ranges(table: ImageTable | None, parts: Sequence[ImagePartition], size: int) -> list[tuple[int, int]]:
    """The bytes (from, to) of a disk that belong to an image of it: not what was in its memory, nor between partitions.

    Between the logical partitions in an extended one, which is among ``parts``, are their records.
    """
    if table is None:
        return [(0, size)]
    taken = [(part.start_bytes, part.start_bytes + part.size_bytes) for part in parts]
    first = min((start for start, _ in taken), default=size)
    left_out = [
        (part.start_bytes + _SWAP_HEADER, part.start_bytes + part.size_bytes) for part in parts if part.role == "swap"
    ]
    taken.append((0, first))
    if table.type == "gpt":
        taken.append((max(size - _GPT_BACKUP, first), size))
    ranges: list[tuple[int, int]] = []
    for start, end in pairwise(sorted({edge for pair in (*taken, *left_out) for edge in pair})):
        if _covers(taken, start) and not _covers(left_out, start):
            begin = ranges.pop()[0] if ranges and ranges[-1][1] == start else start
            ranges.append((begin, end))
    return ranges


def _covers(ranges: Sequence[tuple[int, int]], position: int) -> bool:
    return any(start <= position < end for start, end in ranges)


def _unreadable(disk: int, position: int, error: OSError) -> DeviceError:
    return failure(disk, f"cannot be read at byte {position}", error)
