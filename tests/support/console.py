"""A serial console's log: what a guest wrote on it so far, and waiting for it to write something.

Not for: who writes the log; QEMU itself does, or a recorder at the socket of an instance of Ganeti's.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ConsoleLog"]

# ECMA-48 control sequences, with which firmware and GRUB paint their screens.
_CONTROL = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[()][0-9A-B]|[=>78cM])")
_LINES_OF_TAIL = 25


@dataclass(frozen=True, slots=True)
class ConsoleLog:
    """The file that a serial console's output goes to.

    Attributes:
        path: the file; it need not exist yet.
    """

    path: Path

    def text(self) -> str:
        """Return what was written so far, control sequences and carriage returns left out."""
        raw = self.path.read_bytes().decode(errors="replace") if self.path.exists() else ""
        return _CONTROL.sub("", raw).replace("\r", "")

    def tail(self) -> str:
        """Return the last lines that are not blank."""
        return "\n".join([line for line in self.text().splitlines() if line.strip()][-_LINES_OF_TAIL:])

    def wait_for(
        self, pattern: str, timeout: float, *, after: int = 0, is_alive: Callable[[], bool] = lambda: True
    ) -> re.Match[str]:
        """Wait until `pattern` appears, and return the match.

        Args:
            pattern: a regular expression; ``^`` and ``$`` match at lines.
            timeout: seconds.
            after: how many characters of `text` to leave aside: those of an earlier boot.
            is_alive: asked between looks; where it says no, waiting is of no use.

        Raises:
            TimeoutError: with the end of the log.
        """
        expression = re.compile(pattern, re.MULTILINE)
        end = time.monotonic() + timeout
        while True:
            # Asked first, so that the last words of a guest that just died are looked at.
            is_over = not is_alive() or time.monotonic() > end
            if match := expression.search(self.text(), after):
                return match
            if is_over:
                message = f"the console does not show {pattern!r}; it ends with:\n{self.tail()}"
                raise TimeoutError(message)
            time.sleep(0.2)
