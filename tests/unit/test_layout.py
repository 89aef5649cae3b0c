"""How disks are divided: arithmetic alone, on sizes that no test could write to."""

from __future__ import annotations

import pytest

from osprovider.config.model import Layout
from osprovider.errors import DeviceError, RequestError
from osprovider.layout import DiskFacts, TablePlan, lay_out, least_filled_bytes, template_filesystem

MIB = 1 << 20
GIB = 1 << 30
UUID = "2d3e4c5b-0000-4000-8000-000000000001"


def sizes(table: TablePlan) -> dict[int, int]:
    """Sizes in MiB by number."""
    return {each.number: each.size_bytes // MIB for each in table.partitions}


def test_an_own_layout_has_what_the_firmware_needs_first_and_the_root_last() -> None:
    table = lay_out(DiskFacts(20 * GIB), Layout(), ("bios", "uefi"), GIB, UUID, "/dev/x")
    assert [each.role for each in table.partitions] == ["bios_boot", "esp", "root"]
    assert [each.start_bytes // MIB for each in table.partitions] == [1, 2, 130]
    assert sizes(table)[3] == 20 * 1024 - 130 - 1
    assert table.partitions[2].filesystem == "ext4"


def test_an_own_layout_that_shall_not_grow_is_as_large_as_the_image() -> None:
    table = lay_out(DiskFacts(20 * GIB), Layout(grow=False), (), GIB + 1, UUID, "/dev/x", "xfs")
    assert sizes(table) == {1: 1025}
    assert table.partitions[0].filesystem == "xfs"


def test_a_disk_too_small_for_an_own_layout_is_refused_with_both_sizes() -> None:
    with pytest.raises(DeviceError, match=r"it has 1024 MiB and the image needs 1155 MiB"):
        lay_out(DiskFacts(GIB), Layout(), ("bios", "uefi"), GIB, UUID, "/dev/x")


@pytest.mark.parametrize(("template", "needed"), [(0, 300), (32, 300), (707, 1051), (16 << 10, (18 << 10) + 256)])
def test_a_root_that_is_filled_needs_more_than_the_template_has(template: int, needed: int) -> None:
    assert least_filled_bytes(template * MIB) // MIB == needed


def test_the_template_of_what_is_filled_is_an_ext4() -> None:
    kinds = ("ext4", "ext3", "ext2", "xfs", "btrfs")
    assert [template_filesystem(kind) for kind in kinds] == ["ext4", "ext3", "ext2", "ext4", "ext4"]


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_a_root_of_an_own_layout_is_no_larger_than_it_may_be(sector_size: int) -> None:
    table = lay_out(DiskFacts(20 * GIB, sector_size), Layout(root_size="3GiB"), ("uefi",), GIB, UUID, "/dev/x")
    assert table.partitions[-1].size_bytes == 3 * GIB


def test_a_limit_beyond_the_disk_is_none() -> None:
    tables = [
        lay_out(DiskFacts(20 * GIB), Layout(root_size=size), ("uefi",), GIB, UUID, "/dev/x") for size in (None, "1TiB")
    ]
    assert tables[0] == tables[1]


def test_a_limit_in_kib_is_rounded_down_to_sectors() -> None:
    table = lay_out(DiskFacts(20 * GIB, 4096), Layout(root_size="2097159KiB"), (), GIB, UUID, "/dev/x")
    assert table.partitions[-1].size_bytes == 2 * GIB + 4096


def test_a_root_that_may_not_be_as_large_as_the_image_is_refused_with_both_sizes() -> None:
    with pytest.raises(
        RequestError, match=r"layout.root_size is 1GiB, and the image needs 1025 MiB for its root: make"
    ):
        lay_out(DiskFacts(20 * GIB), Layout(root_size="1GiB"), (), GIB + 1, UUID, "/dev/x")
