"""The machine's processes, as proc(5) shows them while they come and go.

Not here: what a test may leave behind (``tests.support.leftovers``).
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

__all__ = ["directories", "family", "name"]


def directories(parent: str = "/proc") -> list[Path]:
    """Return the directory in /proc of every process, or in /proc/PID/task of every thread.

    Not ``Path.glob`` of a file in them, which raises ProcessLookupError where a process ends meanwhile (Python 3.11).
    """
    with os.scandir(parent) as entries:
        return [Path(entry.path) for entry in entries if entry.name.isdigit()]


def family(ancestor: int) -> set[int]:
    """Return the ids of a process and all its descendants, those that ended and wait for their parent too."""
    parents = {}
    for directory in directories():
        with suppress(OSError):  # ended since it was listed
            parents[int(directory.name)] = int((directory / "stat").read_text().rpartition(")")[2].split()[1])
    found = {ancestor}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def name(pid: int) -> str:
    """Return a process's name (proc(5), ``comm``); "" where it has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""
