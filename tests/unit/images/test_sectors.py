"""Which sectors of an image's file are taken."""

from __future__ import annotations

import random

import pytest

from osprovider.images.diskimage.sectors import SectorSet

MIB = 1 << 20


def test_what_is_taken_twice_is_found_by_its_first_byte() -> None:
    chance = random.Random(1)
    taken, model = SectorSet(MIB), set[int]()
    for _ in range(3000):
        start = chance.randrange(2048)
        wanted = range(start, min(start + chance.choice([1, 2, 7, 8, 9, 40]), 2048))
        twice = next((sector for sector in wanted if sector in model), None)
        assert taken.take(wanted.start * 512, wanted.stop * 512) == (None if twice is None else twice * 512)
        if twice is None:
            model.update(wanted)
    assert len(model) > 1000


@pytest.mark.parametrize("start", [0, 512, 300 * MIB + 512, 767 * MIB])
def test_a_range_may_be_as_long_as_the_file(start: int) -> None:
    taken = SectorSet(1024 * MIB)
    assert taken.take(start, 768 * MIB) is None
    assert taken.take(0, 1024 * MIB) == start
    assert taken.take(768 * MIB, 1024 * MIB) is None
    assert taken.take(1024 * MIB - 512, 1024 * MIB) == 1024 * MIB - 512


def test_pieces_that_only_touch_are_apart() -> None:
    taken = SectorSet(64 * MIB)
    for number in range(64 * MIB // 512):
        if number % 3:
            assert taken.take(number * 512, number * 512 + 512) is None
    assert taken.take(0, 512) is None
    assert taken.take(3 * 512, 5 * 512) == 4 * 512
