"""msdos tables, made and judged by sfdisk(8); and broken ones, which nobody makes on purpose but for harm."""

from __future__ import annotations

import dataclasses
import json
import random
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from osprovider.disk.msdos import Msdos, MsdosError, read, write
from tests.support.sparse import sparse_file

SIZE = 64 << 20
MIB = 2048  # in sectors
ENTRIES = 446
LAYOUT = (
    "label: dos\nlabel-id: 0x1234abcd\n"
    f"disk1 : start={MIB}, size={4 * MIB}, type=c, bootable\n"
    f"disk2 : start={8 * MIB}, size={48 * MIB}, type=f\n"
    f"disk5 : start={9 * MIB}, size={8 * MIB}, type=82\n"
    f"disk6 : start={20 * MIB}, size={8 * MIB}, type=83\n"
    f"disk7 : start={40 * MIB}, size={16 * MIB}, type=83\n"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk with a primary, an extended and three logical partitions, and room behind them."""
    path = sparse_file(tmp_path_factory.mktemp("made") / "disk", SIZE)
    subprocess.run(["sfdisk", "--quiet", path], input=LAYOUT, text=True, check=True)
    return path


@pytest.fixture
def disk(made: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    subprocess.run(["cp", "--sparse=always", made, tmp_path / "disk"], check=True)
    return tmp_path / "disk"


def table_of(path: Path) -> Msdos | None:
    with path.open("rb") as file:
        return read(file.fileno())


def found(path: Path) -> Msdos:
    table = table_of(path)
    assert table is not None
    return table


def sfdisk(path: Path) -> dict[str, Any]:
    done = subprocess.run(["sfdisk", "--json", path], capture_output=True, text=True, check=True)
    assert not done.stderr
    table: dict[str, Any] = json.loads(done.stdout)["partitiontable"]
    return table


def patch(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def test_a_table_is_read_as_sfdisk_reads_it(disk: Path) -> None:
    table = found(disk)
    assert table.signature == "1234abcd"
    assert [(entry.number, entry.first, entry.count, entry.type, entry.is_active) for entry in table.entries] == [
        (int(part["node"][-1]), part["start"], part["size"], f"{part['type']:0>2}", part.get("bootable", False))
        for part in sfdisk(disk)["partitions"]
    ]


def test_a_disk_without_the_mark_has_no_table(disk: Path) -> None:
    patch(disk, 510, b"\0\0")
    assert table_of(disk) is None


def test_a_disk_that_ends_in_its_first_sector_has_no_table(tmp_path: Path) -> None:
    path = tmp_path / "short"
    path.write_bytes(bytes(511))
    assert table_of(path) is None


def test_a_gpts_own_first_sector_is_none(disk: Path) -> None:
    subprocess.run(["sfdisk", "--quiet", disk], input="label: gpt\n", text=True, check=True)
    assert table_of(disk) is None


def test_a_written_table_is_what_sfdisk_reads(disk: Path, tmp_path: Path) -> None:
    table = found(disk)
    before = sfdisk(disk)
    patch(disk, 440, bytes(72))
    with disk.open("r+b") as file:
        write(file.fileno(), dataclasses.replace(table, signature="deadbeef"))
    assert sfdisk(disk) == {**before, "id": "0xdeadbeef"}
    assert found(disk).entries == table.entries


def test_a_table_without_logical_partitions_is_what_sfdisk_reads(disk: Path) -> None:
    subprocess.run(["sfdisk", "--quiet", disk], input="label: dos\nsize=8MiB\nsize=9MiB\n", text=True, check=True)
    table, before = found(disk), sfdisk(disk)
    patch(disk, 440, bytes(72))
    with disk.open("r+b") as file:
        write(file.fileno(), table)
    assert sfdisk(disk) == before


def test_a_last_logical_partition_grows_and_the_extended_one_with_it(disk: Path) -> None:
    grown = {2: 56 * MIB, 7: 24 * MIB}
    table = found(disk)
    before = sfdisk(disk)
    entries = tuple(dataclasses.replace(part, count=grown.get(part.number, part.count)) for part in table.entries)
    with disk.open("r+b") as file:
        write(file.fileno(), Msdos(table.signature, entries))
    after = sfdisk(disk)
    for part in before["partitions"]:
        part["size"] = grown.get(int(part["node"][-1]), part["size"])
    assert after == before
    checked = subprocess.run(["sfdisk", "--verify", disk], capture_output=True, text=True, check=True)
    assert "No errors detected" in checked.stdout
    # The record before it counts it in, too: kernels compare, and libparted refuses where it does not.
    (count,) = struct.unpack_from("<I", disk.read_bytes(), 19 * MIB * 512 + ENTRIES + 16 + 12)
    assert count == 25 * MIB


def test_partitions_that_have_moved_are_found_and_keep_their_numbers(disk: Path) -> None:
    """Number 5 grows, 6 and 7 move with the end of the extended partition, which is moved itself next."""
    table = found(disk)
    for sizes, moves in (({2: 4, 5: 4}, {6: 4, 7: 4}), ({}, {2: 1, 5: 1, 6: 1, 7: 1})):
        entries = tuple(
            dataclasses.replace(
                entry,
                first=entry.first + moves.get(entry.number, 0) * MIB,
                count=entry.count + sizes.get(entry.number, 0) * MIB,
            )
            for entry in table.entries
        )
        table = Msdos(table.signature, entries)
        with disk.open("r+b") as file:
            write(file.fileno(), table)
        assert found(disk) == table
        assert [(part["start"], part["size"]) for part in sfdisk(disk)["partitions"]] == [
            (entry.first, entry.count) for entry in entries
        ]
        checked = subprocess.run(["sfdisk", "--verify", disk], capture_output=True, text=True, check=True)
        assert "No errors detected" in checked.stdout


def test_logical_partitions_may_have_numbers_in_any_order(disk: Path) -> None:
    table = found(disk)
    places = [entry.first for entry in table.entries[2:]]
    moved = zip(table.entries[2:], reversed(places), strict=True)
    entries = (*table.entries[:2], *(dataclasses.replace(entry, first=place, count=8 * MIB) for entry, place in moved))
    with disk.open("r+b") as file:
        write(file.fileno(), Msdos(table.signature, entries))
    assert found(disk).entries == entries
    assert [part["start"] for part in sfdisk(disk)["partitions"]][2:] == [*reversed(places)]


def test_a_record_lies_where_sfdisk_has_it_and_boot_code_stays(disk: Path) -> None:
    for sector in (0, 8 * MIB):
        patch(disk, sector * 512, b"\x5a" * 440)
    before = disk.read_bytes()
    with disk.open("r+b") as file:
        write(file.fileno(), found(disk))
    after = disk.read_bytes()
    changed = {
        start // 512 for start in range(0, SIZE, 512) if before[start : start + 512] != after[start : start + 512]
    }
    assert changed == {0, 8 * MIB, 19 * MIB, 39 * MIB}  # places in cylinders, heads and sectors
    assert after[:440] == after[8 * MIB * 512 :][:440] == b"\x5a" * 440


def test_a_logical_partition_with_no_room_for_its_record_is_refused(disk: Path) -> None:
    table = found(disk)
    entries = tuple(
        dataclasses.replace(entry, count=11 * MIB) if entry.number == 5 else entry for entry in table.entries
    )
    message = "there is no room for a boot record in front of its logical partition 6"
    with disk.open("r+b") as file, pytest.raises(MsdosError, match=message):
        write(file.fileno(), Msdos(table.signature, entries))
    patch(disk, 8 * MIB * 512 + ENTRIES + 12, struct.pack("<I", 11 * MIB))
    with pytest.raises(MsdosError, match=message):
        table_of(disk)


def entry(kind: int, first: int, count: int, flag: int = 0) -> bytes:
    return struct.pack("<B3sB3sII", flag, b"", kind, b"", first, count)


@pytest.mark.parametrize(
    ("offset", "data", "message"),
    [
        (ENTRIES, b"\x17", r"the entry at byte 446 has the flag 0x17, which means nothing"),
        (ENTRIES, entry(0x83, 0, 100), r"its partition 1 begins at sector 0 and has 100"),
        (ENTRIES, entry(0x83, 100, 0), r"its partition 1 begins at sector 100 and has 0"),
        (ENTRIES, entry(0x05, 100, 100), r"has more than one extended partition"),
        (8 * MIB * 512 + 510, b"\0\0", rf"no boot record is in sector {8 * MIB}, where its logical partition 5 begins"),
        (8 * MIB * 512 + ENTRIES + 16, entry(0x83, 1, 1), rf"sector {8 * MIB} has more than one partition"),
        (8 * MIB * 512 + ENTRIES + 32, entry(0x05, 1, 1), rf"sector {8 * MIB} has more than one partition"),
        (39 * MIB * 512 + ENTRIES + 16, entry(0x05, 0, 1), rf"logical partitions does not end \(sector {8 * MIB}\)"),
        (39 * MIB * 512 + ENTRIES + 16, entry(0x05, 11 * MIB, 1), rf"does not end \(sector {19 * MIB}\)"),
        (39 * MIB * 512 + ENTRIES + 16, entry(0x05, 0xFFFFFFFF, 1), r"no boot record is in sector 42949\d+"),
        (
            39 * MIB * 512 + ENTRIES,
            entry(0x83, MIB, 40 * MIB),
            r"its logical partition 7 lies outside of the extended one",
        ),
        (
            8 * MIB * 512 + ENTRIES,
            entry(0x83, 50 * MIB, MIB),
            r"its logical partition 5 lies outside of the extended one",
        ),
    ],
)
def test_a_broken_table_is_refused_with_the_place(disk: Path, offset: int, data: bytes, message: str) -> None:
    patch(disk, offset, data)
    with pytest.raises(MsdosError, match=message):
        table_of(disk)


def test_a_chain_without_an_end_is_cut(tmp_path: Path) -> None:
    path = sparse_file(tmp_path / "disk", 1 << 20)
    patch(path, ENTRIES, entry(0x05, 1, 1000))
    for sector in range(1000):
        record = bytes(ENTRIES) + entry(0x83, 1, 1) + entry(0x05, sector, 1)
        patch(path, sector * 512 + (ENTRIES if sector == 0 else 0), entry(0x05, 1, 1000) if sector == 0 else record)
        patch(path, sector * 512 + 510, b"\x55\xaa")
    with pytest.raises(MsdosError, match="does not end"):
        table_of(path)


def test_whatever_lies_there_is_a_table_or_an_error(disk: Path) -> None:
    original = disk.read_bytes()
    records = [0, 8 * MIB * 512, 19 * MIB * 512, 39 * MIB * 512]
    chance = random.Random(3)
    outcomes = set[type[object]]()
    for _ in range(400):
        for record in records:
            content = bytearray(original[record : record + 512])
            content[chance.randrange(440, 512)] = chance.randrange(256)
            patch(disk, record, bytes(content))
        try:
            outcomes.add(type(table_of(disk)))
        except MsdosError as error:
            outcomes.add(type(error))
    assert outcomes == {Msdos, MsdosError, type(None)}
