"""What of a template has to be copied, and its ranges with their checksums."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import pytest

from osprovider.disk.scan import scan_extents, scan_ranges
from osprovider.errors import ImageError

MIB = 1 << 20


@pytest.fixture
def template(tmp_path: Path) -> Path:
    """6 MiB of data, then 2 MiB of nothing."""
    path = tmp_path / "template"
    path.write_bytes(os.urandom(6 * MIB))
    os.truncate(path, 8 * MIB)
    return path


def test_what_has_to_be_copied_is_what_is_not_zero(template: Path) -> None:
    with template.open("rb") as file:
        extents = scan_extents(file.fileno(), 8 * MIB)
    assert [(each.offset, each.length) for each in extents] == [(0, 4 * MIB), (4 * MIB, 2 * MIB)]
    data = template.read_bytes()
    assert all(zlib.crc32(data[each.offset :][: each.length]) == each.crc32 for each in extents)


def test_ranges_are_extents_of_theirs_zeros_too(template: Path) -> None:
    ranges = [(4096, 8192), (3 * MIB, 5 * MIB)]
    with template.open("rb") as file:
        extents = scan_ranges(file.fileno(), ranges)
    assert [(each.offset, each.length) for each in extents] == [(4096, 8192), (3 * MIB, MIB), (4 * MIB, 4 * MIB)]
    data = template.read_bytes()
    assert all(zlib.crc32(data[each.offset :][: each.length]) == each.crc32 for each in extents)


def test_a_range_beyond_the_end_is_told(template: Path) -> None:
    with template.open("rb") as file, pytest.raises(ImageError, match=f"{template}: cannot be read at byte {8 * MIB}"):
        scan_ranges(file.fileno(), [(8 * MIB, 4096)])
