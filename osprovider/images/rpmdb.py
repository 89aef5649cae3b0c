"""The packages of an rpm database, read without rpm: ``python3 rpmdb.py DATABASE`` prints one JSON object a line.

It runs by itself, in the sandbox, since the database is anybody's, and SQLite's library reads it. What rpm has had so
far for a database: SQLite (rpm 4.16 and later), its own "ndb" (SUSE), and Berkeley DB's hash (before 4.16).
Sources: rpm's docs/manual/hregions.md and lib/header.c (a header: counts, index, data), lib/rpmtag.h (the tags),
lib/backend/sqlite.c, lib/backend/ndb/rpmpkg.c, lib/backend/bdb_ro.cc; Berkeley DB's src/dbinc/db_page.h.
Not for: use by import; :mod:`osprovider.images.packages` runs it.
"""

from __future__ import annotations

import json
import sqlite3
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = ["main"]

_TAGS = {1000: "name", 1001: "version", 1002: "release", 1003: "epoch", 1014: "license", 1022: "arch", 1044: "source"}
_INT32, _STRING, _I18N = 4, 6, 9
_LARGEST_HEADER = 256 << 20  # rpm's own limit
_MOST_TAGS = 1 << 16

_NDB_MAGIC = b"RpmP"
_NDB_SLOT, _NDB_BLOB = b"Slot", b"BlbS"
_NDB_PAGE, _NDB_BLOCK = 4096, 16

_BDB_MAGIC = (0x061561).to_bytes(4, "little")
_BDB_HEADER = 26
_BDB_PAGES = (2, 13)  # of a hash, unsorted and sorted
_BDB_OVERFLOW = 7
_BDB_IN_PAGE, _BDB_OFF_PAGE = 1, 3


def main(path: str) -> int:
    """Print the packages; returns the exit status, with the reason of a failure on standard error."""
    try:
        with Path(path).open("rb") as file:
            for blob in _blobs(file, path):
                package = _package(blob)
                if package is not None:
                    print(json.dumps(package))
    except (OSError, ValueError, KeyError, struct.error, sqlite3.Error) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def _blobs(file: BinaryIO, path: str) -> Iterator[bytes]:
    """The headers, by whatever kind of database it is."""
    head = file.read(32)
    if head.startswith(b"SQLite format 3\0"):
        # Nobody changes it, so that nothing is written beside it either.
        connection = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
        connection.execute("PRAGMA trusted_schema = OFF")
        kinds = [row[0] for row in connection.execute("SELECT type FROM sqlite_schema WHERE name = 'Packages'")]
        if kinds != ["table"]:  # a view might never end
            raise ValueError("it has no table of packages")
        yield from (row[0] for row in connection.execute("SELECT blob FROM Packages") if isinstance(row[0], bytes))
    elif head.startswith(_NDB_MAGIC):
        yield from _ndb_blobs(file, head)
    elif head[12:16] == _BDB_MAGIC:
        yield from _bdb_blobs(file)
    else:
        raise ValueError(f"no rpm database that is known: it begins with {head[:16].hex()}")


def _ndb_blobs(file: BinaryIO, head: bytes) -> Iterator[bytes]:
    (pages,) = struct.unpack_from("<I", head, 12)
    file.seek(0)
    slots = file.read(min(pages, 1 << 12) * _NDB_PAGE)
    for place in range(32, len(slots) - 15, 16):  # after the header, which takes the first two
        magic, number, block, blocks = struct.unpack_from("<4sIII", slots, place)
        if magic != _NDB_SLOT or not number:
            continue
        file.seek(block * _NDB_BLOCK)
        start, owner, _, length = struct.unpack("<4sIII", file.read(16))
        if start != _NDB_BLOB or owner != number or length > blocks * _NDB_BLOCK:
            raise ValueError(f"package {number} is not where it should be")
        yield _read(file, length)


def _bdb_blobs(file: BinaryIO) -> Iterator[bytes]:
    file.seek(0)
    meta = file.read(72)
    page_size, last = struct.unpack_from("<I", meta, 20)[0], struct.unpack_from("<I", meta, 32)[0]
    if page_size not in {1 << power for power in range(9, 17)}:
        raise ValueError(f"pages of {page_size} bytes")
    for number in range(1, last + 1):
        file.seek(number * page_size)
        page = file.read(page_size)
        if len(page) < page_size or page[25] not in _BDB_PAGES:
            continue
        (entries,) = struct.unpack_from("<H", page, 20)
        places = struct.unpack_from(f"<{entries}H", page, _BDB_HEADER)
        for index in range(1, entries, 2):  # keys and values in turn; each ends where the one before begins
            kind = page[places[index]]
            if kind == _BDB_OFF_PAGE:
                first, length = struct.unpack_from("<II", page, places[index] + 4)
                yield _bdb_overflow(file, page_size, first, length)
            elif kind == _BDB_IN_PAGE:
                yield page[places[index] + 1 : places[index - 1]]


def _bdb_overflow(file: BinaryIO, page_size: int, number: int, length: int) -> bytes:
    """A value that has pages of its own."""
    if length > _LARGEST_HEADER:
        raise ValueError(f"a header of {length} bytes")
    data = bytearray()
    while number and len(data) < length:
        file.seek(number * page_size)
        page = file.read(page_size)
        if len(page) < page_size or page[25] != _BDB_OVERFLOW:
            raise ValueError(f"page {number} is none of a value")
        (used,) = struct.unpack_from("<H", page, 22)
        if not used:
            raise ValueError(f"page {number} is empty")
        data += page[_BDB_HEADER : _BDB_HEADER + used]
        (number,) = struct.unpack_from("<I", page, 16)
    return bytes(data[:length])


def _read(file: BinaryIO, length: int) -> bytes:
    if length > _LARGEST_HEADER:
        raise ValueError(f"a header of {length} bytes")
    data = file.read(length)
    if len(data) < length:
        raise ValueError("it ends within a header")
    return data


def _package(blob: bytes) -> dict[str, str] | None:
    """What a header says; None where it is of no package (Berkeley DB keeps a counter among them)."""
    if len(blob) < 8:
        return None
    tags, size = struct.unpack_from(">II", blob)
    if not 0 < tags <= _MOST_TAGS or 8 + 16 * tags + size > len(blob):
        return None
    data = blob[8 + 16 * tags : 8 + 16 * tags + size]
    found: dict[str, str] = {}
    for index in range(tags):
        tag, kind, offset, _ = struct.unpack_from(">IIiI", blob, 8 + 16 * index)
        if tag not in _TAGS or not 0 <= offset < size:
            continue
        if kind in (_STRING, _I18N):
            found[_TAGS[tag]] = data[offset : data.index(b"\0", offset)].decode(errors="replace")
        elif kind == _INT32:
            found[_TAGS[tag]] = str(struct.unpack_from(">I", data, offset)[0])
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
