"""Threads that work through the extents of a template side by side, each with one buffer.

preadv(2), pwrite(2) and zlib's CRC leave Python's lock to others; memory does not grow with the disk.
Not for: what they do (:mod:`osprovider.disk.copy`, :mod:`osprovider.disk.scan`).
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Callable, Iterable
from typing import Self

from osprovider.manifest import Extent

__all__ = ["LARGEST_EXTENT", "Crew"]

LARGEST_EXTENT = 4 << 20
"""The size of each buffer, in bytes."""

_THREADS = min(4, os.cpu_count() or 1)  # more gain nothing


class Crew:
    """Works through extents while the body of a ``with`` does something else.

    Leaving the body waits for them; leaving it by an exception (a signal's) has each of them stop after its extent. The
    first error ends them all.
    """

    def __init__(self, work: Callable[[Extent, memoryview], None], extents: Iterable[Extent]) -> None:
        self._work = work
        self._extents = iter(extents)
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._stop = False
        self._threads = [threading.Thread(target=self._run, name=f"copy-{number}") for number in range(_THREADS)]

    def go_on(self, _count: int) -> None:
        """Called by the body from time to time: raises what went wrong in a thread meanwhile."""
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._join()
        finally:
            self._stop = True
            self._join()
        if kind is None and self._error is not None:
            raise self._error

    def _join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        try:
            buffer = memoryview(mmap.mmap(-1, LARGEST_EXTENT))  # aligned, as O_DIRECT wants it
            while (extent := self._next()) is not None:
                self._work(extent, buffer)
        except BaseException as error:
            self._error = self._error or error

    def _next(self) -> Extent | None:
        with self._lock:
            return None if self._stop or self._error else next(self._extents, None)
