"""The two halves of a GPT as they lie on a disk: a header and its entries, read with suspicion and written whole.

Source: UEFI Specification 2.10, section 5.3.
Not for: what a table should say (:mod:`osprovider.layout`), nor the order of writing (:mod:`osprovider.disk.table`).
"""

from __future__ import annotations

import os
import struct
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from osprovider.disk.raw import write_all

__all__ = ["ENTRY", "HEADER", "SIGNATURE", "Entry", "Gpt", "GptError", "Header"]

HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
ENTRY = struct.Struct("<16s16sQQQ72s")
SIGNATURE = b"EFI PART"
_NO_TYPE = bytes(16)

_MOST_ENTRIES = 1024
_ENTRY_SIZES = (128, 256, 512, 1024, 2048, 4096)


class GptError(ValueError):
    """What is wrong with a header or its entries, as the middle of a line."""


class Header(NamedTuple):
    """One of a GPT's two headers; addresses in sectors."""

    signature: bytes
    revision: int
    size: int
    crc32: int
    reserved: int
    address: int
    other_address: int
    first_usable: int
    last_usable: int
    guid: bytes
    entries_address: int
    entry_count: int
    entry_size: int
    entries_crc32: int

    def sealed(self) -> Header:
        """The same with the right checksum."""
        return self._replace(crc32=zlib.crc32(HEADER.pack(*self._replace(crc32=0))))

    def check(self, address: int) -> None:
        """Prove that it is a header, undamaged, and the one that belongs at this address.

        Raises:
            GptError: it is not; says which field is wrong.
        """
        if self.signature != SIGNATURE:
            raise GptError(f"no GPT header is in sector {address}")
        if self.size != HEADER.size:
            raise GptError(f"the GPT header's size is {self.size}, not {HEADER.size}")
        if self != self.sealed():
            raise GptError(f"the GPT header in sector {address} is damaged: its CRC is not {self.crc32:08x}")
        if self.address != address:
            raise GptError(f"the GPT header in sector {address} says that it belongs in sector {self.address}")
        if not 0 < self.entry_count <= _MOST_ENTRIES or self.entry_size not in _ENTRY_SIZES:
            raise GptError(f"a GPT of {self.entry_count} entries of {self.entry_size} bytes makes no sense")


class Entry(NamedTuple):
    """A partition that a GPT has; addresses in sectors."""

    number: int
    type: str
    guid: str
    first: int
    last: int
    attributes: int
    name: str


@dataclass(frozen=True, slots=True)
class Gpt:
    """A header and its entries, as bytes."""

    header: Header
    entries: bytes

    @classmethod
    def read(cls, fd: int, address: int, sector_size: int) -> Gpt:
        """The GPT whose header is at this sector.

        Raises:
            GptError: there is none, or it is damaged or cannot be read.
        """
        try:
            header = Header(*HEADER.unpack_from(os.pread(fd, sector_size, address * sector_size)))
            header.check(address)
            entries = os.pread(fd, header.entry_count * header.entry_size, header.entries_address * sector_size)
        except (OverflowError, struct.error) as error:  # beyond any disk, beyond this one
            raise GptError(f"the GPT in sector {address} or its entries lie behind the disk's end") from error
        except OSError as error:
            raise GptError(f"the GPT in sector {address} cannot be read: {error}") from error
        if zlib.crc32(entries) != header.entries_crc32:
            raise GptError(f"the GPT's entries are damaged: their CRC is not {header.entries_crc32:08x}")
        return cls(header, entries)

    @property
    def guid(self) -> str:
        """The disk's GUID, lower case."""
        return str(uuid.UUID(bytes_le=self.header.guid))

    def __iter__(self) -> Iterator[Entry]:
        """Its partitions, by number."""
        for number in range(1, self.header.entry_count + 1):
            place = (number - 1) * self.header.entry_size
            kind, guid, first, last, attributes, name = ENTRY.unpack_from(self.entries, place)
            if kind != _NO_TYPE:
                yield Entry(
                    number=number,
                    type=str(uuid.UUID(bytes_le=kind)),
                    guid=str(uuid.UUID(bytes_le=guid)),
                    first=first,
                    last=last,
                    attributes=attributes,
                    name=name.decode("utf-16-le", errors="replace").partition("\0")[0],
                )

    def write(self, fd: int, sector_size: int) -> None:
        """Put both where the header says that they belong."""
        write_all(fd, self.entries, self.header.entries_address * sector_size)
        write_all(fd, HEADER.pack(*self.header).ljust(sector_size, b"\0"), self.header.address * sector_size)
