"""Locks between processes, on files beneath the run directory; a lock dies with the process that holds it (flock(2)).

A lock file is never unlinked: whoever waits for it has it open already, and would lock a file that nobody else can see.
They are empty, lie in a tmpfs, and are gone with the next boot. The descriptors are not inherited by programs that we
start, so that none of them holds a lock for us after our death.
Not for: threads of one process; nor for what Ganeti locks itself (an instance, its disks).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from osprovider.errors import OsproviderError, reason_of
from osprovider.log import reporter

__all__ = ["attempt", "exclusive", "shared"]


@contextmanager
def exclusive(path: Path, doing: str | None = None) -> Iterator[None]:
    """Hold the lock alone.

    Args:
        path: the lock file; made, with its directories, where it is missing.
        doing: what another one does that holds it (``prepares image web``), which is said before we wait for that;
            nothing is when None.

    Raises:
        OsproviderError: the lock file can't be made.
    """
    with _opened(path) as fd:
        _take(fd, fcntl.LOCK_EX, doing)
        yield


@contextmanager
def shared(path: Path, doing: str | None = None) -> Iterator[None]:
    """Hold the lock together with others that share it.

    Args:
        path: as for :func:`exclusive`.
        doing: likewise.

    Raises:
        OsproviderError: the lock file can't be made.
    """
    with _opened(path) as fd:
        _take(fd, fcntl.LOCK_SH, doing)
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


def _take(fd: int, how: int, doing: str | None) -> None:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        if doing is not None:
            reporter.info(f"waiting for another osprovider that {doing}")
        fcntl.flock(fd, how)
