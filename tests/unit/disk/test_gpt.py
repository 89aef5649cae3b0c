"""The halves of a GPT, as sgdisk(8) makes and judges them."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest

from osprovider.disk.gpt import HEADER, Gpt, GptError, Header
from tests.support.sparse import sparse_file

SIZE = 8 << 20
LAST = SIZE // 512 - 1


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A disk with partitions 1 and 7."""
    path = sparse_file(tmp_path_factory.mktemp("made") / "disk", SIZE)
    words = ["sgdisk", "--new=1:2048:4095", "--new=7:6144:8191", "--change-name=7:Sieben", "--attributes=7:set:60"]
    subprocess.run([*words, "--disk-guid=11111111-2222-4333-8444-555555555555", path], check=True, capture_output=True)
    return path.read_bytes()


@pytest.fixture
def disk(made: bytes, tmp_path: Path) -> Path:
    """A copy of it."""
    path = tmp_path / "disk"
    path.write_bytes(made)
    return path


def read(disk: Path, address: int = 1) -> Gpt:
    with disk.open("rb") as file:
        return Gpt.read(file.fileno(), address, 512)


def put(disk: Path, header: Header, address: int = 1) -> None:
    with disk.open("r+b") as file:
        file.seek(address * 512)
        file.write(HEADER.pack(*header))


@pytest.mark.parametrize("address", [1, LAST])
def test_either_half_says_the_same(disk: Path, address: int) -> None:
    gpt = read(disk, address)
    assert gpt.guid == "11111111-2222-4333-8444-555555555555"
    assert [(each.number, each.first, each.last, each.name, each.attributes) for each in gpt] == [
        (1, 2048, 4095, "", 0),
        (7, 6144, 8191, "Sieben", 1 << 60),
    ]


def test_both_halves_written_elsewhere_are_sound(disk: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.write_bytes(disk.read_bytes()[:512] + bytes(SIZE - 512))
    with copy.open("r+b", buffering=0) as file:
        for address in (1, LAST):
            read(disk, address).write(file.fileno(), 512)
    assert copy.read_bytes() == disk.read_bytes()
    checked = subprocess.run(["sgdisk", "--verify", copy], check=True, capture_output=True, text=True)
    assert "No problems found" in checked.stdout


def test_a_header_in_anothers_place_is_refused(disk: Path) -> None:
    put(disk, read(disk).header, address=3)
    with pytest.raises(GptError, match="the GPT header in sector 3 says that it belongs in sector 1"):
        read(disk, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"signature": b"EFI PARD"}, "no GPT header is in sector 1"),
        ({"size": 91}, "the GPT header's size is 91, not 92"),
        ({"entry_count": 0}, "a GPT of 0 entries of 128 bytes makes no sense"),
        ({"entry_count": 1025}, "a GPT of 1025 entries"),
        ({"entry_size": 127}, "a GPT of 128 entries of 127 bytes makes no sense"),
        ({"entry_size": 1 << 31}, "a GPT of 128 entries of 2147483648 bytes makes no sense"),
        ({"entries_address": LAST + 1}, "the GPT's entries are damaged"),
        ({"entries_address": 1 << 63}, "the GPT in sector 1 or its entries lie behind the disk's end"),
        ({"entries_crc32": 7}, "the GPT's entries are damaged: their CRC is not 00000007"),
    ],
)
def test_a_header_that_makes_no_sense_is_refused_though_its_checksum_is_right(
    disk: Path, changes: dict[str, object], message: str
) -> None:
    put(disk, read(disk).header._replace(**changes).sealed())  # type: ignore[arg-type]
    with pytest.raises(GptError, match=message):
        read(disk)


def test_a_header_with_a_wrong_checksum_is_refused(disk: Path) -> None:
    put(disk, read(disk).header._replace(crc32=0xDEADBEEF))
    with pytest.raises(GptError, match="the GPT header in sector 1 is damaged: its CRC is not deadbeef"):
        read(disk)


def test_a_disk_that_ends_before_its_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(600))
    with pytest.raises(GptError, match="the GPT in sector 1 or its entries lie behind the disk's end"):
        read(path)


def test_any_damage_is_noticed(disk: Path) -> None:
    sound, chance = disk.read_bytes(), random.Random(1)
    for _ in range(100):
        data = bytearray(sound)
        place = chance.choice([chance.randrange(512, 512 + HEADER.size), chance.randrange(1024, 1024 + 7 * 128)])
        data[place] ^= chance.randrange(1, 256)
        disk.write_bytes(data)
        with pytest.raises(GptError):
            read(disk)
