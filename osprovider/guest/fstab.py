"""How a guest's files name file systems and partitions: fstab(5)'s lines, and the spellings of its first field.

Sources: fstab(5); libmount's mnt_table_parse_stream(), where a line has three fields or is passed over; systemd's and
udev's rules 60-persistent-storage.rules; Documentation/admin-guide/devices.txt.
Not for: writing an instance's fstab (the hook ``fstab``), nor finding out what a name belongs to.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from osprovider.guest.text import split_lines

__all__ = ["NODE", "PATH", "Line", "lines", "node_number", "tag_of", "without"]

PATH = "/etc/fstab"

NODE = r"/dev/(?:(?:[shv]da|xvda|nvme0n1p|mmcblk0p)|disk/by-(?:path|id)/[^\s\"'/]+-part)([1-9][0-9]{0,2})(?![\w.-])"
"""A partition of the first disk by its node, or by the hardware that the disk was: SATA, virtio, Xen, IDE, NVMe, eMMC.

Its one group is the partition's number.
"""

_NODE = re.compile(NODE)
_FIELD = re.compile(r"[^ \t]+")
_LEAST_FIELDS = 3
_TAGS = frozenset({"uuid", "label", "partuuid", "partlabel"})
_OCTAL = re.compile(r"\\([0-7]{3})")
_HEXADECIMAL = re.compile(r"\\x([0-9a-fA-F]{2})")


@dataclass(frozen=True, slots=True)
class Line:
    """A line of an fstab.

    Attributes:
        number: 1-based.
        device: its first field, as it is spelt.
        place: where it is mounted, without a slash at the end; or ``none``, ``swap``.
        type: of the file system, or ``swap``.
        options: mount options.
        is_whole: it has as many fields as a line needs; else the others are empty, and nothing reads it.
    """

    number: int
    device: str
    place: str = ""
    type: str = ""
    options: tuple[str, ...] = ()
    is_whole: bool = True


def lines(text: str) -> Iterator[Line]:
    """The lines of an fstab, but empty ones and comments."""
    for number, line in enumerate(text.split("\n"), 1):
        words = _FIELD.findall(line.rstrip("\r"))
        if not words or words[0].startswith("#"):
            continue
        if len(words) < _LEAST_FIELDS:
            yield Line(number, words[0], is_whole=False)
        else:
            options = tuple(words[3].split(",")) if len(words) > _LEAST_FIELDS else ()
            yield Line(number, words[0], words[1].rstrip("/") or "/", words[2], options)


def without(text: str, numbers: Collection[int]) -> str:
    """An fstab without the lines of these numbers."""
    return "".join(f"{line}\n" for number, line in enumerate(split_lines(text), 1) if number not in numbers)


def node_number(spelling: str) -> int | None:
    """The number of the partition that a name of its node means; None where it means no partition of the first disk."""
    match = _NODE.fullmatch(spelling)
    return int(match[1]) if match else None


def tag_of(spelling: str) -> tuple[str, str] | None:
    """What a name says that a partition has: ``uuid``, ``label``, ``partuuid`` or ``partlabel``, and its value.

    ``UUID="…"`` and ``/dev/disk/by-uuid/…`` say the same. None where it says none of these.
    """
    if spelling.startswith("/dev/disk/by-"):
        tag, _, value = spelling.removeprefix("/dev/disk/by-").partition("/")
        value = _HEXADECIMAL.sub(_character, value)
    else:
        tag, _, value = spelling.partition("=")
        tag = tag.lower()
        if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        value = _OCTAL.sub(lambda match: chr(int(match[1], 8)), value)
    return (tag, value) if tag in _TAGS else None


def _character(match: re.Match[str]) -> str:
    return chr(int(match[1], 16))
