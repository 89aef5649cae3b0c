"""A signal that asks us to stop becomes an exception, so that everything taken is given back on the way out."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from osprovider.errors import Terminated

__all__ = ["terminable"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@contextmanager
def terminable() -> Iterator[None]:
    """Within it SIGTERM, SIGINT and SIGHUP raise :class:`Terminated` in the main thread, once.

    While we unwind, further ones are ignored, so that an impatient second signal leaves no mount behind.
    """

    def stop(number: int, _frame: FrameType | None) -> NoReturn:
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise Terminated(signal.Signals(number).name)

    before = {number: signal.signal(number, stop) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
