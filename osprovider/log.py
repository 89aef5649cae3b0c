"""What the operator sees while osprovider works: one timed line a step, progress of what takes long, errors last.

Everything goes to standard error, which Ganeti joins with its job log; standard output belongs to data.
On a terminal a running step is drawn over itself, with a bar where its end is known; in a log each line is final, and
the name of a step that is running stands there before it is done, so that a log of a run that hangs says where.
Not for: what programs print; :mod:`osprovider.run` keeps their last lines for the error.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

__all__ = ["Reporter", "human_bytes", "plain", "reporter"]

_PROGRESS_EVERY = 10.0  # seconds between two progress lines of one step in a log
_REDRAW_EVERY = 0.1  # seconds between two drawings on a terminal
_BAR = 20  # columns
_NEWLINE = "\n"  # what programs said keeps its lines
_COLUMNS = 80  # of a terminal that does not say


def human_bytes(count: int) -> str:
    """``count`` bytes in the largest binary unit that leaves at least one (``431 MiB``, ``2.5 GiB``, ``17 bytes``)."""
    size = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if size >= 10 or unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


class Reporter:
    """Writes steps and messages to one stream.

    Args:
        stream: where to; standard error as it is at the time of writing when None.
        verbose: also say what each program that is run was called with.
    """

    def __init__(self, stream: TextIO | None = None, *, verbose: bool = False) -> None:
        self._stream = stream
        self.verbose = verbose
        self._open_line = ""  # what stands on the current line, not ended yet

    @property
    def stream(self) -> TextIO:
        """Where it writes."""
        return self._stream or sys.stderr

    @property
    def is_terminal(self) -> bool:
        """Can a line be drawn over."""
        return self.stream.isatty()

    def info(self, message: str) -> None:
        """A line of its own."""
        self._end_line()
        self._write(f"{plain(message, keep=_NEWLINE)}\n")

    def warning(self, message: str) -> None:
        """Something the operator should look at, though the work goes on."""
        self.info(f"warning: {message}")

    def error(self, message: str) -> None:
        """Why the work ended, the last thing that is said."""
        self.info(f"osprovider: {message}")

    def debug(self, message: str) -> None:
        """For ``--debug`` only."""
        if self.verbose:
            self.info(f"debug: {message}")

    @contextmanager
    def step(self, what: str) -> Iterator[Callable[[str], None]]:
        """A step of the work: its name now, its time when it is done.

        Yields:
            a function that notes a detail to be shown with the time (``431 MiB``).
        """
        details: list[str] = []
        start = time.monotonic()
        self._end_line()
        self._open_line = what  # before it stands there: a signal may raise in between
        self._write(self._fitted(what) if self.is_terminal else what)
        try:
            yield details.append
        except BaseException:
            self._finish(what, start, ["failed"])
            raise
        self._finish(what, start, details)

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """A step that copies or fetches ``total`` bytes: drawn on a terminal, a line every ten seconds in a log.

        Yields:
            a function to call with each further number of bytes done; threads may call it.
        """
        done = 0
        every = _REDRAW_EVERY if self.is_terminal else _PROGRESS_EVERY
        due = time.monotonic() + every

        def advance(count: int) -> None:
            nonlocal done, due
            done += count
            now = time.monotonic()
            if now < due:
                return
            due = now + every
            percent = min(done * 100 // max(total, 1), 100)
            if self.is_terminal:
                bar = "#" * (percent * _BAR // 100)
                self._draw(what, f": [{bar:.<{_BAR}}] {percent:3} % of {human_bytes(total)}")
            else:
                self._draw(what, f": {percent} % of {human_bytes(total)}")

        with self.step(what) as detail:
            yield advance
            detail(human_bytes(total))

    def running(self, what: str, doing: str) -> None:
        """Say what a long step is at: drawn over on a terminal, a line in a log."""
        self._draw(what, f": {doing}")

    def _draw(self, what: str, doing: str) -> None:
        if self.is_terminal:
            self._write(f"\r\x1b[K{self._fitted(what, doing)}")
            self._open_line = f"{what}{doing}"
        else:
            self.info(f"  {what}{doing}")

    def _fitted(self, what: str, doing: str = "") -> str:
        """As much as one line of the terminal takes: one that wraps is not drawn over. The end tells more."""
        try:
            room = os.get_terminal_size(self.stream.fileno()).columns or _COLUMNS
        except (OSError, ValueError):
            room = _COLUMNS
        return f"{what[: max(room - 1 - len(doing), 0)]}{doing}"[: room - 1]

    def _finish(self, what: str, start: float, details: list[str]) -> None:
        note = f" ({plain(', '.join(details), keep=_NEWLINE)})" if details else ""
        line = f"{what}:{note} {time.monotonic() - start:.2f} s"
        if self._open_line and self.is_terminal:
            self._write(f"\r\x1b[K{line}\n")
        elif self._open_line == what:
            self._write(f"{line[len(what) :]}\n")
        else:
            self._end_line()
            self._write(f"{line}\n")
        self._open_line = ""

    def _end_line(self) -> None:
        if self._open_line:
            self._write("\n")
            self._open_line = ""

    def _write(self, text: str) -> None:
        try:
            self.stream.write(text)
            self.stream.flush()
        except (OSError, ValueError):
            # A reader that went away must not stop an installation half way.
            self._open_line = ""


def plain(text: str, *, keep: str = "") -> str:
    """What images, archives and servers say, as a terminal may show it: nobody but us moves the cursor.

    Args:
        text: theirs.
        keep: characters that stay although they are not printable.
    """
    return "".join(each if each.isprintable() or each in keep else "?" for each in text)


reporter = Reporter()
"""The program's own; ``reporter.verbose`` is set by ``--debug``."""
