"""The machine's processes, as proc(5) shows them while they come and go.

Not here: what a test may leave behind (``tests.support.leftovers``).
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

__all__ = ["directories", "family", "name", "parents"]


def directories(parent: str = "/proc") -> list[Path]:
    """Return the directory in /proc of every process, or in /proc/PID/task of every thread.

    Not ``Path.glob`` of a file in them, which raises ProcessLookupError where a process ends meanwhile (Python 3.11).
    """
    with os.scandir(parent) as entries:
        return [Path(entry.path) for entry in entries if entry.name.isdigit()]


def parents() -> dict[int, int]:
    """Return the parent's id of each process, of those that ended and wait for their parent too."""
    found = {}
    with os.scandir("/proc") as entries:
        pids = [entry.name for entry in entries if entry.name.isdigit()]
    for pid in pids:
        with suppress(OSError):  # ended since it was listed
            # As pathlib would, in a fifth of the time: there are hundreds, and tests look again and again.
            fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
            try:
                found[int(pid)] = int(os.read(fd, 4096).rpartition(b")")[2].split()[1])
            finally:
                os.close(fd)
    return found


def family(ancestor: int) -> set[int]:
    """Return the ids of a process and all its descendants, those that ended and wait for their parent too."""
    children: dict[int, list[int]] = {}
    for pid, parent in parents().items():
        children.setdefault(parent, []).append(pid)
    found, new = {ancestor}, [ancestor]
    while new:
        more = children.get(new.pop(), [])
        found.update(more)
        new += more
    return found


def name(pid: int) -> str:
    """Return a process's name (proc(5), ``comm``); "" where it has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""
