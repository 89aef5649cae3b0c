"""Which bytes of a disk belong to an image of it."""

from __future__ import annotations

import pytest

from osprovider.images.capture.disk import wanted_ranges
from osprovider.manifest import ImagePartition, ImageTable

MIB = 1 << 20
SIZE = 100 * MIB


def part(number: int, role: str, start_mib: int, size_mib: int) -> ImagePartition:
    return ImagePartition(number, role, start_mib * MIB, size_mib * MIB, "", "", "", 0, None, None)


def table(kind: str) -> ImageTable:
    return ImageTable(kind, "", 512, ())


ROOT, SWAP = part(1, "root", 2, 20), part(2, "swap", 30, 10)


def test_a_disk_without_a_table_is_taken_whole() -> None:
    assert wanted_ranges(None, [part(0, "root", 0, 100)], SIZE) == [(0, SIZE)]


def test_of_a_gpt_what_is_between_partitions_is_left_out_but_for_the_boot_code_and_both_tables() -> None:
    assert wanted_ranges(table("gpt"), [ROOT, part(3, "other", 50, 10)], SIZE) == [
        (0, 22 * MIB),
        (50 * MIB, 60 * MIB),
        (99 * MIB, SIZE),
    ]


def test_a_last_partition_may_reach_into_the_last_mebibyte() -> None:
    last = ImagePartition(3, "root", 50 * MIB, 50 * MIB - 33 * 512, "", "", "", 0, None, None)
    assert wanted_ranges(table("gpt"), [last], SIZE) == [(0, SIZE)]


def test_of_swap_that_reaches_into_the_last_mebibyte_its_header_alone_is_taken() -> None:
    last = ImagePartition(3, "swap", 50 * MIB, 50 * MIB - 33 * 512, "", "", "", 0, None, None)
    assert wanted_ranges(table("gpt"), [ROOT, last], SIZE) == [
        (0, 22 * MIB),
        (50 * MIB, 50 * MIB + 4096),
        (SIZE - 33 * 512, SIZE),
    ]


def test_of_an_msdos_table_the_extended_partition_is_taken_for_the_records_in_it() -> None:
    """The disk's end is nobody's there."""
    inside = [part(5, "other", 51, 9), part(6, "swap", 61, 5), part(7, "other", 70, 5)]
    assert wanted_ranges(table("msdos"), [ROOT, part(2, "other", 50, 30), *inside], SIZE) == [
        (0, 22 * MIB),
        (50 * MIB, 61 * MIB + 4096),
        (66 * MIB, 80 * MIB),
    ]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("gpt", [(0, 22 * MIB), (30 * MIB, 30 * MIB + 4096), (99 * MIB, SIZE)]),
        ("msdos", [(0, 22 * MIB), (30 * MIB, 30 * MIB + 4096)]),
    ],
)
def test_of_swap_its_header_alone_is_taken(kind: str, expected: list[tuple[int, int]]) -> None:
    assert wanted_ranges(table(kind), [ROOT, SWAP], SIZE) == expected
