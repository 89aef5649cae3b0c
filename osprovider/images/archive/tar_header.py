"""A header of a tar: 512 bytes that say what follows.

Sources: POSIX pax(1), "ustar Interchange Format"; GNU tar's manual, "Basic Tar Format".
Not for: headers that say more of a member than fits (:mod:`osprovider.images.archive.tar_extended`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from osprovider.images.archive.refusal import Refused

__all__ = [
    "BLOCK",
    "DEVICES",
    "DIRECTORY",
    "EXTENSIONS",
    "FIFO",
    "HARD_LINK",
    "LARGEST",
    "LONG_LINK",
    "LONG_NAME",
    "PAX",
    "PAX_GLOBAL",
    "REGULAR",
    "SPARSE",
    "SYMLINK",
    "Header",
    "number",
    "padded",
    "read_header",
    "text",
]

BLOCK = 512
LARGEST = 1 << 62
"""No offset of a file is beyond."""

# Kinds of members. Of some there are several.
REGULAR = b"0\x007"
HARD_LINK, SYMLINK, DIRECTORY = b"1", b"2", b"5"
DEVICES = b"34"
FIFO = b"6"
SPARSE = b"S"  # GNU's old kind
# Kinds of headers that say more of the member that follows.
PAX, PAX_GLOBAL, LONG_NAME, LONG_LINK = b"x", b"g", b"L", b"K"
EXTENSIONS = (PAX, PAX_GLOBAL, LONG_NAME, LONG_LINK)

_GNU_MAGIC, _POSIX_MAGIC = b"ustar  \0", b"ustar\0"
_OCTAL = re.compile(rb" *([0-7]*)[ \0]*")


@dataclass(frozen=True, slots=True)
class Header:
    """What a header says.

    Attributes:
        kind: one byte. size: of what follows, in bytes.
        path: the member's name. link: where a link leads to.
        block: the header itself.
    """

    kind: bytes
    size: int
    path: str
    link: str
    block: bytes

    @property
    def is_gnu(self) -> bool:
        """Is it of GNU's own format."""
        return self.block[257:265] == _GNU_MAGIC

    @property
    def is_posix(self) -> bool:
        """Does GNU tar read it as POSIX', and not as star's, which has times where POSIX has the end of the prefix."""
        block = self.block
        is_star = block[475] == 0 and block[487:488] == b" " == block[499:500]
        return block[257:263] == _POSIX_MAGIC and not is_star


def read_header(block: bytes) -> Header:
    """Read a header.

    Raises:
        Refused: it is damaged.
    """
    stated = number(block[148:156])
    if stated is None or stated != sum(block[:148]) + 8 * 0x20 + sum(block[156:]):
        raise Refused("a header's checksum is wrong: the archive is damaged")
    size = number(block[124:136])
    if size is None or size > LARGEST:
        raise Refused(f"{text(block[:100])}: its size is no number that a size can be")
    return Header(block[156:157], size, _path(block), text(block[157:257]), block)


def number(field: bytes) -> int | None:
    """A number of a header: octal digits, or GNU's base 256 with the first bit set; None where it is none."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = _OCTAL.fullmatch(field)
    return int(digits[1] or b"0", 8) if digits else None


def text(field: bytes) -> str:
    """A text of a header, which ends with the field or a NUL."""
    return field.partition(b"\0")[0].decode(errors="surrogateescape")


def padded(size: int) -> int:
    """The bytes of the blocks that hold so many."""
    return -(-size // BLOCK) * BLOCK


def _path(block: bytes) -> str:
    """A member's name. POSIX splits a long one; GNU keeps times where the prefix would be."""
    name = text(block[:100])
    prefix = text(block[345:500]) if block[257:263] == _POSIX_MAGIC else ""
    return f"{prefix}/{name}" if prefix else name
