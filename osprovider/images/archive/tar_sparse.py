"""The maps of sparse files in a tar, where they are not in an extended header: how many bytes each piece has.

Source: GNU tar's manual, "Storing Sparse Files".
Not for: where the pieces belong in the file.
"""

from __future__ import annotations

import re

from osprovider.images.archive.pipereader import PipeReader
from osprovider.images.archive.refusal import Refused
from osprovider.images.archive.tar_header import BLOCK, number

__all__ = ["read_content_map", "read_old_map"]

_LONGEST_MAP = 8 << 20  # bytes: some hundred thousand pieces
_DECIMAL = re.compile(rb"[0-9]{1,19}")


def read_old_map(reader: PipeReader, header: bytes, path: str) -> list[int]:
    """Read the map of GNU's old kind: four pieces in the member's header, more in blocks behind it.

    Args:
        reader: behind the header, and then behind the map.
        header: the member's.
        path: the member's, for messages.

    Returns:
        the bytes of each piece.

    Raises:
        Refused: the map is damaged, or has no end.
    """
    pieces = _old_pieces(header, 386, 4)
    used, more = 0, header[482]
    while more:
        if used >= _LONGEST_MAP:
            raise Refused(f"{path}: the map of a sparse file has no end")
        block = reader.take(BLOCK)
        pieces += _old_pieces(block, 0, 21)
        used, more = used + BLOCK, block[504]
    if None in pieces:
        raise Refused(f"{path}: the map of a sparse file is damaged")
    return [piece for piece in pieces if piece]


def _old_pieces(block: bytes, first: int, count: int) -> list[int | None]:
    return [number(block[at + 12 : at + 24]) for at in range(first, first + count * 24, 24)]


def read_content_map(reader: PipeReader, size: int, path: str) -> tuple[list[int], int]:
    """Read the map of format 1.0: how many pieces, then the place and bytes of each, a number a line.

    Args:
        reader: at the content's beginning, and then behind the map.
        size: the content's, in bytes.
        path: the member's, for messages.

    Returns:
        the bytes of each piece, and how many the map took of the content.

    Raises:
        Refused: as above.
    """
    lines: list[bytes] = []
    rest, used, wanted = b"", 0, 1
    while len(lines) < wanted:
        if used >= min(size, _LONGEST_MAP):
            raise Refused(f"{path}: the map of a sparse file has no end")
        *more, rest = (rest + reader.take(BLOCK)).split(b"\n")
        used += BLOCK
        lines += more
        if not all(_DECIMAL.fullmatch(line) for line in more) or len(rest) > BLOCK:
            raise Refused(f"{path}: the map of a sparse file is damaged")
        if wanted == 1 and lines:
            wanted += 2 * int(lines[0])
    return [int(line) for line in lines[2:wanted:2]], used
