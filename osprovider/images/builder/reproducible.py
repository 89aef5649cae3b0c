"""What makes two builds from the same packages the same, byte for byte: times, which no two builds have in common.

The date of the newest repository stands for all that happened while a system was installed.
Source: https://reproducible-builds.org/specs/source-date-epoch/.
Not for: what a template must not have (:mod:`osprovider.images.cleaning`), or file systems
(:mod:`osprovider.disk.pack`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from osprovider.errors import ImageError
from osprovider.guest.protocol import Guest

__all__ = ["newest_release", "settle"]

_DATE = re.compile(r"(?m)^Date: (.+)$")
_RELEASES = ("/var/lib/apt/lists/*_InRelease", "/var/lib/apt/lists/*_Release")
_SHADOWS = ("/etc/shadow", "/etc/shadow-")
_LAST_CHANGE = re.compile(r"(?m)^([^:\n]*:[^:\n]*:)\d+(:)")
_DAY = 86400


def newest_release(guest: Guest) -> int:
    """When the newest of the repositories was made that apt has the lists of, in seconds since the epoch.

    Raises:
        ImageError: apt has no lists.
    """
    texts = (guest.read_text(path) for pattern in _RELEASES for path in guest.glob(pattern))
    dates = [_time(found[1]) for found in map(_DATE.search, texts) if found]
    if not dates:
        raise ImageError("no repository says when it was made; choose another mirror")
    return int(max(dates).timestamp())


def _time(text: str) -> datetime:
    """The time that a list says; one without a zone, or with that of RFC 5322 for none, ``-0000``, is UTC to apt."""
    found = parsedate_to_datetime(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def settle(guest: Guest, root: Path, *, began: float, epoch: int) -> None:
    """Give what was written since a build began the time of what it was built from.

    What packages brought keeps its times: they are older.

    Args:
        guest: the tree. Nothing may change in it afterwards.
        root: where it is mounted.
        began: when the build began, in seconds since the epoch.
        epoch: what stands for all later times.

    Raises:
        OSError: the file system refuses.
    """
    for path in filter(guest.exists, _SHADOWS):  # when each password was changed: shadow(5)
        guest.write(path, _LAST_CHANGE.sub(rf"\g<1>{epoch // _DAY}\2", guest.read_text(path)))
    for path in _everything(root):
        changed = os.lstat(path).st_mtime
        settled_time = epoch if changed >= began else int(changed)
        os.utime(path, (settled_time, settled_time), follow_symlinks=False)


def _everything(root: Path) -> Iterator[str]:
    """All paths of a tree, what is in a directory before the directory. Links are not followed."""
    for directory, directories, files in os.walk(root, topdown=False):
        for name in (*files, *directories):
            yield f"{directory}/{name}"
    yield str(root)
