"""Compressed files as streams: decompressed by programs in the sandbox, on all cores where the format has blocks.

A thread hands the bytes on without a copy (splice(2)) and counts them, so that what unpacks to more than it may ends
early, and a file that turns out damaged is known to be so before the reader is told that it ended.
Not for: what is in a stream (:mod:`osprovider.images.formats`).
"""

from __future__ import annotations

import fcntl
import os
import select
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from subprocess import Popen
from typing import IO, Literal

from osprovider.background import Task
from osprovider.errors import ImageError, NodeError, ToolError, reason_of
from osprovider.log import human_bytes
from osprovider.programs import is_installed, require
from osprovider.run import running
from osprovider.sandbox import confine, signal_of

__all__ = ["Compression", "Stream", "decompressed", "head"]

Compression = Literal["none", "gzip", "xz", "zstd", "bzip2", "lz4"]

_PROGRAMS: dict[Compression, tuple[str, ...]] = {
    "none": (),
    # One thread decodes, others read, write and check. What it leaves out is a failure with --verbose only.
    "gzip": ("pigz", "--decompress", "--stdout", "--verbose"),
    "xz": (
        *("xz", "--decompress", "--stdout", "--threads=0"),
        *("--memlimit-mt-decompress=128MiB", "--memlimit-decompress=128MiB"),  # xz -9 takes 65
    ),
    "zstd": ("zstd", "--decompress", "--stdout", "--quiet"),
    "bzip2": ("lbzip2", "--decompress", "--stdout", "-n", str(min(8, os.cpu_count() or 1))),  # 12 MiB a thread
    "lz4": ("lz4", "--decompress", "--stdout", "--quiet"),
}
"""What decompresses, from standard input to standard output."""

_PZSTD = ("pzstd", "--decompress", "--stdout", "--quiet", "--processes", "4")
# What pzstd writes before each of its frames: a skippable frame (RFC 8878, 3.1.2) of 4 bytes, the frame's length.
_PZSTD_MAGIC = b"\x50\x2a\x4d\x18\x04\x00\x00\x00"
_PZSTD_LARGEST = 8 << 20  # each of its threads holds a frame, unpacked; a larger one is left to zstd
_PZSTD_HEADER = 12
_STUCK_SECONDS = 60.0

_BZIP2_LAST = 0x177245385090

_PIPE_BYTES = 1 << 20
_LOG_BYTES = 1 << 16


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
        _require(path, compression)
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
            try:
                return source.read(size)
            except OSError as error:
                raise _unreadable(path, error) from error
        _require(path, compression)
        log = stack.enter_context(tempfile.TemporaryFile())
        process = stack.enter_context(_running(_PROGRAMS[compression], source, log))
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
            with _running(_words(self._compression, self._source), self._source, self._log) as process:
                if process.stdout:
                    self._move(process.stdout.fileno())
                if self.failure is None:
                    self.failure = self._verdict(process.wait())
        except BrokenPipeError:
            pass
        except OSError as error:
            self.failure = _unreadable(self._stream.path, error)
        except ToolError as error:
            self.failure = ImageError(f"{self._stream.path}: {error}")
        finally:
            os.close(self._target)

    def drain(self, fd: int) -> None:
        """Read what the reader left, so that the file is read, and checked, to its end."""
        while os.read(fd, _PIPE_BYTES):
            pass

    def _move(self, source: int) -> None:
        stream = self._stream
        while self._goes_on(source) and (moved := os.splice(source, self._target, _PIPE_BYTES)):
            stream.count += moved
            if stream.count > self._limit:
                self.failure = ImageError(
                    f"{stream.path}: unpacks to more than {human_bytes(self._limit)} ({self._limit} bytes), and "
                    "the definition does not allow that; raise its max_size if it is right"
                )
                return

    def _goes_on(self, source: int) -> bool:
        """Wait for the next bytes, or the end; False where the decompressor neither reads nor writes any more.

        pzstd 1.5 can do so over damaged data: all its threads wait for each other.
        """
        stream, poller = self._stream, select.poll()
        poller.register(source, select.POLLIN)
        position = stream.position
        while not poller.poll(_STUCK_SECONDS * 1000):
            if stream.position == position:
                self.failure = ImageError(
                    f"{stream.path}: damaged, or on a disk that does not answer: unpacking stands still after "
                    f"{stream.count} bytes (about byte {position} of the file); fetch or make it again"
                )
                return False
            position = stream.position
        return True

    def _verdict(self, status: int) -> ImageError | None:
        """What is wrong with the file, by the status that its decompressor ended with and by what it left unread."""
        stream = self._stream
        program = _PROGRAMS[self._compression][0]
        log = self._said()
        place = f"after {stream.count} bytes unpacked (about byte {stream.position} of the file)"
        if self._ended_early(status, log):
            return ImageError(
                f"{stream.path}: damaged, or has more behind its end: {self._compression} data ends {place}, and "
                "something else follows; fetch or make it again"
            )
        if status == 0:
            return None
        if number := signal_of(status):
            return NodeError(f"{stream.path}: {program} was ended by signal {number} {place}; is memory short?")
        why = log[-1].removeprefix("<stdin> to <stdout>").strip() if log else f"{program} ended with status {status}"
        if any("emory" in line for line in log):
            return ImageError(
                f"{stream.path}: {self._compression} data takes more memory to unpack than images may: {why}; "
                "compress it again with a smaller dictionary"
            )
        return ImageError(
            f"{stream.path}: damaged or cut off: {self._compression} data ends badly {place}: {why}; "
            "fetch or make it again"
        )

    def _said(self) -> list[str]:
        self._log.seek(0)
        return [line for line in self._log.read(_LOG_BYTES).decode(errors="replace").splitlines() if line.strip()]

    def _ended_early(self, status: int, log: list[str]) -> bool:
        """Did it take for the end what is not the file's end, which pigz and lbzip2 do not call a failure."""
        if status != 0:
            return any("trailing junk" in line for line in log)
        size = os.fstat(self._source.fileno()).st_size
        if self._stream.position < size:
            return True
        return self._compression == "bzip2" and not _ends_as_bzip2(
            os.pread(self._source.fileno(), 11, max(0, size - 11))
        )


def _ends_as_bzip2(tail: bytes) -> bool:
    """Is there a bzip2 stream's last block, which has 80 bits and begins within a byte, right at the end."""
    bits = int.from_bytes(tail, "big")
    return any(bits >> padding + 32 & (1 << 48) - 1 == _BZIP2_LAST for padding in range(8))


def _words(compression: Compression, source: IO[bytes]) -> tuple[str, ...]:
    """The program for a file: zstd's other one where its frames can be unpacked side by side."""
    if compression == "zstd" and _is_of_pzstd(source.fileno()) and is_installed("pzstd"):
        return _PZSTD
    return _PROGRAMS[compression]


def _is_of_pzstd(fd: int) -> bool:
    """Is a file of pzstd's frames to its very end, and none too large. Of one that is not, zstd says more."""
    position, size = 0, os.fstat(fd).st_size
    while position < size:
        header = os.pread(fd, _PZSTD_HEADER, position)
        length = int.from_bytes(header[8:], "little")
        if len(header) < _PZSTD_HEADER or not header.startswith(_PZSTD_MAGIC) or not 0 < length < _PZSTD_LARGEST:
            return False
        position += _PZSTD_HEADER + length
    return position == size > 0


def _require(path: Path, compression: Compression) -> None:
    if compression != "none":
        require("bwrap", _PROGRAMS[compression][0], what=str(path))


def _unreadable(path: Path, error: OSError) -> ImageError:
    return ImageError(f"{path}: cannot be read: {reason_of(error)}")


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    try:
        file = path.open("rb", buffering=0)
    except OSError as error:
        raise _unreadable(path, error) from error
    with file:
        yield file


def _running(words: Sequence[str], source: IO[bytes], log: IO[bytes]) -> AbstractContextManager[Popen[bytes]]:
    return running(confine(words), stdin=source.fileno(), stderr=log.fileno())
