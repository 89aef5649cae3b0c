"""A program, run in the sandbox: inflates what ``dump -z`` or ``dump -j`` compressed, from standard input to output.

The first write of such a dump is not compressed. Each one after it begins with 32 bits: whether it is compressed (1),
how (3), and its length (28). None depends on another, so all cores inflate, in processes: a write is of 10 KiB, and
threads would take longer to hand Python's lock on than to inflate it. Called with the bytes of a write; standard input
is just behind the dump's first record.
Source: protocols/dumprestore.h of dump(8), ``struct tapebuf``.
Not for: what the records mean (:mod:`osprovider.images.archive.dump`). It has nothing but Python's own library.
"""

from __future__ import annotations

import bz2
import mmap
import os
import struct
import sys
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

__all__: list[str] = []

_RECORD = 1024
_PREFIX = 4
_ZLIB, _BZIP2, _LZO = 0, 1, 2
_AT_ONCE = 1 << 20  # bytes that one process makes before it is given more
_MOST_PROCESSES = 8
_NUMBERS = struct.Struct("QQ")
_ENDED = "a process that inflates it was ended; is memory short?"


class _BadDumpError(Exception):
    """What is wrong with a dump."""


@dataclass(frozen=True, slots=True)
class _Batch:
    """Some whole writes, each with its prefix, and where the first of them is."""

    position: int
    data: bytes


def main(write_bytes: int, source: IO[bytes], target: IO[bytes]) -> str | None:
    """Inflate a dump; returns what is wrong with it."""
    workers = [_Worker(write_bytes) for _ in range(min(os.cpu_count() or 1, _MOST_PROCESSES))]
    idle, busy = deque(workers), deque[_Worker]()
    try:
        target.write(source.read(write_bytes - _RECORD))
        for batch in _batches(write_bytes, source):
            if not idle:
                idle.append(busy.popleft())
                target.write(idle[0].result())
            idle[0].start(batch)
            busy.append(idle.popleft())
        for worker in busy:
            target.write(worker.result())
    except _BadDumpError as error:
        return str(error)
    return None


class _Worker:
    """A process that inflates a batch at a time, in memory that is its own and ours; it ends with us."""

    def __init__(self, write_bytes: int) -> None:
        self._write_bytes = write_bytes
        self._memory = mmap.mmap(-1, _AT_ONCE + 2 * (_PREFIX + write_bytes))
        asked, self._ask = os.pipe()
        self._answered, answer = os.pipe()
        if os.fork() == 0:
            os.close(self._ask)
            os.close(self._answered)
            try:
                self._serve(asked, answer)
            finally:  # whatever happened: the rest is not its own to do
                os._exit(0)
        os.close(asked)
        os.close(answer)

    def start(self, batch: _Batch) -> None:
        """Have it inflate; it has nothing else to do.

        Raises:
            _BadDumpError: it is no more.
        """
        self._memory[: len(batch.data)] = batch.data
        try:
            os.write(self._ask, _NUMBERS.pack(batch.position, len(batch.data)))
        except BrokenPipeError as error:
            raise _BadDumpError(_ENDED) from error

    def result(self) -> memoryview:
        """Wait for what it inflated, which is there until it is given more.

        Raises:
            _BadDumpError: what is wrong.
        """
        if not (answer := os.read(self._answered, _NUMBERS.size)):
            raise _BadDumpError(_ENDED)
        is_good, length = _NUMBERS.unpack(answer)
        if not is_good:
            raise _BadDumpError(self._memory[:length].decode())
        return memoryview(self._memory)[:length]

    def _serve(self, asked: int, answer: int) -> None:
        """In the process: inflate what comes until there is no more."""
        while numbers := os.read(asked, _NUMBERS.size):
            position, length = _NUMBERS.unpack(numbers)
            batch = _Batch(position, self._memory[:length])
            length, is_good = 0, True
            try:
                for piece in _inflated(batch, self._write_bytes):
                    self._memory[length : length + len(piece)] = piece
                    length += len(piece)
            except _BadDumpError as error:
                said = str(error).encode()
                self._memory[: len(said)] = said
                length, is_good = len(said), False
            os.write(answer, _NUMBERS.pack(is_good, length))


def _batches(write_bytes: int, source: IO[bytes]) -> Iterator[_Batch]:
    """Read a dump's writes, behind the first."""
    begin = position = write_bytes
    pieces: list[bytes] = []
    size = 0  # that they have, or will have
    while prefix := source.read(_PREFIX):
        is_compressed, how, length = _parsed(prefix)
        if length > 2 * write_bytes or (not is_compressed and length > write_bytes):
            raise _BadDumpError(
                f"byte {position}: damaged: a write of {length} bytes, where dump(8) writes {write_bytes}"
            )
        data = source.read(length)
        if len(prefix) < _PREFIX or len(data) < length:
            raise _BadDumpError(f"cut off at byte {position + len(prefix) + len(data)}: it has no end")
        if is_compressed and how not in (_ZLIB, _BZIP2):
            kind = "LZO (dump -y)" if how == _LZO else f"method {how}, which dump(8) has not"
            raise _BadDumpError(
                f"byte {position}: compressed by {kind}; make it with dump -z or -j, or compress the whole dump"
            )
        pieces += (prefix, data)
        size += max(write_bytes, _PREFIX + length)
        position += _PREFIX + length
        if size >= _AT_ONCE:
            yield _Batch(begin, b"".join(pieces))
            begin, pieces, size = position, [], 0
    if pieces:
        yield _Batch(begin, b"".join(pieces))


def _parsed(prefix: bytes) -> tuple[bool, int, int]:
    """What a prefix says: whether the write is compressed, how, and its length in bytes."""
    word = int.from_bytes(prefix, "little")
    return bool(word & 1), word >> 1 & 7, word >> 4


def _inflated(batch: _Batch, write_bytes: int) -> Iterator[bytes]:
    """What writes were before they were compressed."""
    begin = 0
    while begin < len(batch.data):
        is_compressed, how, length = _parsed(batch.data[begin : begin + _PREFIX])
        end = begin + _PREFIX + length
        data = batch.data[begin + _PREFIX : end]
        yield _inflate(how, data, write_bytes, batch.position + begin) if is_compressed else data
        begin = end


def _inflate(how: int, data: bytes, most: int, position: int) -> bytes:
    decompressor = zlib.decompressobj() if how == _ZLIB else bz2.BZ2Decompressor()
    try:
        inflated = decompressor.decompress(data, most + 1)
    except (OSError, zlib.error) as error:
        raise _BadDumpError(f"byte {position}: damaged: {error}") from error
    if not decompressor.eof or decompressor.unused_data or len(inflated) > most:
        raise _BadDumpError(f"byte {position}: damaged: compressed data without an end")
    return inflated


if __name__ == "__main__":
    with open(0, "rb", buffering=_AT_ONCE) as origin, sys.stdout.buffer as output:
        sys.exit(main(int(sys.argv[1]), origin, output))
