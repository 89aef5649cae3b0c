"""A btrfs whose device got another UUID is sound for btrfs' own tools, and has nothing left of the old one."""

from __future__ import annotations

import hashlib
import re
import subprocess
from pathlib import Path

import pytest

from osprovider.disk.btrfs import set_device_uuid
from osprovider.disk.loop import loop_device
from tests.support.sparse import sparse_file
from tests.system.create.cloud import install_filesystem

MIB = 1 << 20
GIB = 1 << 30
START, SIZE = 3 * MIB, 320 * MIB
NEW = "99999999-bbbb-4bbb-8bbb-999999999999"


def make(path: Path, *options: str, size: int = SIZE) -> str:
    """A disk with a btrfs at its place; returns the UUID of the file system's device."""
    sparse_file(path, START + size)
    with loop_device(path, offset_bytes=START, size_bytes=size) as device:
        subprocess.run(["mkfs.btrfs", "-q", *options, device], check=True, capture_output=True)
    return names(path)["UUID_SUB"]


def names(path: Path) -> dict[str, str]:
    size = path.stat().st_size - START
    said = output("blkid", "--probe", "--output", "export", "--offset", str(START), "--size", str(size), str(path))
    return dict(line.split("=", 1) for line in said.splitlines())


def output(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def changed(path: Path) -> bool:
    with path.open("r+b") as file:
        return set_device_uuid(file.fileno(), START, path.stat().st_size - START, NEW)


@pytest.mark.parametrize(
    ("options", "size", "levels", "superblocks"),
    [
        (["--metadata", "single", "--checksum", "crc32c"], SIZE, 0, 2),
        (["--metadata", "dup", "--checksum", "crc32c"], 300 * GIB, 1, 3),
        (["--metadata", "dup", "--checksum", "sha256"], SIZE, 0, 2),
        (["--metadata", "single", "--checksum", "blake2"], SIZE, 0, 2),
    ],
)
def test_a_device_gets_another_uuid_in_every_place(
    options: list[str], size: int, levels: int, superblocks: int, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    old = make(disk, "--nodesize", "4096", *options, size=size)
    before = names(disk)
    place = f"loop,offset={START},sizelimit={size}"
    install_filesystem(disk, f"fallocate -l {size // 2} root/chunks; echo hello > root/kept", place)
    assert changed(disk)
    assert names(disk) == {**before, "UUID_SUB": NEW}
    with loop_device(disk, offset_bytes=START, size_bytes=size) as device:
        output("btrfs", "check", "--readonly", str(device))
        tree = output("btrfs", "inspect-internal", "dump-tree", "--tree", "chunk", str(device))
        supers = output("btrfs", "inspect-internal", "dump-super", "--all", "--full", str(device))
    assert f"chunk_root_level\t{levels}" in supers
    assert len(re.findall(rf"dev_item.uuid\s+{NEW}", supers)) == superblocks
    assert re.search(rf"dev_uuid {NEW}", tree)
    assert old not in supers + tree
    assert install_filesystem(disk, "cat root/kept", place) == "hello\n"


@pytest.mark.parametrize(
    "damage", ["superblock", "its checksum", "chunk root", "chunk tree", "node size", "no btrfs", "cut off"]
)
def test_what_is_not_sound_is_left_as_it_is(damage: str, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    make(disk, "--metadata", "single")
    data = bytearray(disk.read_bytes())
    at = START + (64 << 10)
    chunk_root = int.from_bytes(data[at + 0x58 : at + 0x60], "little")
    place = {
        "superblock": at + 0x200,
        "its checksum": at,
        "chunk root": at + 0x5F,
        "chunk tree": START + chunk_root + 0x100,  # addresses begin as places where mkfs made them so
        "node size": at + 0x97,
        "no btrfs": at + 0x40,
        "cut off": at + 0xA3,
    }[damage]
    data[place] ^= 0xFF
    disk.write_bytes(data)
    if damage == "cut off":
        with disk.open("r+b") as file:
            file.truncate(at + 100)
    before = disk.read_bytes()
    assert not changed(disk)
    assert disk.read_bytes() == before


def test_xxhash_and_several_devices_are_left_as_they_are(tmp_path: Path) -> None:
    disk, second = tmp_path / "disk", tmp_path / "second"
    old = make(disk, "--checksum", "xxhash")
    assert not changed(disk)
    assert names(disk)["UUID_SUB"] == old
    sparse_file(second, SIZE)
    old = make(disk, "--data", "single", "--metadata", "raid1", str(second))
    assert not changed(disk)
    assert names(disk)["UUID_SUB"] == old


def test_a_second_copy_of_the_chunk_tree_beyond_the_end_is_not_written(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    make(disk, "--metadata", "dup", "--checksum", "sha256")
    data = bytearray(disk.read_bytes())
    at = START + (64 << 10)
    second = at + 0x32B + 17 + 48 + 32 + 8  # the first system chunk's key and itself, its first stripe; an offset
    data[second : second + 8] = (4 * GIB).to_bytes(8, "little")
    data[at : at + 32] = hashlib.sha256(data[at + 32 : at + 4096]).digest()
    disk.write_bytes(data)
    before = disk.stat().st_size
    assert not changed(disk)
    assert disk.stat().st_size == before
    assert disk.read_bytes() == data
