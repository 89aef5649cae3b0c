"""Looking at something again and again, beside what a test does, for what is there for a moment only.

Not for: waiting until something has come.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["watching"]


@contextmanager
def watching(look: Callable[[], None], every_seconds: float) -> Iterator[None]:
    """Call ``look`` from a thread of its own while the body runs."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(every_seconds):
            look()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
