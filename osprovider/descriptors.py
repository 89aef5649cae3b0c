"""Descriptors: closed where their use ends, files that only exist as one, and the path by which a program reaches it.

Not for: finding the file in a guest that is to be opened (:mod:`osprovider.guest.resolve`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["in_memory", "opened", "path_of"]


@contextmanager
def opened(fd: int) -> Iterator[int]:
    """Close ``fd`` afterwards."""
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def in_memory(name: str, data: bytes = b"") -> Iterator[int]:
    """A file in memory, of which nothing is left however this process ends.

    Args:
        name: what proc(5) shows of it.
        data: what it holds; it is read from its begin.
    """
    with opened(os.memfd_create(name)) as fd:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.lseek(fd, 0, os.SEEK_SET)
        yield fd


def path_of(fd: int) -> str:
    """A path that leads to the very file of a descriptor, in this process and in programs that inherit it.

    It serves calls that an ``O_PATH`` descriptor cannot, and opens the file anew.
    """
    return f"/proc/self/fd/{fd}"
