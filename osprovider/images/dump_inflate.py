"""A program, run in the sandbox: inflates what ``dump -z`` or ``dump -j`` compressed, from standard input to output.

The first write of such a dump is not compressed. Each one after it begins with 32 bits: whether it is compressed (1),
how (3), and its length (28). Called with the bytes of a write; standard input is just behind the dump's first record.
Source: protocols/dumprestore.h of dump(8), ``struct tapebuf``.
Not for: what the records mean (:mod:`osprovider.images.dump`). It has nothing but Python's own library.
"""

from __future__ import annotations

import bz2
import sys
import zlib
from typing import IO

__all__: list[str] = []

_RECORD = 1024
_ZLIB, _BZIP2, _LZO = 0, 1, 2


def main(write_bytes: int, source: IO[bytes], target: IO[bytes]) -> str | None:
    """Inflate a dump; returns what is wrong with it."""
    position = _RECORD
    data = source.read(write_bytes - _RECORD)
    target.write(data)
    position += len(data)
    while prefix := source.read(4):
        word = int.from_bytes(prefix, "little")
        is_compressed, how, length = word & 1, word >> 1 & 7, word >> 4
        if length > 2 * write_bytes or (not is_compressed and length > write_bytes):
            return f"byte {position}: damaged: a write of {length} bytes, where dump(8) writes {write_bytes}"
        data = source.read(length)
        if len(prefix) < 4 or len(data) < length:
            return f"cut off at byte {position + len(prefix) + len(data)}: it has no end"
        if is_compressed:
            if how not in (_ZLIB, _BZIP2):
                kind = "LZO (dump -y)" if how == _LZO else f"method {how}, which dump(8) has not"
                return f"byte {position}: compressed by {kind}; make it with dump -z or -j, or compress the whole dump"
            try:
                inflated = _inflated(data, how, write_bytes)
            except (OSError, EOFError, zlib.error) as error:
                return f"byte {position}: damaged: {error}"
            if not inflated:
                return f"byte {position}: damaged: compressed data without an end"
            data = inflated
        target.write(data)
        position += 4 + length
    return None


def _inflated(data: bytes, how: int, most: int) -> bytes:
    """What a write was before; nothing where it has no end within ``most`` bytes."""
    decompressor = zlib.decompressobj() if how == _ZLIB else bz2.BZ2Decompressor()
    inflated = decompressor.decompress(data, most + 1)
    return inflated if decompressor.eof and not decompressor.unused_data and len(inflated) <= most else b""


if __name__ == "__main__":
    with sys.stdout.buffer as output:
        sys.exit(main(int(sys.argv[1]), sys.stdin.buffer, output))
