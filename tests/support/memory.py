"""How much memory a program and everything that it starts hold at most, watched from without.

The sum of the processes' proportional set sizes (proc(5), smaps_rollup): what several share counts once. The cache of
files, which the kernel takes back when it likes, does not count.
Not for: what a virtual machine's guest does with its memory; the machine itself counts.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.watching import watching

__all__ = ["Peak", "peak_of", "watched"]

_EVERY_SECONDS = 0.01


@dataclass(slots=True)
class Peak:
    """The most that was seen at one moment.

    Attributes:
        bytes: of all processes.
        processes: each one's share of that, by its number and command line.
    """

    bytes: int = 0
    processes: dict[str, int] = field(default_factory=dict)


def peak_of(
    argv: Sequence[str | Path], env: Mapping[str, str], *, without: Callable[[str], bool] = lambda _: False
) -> tuple[Peak, subprocess.CompletedProcess[str]]:
    """Run a program to its end.

    Args:
        argv: the program and its arguments.
        env: its environment.
        without: tells by its command line whether a process does not count, with all that it starts.
    """
    process = subprocess.Popen(argv, env=dict(env), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with watched(process.pid, without) as peak:
        stdout, stderr = process.communicate()
    return peak, subprocess.CompletedProcess(argv, process.returncode, stdout, stderr)


@contextmanager
def watched(pid: int, without: Callable[[str], bool]) -> Iterator[Peak]:
    """Watch a process and its descendants while the body runs."""
    peak = Peak()

    def look() -> None:
        now = dict(_sizes(pid, without))
        if sum(now.values()) > peak.bytes:
            peak.bytes, peak.processes = sum(now.values()), now

    with watching(look, _EVERY_SECONDS):
        yield peak


def _sizes(pid: int, without: Callable[[str], bool]) -> Iterator[tuple[str, int]]:
    directory = Path(f"/proc/{pid}")
    with suppress(OSError):  # it may end at any moment
        command = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        if without(command):
            return
        for file in (directory / "task").glob("*/children"):
            for child in file.read_text().split():
                yield from _sizes(int(child), without)
        found = re.search(r"(?m)^Pss:\s+(\d+) kB$", (directory / "smaps_rollup").read_text())
        if found:
            yield f"{pid} {command}", int(found[1]) * 1024
