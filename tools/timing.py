"""What the benchmarks share: whole processes timed, on disks that are at rest."""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Run", "asked_runs", "new_file", "settle", "spread", "timed", "working_directory"]

_BUILD = Path(__file__).resolve().parent.parent / "build"
_SETTLE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Run:
    """A program that was run.

    Attributes:
        seconds: from exec to exit.
        peak_kib: what the largest of its processes had resident, in KiB.
        printed: on both its streams.
    """

    seconds: float
    peak_kib: int
    printed: str

    def of(self, step: str) -> float:
        """The time that it says a step of its took, in seconds; the step's name is a regular expression."""
        found = re.findall(rf"^{step}.* ([0-9.]+) s$", self.printed, re.MULTILINE)
        if len(found) != 1:
            sys.exit(f"no one step {step} in:\n{self.printed}")
        (seconds,) = found
        return float(seconds)


def asked_runs(program: str, description: str | None, usual: int) -> int:
    """How often each side is to be run: the option ``--runs`` of a benchmark."""
    parser = argparse.ArgumentParser(prog=program, description=description)
    parser.add_argument("--runs", type=int, default=usual, help="counted runs of each side (default: %(default)s)")
    runs: int = parser.parse_args().runs
    return runs


@contextmanager
def working_directory() -> Iterator[Path]:
    """A directory of the benchmark's own on the checkout's disk, gone afterwards."""
    _BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="osprovider-bench-", dir=_BUILD) as name:
        yield Path(name)


def timed(words: Sequence[str | Path], environment: Mapping[str, str], directory: Path | None = None) -> Run:
    """Run a program in a directory; ends the benchmark with what it printed where it fails."""
    with tempfile.TemporaryFile("w+") as log:
        start = time.monotonic()
        process = subprocess.Popen(
            words, cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        log.seek(0)
        printed = log.read()
    if status:
        sys.exit(f"{' '.join(map(str, words))} failed:\n{printed}")
    return Run(seconds, usage.ru_maxrss, printed)


def new_file(path: Path, size_bytes: int) -> Path:
    """Make a sparse file in place of the one before, and wait until the disk is at rest."""
    path.unlink(missing_ok=True)
    with path.open("wb") as file:
        file.truncate(size_bytes)
    settle()
    return path


def settle() -> None:
    """Wait until the disk is at rest.

    A file system mounted with ``discard`` goes on giving back the blocks of a removed file after sync(2) has returned,
    and would slow down whoever is measured next.
    """
    os.sync()
    time.sleep(_SETTLE_SECONDS)


def spread(values: Sequence[float]) -> str:
    """Median, least and most as text."""
    return f"median {statistics.median(values):.2f}, from {min(values):.2f} to {max(values):.2f}"
