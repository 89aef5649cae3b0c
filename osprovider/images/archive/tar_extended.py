"""What extended headers say of the member that follows them: pax's, and GNU's of long names.

Sources: POSIX pax(1), "pax Interchange Format"; GNU tar's manual, "Basic Tar Format" and "Storing Sparse Files".
Not for: what the content of a sparse file says itself (:mod:`osprovider.images.archive.tar_sparse`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from osprovider.images.archive.refusal import Refused
from osprovider.images.archive.tar_header import LARGEST, LONG_LINK, LONG_NAME, PAX, PAX_GLOBAL, text

__all__ = ["Extended"]

_DECIMAL = re.compile("[0-9]{1,19}")
_LONG = (LONG_NAME, LONG_LINK)
_SPARSE_KEYS = "GNU.sparse."
_REFUSED_KEYS = ("GNU.dumpdir", "GNU.volume.")  # of incremental archives, and of those in several volumes
_ACLS = {"SCHILY.acl.access": "system.posix_acl_access", "SCHILY.acl.default": "system.posix_acl_default"}
_FOR_ONE_MEMBER = ("path", "linkpath", "size", _SPARSE_KEYS, "SCHILY.acl.")


@dataclass(slots=True)
class Extended:
    """What the headers before a member said of it so far; None where nothing.

    Attributes:
        kinds: of these headers.
        path: the member's. link: where it leads to. size: of its content, in bytes.
        acls: by the attribute that each will be.
        is_sparse: it is a sparse file of a pax archive.
        sparse_name: its path, then.
        sparse_pieces: bytes of each of its pieces, in GNU's formats 0.0 and 0.1.
        map_in_content: the pieces stand before the content (format 1.0).
    """

    kinds: bytes = b""
    path: str | None = None
    link: str | None = None
    size: int | None = None
    acls: dict[str, str] = field(default_factory=dict)
    is_sparse: bool = False
    sparse_name: str | None = None
    sparse_pieces: list[int] = field(default_factory=list)
    map_in_content: bool = False

    def add(self, kind: bytes, data: bytes, size: int) -> None:
        """Take in a header.

        Args:
            kind: one of :data:`~osprovider.images.archive.tar_header.EXTENSIONS`.
            data: what it holds, in whole blocks.
            size: how many bytes of these count.

        Raises:
            Refused: it is damaged, contradicts another, or is one of what no image is.
        """
        if kind in _LONG and b"\0" not in data[:size] and data[size : size + 1].strip(b"\0"):
            raise Refused("a long name without an end")
        if kind != PAX_GLOBAL:
            if kind in self.kinds or (self.kinds and PAX in kind + self.kinds):
                raise Refused("two extended headers of one member")
            self.kinds += kind
        if kind == LONG_NAME:
            self.path = text(data[:size])
        elif kind == LONG_LINK:
            self.link = text(data[:size])
        else:
            self._add_records(data[:size], for_all=kind == PAX_GLOBAL)
        if self.path == "" or self.sparse_name == "":
            raise Refused("an extended header with an empty name")

    def _add_records(self, data: bytes, *, for_all: bool) -> None:
        for key, value in _records(data):
            if key.startswith(_REFUSED_KEYS):
                raise Refused(f"{key}: an archive of changes, or in volumes, is no image")
            if for_all and key.startswith(_FOR_ONE_MEMBER):
                raise Refused(f"{key} for all members at once makes no sense")
            self._note(key, value)

    def _note(self, key: str, value: str) -> None:
        """Note a record, where it matters here."""
        self.is_sparse |= key.startswith(_SPARSE_KEYS)
        match key:
            case "path":
                self.path = value
            case "linkpath":
                self.link = value
            case "size":
                self.size = _decimal(key, value)
            case "SCHILY.acl.access" | "SCHILY.acl.default":
                self.acls[_ACLS[key]] = value
            case "GNU.sparse.name":
                self.sparse_name = value
            case "GNU.sparse.numbytes":
                self.sparse_pieces.append(_decimal(key, value))
            case "GNU.sparse.map":
                self.sparse_pieces += [_decimal(key, number) for number in value.split(",")][1::2]
            case "GNU.sparse.major":
                self.map_in_content = value != "0"
        if self.map_in_content and self.sparse_pieces:
            raise Refused("a sparse file in two formats at once")


def _records(data: bytes) -> Iterator[tuple[str, str]]:
    """The records of a pax header: ``LENGTH KEY=VALUE`` and a line feed."""
    position = 0
    while position < len(data):
        digits, space, _ = data[position : position + 16].partition(b" ")
        length = int(digits) if space and digits.isdigit() else 0
        record = data[position : position + length]
        key, equals, value = record[len(digits) + 1 : -1].partition(b"=")
        if not length or len(record) < length or not equals or record[-1:] != b"\n":
            raise Refused("an extended header is damaged")
        yield key.decode(errors="surrogateescape"), value.decode(errors="surrogateescape")
        position += length


def _decimal(key: str, value: str) -> int:
    if not _DECIMAL.fullmatch(value) or int(value) > LARGEST:
        raise Refused(f"{key} {value[:40]!r} is no number")
    return int(value)
