"""Tables of disk images: made by sfdisk(8) and read, and broken in every way that a publisher, or an attacker, may."""

from __future__ import annotations

import struct
import subprocess
import tempfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from osprovider.disk.gpt import ENTRY, HEADER, Gpt
from osprovider.errors import ImageError
from osprovider.images.diskimage.table import read_image_table, strip_table
from osprovider.manifest import ImageTable

MIB = 1 << 20
SIZE = 16 * MIB
GPT = """\
label: gpt
label-id: 11111111-2222-4333-8444-555555555555
first-lba: 34
disk14 : start=34, size=2014, type=21686148-6449-6E6F-744E-656564454649, name="BIOS boot é"
disk15 : start=2048, size=8192, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, attrs="LegacyBIOSBootable"
disk1 : start=10240, size=20480, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, uuid=66666666-7777-4888-8999-AAAAAAAAAAAA
"""
MSDOS = """\
label: dos
label-id: 0x1234abcd
disk1 : start=2048, size=8192, type=ef, bootable
disk2 : start=10240, size=22528, type=5
disk5 : start=12288, size=2048, type=82
disk6 : start=16384, size=16384, type=83
"""


@cache  # sfdisk waits half a second for a device that is none
def _made(script: str) -> bytes:
    with tempfile.NamedTemporaryFile() as file:
        file.truncate(SIZE)
        subprocess.run(["sfdisk", "--quiet", file.name], input=script, text=True, check=True)
        return Path(file.name).read_bytes()


def make(path: Path, script: str) -> Path:
    path.write_bytes(_made(script))
    return path


@pytest.fixture
def gpt(tmp_path: Path) -> Path:
    return make(tmp_path / "gpt", GPT)


def read(path: Path) -> ImageTable:
    table = read_image_table(path, "x")
    assert table is not None
    return table


def patch(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def test_a_gpt_is_read_by_the_places_of_its_partitions(gpt: Path) -> None:
    table = read(gpt)
    assert (table.type, table.id, table.sector_size) == ("gpt", "11111111-2222-4333-8444-555555555555", 512)
    assert [(part.number, part.role, part.start_bytes, part.size_bytes) for part in table.partitions] == [
        (14, "bios_boot", 34 * 512, 2014 * 512),
        (15, "esp", MIB, 4 * MIB),
        (1, "root", 5 * MIB, 10 * MIB),
    ]
    assert [(part.name, part.attributes) for part in table.partitions] == [("BIOS boot é", 0), ("", 1 << 2), ("", 0)]
    assert table.partitions[2].guid == "66666666-7777-4888-8999-aaaaaaaaaaaa"


def test_an_msdos_table_is_read_with_its_logical_partitions(tmp_path: Path) -> None:
    table = read(make(tmp_path / "disk", MSDOS))
    assert (table.type, table.id, table.sector_size) == ("msdos", "1234abcd", 512)
    assert [(part.number, part.role, part.type, part.start_bytes) for part in table.partitions] == [
        (1, "esp", "ef", MIB),
        (2, "other", "05", 5 * MIB),
        (5, "swap", "82", 6 * MIB),
        (6, "other", "83", 8 * MIB),
    ]
    assert [part.attributes for part in table.partitions] == [1 << 7, 0, 0, 0]


def test_a_gpt_of_large_sectors_counts_in_them(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    entry = ENTRY.pack(bytes.fromhex("a2a0d0ebe5b9334487c068b6b72699c7"), bytes(16), 256, 511, 0, b"")
    entries = entry.ljust(128 * 128, b"\0")
    header = [b"EFI PART", 0x10000, 92, 0, 0, 1, 4095, 6, 4090, bytes(16), 2, 128, 128, zlib.crc32(entries)]
    header[3] = zlib.crc32(HEADER.pack(*header))
    path.write_bytes(bytes(4096) + HEADER.pack(*header).ljust(4096, b"\0") + entries.ljust(SIZE - 8192, b"\0"))
    table = read(path)
    assert (table.sector_size, table.partitions[0].start_bytes, table.partitions[0].size_bytes) == (4096, MIB, MIB)


def test_a_gpt_that_an_msdos_table_has_followed_does_not_count(gpt: Path, tmp_path: Path) -> None:
    """As fdisk of old left it. A GPT counts where the first sector announces it, beside other partitions as well."""
    msdos = make(tmp_path / "disk", MSDOS).read_bytes()
    content = gpt.read_bytes()
    gpt.write_bytes(msdos[:512] + content[512 : MIB + 512] + msdos[MIB + 512 :])
    assert read(gpt) == read(tmp_path / "disk")
    gpt.write_bytes(content)
    hybrid = struct.pack("<B3sB3sII", 0, bytes(3), 0x83, bytes(3), 10240, 20480)
    patch(gpt, 446 + 16, hybrid)
    assert read(gpt).type == "gpt"
    patch(gpt, 446, bytes(66))
    assert read(gpt).type == "gpt"


def test_an_image_without_a_table_has_none(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(MIB))
    assert read_image_table(path, "x") is None


def change_entries(path: Path, change: Callable[[bytearray], None]) -> None:
    """Change the entries of a GPT, with checksums that are right, so that only the rules can tell."""
    content = bytearray(path.read_bytes())
    entries = content[1024 : 1024 + 128 * 128]
    change(entries)
    content[1024 : 1024 + 128 * 128] = entries
    header = list(HEADER.unpack_from(content, 512))
    header[13], header[3] = zlib.crc32(entries), 0
    header[3] = zlib.crc32(HEADER.pack(*header))
    HEADER.pack_into(content, 512, *header)
    path.write_bytes(content)


def place(number: int, first: int, last: int) -> Callable[[bytearray], None]:
    """Give the partition of this number other addresses."""
    return lambda entries: struct.pack_into("<QQ", entries, (number - 1) * 128 + 32, first, last)


def move(source: int, target: int) -> Callable[[bytearray], None]:
    """Give a partition another number."""

    def change(entries: bytearray) -> None:
        for number, data in ((target, entries[(source - 1) * 128 : source * 128]), (source, bytes(128))):
            entries[(number - 1) * 128 : number * 128] = data

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (place(15, 12000, 12100), r"its partitions 1 and 15 overlap"),
        (place(15, 9000, 10240), r"its partitions 15 and 1 overlap"),
        (place(1, 10240, 99999), r"partition 1 ends at byte 51200000, beyond the image's 16777216: it is cut off"),
        (place(1, 2**63, 2**63), r"partition 1 ends at byte 4722366482869645214208, beyond"),
        (place(1, 10240, 10239), r"broken: partition 1 goes from byte 5242880 to 5242880"),
        (place(1, 10240, 5), r"broken: partition 1 goes from byte 5242880 to 3072"),
        (place(14, 33, 40), r"broken: partition 14 goes from byte 16896 to 20992, and what is before byte 17408"),
        (place(14, 0, 40), r"broken: partition 14 goes from byte 0"),
        (
            lambda entries: entries.__setitem__(slice(None), bytes(len(entries))),
            r"has no partitions, and so there is no root",
        ),
    ],
)
def test_partitions_that_cannot_be_are_refused_by_number(
    gpt: Path, change: Callable[[bytearray], None], message: str
) -> None:
    change_entries(gpt, change)
    with pytest.raises(ImageError, match=f"^image x: .*{message}"):
        read_image_table(gpt, "x")


def test_more_partitions_than_an_appliance_has_drives_are_refused(gpt: Path) -> None:
    def fill(entries: bytearray) -> None:
        for number in range(2, 26):
            entries[(number - 1) * 128 : number * 128] = entries[:128]

    change_entries(gpt, fill)
    with pytest.raises(ImageError, match="its partition table has 25 partitions: 24 are the most"):
        read_image_table(gpt, "x")


def test_a_partition_of_the_last_number_is_taken(gpt: Path) -> None:
    change_entries(gpt, move(14, 128))
    assert {part.number for part in read(gpt).partitions} == {1, 15, 128}


@pytest.mark.parametrize("backup", ["sound", "damaged"])
@pytest.mark.parametrize(
    ("offset", "message"),
    [
        (512 + 20, r"the GPT header in sector 1 is damaged: its CRC is not [0-9a-f]{8}"),
        (512 + 40, r"the GPT header in sector 1 is damaged"),
        (1024 + 60, r"the GPT's entries are damaged: their CRC is not [0-9a-f]{8}"),
        (512 + 12, r"the GPT header's size is"),
    ],
)
def test_a_damaged_primary_is_refused_whatever_the_backup_says(
    gpt: Path, offset: int, message: str, backup: str
) -> None:
    patch(gpt, offset, b"\xee")
    if backup == "damaged":
        patch(gpt, SIZE - 512 + 40, b"\xee")
    with pytest.raises(ImageError, match=f"^image x: its partition table is broken: {message}"):
        read_image_table(gpt, "x")


def test_a_gpt_that_is_announced_and_not_there_is_refused(gpt: Path) -> None:
    patch(gpt, 512, bytes(512))
    with pytest.raises(ImageError, match="its first sector announces a GPT, and none is there"):
        read_image_table(gpt, "x")


def test_a_cut_off_image_is_refused_with_the_byte(gpt: Path) -> None:
    with gpt.open("r+b") as file:
        file.truncate(12 * MIB)
    with pytest.raises(ImageError, match=f"partition 1 ends at byte {15 * MIB}, beyond the image's {12 * MIB}"):
        read_image_table(gpt, "x")


def test_overlapping_msdos_partitions_are_refused_by_number(tmp_path: Path) -> None:
    disk = make(tmp_path / "disk", MSDOS)
    patch(disk, 446 + 12, struct.pack("<I", 20000))
    with pytest.raises(ImageError, match="its partitions 1 and 5 overlap"):
        read_image_table(disk, "x")


def test_an_msdos_partition_beyond_the_end_is_refused_with_the_byte(tmp_path: Path) -> None:
    disk = make(tmp_path / "disk", "label: dos\n- 8M\n")
    patch(disk, 446 + 12, struct.pack("<I", 1 << 20))
    with pytest.raises(ImageError, match=r"partition 1 ends at byte 53\d+, beyond the image's 16777216"):
        read_image_table(disk, "x")


def test_a_stripped_image_bears_no_trace_of_its_gpt_but_keeps_its_boot_code(gpt: Path) -> None:
    patch(gpt, 0, b"\x5a" * 440)
    patch(gpt, 34 * 512, b"\xa5" * 512)
    table = read(gpt)
    strip_table(gpt, table)
    content = gpt.read_bytes()
    assert content[:440] == b"\x5a" * 440
    assert content[34 * 512 :][:512] == b"\xa5" * 512
    assert set(content) == {0, 0x5A, 0xA5}
    assert len(content) == SIZE


def test_a_backup_that_an_enlarged_image_left_behind_goes_as_well(gpt: Path) -> None:
    with gpt.open("r+b") as file:
        file.truncate(2 * SIZE)
    strip_table(gpt, read(gpt))
    assert set(gpt.read_bytes()) == {0}


def test_where_a_header_says_that_its_backup_lies_data_stays(gpt: Path) -> None:
    patch(gpt, 8 * MIB, b"data" * 128)
    content = bytearray(gpt.read_bytes())
    header = list(HEADER.unpack_from(content, 512))
    header[6], header[3] = 8 * MIB // 512, 0
    header[3] = zlib.crc32(HEADER.pack(*header))
    HEADER.pack_into(content, 512, *header)
    gpt.write_bytes(content)
    strip_table(gpt, read(gpt))
    assert gpt.read_bytes()[8 * MIB :][:512] == b"data" * 128


def test_a_stripped_msdos_image_keeps_boot_code_and_logical_partitions_records(tmp_path: Path) -> None:
    disk = make(tmp_path / "disk", MSDOS)
    patch(disk, 0, b"\x5a" * 440)
    patch(disk, 512, b"\xa5" * 512)
    before = disk.read_bytes()
    strip_table(disk, read(disk))
    after = disk.read_bytes()
    assert after == before[:440] + bytes(72) + before[512:]
    assert read_image_table(disk, "x") is None


def test_entries_with_names_that_are_no_text_are_read(gpt: Path) -> None:
    change_entries(gpt, lambda entries: struct.pack_into("<72s", entries, 56, b"\x00\xd8a\x00\xff\xdf"))
    with gpt.open("rb") as file:
        names = {entry.number: entry.name for entry in Gpt.read(file.fileno(), 1, 512)}
    assert names[1].startswith("\ufffda\ufffd")
