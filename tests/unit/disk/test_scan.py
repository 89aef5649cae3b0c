"""What of a template has to be copied, and what of that are a file system's own blocks."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import pytest

from osprovider.disk.scan import scan_extents
from osprovider.manifest import Extent

MIB = 1 << 20
KIB = 1 << 10


@pytest.fixture
def template(tmp_path: Path) -> Path:
    """6 MiB of data, then 2 MiB of nothing."""
    path = tmp_path / "template"
    path.write_bytes(os.urandom(6 * MIB))
    os.truncate(path, 8 * MIB)
    return path


def scan(path: Path, metadata: list[tuple[int, int]]) -> tuple[Extent, ...]:
    with path.open("rb") as file:
        return scan_extents(file.fileno(), 8 * MIB, metadata)


@pytest.mark.parametrize(
    ("metadata", "found"),
    [
        ([], [(0, 4 * MIB, False), (4 * MIB, 2 * MIB, False)]),
        (
            [(0, 4096), (2 * MIB + 4096, 4096)],
            [
                (0, 64 * KIB, True),
                (64 * KIB, 1984 * KIB, False),
                (2 * MIB, 64 * KIB, True),
                (2 * MIB + 64 * KIB, 1984 * KIB, False),
                (4 * MIB, 2 * MIB, False),
            ],
        ),
        (
            [(2 * MIB, 4096), (2 * MIB + 300 * KIB, 4096), (4 * MIB - 4096, 8192)],
            [
                (0, 2 * MIB, False),
                (2 * MIB, 320 * KIB, True),
                (2 * MIB + 320 * KIB, 1664 * KIB, False),
                (4 * MIB - 64 * KIB, 64 * KIB, True),
                (4 * MIB, 64 * KIB, True),
                (4 * MIB + 64 * KIB, 1984 * KIB, False),
            ],
        ),
        ([(7 * MIB, 4096)], [(0, 4 * MIB, False), (4 * MIB, 2 * MIB, False)]),
        ([(0, 8 * MIB)], [(0, 4 * MIB, True), (4 * MIB, 2 * MIB, True)]),
    ],
)
def test_extents_are_divided_where_a_file_system_has_its_own_blocks(
    template: Path, metadata: list[tuple[int, int]], found: list[tuple[int, int, bool]]
) -> None:
    extents = scan(template, metadata)
    assert [(each.offset, each.length, each.metadata) for each in extents] == found
    data = template.read_bytes()
    assert all(zlib.crc32(data[each.offset :][: each.length]) == each.crc32 for each in extents)
