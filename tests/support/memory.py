"""How much memory a program and everything that it starts hold at most, watched from without.

The sum of the processes' proportional set sizes (proc(5), smaps_rollup): what several share counts once. What is
mapped of files, programs most of all, is told apart: the kernel takes it back when it likes. Their other cache does not
count.
Not for: what a virtual machine's guest does with its memory; the machine itself counts.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.watching import watching

__all__ = ["Peak", "peak_of", "watched"]

_EVERY_SECONDS = 0.02


@dataclass(slots=True)
class Peak:
    """The most that was seen at one moment.

    Attributes:
        bytes: of all processes.
        anonymous_bytes: likewise, without the programs and other files that are mapped.
        processes: each one's share of that, by its number and command line.
    """

    bytes: int = 0
    anonymous_bytes: int = 0
    processes: dict[str, int] = field(default_factory=dict)


def peak_of(argv: Sequence[str | Path], env: Mapping[str, str]) -> tuple[Peak, subprocess.CompletedProcess[str]]:
    """Run a program to its end."""
    process = subprocess.Popen(argv, env=dict(env), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with watched(process.pid) as peak:
        stdout, stderr = process.communicate()
    return peak, subprocess.CompletedProcess(argv, process.returncode, stdout, stderr)


@contextmanager
def watched(pid: int) -> Iterator[Peak]:
    """Watch a process and its descendants while the body runs."""
    peak = Peak()

    def look() -> None:
        found = list(_sizes(pid))
        total = sum(size for _, size, _ in found)
        peak.anonymous_bytes = max(peak.anonymous_bytes, sum(anonymous for _, _, anonymous in found))
        if total > peak.bytes:
            peak.bytes, peak.processes = total, {process: size for process, size, _ in found}

    with watching(look, _EVERY_SECONDS):
        yield peak


def _sizes(pid: int) -> Iterator[tuple[str, int, int]]:
    directory = Path(f"/proc/{pid}")
    with suppress(OSError):  # it may end at any moment
        command = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        for file in (directory / "task").glob("*/children"):
            for child in file.read_text().split():
                yield from _sizes(int(child))
        rollup = (directory / "smaps_rollup").read_text()
        sizes = {name: int(size) * 1024 for name, size in re.findall(r"(?m)^(Pss\w*): +(\d+) kB$", rollup)}
        if sizes:
            yield f"{pid} {command}", sizes["Pss"], sizes["Pss_Anon"] + sizes["Pss_Shmem"]
