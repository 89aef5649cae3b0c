"""Partition tables, judged by util-linux and by libparted."""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from collections.abc import Sequence
from pathlib import Path

import parted
import pytest

from osprovider.disk.device import claim
from osprovider.disk.table import make_table, write_table
from osprovider.errors import DeviceError
from osprovider.images.diskimage.table import read_image_table
from osprovider.layout import PartitionPlan, Role, TablePlan
from osprovider.manifest import ImageTable
from tests.support.runs import loop_devices
from tests.support.sparse import sparse_file
from tests.system.disk.support import DISK_SIZE, MIB, used_disk

TYPES = {
    "bios_boot": "21686148-6449-6e6f-744e-656564454649",
    "esp": "c12a7328-f81f-11d2-ba4b-00a0c93ec93b",
    "root": "4f68bce3-e8cd-4db1-96e7-fbcaf984b709",
}
BOOT_CODE = bytes(range(220)) * 2


def plan(sector_size: int, size: int = DISK_SIZE, *, roots: int = 1) -> TablePlan:
    """BIOS boot and EFI system partition, and roots that share the rest evenly."""
    parts: list[tuple[Role, int, int, str]] = [("bios_boot", MIB, MIB, "BIOS boot"), ("esp", 2 * MIB, 4 * MIB, "EFI")]
    each = (size - 7 * MIB) // max(roots, 1) // MIB * MIB
    parts += [("root", 6 * MIB + number * each, each, "Würzel") for number in range(roots)]
    partitions = tuple(
        PartitionPlan(number, role, start, length, str(uuid.uuid4()), name, TYPES[role])
        for number, (role, start, length, name) in enumerate(parts, 1)
    )
    return TablePlan(str(uuid.uuid4()), sector_size, partitions)


def write(disk: Path, run_dir: Path, **wanted: int) -> TablePlan:
    with claim(disk, run_dir) as device:
        table = plan(device.facts.sector_size, device.facts.size_bytes, **wanted)
        write_table(device, make_table(device, table))
    return table


Facts = tuple[str, int, Sequence[tuple[object, ...]]]


def facts(table: TablePlan | ImageTable, guid: str) -> Facts:
    """What a table says, in the order of its partitions' places."""
    parts = [
        (part.start_bytes, part.size_bytes, part.number, part.type, part.guid, part.name, part.attributes)
        for part in table.partitions
    ]
    return guid, table.sector_size, sorted(parts)


def assert_says(disk: Path, wanted: TablePlan) -> None:
    """What renames and captures read of the disk is what was planned."""
    found = read_image_table(disk, "x")
    assert found is not None
    assert facts(found, found.id) == facts(wanted, wanted.guid)


def as_util_linux_sees_it(disk: Path) -> list[tuple[int, int, int, str, str, str]]:
    """Number, start, size, GUID, type and name of each partition; partx(8) counts in 512 bytes whatever the sectors."""
    argv = ["partx", "--bytes", "--raw", "--noheadings", "--output", "NR,START,SIZE,UUID,TYPE,NAME", str(disk)]
    lines = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.splitlines()
    words = [line.split(" ", 5) for line in lines]
    return [(int(nr), int(start) * 512, int(size), guid, kind, name) for nr, start, size, guid, kind, name in words]


def test_a_used_disk_gets_exactly_the_planned_table(disk: Path, run_dir: Path) -> None:
    table = write(disk, run_dir)
    names = {"BIOS boot": "BIOS\\x20boot", "Würzel": "W\\xc3\\xbcrzel"}
    assert as_util_linux_sees_it(disk) == [
        (part.number, part.start_bytes, part.size_bytes, part.guid, TYPES[part.role], names.get(part.name, part.name))
        for part in table.partitions
    ]
    blkid = ["blkid", "--probe", "--output", "value", "--match-tag", "PTUUID", str(disk)]
    assert subprocess.run(blkid, check=True, capture_output=True, text=True).stdout.strip() == table.guid
    assert_says(disk, table)


def test_libparted_finds_nothing_to_complain_of(disk: Path, run_dir: Path) -> None:
    write(disk, run_dir)
    # libparted asks, which raises here, where a backup is not at the end or a checksum is wrong.
    device = parted.Device(str(disk))
    try:
        found = parted.newDisk(device)
        assert found.type == "gpt"
        flags = [part.getFlagsAsString() for part in found.partitions]
        assert flags == ["bios_grub", "boot, esp", ""]
        assert found.check()
    finally:
        device.removeFromCache()


def test_nothing_but_the_table_is_written(disk: Path, run_dir: Path) -> None:
    with disk.open("r+b") as file:
        file.write(BOOT_CODE)
    before = disk.read_bytes()
    table = write(disk, run_dir)
    after = disk.read_bytes()
    head = 2 * table.sector_size + 16384
    tail = table.sector_size + 16384
    assert after[: len(BOOT_CODE)] == BOOT_CODE
    assert after[510:512] == b"\x55\xaa"
    assert after[head:-tail] == before[head:-tail]


def test_a_table_takes_the_place_of_another(disk: Path, run_dir: Path) -> None:
    first = write(disk, run_dir)
    second = write(disk, run_dir)
    assert first != second
    assert_says(disk, second)


def test_an_images_table_keeps_numbers_places_types_names_and_attributes(disk: Path, run_dir: Path) -> None:
    lvm = "e6d6d379-f507-44c2-a23c-238f2a3df928"
    with claim(disk, run_dir) as device:
        table = TablePlan(
            str(uuid.uuid4()),
            device.facts.sector_size,
            (
                PartitionPlan(
                    128, "other", 1 * MIB, MIB, str(uuid.uuid4()), "thirty-six characters, with a Würzel", lvm
                ),
                PartitionPlan(
                    15, "esp", 2 * MIB + 4096, 4 * MIB, str(uuid.uuid4()), "\ufffd\n\t\\", TYPES["esp"], 1 << 2
                ),
                PartitionPlan(1, "root", 8 * MIB, 8 * MIB, str(uuid.uuid4()), "\U0001f41f", TYPES["root"], 1 << 59),
            ),
        )
        write_table(device, make_table(device, table))
    assert_says(disk, table)


def test_an_msdos_table_is_what_util_linux_reads(disk: Path, run_dir: Path) -> None:
    with disk.open("r+b") as file:
        file.write(BOOT_CODE)
    with claim(disk, run_dir) as device:
        sector = device.facts.sector_size
        parts = (
            PartitionPlan(3, "root", 8 * MIB, 16 * MIB, "1234abcd-03", "", "83", 1 << 7),
            PartitionPlan(1, "boot", 1 * MIB, 4 * MIB, "1234abcd-01", "", "0c"),
        )
        write_table(device, make_table(device, TablePlan("1234abcd", sector, parts, "msdos")))
    dump = subprocess.run(["sfdisk", "--json", disk], check=True, capture_output=True, text=True)
    table = json.loads(dump.stdout)["partitiontable"]
    assert (table["label"], table["id"]) == ("dos", "0x1234abcd")
    assert [
        (part["start"] * sector, part["size"] * sector, part["type"], part.get("bootable", False))
        for part in table["partitions"]
    ] == [(1 * MIB, 4 * MIB, "c", False), (8 * MIB, 16 * MIB, "83", True)]
    assert disk.read_bytes()[:440] == BOOT_CODE


def test_no_loop_device_is_left(disk: Path, run_dir: Path) -> None:
    write(disk, run_dir)
    assert not [backing for backing in loop_devices().values() if f"partition table of {disk}" in backing]


def test_a_disk_of_five_tebibytes(scratch: Path, run_dir: Path) -> None:
    disk = sparse_file(scratch / "disk", 5 << 40)
    table = write(disk, run_dir)
    assert_says(disk, table)
    assert table.partitions[-1].size_bytes > 4 << 40


def test_on_a_disk_that_has_grown_the_backup_lies_at_the_new_end(scratch: Path, run_dir: Path) -> None:
    disk = used_disk(scratch / "disk")
    small = write(disk, run_dir)
    os.truncate(disk, 2 * DISK_SIZE)
    assert_says(disk, small)
    large = write(disk, run_dir)
    assert large.partitions[-1].size_bytes > DISK_SIZE
    assert_says(disk, large)
    checked = subprocess.run(["sgdisk", "--verify", disk], check=True, capture_output=True, text=True)
    assert "No problems found" in checked.stdout


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_the_table_counts_in_the_sectors_that_the_instance_sees(disk: Path, run_dir: Path, sector_size: int) -> None:
    table = plan(sector_size)
    with claim(disk, run_dir) as device:
        write_table(device, make_table(device, table))
    assert_says(disk, table)


@pytest.mark.parametrize("what", ["beyond the end", "overlapping", "over the backup"])
def test_a_plan_that_does_not_fit_is_refused_before_the_first_write(what: str, disk: Path, run_dir: Path) -> None:
    before = disk.read_bytes()
    start, length = {
        "beyond the end": (DISK_SIZE - 8 * MIB, 16 * MIB),
        "overlapping": (3 * MIB, 8 * MIB),
        "over the backup": (8 * MIB, DISK_SIZE - 8 * MIB),
    }[what]
    with claim(disk, run_dir) as device:
        table = plan(device.facts.sector_size, roots=0)
        root = PartitionPlan(3, "root", start, length, str(uuid.uuid4()), "root", TYPES["root"])
        with pytest.raises(DeviceError, match=rf"{disk}: "):
            make_table(device, TablePlan(table.guid, table.sector_size, (*table.partitions, root)))
    assert disk.read_bytes() == before
