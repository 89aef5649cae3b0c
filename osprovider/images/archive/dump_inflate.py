"""A program, run in the sandbox: inflates what ``dump -z`` or ``dump -j`` compressed, from standard input to output.

The first write of such a dump is not compressed. Each one after it begins with 32 bits: whether it is compressed (1),
how (3), and its length (28). None depends on another, so all cores inflate. Called with the bytes of a write; standard
input is just behind the dump's first record.
Source: protocols/dumprestore.h of dump(8), ``struct tapebuf``.
Not for: what the records mean (:mod:`osprovider.images.archive.dump`). It has nothing but Python's own library.
"""

from __future__ import annotations

import bz2
import os
import sys
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO

__all__: list[str] = []

_RECORD = 1024
_ZLIB, _BZIP2, _LZO = 0, 1, 2
_AT_ONCE = 1 << 20  # bytes that one thread makes before it is given more
_MOST_THREADS = 8


class _BadDumpError(Exception):
    """What is wrong with a dump."""


@dataclass(frozen=True, slots=True)
class _Write:
    """What dump(8) wrote at once, and where."""

    position: int
    how: int | None
    data: bytes


def main(write_bytes: int, source: IO[bytes], target: IO[bytes]) -> str | None:
    """Inflate a dump; returns what is wrong with it."""
    threads = min(os.cpu_count() or 1, _MOST_THREADS)
    pending: deque[Future[bytes]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for batch in _batches(_writes(write_bytes, source), write_bytes):
                pending.append(pool.submit(_inflated, batch, write_bytes))
                if len(pending) > 2 * threads:
                    target.write(pending.popleft().result())
            while pending:
                target.write(pending.popleft().result())
        except _BadDumpError as error:
            pool.shutdown(cancel_futures=True)
            return str(error)
    return None


def _batches(writes: Iterator[_Write], write_bytes: int) -> Iterator[list[_Write]]:
    batch: list[_Write] = []
    size = 0
    for write in writes:
        batch.append(write)
        size += max(write_bytes, len(write.data))
        if size > _AT_ONCE:
            yield batch
            batch, size = [], 0
    yield batch


def _writes(write_bytes: int, source: IO[bytes]) -> Iterator[_Write]:
    """Read a dump's writes, behind its first record."""
    position = _RECORD
    data = source.read(write_bytes - _RECORD)
    yield _Write(position, None, data)
    position += len(data)
    while prefix := source.read(4):
        word = int.from_bytes(prefix, "little")
        is_compressed, how, length = word & 1, word >> 1 & 7, word >> 4
        if length > 2 * write_bytes or (not is_compressed and length > write_bytes):
            raise _BadDumpError(
                f"byte {position}: damaged: a write of {length} bytes, where dump(8) writes {write_bytes}"
            )
        data = source.read(length)
        if len(prefix) < 4 or len(data) < length:
            raise _BadDumpError(f"cut off at byte {position + len(prefix) + len(data)}: it has no end")
        if is_compressed and how not in (_ZLIB, _BZIP2):
            kind = "LZO (dump -y)" if how == _LZO else f"method {how}, which dump(8) has not"
            raise _BadDumpError(
                f"byte {position}: compressed by {kind}; make it with dump -z or -j, or compress the whole dump"
            )
        yield _Write(position, how if is_compressed else None, data)
        position += 4 + length


def _inflated(batch: list[_Write], write_bytes: int) -> bytes:
    """What writes were before they were compressed."""
    return b"".join(write.data if write.how is None else _inflate(write, write_bytes) for write in batch)


def _inflate(write: _Write, most: int) -> bytes:
    decompressor = zlib.decompressobj() if write.how == _ZLIB else bz2.BZ2Decompressor()
    try:
        inflated = decompressor.decompress(write.data, most + 1)
    except (OSError, zlib.error) as error:
        raise _BadDumpError(f"byte {write.position}: damaged: {error}") from error
    if not decompressor.eof or decompressor.unused_data or len(inflated) > most:
        raise _BadDumpError(f"byte {write.position}: damaged: compressed data without an end")
    return inflated


if __name__ == "__main__":
    with sys.stdout.buffer as output:
        sys.exit(main(int(sys.argv[1]), sys.stdin.buffer, output))
