"""Fields of a disk image's header, and refusals that name them.

Not for: what the fields mean (the modules beside).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from osprovider.errors import ImageError

__all__ = ["LARGEST_DISK", "SECTOR", "Reader"]

SECTOR = 512
"""What disk images of every kind count in, in bytes."""

LARGEST_DISK = 64 << 40
"""In bytes; what says more is damaged."""

_ENTRIES_AT_ONCE = 1 << 16


@dataclass(frozen=True, slots=True)
class Reader:
    """Fields of a container's header."""

    name: str
    container: str
    fd: int
    size: int

    def wrong(self, field: str, what: str) -> ImageError:
        """The error for a field."""
        return ImageError(f"{self.name}: {self.container} image, {field}: {what}")

    def read(self, offset: int, length: int, field: str) -> bytes:
        """A part of the file, which has to be in it whole."""
        self.inside(offset, length, field)
        data = os.pread(self.fd, length, offset)
        if len(data) != length:
            raise self.wrong(field, f"the file ends before byte {offset + length}")
        return data

    def inside(self, offset: int, length: int, field: str) -> None:
        """Refuse what lies outside the file."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise self.wrong(field, f"bytes {offset} to {offset + length} lie beyond the file's {self.size}: cut off?")

    def numbers(self, layout: str, offset: int, field: str) -> tuple[int, ...]:
        """Numbers at a place, as struct(3) lays them."""
        return struct.unpack(layout, self.read(offset, struct.calcsize(layout), field))

    def table(self, layout: str, offset: int, count: int, field: str) -> Iterator[tuple[int, int]]:
        """The numbers of a table, each with its index."""
        size = struct.calcsize(layout)
        self.inside(offset, count * size, field)
        for first in range(0, count, _ENTRIES_AT_ONCE):
            entries = min(_ENTRIES_AT_ONCE, count - first)
            data = self.read(offset + first * size, entries * size, field)
            yield from enumerate((entry for (entry,) in struct.iter_unpack(layout, data)), first)
