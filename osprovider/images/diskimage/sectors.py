"""Which sectors of a file are taken: a bit for each, however many pieces there are.

Not for: what lies there.
"""

from __future__ import annotations

import mmap

from osprovider.images.diskimage.headers.reader import SECTOR

__all__ = ["SectorSet"]

_BITS = 8
_PIECE = 1 << 16  # bytes of bits that are looked at in one go


class SectorSet:
    """The sectors of a file that are taken; none at first.

    It takes a byte of memory for each 4 KiB of what is taken, and of what lies near it.

    Args:
        size: the file's, in bytes.
    """

    def __init__(self, size: int) -> None:
        sectors = -(-size // SECTOR)
        self._bits = mmap.mmap(-1, max(-(-sectors // _BITS), 1))

    def take(self, start: int, end: int) -> int | None:
        """Take a range, from byte ``start`` to before byte ``end``, in whole sectors.

        Returns:
            the first byte of it that is taken already; None where none was, and all are now.
        """
        first, last = start // SECTOR, -(-end // SECTOR)
        for begin in range(first // _BITS, -(-last // _BITS), _PIECE):
            stop = min(begin + _PIECE, -(-last // _BITS))
            wanted = _ones(max(first - begin * _BITS, 0), min(last, stop * _BITS) - begin * _BITS)
            found = int.from_bytes(self._bits[begin:stop], "little")
            if both := found & wanted:
                lowest = (both & -both).bit_length() - 1
                return max(start, (begin * _BITS + lowest) * SECTOR)
            self._bits[begin:stop] = (found | wanted).to_bytes(stop - begin, "little")
        return None


def _ones(first: int, last: int) -> int:
    """A number whose bits from the first to before the last are set."""
    return (1 << last) - (1 << first)
