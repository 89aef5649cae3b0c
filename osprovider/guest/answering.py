"""A program that answers for a file system (FUSE), held so that it cannot hold us.

Who asks a file system waits in the kernel until it has its answer, and can neither heed a signal nor be killed before
(``request_wait_answer`` in the kernel's fs/fuse/dev.c).
Not for: the programs themselves (:mod:`osprovider.guest.fuse2fs`, :mod:`osprovider.guest.appliance`).
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

from osprovider.background import Task
from osprovider.signals import STOPPING

__all__ = ["answering"]

_PAUSE_SECONDS = 0.5

_Program = TypeVar("_Program")


@contextmanager
def answering(program: AbstractContextManager[_Program], seconds: float = float("inf")) -> Iterator[_Program]:
    """Have a program run as long as the body, or as long as it may; yields what it is entered as.

    A thread of its own starts it, and ends it. Where we are killed, this thread ends first, and the program with it;
    where we are asked to stop, it sees that nobody takes the signal.

    Args:
        program: starts it, in such a way that it ends with the thread that did, and ends it.
        seconds: the longest that it may run.
    """
    entered: list[_Program] = []
    ready, over = threading.Event(), threading.Event()

    def hold() -> None:
        try:
            with program as value:
                entered.append(value)
                ready.set()
                signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)  # what is blocked here is seen while it waits
                end = time.monotonic() + seconds
                while not over.wait(_PAUSE_SECONDS) and time.monotonic() < end and not signal.sigpending():
                    pass
        finally:
            ready.set()

    task = Task("answering", hold)
    try:
        ready.wait()
        if not entered:
            task.result()
        yield entered[0]
    finally:
        over.set()
        task.result()
