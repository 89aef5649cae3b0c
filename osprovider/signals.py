"""A signal that asks us to stop becomes an exception, so that everything taken is given back on the way out.

Not for: programs that we have started, which end with us (:mod:`osprovider.run`).
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from osprovider.errors import Terminated

__all__ = ["STOPPING", "past_stopping", "terminable"]

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""The signals that ask us to stop."""


class _State:
    """What further signals do."""

    is_stopping = False


_state = _State()


@contextmanager
def terminable() -> Iterator[None]:
    """Within it SIGTERM, SIGINT and SIGHUP raise :class:`Terminated` in the main thread, once.

    While we unwind, further ones do nothing, so that an impatient second signal leaves no mount behind. One that our
    caller has us ignore stays ignored, as nohup(1) wants it.
    """
    _state.is_stopping = False

    # Not SIG_IGN for the further ones: Python complains of those that have come, but have not been handled, by then.
    def stop(number: int, _frame: FrameType | None) -> None:
        if not _state.is_stopping:
            _state.is_stopping = True
            raise Terminated(signal.Signals(number).name)

    heeded = [number for number in STOPPING if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def past_stopping() -> None:
    """Have signals do nothing any more, within :func:`terminable`: what was asked for is done, and the end is near."""
    _state.is_stopping = True
