"""Scanning and copying, with templates and old contents drawn at random, onto plain files."""

from __future__ import annotations

import random
import zlib
from pathlib import Path

import pytest

from osprovider.disk.copy import copy_extents, verify_extents
from osprovider.disk.scan import scan_extents
from osprovider.disk.zero import Zeroing
from osprovider.errors import ImageError
from osprovider.layout import Placement

BLOCK = 4096
MIB = 1 << 20


def random_template(path: Path, chance: random.Random) -> int:
    """Write a sparse file of data, written zeros and holes that begin anywhere; returns its size."""
    size = chance.randrange(1, 16 * MIB // BLOCK) * BLOCK
    with path.open("wb") as file:
        file.truncate(size)
        for _ in range(chance.randrange(8)):
            offset = chance.randrange(size)
            length = min(chance.choice([1, 511, BLOCK, 70_000, MIB, 5 * MIB]), size - offset)
            file.seek(offset)
            file.write(bytes(length) if chance.random() < 0.3 else chance.randbytes(length))
    return size


@pytest.mark.parametrize("seed", range(25))
def test_a_copy_is_the_template_and_its_surroundings_stay(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    template, disk = tmp_path / "template", tmp_path / "disk"
    size = random_template(template, chance)
    offset = chance.randrange(2 * MIB // 512) * 512
    disk.write_bytes(b"\xa5" * (offset + size + MIB))
    with template.open("rb") as source, disk.open("r+b") as target:
        extents = scan_extents(source.fileno(), size)
        done: list[int] = []
        whole, zeroing = [Placement(0, size, offset)], Zeroing(target.fileno())
        copy_extents(source.fileno(), target.fileno(), whole, extents, done.append, zeroing=zeroing)
        checked: list[int] = []
        verify_extents(source.fileno(), target.fileno(), whole, extents, checked.append)
    assert sum(checked) == size
    assert sum(done) == sum(extent.length for extent in extents)
    data, wanted = disk.read_bytes(), template.read_bytes()
    assert data[offset : offset + size] == wanted
    assert data[:offset] == b"\xa5" * offset
    assert data[offset + size :] == b"\xa5" * MIB

    end = 0
    for extent in extents:
        assert extent.offset >= end
        end = extent.offset + extent.length
        assert extent.offset % BLOCK == extent.length % BLOCK == 0
        assert 0 < extent.length <= 4 * MIB
        piece = wanted[extent.offset : end]
        assert piece.strip(b"\0")
        assert zlib.crc32(piece) == extent.crc32
    assert end <= size


@pytest.mark.parametrize("seed", range(25))
def test_a_copy_in_two_parts_leaves_what_is_between_them_and_takes_no_more(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    template, disk = tmp_path / "template", tmp_path / "disk"
    size = random_template(template, chance)
    split, end = sorted(chance.sample(range(size // 512 + 1), 2))
    split, end, apart = split * 512, end * 512, chance.randrange(4 * MIB // 512) * 512
    disk.write_bytes(b"\xa5" * (end + apart + MIB))
    parts = [Placement(0, split, 0), Placement(split, end - split, split + apart)]
    with template.open("rb") as source, disk.open("r+b") as target:
        extents = scan_extents(source.fileno(), size)
        done: list[int] = []
        zeroing = Zeroing(target.fileno())
        copy_extents(source.fileno(), target.fileno(), parts, extents, done.append, zeroing=zeroing)
        checked: list[int] = []
        verify_extents(source.fileno(), target.fileno(), parts, extents, checked.append)
    assert sum(checked) == end
    assert sum(done) == sum(extent.length for extent in extents)
    wanted = template.read_bytes()
    assert disk.read_bytes() == wanted[:split] + b"\xa5" * apart + wanted[split:end] + b"\xa5" * MIB


def test_an_empty_template_has_nothing_to_copy(tmp_path: Path) -> None:
    path = tmp_path / "template"
    with path.open("w+b") as file:
        file.truncate(8 * MIB)
        assert scan_extents(file.fileno(), 8 * MIB) == ()


def test_a_template_of_an_odd_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "template"
    path.write_bytes(b"x" * 5000)
    with path.open("rb") as file, pytest.raises(ImageError, match=f"{path}: 5000 bytes are not a multiple of 4096"):
        scan_extents(file.fileno(), 5000)


def test_a_template_that_ends_too_soon_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "template"
    path.write_bytes(b"x" * 5000)
    with path.open("rb") as file, pytest.raises(ImageError, match=f"{path}: cannot be read"):
        scan_extents(file.fileno(), 8192)
