"""The layout of an image as a picture in text: to scale, legible, and harmless whatever an image calls its parts."""

from __future__ import annotations

import dataclasses

import pytest

from osprovider.images.picture import draw, parts_of
from osprovider.log import plain
from osprovider.manifest import Extent, Filesystem, ImagePartition, ImageTable, Manifest
from tests.support.manifests import manifest

MIB = 1 << 20
BLOCK = 4 * MIB


def filesystem(size: int, *, kind: str = "ext4", label: str = "") -> Filesystem:
    return Filesystem(kind, "uuid", label, 4096, size, size)


def partition(
    number: int, role: str, start: int, size: int, *, mount: str | None = None, held: Filesystem | None = None
) -> ImagePartition:
    return ImagePartition(number, role, start, size, "", "", "", 0, held, mount)


def template(
    size: int, partitions: tuple[ImagePartition, ...] | None, extents: tuple[tuple[int, int], ...]
) -> Manifest:
    """Of a template of so many bytes, with data in these ranges (offset, length)."""
    return manifest(
        size_bytes=size,
        table=None if partitions is None else ImageTable("gpt", "", 512, partitions),
        filesystem=filesystem(size),
        extents=tuple(Extent(offset, length, 0) for offset, length in extents),
        built_here=partitions is None,
    )


DISK = template(
    1024 * MIB,
    (
        partition(1, "root", 116 * MIB, 800 * MIB, mount="/", held=filesystem(800 * MIB, label="cloud\x1b[2Jimg")),
        partition(14, "bios_boot", 1 * MIB, 4 * MIB),
        partition(15, "esp", 6 * MIB, 110 * MIB, mount="/boot/efi", held=filesystem(110 * MIB, kind="vfat")),
    ),
    ((1 * MIB, BLOCK), (116 * MIB, 200 * MIB), (900 * MIB, 100 * MIB)),
)


def test_a_file_system_is_one_part() -> None:
    picture = draw(parts_of(template(100 * MIB, None, ((0, 25 * MIB),))), 42)
    assert picture == [
        f"┌{'─' * 40}┐",
        f"│/{' ' * 39}│",
        f"│{'▒' * 10}{' ' * 30}│",
        f"└{'─' * 40}┘",
        "    root       100 MiB from 0 bytes, ext4, 25 MiB of data, on /",
    ]


def test_a_disk_is_drawn_to_scale_with_what_holds_data_shaded() -> None:
    picture = draw(parts_of(DISK), 100)
    assert {len(line) for line in picture[:4]} == {100}
    names, shades = (line.split("│")[1:-1] for line in picture[1:3])
    assert [name.strip() for name in names] == ["14", "15", "1 /", "- free"]
    widths = [len(name) for name in names]
    assert widths[0] == 3  # the least
    assert widths[2] == pytest.approx(95 * 800 / 1024, abs=2)
    assert [shade.count("▒") for shade in shades] == [3, 0, round(widths[2] * 216 / 800), 0]
    assert picture[4:] == [
        " 14 bios_boot  4.0 MiB from 1.0 MiB, 4.0 MiB of data",
        " 15 esp        110 MiB from 6.0 MiB, vfat, on /boot/efi",
        "  1 root       800 MiB from 116 MiB, ext4 'cloud?[2Jimg', 216 MiB of data, on /",
        "  - free       108 MiB from 916 MiB",
    ]


def test_logical_partitions_are_drawn_and_not_what_holds_them() -> None:
    extended = dataclasses.replace(partition(2, "other", 500 * MIB, 500 * MIB), type="05")
    parts = (partition(1, "root", 1 * MIB, 499 * MIB, mount="/"), extended, partition(5, "swap", 501 * MIB, 499 * MIB))
    assert [part.label for part in parts_of(template(1000 * MIB, parts, ()))] == ["1", "5"]


def test_a_part_with_any_data_has_a_column_of_it() -> None:
    picture = draw(parts_of(template(1024 * MIB, None, ((0, 4096),))), 100)
    assert picture[2].count("▒") == 1


@pytest.mark.parametrize("width", [5, 20, 40])
def test_parts_keep_their_numbers_in_a_narrow_picture(width: int) -> None:
    picture = draw(parts_of(DISK), width)
    numbers = [name.split()[0] for name in picture[1].split("│")[1:-1]]
    assert numbers == ["14", "15", "1", "-"]
    assert len({len(line) for line in picture[:4]}) == 1


def test_what_moves_a_cursor_is_not_shown() -> None:
    assert plain("a\x1b[31mb\nc\u202ed") == "a?[31mb?c?d"
