"""How disks are divided: arithmetic alone, on sizes that no test could write to."""

from __future__ import annotations

import re
from typing import Literal

import pytest

from osprovider.config.model import BootPartition, Layout
from osprovider.division import lay_out
from osprovider.errors import DeviceError, RequestError
from osprovider.layout import (
    DiskFacts,
    InstanceDisk,
    PartitionPlan,
    Placement,
    TablePlan,
    copy_rounds,
    least_filled_bytes,
    less_than_said,
    template_filesystem,
    with_subvolume,
)

MIB = 1 << 20
GIB = 1 << 30
UUID = "2d3e4c5b-0000-4000-8000-000000000001"


def sizes(table: TablePlan) -> dict[int, int]:
    """Sizes in MiB by number."""
    return {each.number: each.size_bytes // MIB for each in table.partitions}


def disk(size_bytes: int, sector_size: int = 512) -> InstanceDisk:
    """A disk of this size."""
    return InstanceDisk(DiskFacts(size_bytes, sector_size), UUID, "/dev/x")


def test_an_own_layout_has_what_the_firmware_needs_first_and_the_root_last() -> None:
    table = lay_out(disk(20 * GIB), Layout(), ("bios", "uefi"), GIB)
    assert [each.role for each in table.partitions] == ["bios_boot", "esp", "root"]
    assert [each.start_bytes // MIB for each in table.partitions] == [1, 2, 130]
    assert sizes(table)[3] == 20 * 1024 - 130 - 1
    assert table.partitions[2].filesystem == "ext4"


def test_an_own_layout_that_shall_not_grow_is_as_large_as_the_image() -> None:
    table = lay_out(disk(20 * GIB), Layout(grow=False), (), GIB + 1, "xfs")
    assert sizes(table) == {1: 1025}
    assert table.partitions[0].filesystem == "xfs"


def test_a_disk_too_small_for_an_own_layout_is_refused_with_both_sizes() -> None:
    with pytest.raises(DeviceError, match=r"it has 1024 MiB and the image needs 1155 MiB"):
        lay_out(disk(GIB), Layout(), ("bios", "uefi"), GIB)


def test_a_disk_too_small_for_any_image_is_refused_before_one_is_known() -> None:
    with pytest.raises(DeviceError, match=r"it has 64 MiB and the image needs 132 MiB beside its own files; give"):
        lay_out(disk(64 * MIB), Layout(), ("bios", "uefi"), 0)


@pytest.mark.parametrize("table", ["gpt", "none"])
@pytest.mark.parametrize("known", [0, GIB])
def test_a_root_larger_than_its_file_system_can_be_is_refused(table: Literal["gpt", "none"], known: int) -> None:
    large, largest = disk(20 << 40), disk(16 << 40)
    with pytest.raises(
        DeviceError, match=r"disk 0 \(/dev/x\): its root has (19|20) TiB, and ext3 takes less than 16 TiB: set"
    ):
        lay_out(large, Layout(table=table, filesystem="ext3"), (), known)
    for may in (Layout(table=table), Layout(table=table, filesystem="ext3", root_size="15TiB")):
        lay_out(large, may, (), known)
    assert lay_out(largest, Layout(filesystem="ext3"), (), known).partitions


def test_the_root_of_a_btrfs_is_a_subvolume_of_it() -> None:
    def root(filesystem: str) -> PartitionPlan:
        layout = Layout(filesystem=filesystem)  # type: ignore[arg-type]
        table = lay_out(disk(20 * GIB), layout, ("bios", "uefi"), GIB)
        return with_subvolume(table).partitions[-1]

    assert (root("btrfs").subvolumes, root("btrfs").subvolume) == ((("/", "@"),), "@")
    assert (root("xfs").subvolumes, root("xfs").subvolume) == ((), "")


@pytest.mark.parametrize(("template", "needed"), [(0, 300), (32, 300), (707, 1051), (16 << 10, (18 << 10) + 256)])
def test_a_root_that_is_filled_needs_more_than_the_template_has(template: int, needed: int) -> None:
    assert least_filled_bytes(template * MIB) // MIB == needed


def test_the_template_of_what_is_filled_is_an_ext4() -> None:
    kinds = ("ext4", "ext3", "ext2", "xfs", "btrfs")
    assert [template_filesystem(kind) for kind in kinds] == ["ext4", "ext3", "ext2", "ext4", "ext4"]


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_a_root_of_an_own_layout_is_no_larger_than_it_may_be(sector_size: int) -> None:
    table = lay_out(disk(20 * GIB, sector_size), Layout(root_size="3GiB"), ("uefi",), GIB)
    assert table.partitions[-1].size_bytes == 3 * GIB


def test_a_limit_beyond_the_disk_is_none() -> None:
    tables = [lay_out(disk(20 * GIB), Layout(root_size=size), ("uefi",), GIB) for size in (None, "1TiB")]
    assert tables[0] == tables[1]


def test_a_limit_in_kib_is_rounded_down_to_sectors() -> None:
    table = lay_out(disk(20 * GIB, 4096), Layout(root_size="2097159KiB"), (), GIB)
    assert table.partitions[-1].size_bytes == 2 * GIB + 4096


def test_a_root_that_may_not_be_as_large_as_the_image_is_refused_with_both_sizes() -> None:
    with pytest.raises(
        RequestError, match=r"layout.root_size is 1GiB, and the image needs 1025 MiB for its root: make"
    ):
        lay_out(disk(20 * GIB), Layout(root_size="1GiB"), (), GIB + 1)


BOOT = BootPartition(size="512MiB", filesystem="ext2")
TIB = 1 << 40


def divided(table: TablePlan) -> list[tuple[int, str, str, int, bool]]:
    """Number, role, type, size in MiB and active flag of each partition, by its place."""
    parts = table.partitions
    return [(each.number, each.role, each.type, each.size_bytes // MIB, bool(each.attributes)) for each in parts]


@pytest.mark.parametrize(
    ("boot", "swap", "expected"),
    [
        (None, 0, [(1, "root", "83", 10238, True)]),
        (None, GIB, [(1, "swap", "82", 1024, False), (2, "root", "83", 9214, True)]),
        (BOOT, 0, [(1, "boot", "83", 512, True), (2, "root", "83", 9726, False)]),
        (BOOT, GIB, [(1, "boot", "83", 512, True), (2, "swap", "82", 1024, False), (3, "root", "83", 8702, False)]),
    ],
)
def test_an_msdos_table_has_one_active_partition_and_the_root_last(
    boot: BootPartition | None, swap: int, expected: list[tuple[int, str, str, int, bool]]
) -> None:
    layout = Layout(table="msdos", boot=boot)
    table = lay_out(disk(10 * GIB), layout, ("bios",), GIB, swap_bytes=swap)
    assert divided(table) == expected
    assert table.partitions[0].start_bytes == MIB
    assert re.fullmatch(r"[0-9a-f]{8}", table.guid)
    assert [each.guid for each in table.partitions] == [f"{table.guid}-{row[0]:02x}" for row in expected]


def test_an_msdos_table_for_both_firmwares_has_room_for_all() -> None:
    layout = Layout(table="msdos", boot=BOOT)
    table = lay_out(disk(10 * GIB), layout, ("bios", "uefi"), GIB, swap_bytes=1)
    assert [(row[0], row[1], row[2]) for row in divided(table)] == [
        (1, "esp", "ef"),
        (2, "boot", "83"),
        (3, "swap", "82"),
        (4, "root", "83"),
    ]
    assert [each.filesystem for each in table.partitions] == ["vfat", "ext2", "swap", "ext4"]
    assert [each.mount for each in table.partitions] == [None, "/boot", None, "/"]
    assert len({each.filesystem_uuid for each in table.partitions}) == 4
    assert table.partitions[2].size_bytes == MIB


@pytest.mark.parametrize(("sector_size", "largest"), [(512, 2 * TIB), (4096, 16 * TIB)])
def test_an_msdos_table_ends_where_it_would_wrap(sector_size: int, largest: int) -> None:
    layout = Layout(table="msdos")
    table = lay_out(disk(largest, sector_size), layout, (), GIB)
    assert table.partitions[0].start_bytes + table.partitions[0].size_bytes == largest - MIB
    whole = disk(largest + 2 * MIB, sector_size)
    with pytest.raises(DeviceError, match=rf"end at {largest >> 30} GiB: set layout.table to gpt, or a layout.root_"):
        lay_out(whole, layout, (), GIB)
    limited = lay_out(whole, Layout(table="msdos", root_size="100GiB"), (), GIB)
    assert limited.partitions[0].size_bytes == 100 * GIB
    unlimited = lay_out(whole, Layout(), (), GIB)
    assert unlimited.partitions[0].size_bytes == largest


@pytest.mark.parametrize(
    ("table", "number", "expected"),
    [
        ("msdos", None, {"swap": 1, "root": 2}),
        ("msdos", 1, {"swap": 2, "root": 1}),
        ("msdos", 4, {"swap": 1, "root": 4}),
        ("gpt", 2, {"swap": 1, "root": 2}),
        ("gpt", 5, {"swap": 1, "root": 5}),
    ],
)
def test_the_root_has_the_number_that_somebody_names(
    table: Literal["gpt", "msdos"], number: int | None, expected: dict[str, int]
) -> None:
    layout = Layout(table=table)
    made = lay_out(disk(10 * GIB), layout, (), GIB, swap_bytes=GIB, root_number=number)
    assert {each.role: each.number for each in made.partitions} == expected
    assert made.partitions[-1].role == "root"
    if table == "msdos":
        assert made.partitions[-1].guid.endswith(f"-0{expected['root']}")


def test_a_number_that_the_table_does_not_have_is_refused() -> None:
    with pytest.raises(RequestError, match=r"names partition 5, and layout\.table: msdos has 4 at most"):
        lay_out(disk(10 * GIB), Layout(table="msdos"), (), GIB, root_number=5)


def test_without_a_table_the_root_has_the_whole_disk() -> None:
    table = lay_out(disk(10 * GIB), Layout(table="none"), (), GIB)
    (root,) = table.partitions
    assert (root.number, root.role, root.start_bytes, root.size_bytes) == (0, "root", 0, 10 * GIB)
    assert (table.type, table.guid, root.guid) == ("none", "", "")
    limited = lay_out(disk(10 * GIB), Layout(table="none", root_size="3GiB"), (), GIB)
    assert limited.partitions[0].size_bytes == 3 * GIB
    small = lay_out(disk(10 * GIB), Layout(table="none", grow=False), (), GIB + 1)
    assert small.partitions[0].size_bytes == 1025 * MIB
    with pytest.raises(DeviceError, match="it has 1023 MiB and the image needs 1024 MiB"):
        lay_out(disk(GIB - MIB), Layout(table="none"), (), GIB)


@pytest.mark.parametrize(
    ("layout", "firmware", "swap", "what"),
    [
        (Layout(table="none"), ("bios",), 0, r"a boot loader: set layout.firmware to \[\], or boot.loader to none; or"),
        (Layout(table="none", boot=BOOT), (), 0, "a partition for /boot: set layout.boot to none; or set layout.table"),
        (Layout(table="none"), (), GIB, "a partition for swap: set layout.swap to none"),
    ],
)
def test_without_a_table_there_is_no_place_for_more(
    layout: Layout, firmware: tuple[str, ...], swap: int, what: str
) -> None:
    with pytest.raises(RequestError, match=f"layout.table: none leaves no place for {what}"):
        lay_out(disk(10 * GIB), layout, firmware, GIB, swap_bytes=swap)


def test_what_is_in_front_of_the_root_counts_where_a_disk_is_too_small() -> None:
    layout = Layout(boot=BOOT)
    with pytest.raises(
        DeviceError, match=r"it has 3072 MiB and the image needs 3586 MiB, 1536 MiB of it for /boot and swap; give"
    ):
        lay_out(disk(3 * GIB), layout, (), 2 * GIB, swap_bytes=GIB)


def test_without_a_table_the_first_part_of_the_root_is_copied_last() -> None:
    none = lay_out(disk(10 * GIB), Layout(table="none"), (), GIB)
    assert copy_rounds(none, GIB) == ((Placement(MIB, GIB - MIB, MIB),), (Placement(0, MIB, 0),))
    assert copy_rounds(none, MIB) == ((Placement(0, MIB, 0),),)
    gpt = lay_out(disk(10 * GIB), Layout(), ("bios",), GIB)
    assert copy_rounds(gpt, GIB) == ((Placement(0, GIB, 2 * MIB),),)


def test_a_disk_that_has_less_than_ganeti_says_is_told_of() -> None:
    assert less_than_said(1, 10 * MIB - 512, 10 * MIB) == "disk 1 has 9 MiB, and Ganeti says 10 MiB (DISK_1_SIZE)"
    assert less_than_said(1, 10 * MIB, 10 * MIB) is None
