"""How disks are divided: arithmetic alone, on sizes that no test could write to."""

from __future__ import annotations

import dataclasses
import uuid

import pytest

from osprovider.config.model import Layout
from osprovider.errors import DeviceError
from osprovider.images.manifest import Filesystem, ImagePartition, ImageTable
from osprovider.layout import (
    TYPES,
    DiskFacts,
    TablePlan,
    adopt,
    derived_uuid,
    grows,
    lay_out,
    least_filled_bytes,
    template_filesystem,
)

MIB = 1 << 20
GIB = 1 << 30
UUID = "2d3e4c5b-0000-4000-8000-000000000001"
OTHER = "2d3e4c5b-0000-4000-8000-000000000002"
LVM = "e6d6d379-f507-44c2-a23c-238f2a3df928"
LINUX = "0fc63daf-8483-4772-8e79-3d69d8477de4"


def part(number: int, role: str, start: int, size: int, held: str = "", kind: str = "") -> ImagePartition:
    """A partition of an image; sizes in MiB."""
    found = Filesystem(held, str(uuid.UUID(int=number)), "", 4096, size * MIB, size * MIB) if held else None
    kind = kind or TYPES.get(role, LINUX)  # type: ignore[call-overload]
    guid = str(uuid.UUID(int=number + 100)) if len(kind) > 2 else ""
    return ImagePartition(number, role, start * MIB, size * MIB, kind, guid, f"name {number}", 1 << 60, found, None)


CLOUD = ImageTable(
    "gpt",
    str(uuid.UUID(int=99)),
    512,
    (
        part(14, "bios_boot", 1, 3),
        part(15, "esp", 4, 124, "vfat"),
        part(3, "swap", 128, 128, "swap"),
        part(1, "root", 256, 1791, "ext4", LINUX),
    ),
)
LOGICAL = ImageTable(
    "msdos",
    "00000000",
    512,
    (
        part(1, "boot", 1, 15, "ext2", "83"),
        part(2, "other", 16, 100, "", "05"),
        part(5, "swap", 17, 15, "swap", "82"),
        part(6, "root", 40, 76, "ext4", "83"),
    ),
)


def adopted(image: ImageTable, size: int, *, grow: bool = True, instance: str = UUID) -> TablePlan:
    end = max(each.start_bytes + each.size_bytes for each in image.partitions)
    return adopt(DiskFacts(size), Layout(grow=grow), image, end + MIB, instance, "/dev/x")


def sizes(table: TablePlan) -> dict[int, int]:
    """Sizes in MiB by number."""
    return {each.number: each.size_bytes // MIB for each in table.partitions}


def reordered(*numbers: int) -> ImageTable:
    """The cloud image's partitions in another order on the disk."""
    by_number, position, parts = {each.number: each for each in CLOUD.partitions}, MIB, []
    for number in numbers:
        parts.append(dataclasses.replace(by_number[number], start_bytes=position))
        position += by_number[number].size_bytes
    return dataclasses.replace(CLOUD, partitions=tuple(parts))


def test_an_adopted_gpt_keeps_numbers_places_names_and_attributes() -> None:
    table = adopted(CLOUD, 20 * GIB)
    assert [(each.number, each.start_bytes, each.name, each.attributes) for each in table.partitions] == [
        (each.number, each.start_bytes, each.name, each.attributes) for each in CLOUD.partitions
    ]


def test_a_last_root_takes_the_rest_of_the_disk_but_for_the_backup_table() -> None:
    assert sizes(adopted(CLOUD, 20 * GIB)) == {14: 3, 15: 124, 3: 128, 1: 20 * 1024 - 256 - 1}


@pytest.mark.parametrize("order", [(1, 14, 15, 3), (14, 1, 15, 3)])
def test_a_root_before_others_keeps_its_size(order: tuple[int, ...]) -> None:
    image = reordered(*order)
    assert not grows(image)
    assert sizes(adopted(image, 20 * GIB)) == {14: 3, 15: 124, 3: 128, 1: 1791}


def test_a_root_keeps_its_size_where_the_variant_says_so() -> None:
    assert sizes(adopted(CLOUD, 20 * GIB, grow=False))[1] == 1791


def test_a_root_on_a_disk_of_the_images_size_does_not_shrink() -> None:
    odd = dataclasses.replace(CLOUD.partitions[-1], size_bytes=1791 * MIB + 512 * 100)
    image = dataclasses.replace(CLOUD, partitions=(*CLOUD.partitions[:-1], odd))
    table = adopt(DiskFacts(2048 * MIB), Layout(), image, 2048 * MIB, UUID, "/dev/x")
    assert table.partitions[-1].size_bytes == odd.size_bytes


def test_the_roots_type_is_the_one_that_it_is_found_by_and_others_stay() -> None:
    types = {each.number: each.type for each in adopted(CLOUD, 20 * GIB).partitions}
    assert types == {14: TYPES["bios_boot"], 15: TYPES["esp"], 3: TYPES["swap"], 1: TYPES["root"]}


def test_every_name_is_the_instances_own_and_the_same_after_a_reinstall() -> None:
    one, again, other = adopted(CLOUD, 20 * GIB), adopted(CLOUD, 30 * GIB), adopted(CLOUD, 20 * GIB, instance=OTHER)

    def names(table: TablePlan) -> list[str]:
        found = [table.guid, *(each.guid for each in table.partitions)]
        return found + [each.filesystem_uuid for each in table.partitions if each.filesystem_uuid]

    assert len(names(one)) == len(set(names(one))) == 1 + 4 + 3
    assert names(one) == names(again)
    assert not set(names(one)) & set(names(other))
    assert one.guid == derived_uuid(UUID, "disk 0")


def test_a_fats_volume_id_is_spelt_as_one() -> None:
    esp = adopted(CLOUD, 20 * GIB).find("esp")
    assert esp is not None
    assert esp.filesystem_uuid is not None
    assert len(esp.filesystem_uuid) == 9
    assert esp.filesystem_uuid[4] == "-"


def test_what_has_no_uuid_or_none_that_can_be_changed_keeps_what_it_has() -> None:
    parts = (part(1, "other", 1, 10, "LVM2_member", LVM), part(2, "root", 20, 100, "ext4"), part(4, "other", 130, 9))
    table = adopted(ImageTable("gpt", str(uuid.UUID(int=9)), 512, parts), GIB)
    assert [each.filesystem_uuid is None for each in table.partitions] == [True, False, True]


def test_a_logical_root_grows_and_the_extended_partition_with_it() -> None:
    table = adopted(LOGICAL, GIB)
    assert table.type == "msdos"
    assert sizes(table) == {1: 15, 2: 1024 - 16, 5: 15, 6: 1024 - 40}


def test_an_msdos_tables_names_are_made_of_its_signature() -> None:
    table = adopted(LOGICAL, GIB)
    assert table.guid == derived_uuid(UUID, "disk 0")[:8]
    assert [each.guid for each in table.partitions] == [f"{table.guid}-{number:02x}" for number in (1, 2, 5, 6)]
    assert [each.type for each in table.partitions] == ["83", "05", "82", "83"]


def test_an_msdos_table_does_not_grow_beyond_what_it_can_name() -> None:
    root = adopted(LOGICAL, 5 << 40).partitions[-1]
    assert (root.start_bytes + root.size_bytes) // 512 < 1 << 32


def test_a_disk_smaller_than_the_image_is_refused_with_both_sizes() -> None:
    message = r"disk 0 \(/dev/x\) is too small: it has 2047 MiB and the image needs 2048 MiB;"
    with pytest.raises(DeviceError, match=message):
        adopted(CLOUD, 2047 * MIB)
    assert adopted(CLOUD, 2048 * MIB)


def test_the_end_of_a_disk_without_room_for_a_gpts_backup_is_refused() -> None:
    """An image that is cut off behind its last partition has none; a disk needs one."""
    image = dataclasses.replace(CLOUD, partitions=(*CLOUD.partitions[:1], part(1, "root", 4, 96, "ext4")))
    with pytest.raises(DeviceError, match=r"it has 100 MiB and the image needs 101 MiB"):
        adopt(DiskFacts(100 * MIB), Layout(), image, 100 * MIB, UUID, "/dev/x")


def test_sectors_that_are_not_the_images_are_refused_with_both_sizes() -> None:
    with pytest.raises(DeviceError, match="has sectors of 4096 bytes, and the image's table counts in 512"):
        adopt(DiskFacts(20 * GIB, 4096), Layout(), CLOUD, 2 * GIB, UUID, "/dev/x")


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
