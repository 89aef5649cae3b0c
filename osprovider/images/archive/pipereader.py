"""A pipe, read in large pieces by somebody who looks at some of its bytes and passes all of them on.

Not for: what the bytes mean (:mod:`osprovider.images.archive.tar`, :mod:`osprovider.images.archive.dump`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from osprovider.errors import ImageError

__all__ = ["PipeReader"]

_CHUNK = 256 << 10
_SPLICE_FROM = 256 << 10
"""What is left of a file's contents beyond this is moved by the kernel, without a copy."""

_SPLICE_AT_MOST = 1 << 30


class PipeReader:
    """Reads a pipe, and keeps what was read until it is passed on.

    Args:
        name: what messages call what is read.
        fd: the read end.
        begin: what was read of it already, and taken.
        first: how many bytes, fewer than a pipe holds, are passed on at once before any others.
    """

    def __init__(self, name: str, fd: int, *, begin: bytes = b"", first: int = 0) -> None:
        self._name = name
        self._fd = fd
        self._data = bytearray(begin)
        self._used = len(begin)
        self._before = 0
        self._first = first

    @property
    def position(self) -> int:
        """Where it is, in bytes."""
        return self._before + self._used

    def take(self, size: int) -> bytes:
        """The next bytes.

        Raises:
            ImageError: there are fewer.
        """
        start = self._used
        self._pass(size)
        return bytes(self._data[start : self._used])

    def change(self, data: bytes) -> None:
        """Put other bytes in the place of the last that were taken, as many."""
        self._data[self._used - len(data) : self._used] = data

    def over(self, size: int, target: int) -> Iterator[bytes]:
        """Pass over the next bytes, whatever they are.

        Args:
            size: how many.
            target: the write end of another pipe, to which many bytes are moved at once.

        Yields:
            what has been read and must be written to ``target``, before more is moved there.

        Raises:
            ImageError: there are fewer.
        """
        known = min(size, max(len(self._data) - self._used, self._first - self.position))
        self._pass(known)
        size -= known
        if size > _SPLICE_FROM:
            yield self.passed()
            self._move(target, size)
        else:
            self._pass(size)
        yield from self.due()

    def due(self) -> Iterator[bytes]:
        """All that was taken since the last time, as soon as it is much; to be written as what :meth:`over` yields."""
        if self._used >= max(_CHUNK, self._first - self._before):
            yield self.passed()

    def passed(self) -> bytes:
        """All that was taken since the last time."""
        data = bytes(memoryview(self._data)[: self._used])
        del self._data[: self._used]
        self._before += self._used
        self._used = 0
        return data

    def rest(self) -> bytes:
        """What comes next, nothing at the end; it is passed on with that."""
        data = bytes(self._data[self._used :]) or os.read(self._fd, _CHUNK)
        self._before += self._used + len(data)
        self._data.clear()
        self._used = 0
        return data

    def _pass(self, size: int) -> None:
        """Have the next bytes read."""
        while len(self._data) - self._used < size:
            if not (more := os.read(self._fd, _CHUNK)):
                raise self._cut_off(self._before + len(self._data))
            self._data += more
        self._used += size

    def _move(self, target: int, size: int) -> None:
        """Have the kernel move the next bytes, of which none were read yet."""
        left = size
        while left:
            moved = os.splice(self._fd, target, min(left, _SPLICE_AT_MOST))
            if not moved:
                raise self._cut_off(self._before + size - left)
            left -= moved
        self._before += size

    def _cut_off(self, position: int) -> ImageError:
        return ImageError(f"{self._name}: cut off at byte {position}: it has no end; fetch or make it again")
