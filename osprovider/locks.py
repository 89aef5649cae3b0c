"""Locks between processes, on files beneath the run directory; a lock dies with the process that holds it (flock(2)).

A lock file is never unlinked: whoever waits for it has it open already, and would lock a file that nobody else can see.
They are empty, lie in a tmpfs, and are gone with the next boot. The descriptors are not inherited by programs that we
start, so that none of them holds a lock for us after our death.
Not for: threads of one process; nor for what Ganeti locks itself (an instance, its disks).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from osprovider.errors import OsproviderError, reason_of

__all__ = ["attempt", "exclusive", "shared"]


@contextmanager
def exclusive(path: Path, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock alone.

    Args:
        path: the lock file; made, with its directories, where it is missing.
        on_wait: called once, before we start waiting, when somebody else holds it.

    Raises:
        OsproviderError: the lock file can't be made.
    """
    with _opened(path) as fd:
        _wait(fd, fcntl.LOCK_EX, on_wait)
        yield


@contextmanager
def shared(path: Path, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock together with others that share it.

    Args:
        path: as for :func:`exclusive`.
        on_wait: likewise.

    Raises:
        OsproviderError: the lock file can't be made.
    """
    with _opened(path) as fd:
        _wait(fd, fcntl.LOCK_SH, on_wait)
        yield


@contextmanager
def attempt(path: Path) -> Iterator[bool]:
    """Hold the lock alone if it can be had at once.

    Args:
        path: as for :func:`exclusive`.

    Yields:
        whether we hold it.

    Raises:
        OsproviderError: the lock file can't be made.
    """
    with _opened(path) as fd:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """The lock file; closing it gives the lock back."""
    try:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise OsproviderError(
            f"cannot lock {path}: {reason_of(error)}; what it lies in has to be a directory, writable and not full"
        ) from error
    try:
        yield fd
    finally:
        os.close(fd)


def _wait(fd: int, how: int, on_wait: Callable[[], None] | None) -> None:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        if on_wait:
            on_wait()
        fcntl.flock(fd, how)
