"""What this process has from whoever called it, made the same for everybody: standard streams, the umask, signals.

Not for: signals that ask us to stop (:mod:`osprovider.signals`), nor for the environment of programs that we start
(:mod:`osprovider.run`).
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedWriter, FileIO, TextIOWrapper
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["leave", "settled"]


@contextmanager
def settled() -> Iterator[None]:
    """Within it all three standard streams are open, files are made with the usual umask, and no signal is blocked.

    One that is would be so in programs that we start, too, which could not be ended. And where our caller has SIGCHLD
    ignored, their exit statuses would be lost (wait(2)): each would seem to have ended well.

    At its end what could not be written to a stream is dropped: Python would try once more when it exits, and change
    the exit status of an installation that succeeded to 120 because the log's disk was full.
    """
    _open_closed_streams()
    os.umask(0o022)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                _lead_nowhere(stream.fileno())


def leave(status: int) -> NoReturn:
    """End the process within :func:`settled` or after it, with everything given back already.

    Python would take all its modules apart first, which takes 15 ms of an installation's 300.

    Args:
        status: the exit status.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def _open_closed_streams() -> None:
    """Open to nowhere what is closed: else the disk may be what is opened under that number, and get our messages."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            _lead_nowhere(number)
    # What Python itself found closed at its start it has set to None.
    if sys.stdout is sys.__stdout__:
        # A letter that a terminal lacks is not worth an error.
        encoding = sys.stdout.encoding if sys.stdout else None
        sys.stdout = TextIOWrapper(BufferedWriter(_Output(1, "w", closefd=False)), encoding=encoding, errors="replace")
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115 - for the rest of the process


class _Output(FileIO):
    """Standard output, which an error of its own names."""

    def write(self, data: ReadableBuffer, /) -> int:
        """As the base class."""
        try:
            return super().write(data)
        except OSError as error:
            error.filename = "standard output"
            raise


def _lead_nowhere(number: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    if nowhere != number:
        os.dup2(nowhere, number)
        os.close(nowhere)
    os.set_inheritable(number, True)
