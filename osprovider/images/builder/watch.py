"""What a build is at, from the lines that apt, dpkg and debootstrap print; for display, and to find causes of failures.

Not for: deciding anything.
"""

from __future__ import annotations

import re
import time
from collections import deque

from osprovider.log import reporter

__all__ = ["Progress", "Watch"]

_EVERY_LOG = 10.0  # seconds between two lines of progress in a log
_EVERY_DRAW = 0.1  # likewise on a terminal
_KEPT_LINES = 400


class Watch:
    """Shows how far a build is, and keeps what the tools said last.

    Args:
        what: is built.

    Attributes:
        lines: what the tools said, the oldest left out.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._every = _EVERY_DRAW if reporter.is_terminal else _EVERY_LOG
        self._due = time.monotonic() + self._every
        self._progress = Progress()
        self.lines: deque[str] = deque(maxlen=_KEPT_LINES)

    def line(self, line: str) -> None:
        """Take notice of a line that a tool printed."""
        self.lines.append(line)
        reporter.debug(line)
        doing = self._progress.after(line)
        if doing and time.monotonic() >= self._due:
            self._due = time.monotonic() + self._every
            reporter.running(self._what, doing)


class Progress:
    """Counts the packages of a transaction."""

    _TOTAL = re.compile(r"(\d+) upgraded, (\d+) newly installed")
    _STEP = re.compile(
        r"(?P<get>Get:\d+ |I: Retrieving )|(?P<unpack>(?:I: )?Unpacking |I: Extracting )"
        r"|(?P<setup>Setting up |I: Configuring )|(?P<initramfs>update-initramfs: Generating)"
    )
    _NAMES = {"get": "fetching", "unpack": "unpacking", "setup": "setting up"}  # noqa: RUF012

    def __init__(self) -> None:
        self._total = 0
        self._counts: dict[str, int] = {}

    def after(self, line: str) -> str | None:
        """What goes on after this line (``unpacking 34/134``); None where it says nothing about that."""
        total = self._TOTAL.match(line)
        if total:
            self._total = int(total[1]) + int(total[2])
            self._counts = {}
            return None
        step = self._STEP.match(line)
        kind = step.lastgroup if step else None
        if kind is None:
            return None
        if kind == "initramfs":
            return "making the initramfs"
        self._counts[kind] = count = self._counts.get(kind, 0) + 1
        of = f"/{self._total}" if count <= self._total else ""
        return f"{self._NAMES[kind]} {count}{of}"
