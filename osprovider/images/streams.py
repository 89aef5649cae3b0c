"""Compressed files as streams: decompressed by programs in the sandbox, on all cores where the format has blocks.

A thread hands the bytes on without a copy (splice(2)) and counts them, so that what unpacks to more than it may ends
early, and a file that turns out damaged is known to be so before the reader is told that it ended.
Not for: what is in a stream (:mod:`osprovider.images.formats`).
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from subprocess import Popen
from typing import IO, Literal

from osprovider.background import Task
from osprovider.errors import ImageError
from osprovider.log import human_bytes
from osprovider.run import running
from osprovider.sandbox import confine

__all__ = ["COMPRESSIONS", "Compression", "Stream", "decompressed", "head"]

Compression = Literal["none", "gzip", "xz", "zstd", "bzip2", "lz4"]

COMPRESSIONS: dict[Compression, tuple[str, ...]] = {
    "none": (),
    "gzip": ("pigz", "--decompress", "--stdout"),  # one thread decodes, others read, write and check
    "xz": ("xz", "--decompress", "--stdout", "--threads=0", "--memlimit-mt-decompress=128MiB"),
    "zstd": ("zstd", "--decompress", "--stdout", "--quiet"),
    "bzip2": ("lbzip2", "--decompress", "--stdout"),
    "lz4": ("lz4", "--decompress", "--stdout", "--quiet"),
}
"""What decompresses, from standard input to standard output."""

_PIPE_BYTES = 1 << 20


class Stream:
    """A file's bytes, decompressed, from the read end of a pipe.

    Args:
        path: the file.
        source: it, open; a decompressor shares its position.
        fd: the pipe's read end.
    """

    def __init__(self, path: Path, source: IO[bytes], fd: int) -> None:
        self.path = path
        self.count = 0
        """How many bytes came out so far."""
        self._source = source
        self._fd = fd

    def fileno(self) -> int:
        """The pipe's read end."""
        return self._fd

    @property
    def position(self) -> int:
        """How many bytes of the file were read so far."""
        return os.lseek(self._source.fileno(), 0, os.SEEK_CUR)


@contextmanager
def decompressed(path: Path, compression: Compression, *, limit_bytes: int) -> Iterator[Stream]:
    """A file's content, decompressed, for a reader that reads it to its end.

    Args:
        path: the file.
        compression: how it is compressed.
        limit_bytes: the most that may come out.

    Raises:
        ImageError: at the end, or instead of what the reader raised because of it: the file is damaged, cut off, or has
            more behind its end; it unpacks to more than ``limit_bytes``; it cannot be read.
    """
    with ExitStack() as stack:
        source = stack.enter_context(_opened(path))
        log = stack.enter_context(tempfile.TemporaryFile())
        read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
        fcntl.fcntl(read_fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        stream = Stream(path, source, read_fd)
        relay = _Relay(stream, source, compression, write_fd, log, limit_bytes)
        task = Task(f"decompress {path.name}", relay.work)
        try:
            yield stream
            relay.drain(read_fd)
        except BaseException as error:
            os.close(read_fd)  # the relay ends at its next write
            task.wait()
            if relay.failure is not None and isinstance(error, Exception):
                raise relay.failure from error
            raise
        os.close(read_fd)
        task.result()
        if relay.failure is not None:
            raise relay.failure


def head(path: Path, compression: Compression, size: int) -> bytes:
    """The first bytes of a file's content, decompressed; fewer where it has fewer, or is damaged before.

    Args:
        path: the file.
        compression: how it is compressed.
        size: how many bytes.

    Raises:
        ImageError: the file cannot be read.
    """
    with ExitStack() as stack:
        source = stack.enter_context(_opened(path))
        if compression == "none":
            return source.read(size)
        log = stack.enter_context(tempfile.TemporaryFile())
        process = stack.enter_context(_running(compression, source, log))
        return process.stdout.read(size) if process.stdout else b""


class _Relay:
    """Moves bytes from a decompressor, or the file itself, into a pipe, and keeps count of them."""

    def __init__(
        self, stream: Stream, source: IO[bytes], compression: Compression, target: int, log: IO[bytes], limit: int
    ) -> None:
        self.failure: ImageError | None = None
        self._stream = stream
        self._source = source
        self._compression: Compression = compression
        self._target = target
        self._log = log
        self._limit = limit

    def work(self) -> None:
        """Run to the end of the data, the first failure, or until nobody reads any more."""
        try:
            if self._compression == "none":
                self._move(self._source.fileno())
                return
            with _running(self._compression, self._source, self._log) as process:
                if process.stdout:
                    self._move(process.stdout.fileno())
                if self.failure is None and (status := process.wait()):
                    self._fail(status)
        except BrokenPipeError:
            pass
        except OSError as error:
            self.failure = ImageError(f"{self._stream.path}: cannot be read: {error.strerror}")
        finally:
            os.close(self._target)

    def drain(self, fd: int) -> None:
        """Read what the reader left, so that the file is read, and checked, to its end."""
        while os.read(fd, _PIPE_BYTES):
            pass

    def _move(self, source: int) -> None:
        stream = self._stream
        while moved := os.splice(source, self._target, _PIPE_BYTES):
            stream.count += moved
            if stream.count > self._limit:
                self.failure = ImageError(
                    f"{stream.path}: unpacks to more than {human_bytes(self._limit)} ({self._limit} bytes), which is "
                    "what the definition allows; raise its max_size if that is right"
                )
                return

    def _fail(self, status: int) -> None:
        self._log.seek(0)
        said = self._log.read(1 << 16).decode(errors="replace").strip().splitlines()
        why = said[-1].strip() if said else f"{COMPRESSIONS[self._compression][0]} ended with status {status}"
        stream = self._stream
        self.failure = ImageError(
            f"{stream.path}: damaged or cut off: {self._compression} data ends badly after {stream.count} bytes "
            f"unpacked (about byte {stream.position} of the file): {why}; fetch or make it again"
        )


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    try:
        file = path.open("rb", buffering=0)
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}") from error
    with file:
        yield file


def _running(compression: Compression, source: IO[bytes], log: IO[bytes]) -> AbstractContextManager[Popen[bytes]]:
    return running(confine(COMPRESSIONS[compression]), stdin=source.fileno(), stderr=log.fileno())
