"""POSIX ACLs of a tar's members, given to the files once all of them are there.

GNU tar writes whom an ACL names by name, and reads these as the accounts of the machine that it runs on. Here they are
the image's own accounts.
Sources: acl(5), "Long text form"; star's extended headers ``SCHILY.acl.access`` and ``SCHILY.acl.default``, to whose
entries libarchive adds a number; <linux/posix_acl_xattr.h>.
Not for: ACLs of NFSv4.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from osprovider import linux
from osprovider.descriptors import opened, path_of
from osprovider.errors import GuestError, ImageError, reason_of
from osprovider.guest.host import HostGuest
from osprovider.images.printable import printable
from osprovider.linux import Resolve
from osprovider.log import reporter

__all__ = ["Acl", "apply"]

_VERSION = 2  # POSIX_ACL_XATTR_VERSION
_NOBODY = 0xFFFFFFFF  # ACL_UNDEFINED_ID
_OWN = {"user": 0x01, "group": 0x04, "mask": 0x10, "other": 0x20}
_NAMED = {"user": 0x02, "group": 0x08}
_FILES = {"user": "/etc/passwd", "group": "/etc/group"}
_ENTRY = re.compile(r"(?:default:)?(user|group|mask|other):([^:]*):([r-])([w-])([x-])(?::([0-9]+))?")
_INSIDE = Resolve.BENEATH | Resolve.NO_SYMLINKS | Resolve.NO_MAGICLINKS | Resolve.NO_XDEV


@dataclass(frozen=True, slots=True)
class Acl:
    """A member's ACL.

    Attributes:
        path: the member's, inside the tree.
        attribute: ``system.posix_acl_access`` or ``system.posix_acl_default``.
        text: as in the archive.
        start: the member's byte in the archive.
    """

    path: str
    attribute: str
    text: str
    start: int


def apply(acls: Iterable[Acl], root: Path, name: str) -> None:
    """Give files their ACLs.

    Args:
        acls: of files beneath ``root``.
        root: the tree, with the files that say who its accounts are.
        name: what messages call the archive.

    Raises:
        ImageError: an ACL is none, or cannot be given; names the member and its byte.
    """
    with opened(os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as fd:
        accounts = {tag: _accounts(HostGuest(fd), path) for tag, path in _FILES.items()}
        for acl in acls:
            where = f"{name}: byte {acl.start}: {acl.path}"
            value = _encoded(acl.text, accounts, where)
            try:
                with opened(linux.openat2(fd, acl.path or ".", os.O_PATH | os.O_NOFOLLOW, resolve=_INSIDE)) as found:
                    os.setxattr(path_of(found), acl.attribute, value)
            except OSError as error:
                raise ImageError(printable(f"{where}: it cannot be given its ACL: {reason_of(error)}")) from error


def _accounts(guest: HostGuest, path: str) -> dict[str, int]:
    """The names and numbers of passwd(5) or group(5)."""
    found: dict[str, int] = {}
    with suppress(GuestError):
        for line in guest.read_text(path).splitlines():
            fields = line.split(":")
            if len(fields) > 2 and re.fullmatch("[0-9]{1,10}", fields[2]):
                found.setdefault(fields[0], int(fields[2]))
    return found


def _encoded(text: str, accounts: Mapping[str, Mapping[str, int]], where: str) -> bytes:
    """An ACL as the kernel takes it."""
    entries = []
    for line in filter(None, re.split(r"[,\n]", text)):
        entry = _ENTRY.fullmatch(line.partition("#")[0].strip())
        if not entry:
            raise ImageError(printable(f"{where}: {line!r} is no entry of an ACL"))
        tag, whom, *bits, number = entry.groups()
        permissions = sum(value for bit, value in zip(bits, (4, 2, 1), strict=True) if bit != "-")
        if not whom:
            entries.append((_OWN[tag], permissions, _NOBODY))
        elif tag not in _NAMED:
            raise ImageError(printable(f"{where}: {line!r} is no entry of an ACL"))
        elif (identity := _identity(whom, number, accounts[tag])) is None:
            reporter.warning(printable(f"{where}: {tag} {whom} of its ACL is none of the image's, and left out"))
        elif identity < _NOBODY:
            entries.append((_NAMED[tag], permissions, identity))
        else:
            raise ImageError(printable(f"{where}: {line!r} is no entry of an ACL"))
    return struct.pack("<I", _VERSION) + b"".join(struct.pack("<HHI", *entry) for entry in sorted(entries))


def _identity(whom: str, number: str | None, accounts: Mapping[str, int]) -> int | None:
    stated = number or whom
    return int(stated) if re.fullmatch("[0-9]{1,12}", stated) else accounts.get(whom)
