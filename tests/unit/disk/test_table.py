"""Reading tables that somebody else may have written: whatever is on the disk, one clear error at most."""

from __future__ import annotations

import random
import struct
import uuid
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from osprovider.disk import msdos
from osprovider.disk.msdos import Entry
from osprovider.disk.table import read_table
from osprovider.errors import DeviceError

ROOT = uuid.UUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709")
SIZE = 1 << 20


def image(
    *,
    entry_count: int = 128,
    entry_size: int = 128,
    header_size: int = 92,
    entries_address: int = 2,
    start: int = 64,
    end: int = 127,
) -> bytes:
    """A disk of 1 MiB with a primary GPT only, and one root partition in it."""
    guid = uuid.UUID(int=7).bytes_le
    entry = struct.pack("<16s16sQQQ72s", ROOT.bytes_le, guid, start, end, 0, "root".encode("utf-16-le"))
    entries = entry.ljust(128 * 128, b"\0")
    words = [b"EFI PART", 0x10000, header_size, 0, 1, 2047, 34, 2014, guid, entries_address, entry_count, entry_size]
    header = struct.Struct("<8sIII4xQQQQ16sQIII")
    words.append(zlib.crc32(entries))
    words[3] = zlib.crc32(header.pack(*words))
    return (bytes(512) + header.pack(*words).ljust(512, b"\0") + entries).ljust(SIZE, b"\0")


def test_a_sound_table_is_read(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(image())
    root = read_table(path).find("root")
    assert root is not None
    assert (root.number, root.start_bytes, root.size_bytes, root.name) == (1, 64 * 512, 64 * 512, "root")


@pytest.mark.parametrize(
    "changed",
    [
        {"entry_count": 0},
        {"entry_count": 0xFFFFFFFF},
        {"entry_size": 0},
        {"entry_size": 1},
        {"entry_size": 0xFFFFFFFF},
        {"header_size": 0},
        {"header_size": 0xFFFFFFFF},
        {"entries_address": 0xFFFFFFFFFFFFFFFF},
        {"entries_address": 1 << 40},
    ],
)
def test_a_header_that_lies_is_no_table(changed: dict[str, int], tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(image(**changed))
    with pytest.raises(DeviceError, match="has no partition table"):
        read_table(path)


def test_any_damage_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    sound = image()
    chance = random.Random(1)
    for _ in range(300):
        data = bytearray(sound)
        # The header, and the entry that is in use.
        place = chance.choice([chance.randrange(512, 512 + 92), chance.randrange(1024, 1024 + 128)])
        data[place] ^= chance.randrange(1, 256)
        path.write_bytes(data)
        with pytest.raises(DeviceError, match="has no partition table"):
            read_table(path)


def test_a_name_that_is_no_text_is_read_all_the_same(tmp_path: Path) -> None:
    data = bytearray(image())
    data[1024 + 56 : 1024 + 128] = b"\x00\xd8" * 36
    header = struct.Struct("<8sIII4xQQQQ16sQIII")
    words = list(header.unpack_from(data, 512))
    words[12] = zlib.crc32(data[1024 : 1024 + 16384])
    words[3] = 0
    words[3] = zlib.crc32(header.pack(*words))
    data[512 : 512 + 92] = header.pack(*words)
    path = tmp_path / "disk"
    path.write_bytes(data)
    assert read_table(path).find("root") is not None


@pytest.mark.parametrize(
    ("start", "end"), [(64, 63), (64, 2048), (2048, 2049), (64, 0), (1 << 63, 1 << 63), (0, 2**64 - 1)]
)
def test_a_partition_that_lies_outside_of_the_disk_is_refused(start: int, end: int, tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(image(start=start, end=end))
    with pytest.raises(DeviceError, match="partition 1 lies outside of the disk"):
        read_table(path)


def msdos_disk(path: Path, *entries: Entry) -> Path:
    """A disk of 1 MiB with these partitions."""
    path.write_bytes(bytes(SIZE))
    with path.open("r+b") as file:
        msdos.write(file.fileno(), msdos.Msdos("1234abcd", entries))
    return path


BOOT = Entry(1, "83", 64, 64, is_active=True)
SWAP = Entry(2, "82", 128, 64, is_active=False)
LAST = Entry(3, "83", 192, 64, is_active=False)


@pytest.mark.parametrize(
    ("entries", "roles"),
    [
        ((BOOT,), {1: "root"}),
        ((SWAP, LAST), {2: "swap", 3: "root"}),
        ((BOOT, SWAP, LAST), {1: "boot", 2: "swap", 3: "root"}),
        # The root has the number that Ganeti's root_path names, and lies last nevertheless.
        ((replace(LAST, number=1), replace(SWAP, number=2)), {1: "root", 2: "swap"}),
        ((replace(LAST, number=1), replace(BOOT, number=4)), {1: "root", 4: "boot"}),
        ((replace(BOOT, type="ef"), LAST), {1: "esp", 3: "root"}),
    ],
)
def test_the_root_of_an_msdos_table_is_the_last_linux_partition(
    entries: tuple[Entry, ...], roles: dict[int, str], tmp_path: Path
) -> None:
    table = read_table(msdos_disk(tmp_path / "disk", *entries))
    assert {part.number: part.role for part in table.partitions} == roles
    assert (table.type, table.guid) == ("msdos", "1234abcd")
    assert {part.guid for part in table.partitions} == {f"1234abcd-0{number}" for number in roles}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ((BOOT, replace(SWAP, type="83"), LAST), r"has 3 root partitions \(type 83\), where one is expected"),
        ((SWAP,), r"has no root partitions \(type 83\)"),
        ((replace(LAST, count=1 << 20),), "partition 3 lies outside of the disk"),
    ],
)
def test_an_msdos_table_that_is_none_of_ours_is_refused(
    entries: tuple[Entry, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DeviceError, match=message):
        read_table(msdos_disk(tmp_path / "disk", *entries))


def test_a_file_system_that_fills_the_disk_is_the_root(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"XFSB".ljust(SIZE, b"\0"))
    table = read_table(path)
    (root,) = table.partitions
    assert (table.type, root.role, root.filesystem, root.start_bytes, root.size_bytes) == (
        "none",
        "root",
        "xfs",
        0,
        SIZE,
    )


def test_a_boot_sector_without_partitions_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="has no partition table, and no file system fills it"):
        read_table(msdos_disk(tmp_path / "disk"))
