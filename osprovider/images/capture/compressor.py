"""A pipe into a file, through zstd(1), whose bytes are counted.

Not for: what is written to it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from osprovider.background import Task
from osprovider.errors import ImageError
from osprovider.run import kill, running

__all__ = ["Compressor", "compressor"]

_PIECE = 1 << 20
_MOST_THREADS = 8  # of zstd, which takes 10 MiB for each


class Compressor:
    """Moves what is written from a pipe to zstd.

    Attributes:
        count: how many bytes have passed.
        advance: called with each number of them.
    """

    def __init__(self, write_fd: int) -> None:
        self.count = 0
        self.advance: Callable[[int], None] = lambda _: None
        self._fd = write_fd

    def fileno(self) -> int:
        """Where to write."""
        return self._fd

    def work(self, source: int, target: int) -> None:
        """Run to the end of the data, or until nobody reads any more."""
        try:
            while moved := os.splice(source, target, _PIECE):
                self.count += moved
                self.advance(moved)
        except BrokenPipeError:
            pass
        finally:  # so that whoever writes, or reads, hears of the end
            os.close(source)
            os.close(target)


@contextmanager
def compressor(target: int, output: Path) -> Iterator[Compressor]:
    """A pipe whose bytes arrive in a file, compressed; all of them when the body ends well.

    Args:
        target: the file, open for writing.
        output: what messages call it.

    Raises:
        ImageError: the file cannot be written.
    """
    threads = min(os.cpu_count() or 1, _MOST_THREADS)
    zstd_in, relay_out = os.pipe2(os.O_CLOEXEC)
    relay_in, write_fd = os.pipe2(os.O_CLOEXEC)
    relay = Compressor(write_fd)
    with tempfile.TemporaryFile() as log:
        words = ["zstd", "--quiet", "--stdout", f"--threads={threads}"]
        with running(words, stdin=zstd_in, stderr=log.fileno(), stdout=target) as process:
            os.close(zstd_in)
            task = Task("compress", relay.work, relay_in, relay_out)
            try:
                with os.fdopen(write_fd, "wb"):  # closed before anybody is waited for: they read to its end
                    yield relay
            except Exception as error:
                kill(process)
                task.wait()
                if said := _said(log):
                    raise ImageError(f"{output}: cannot be written: {said}") from error
                raise
            task.result()
            if process.wait() != 0:
                raise ImageError(f"{output}: cannot be written: {_said(log) or 'zstd failed'}")


def _said(log: IO[bytes]) -> str:
    """The last line that zstd has printed."""
    log.seek(0)
    lines = log.read(1 << 16).decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else ""
