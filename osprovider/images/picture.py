"""The layout of an image as a picture in text, drawn to scale; what holds data is shaded.

    ┌┬───┬──────────────────────────────────────────────┐
    ││15 │1 /                                           │
    ││▒  │▒▒▒▒▒▒▒▒▒▒▒▒▒                                 │
    └┴───┴──────────────────────────────────────────────┘

Not for: the plan of an instance's disk.
"""

from __future__ import annotations

from dataclasses import dataclass

from osprovider.layout import EXTENDED_TYPES
from osprovider.log import human_bytes, plain
from osprovider.manifest import Filesystem, Manifest

__all__ = ["Part", "draw", "parts_of"]

_LEAST = 3
"""How wide a part is at least, in columns, so that its number can be read."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a disk.

    Attributes:
        label: what it is called in the picture: a partition's number, ``-`` for room between partitions.
        role: see :class:`osprovider.manifest.ImagePartition`.
        start_bytes: from the disk's start.
        size_bytes: its length.
        filesystem: what is on it; None where there is none.
        mount: where the guest has it; None where it is not mounted.
        data_bytes: how much of it is data, and not zeros.
    """

    label: str
    role: str
    start_bytes: int
    size_bytes: int
    filesystem: Filesystem | None = None
    mount: str | None = None
    data_bytes: int = 0


def parts_of(manifest: Manifest) -> tuple[Part, ...]:
    """What a template is divided into, by place; room between partitions where it is a hundredth of the disk."""
    if manifest.table is None:
        return (Part("", "root", 0, manifest.size_bytes, manifest.filesystem, "/", manifest.data_bytes),)
    found: list[Part] = []
    position = 0
    worth_showing = manifest.size_bytes // 100
    for each in sorted(manifest.table.partitions, key=lambda part: part.start_bytes):
        if each.type in EXTENDED_TYPES:  # the logical ones in it are shown
            continue
        if each.start_bytes - position > worth_showing:
            found.append(Part("-", "free", position, each.start_bytes - position))
        data = _data_bytes(manifest, each.start_bytes, each.start_bytes + each.size_bytes)
        found.append(
            Part(str(each.number), each.role, each.start_bytes, each.size_bytes, each.filesystem, each.mount, data)
        )
        position = each.start_bytes + each.size_bytes
    if manifest.size_bytes - position > worth_showing:
        found.append(Part("-", "free", position, manifest.size_bytes - position))
    return tuple(found)


def _data_bytes(manifest: Manifest, begin: int, end: int) -> int:
    """How much of a template's range is data."""
    pieces = (
        min(extent.offset + extent.length, end) - max(extent.offset, begin)
        for extent in manifest.extents
        if extent.offset < end and extent.offset + extent.length > begin
    )
    return sum(pieces)


def draw(parts: tuple[Part, ...], width: int) -> list[str]:
    """The picture, and a line for each part below it.

    Args:
        parts: by place, at least one.
        width: in columns.
    """
    widths = _widths([part.size_bytes for part in parts], width - len(parts) - 1)
    names = [
        _fitted(f"{part.label} {plain(part.mount or part.role)}".strip(), part.label, size)
        for part, size in zip(parts, widths, strict=True)
    ]
    fills = [("▒" * _filled(part, size)).ljust(size) for part, size in zip(parts, widths, strict=True)]
    lines = ["─" * size for size in widths]
    return [
        f"┌{'┬'.join(lines)}┐",
        f"│{'│'.join(names)}│",
        f"│{'│'.join(fills)}│",
        f"└{'┴'.join(lines)}┘",
        *(_described(part) for part in parts),
    ]


def _widths(sizes: list[int], width: int) -> list[int]:
    """Columns in proportion to sizes, none under the least, together ``width`` where that is possible."""
    widths = [_LEAST] * len(sizes)
    room = max(width - sum(widths), 0)
    total = sum(sizes)
    shares = [max(size * width / max(total, 1) - _LEAST, 0) for size in sizes]
    scale = room / max(sum(shares), 1)
    given = [int(share * scale) for share in shares]
    largest = max(range(len(sizes)), key=sizes.__getitem__)
    given[largest] += room - sum(given)
    return [least + more for least, more in zip(widths, given, strict=True)]


def _fitted(text: str, short: str, width: int) -> str:
    return (text if len(text) <= width else short)[:width].ljust(width)


def _filled(part: Part, width: int) -> int:
    """How many columns of a part are data; at least one of what holds any."""
    return max(round(width * part.data_bytes / max(part.size_bytes, 1)), 1) if part.data_bytes else 0


def _described(part: Part) -> str:
    words = [f"{human_bytes(part.size_bytes)} from {human_bytes(part.start_bytes)}"]
    if part.filesystem is not None:
        label = f" {plain(part.filesystem.label)!r}" if part.filesystem.label else ""
        words.append(f"{plain(part.filesystem.type)}{label}")
    if part.data_bytes:
        words.append(f"{human_bytes(part.data_bytes)} of data")
    if part.mount is not None:
        words.append(f"on {plain(part.mount)}")
    return f"{part.label:>3} {part.role:<10} {', '.join(words)}".rstrip()
