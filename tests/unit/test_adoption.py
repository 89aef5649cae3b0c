"""What becomes of a disk image's table: arithmetic alone, on sizes that no test could write to."""

from __future__ import annotations

import dataclasses
import uuid

import pytest

from osprovider.adoption import adopt, keeping_uuids, unused_bytes, why_unused
from osprovider.config.model import Layout
from osprovider.errors import DeviceError, RequestError
from osprovider.layout import EXTENDED_TYPES, TYPES, DiskFacts, InstanceDisk, Placement, TablePlan, derived_uuid
from osprovider.manifest import Filesystem, ImagePartition, ImageTable

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


HELD = Filesystem("ext4", str(uuid.UUID(int=1)), "", 4096, MIB, MIB)


def adopted(
    image: ImageTable, size: int, *, grow: bool = True, root_size: str | None = None, instance: str = UUID
) -> TablePlan:
    end = max(each.start_bytes + each.size_bytes for each in image.partitions)
    facts, layout = DiskFacts(size, image.sector_size), Layout(grow=grow, root_size=root_size)
    return adopt(InstanceDisk(facts, instance, "/dev/x"), layout, image, end + MIB)


def sizes(table: TablePlan) -> dict[int, int]:
    """Sizes in MiB by number."""
    return {each.number: each.size_bytes // MIB for each in table.partitions}


def places(table: TablePlan) -> dict[int, int]:
    """Where partitions begin, in MiB, by number."""
    return {each.number: each.start_bytes // MIB for each in table.partitions}


def assert_sound(image: ImageTable, table: TablePlan, size: int) -> None:
    """No partitions overlap, all lie on the disk, and the placements bring to each what the image has on it."""
    end = 0
    for each in table.partitions:
        assert each.start_bytes >= end
        end = each.start_bytes + (0 if each.type in EXTENDED_TYPES else each.size_bytes)
    assert end <= size - (MIB if table.type == "gpt" else 0)
    for extended in (each for each in table.partitions if each.type in EXTENDED_TYPES):
        within = [each for each in table.partitions if each.number > 4]
        assert all(extended.start_bytes < each.start_bytes for each in within)
        last = extended.start_bytes + extended.size_bytes
        assert max(each.start_bytes + each.size_bytes for each in within) <= last <= size
        behind = [each.start_bytes for each in table.partitions if each.number <= 4 and each is not extended]
        assert all(start < extended.start_bytes or start >= last for start in behind)
    for old, new in zip(image.partitions, table.partitions, strict=True):
        assert (old.number, old.start_bytes) == (new.number, new.source_bytes)
        if old.type not in EXTENDED_TYPES:
            (held,) = (
                each
                for each in table.placements
                if each.source_bytes <= old.start_bytes < each.source_bytes + each.size_bytes
            )
            assert old.start_bytes + old.size_bytes <= held.source_bytes + held.size_bytes
            assert new.start_bytes == old.start_bytes - held.source_bytes + held.target_bytes
            assert new.size_bytes == old.size_bytes or (new.role == "root" and new.size_bytes > old.size_bytes)
    assert all(each.target_bytes + each.size_bytes <= size for each in table.placements)


def reordered(*numbers: int, sector_size: int = 512) -> ImageTable:
    """The cloud image's partitions in another order on the disk."""
    by_number, position, parts = {each.number: each for each in CLOUD.partitions}, MIB, []
    for number in numbers:
        parts.append(dataclasses.replace(by_number[number], start_bytes=position))
        position += by_number[number].size_bytes
    return dataclasses.replace(CLOUD, partitions=tuple(parts), sector_size=sector_size)


def test_an_adopted_gpt_keeps_numbers_places_names_and_attributes() -> None:
    table = adopted(CLOUD, 20 * GIB)
    assert [(each.number, each.start_bytes, each.name, each.attributes) for each in table.partitions] == [
        (each.number, each.start_bytes, each.name, each.attributes) for each in CLOUD.partitions
    ]


def test_a_last_root_takes_the_rest_of_the_disk_but_for_the_backup_table() -> None:
    assert sizes(adopted(CLOUD, 20 * GIB)) == {14: 3, 15: 124, 3: 128, 1: 20 * 1024 - 256 - 1}


@pytest.mark.parametrize("order", [(14, 1, 15, 3), (14, 15, 1, 3), (14, 3, 1, 15), (14, 15, 3, 1)])
@pytest.mark.parametrize("sector_size", [512, 4096])
def test_what_lies_behind_the_root_moves_to_the_disks_end(order: tuple[int, ...], sector_size: int) -> None:
    image = reordered(*order, sector_size=sector_size)
    table = adopted(image, 20 * GIB)
    assert sizes(table) == {14: 3, 15: 124, 3: 128, 1: 20 * 1024 - 3 - 124 - 128 - 2}
    assert places(table)[order[0]] == 1
    assert_sound(image, table, 20 * GIB)


def test_a_boot_partition_of_grub_stays_and_keeps_the_root_small() -> None:
    """The boot sector names the sectors of what is in it."""
    for order in ((1, 14, 15, 3), (1, 15, 14, 3)):
        image = reordered(*order)
        table = adopted(image, 20 * GIB)
        assert sizes(table) == {14: 3, 15: 124, 3: 128, 1: 1791}
        assert not any(each.is_moved for each in table.partitions)
        said = "partition 14 (bios_boot) lies behind it and cannot move, because boot code names its sectors"
        assert why_unused(DiskFacts(20 * GIB), image) == said


@pytest.mark.parametrize(
    ("held", "said"), [("", "it holds what nobody knows"), ("LVM2_member", "it holds LVM2_member")]
)
def test_what_is_not_known_stays_and_keeps_the_root_small(held: str, said: str) -> None:
    image = dataclasses.replace(CLOUD, partitions=(part(1, "root", 4, 96, "ext4"), part(2, "other", 100, 9, held)))
    table = adopted(image, 20 * GIB)
    assert (sizes(table), places(table)) == ({1: 96, 2: 9}, {1: 4, 2: 100})
    why = why_unused(DiskFacts(20 * GIB), image)
    assert why == f"partition 2 (other) lies behind it and cannot move, because {said}"


def test_what_keeps_its_uuid_is_told_of() -> None:
    assert keeping_uuids(CLOUD) == ()
    data = (part(1, "root", 4, 96, "ext4"), part(2, "other", 100, 9, "crypto_LUKS"), part(3, "other", 120, 9))
    image = dataclasses.replace(CLOUD, partitions=data)
    assert adopted(image, 20 * GIB).partitions[1].filesystem_uuid is None
    said = "partition 2 holds crypto_LUKS and keeps its UUID, as in every instance of the image"
    assert keeping_uuids(image) == (said,)


def test_a_root_takes_what_is_free_before_the_partition_behind_it() -> None:
    for role, held, start in (("other", "", 200), ("swap", "swap", 20 * 1024 - 10)):
        image = dataclasses.replace(CLOUD, partitions=(part(1, "root", 4, 96, "ext4"), part(2, role, 200, 9, held)))
        table = adopted(image, 20 * GIB)
        assert (sizes(table), places(table)) == ({1: start - 4, 2: 9}, {1: 4, 2: start})
        assert_sound(image, table, 20 * GIB)


def test_nothing_moves_on_a_disk_of_the_images_size() -> None:
    image = reordered(14, 1, 15, 3)
    table = adopted(image, 2048 * MIB)
    assert (sizes(table)[1], table.placements) == (1791, (Placement(0, 2048 * MIB, 0),))


def test_what_moves_keeps_its_alignment() -> None:
    """As sfdisk(8) of long ago made them: partitions begin at tracks of 63 sectors."""
    root = ImagePartition(1, "root", 63 * 512, 80262 * 512, "83", "", "", 128, HELD, None)
    swap = ImagePartition(2, "swap", 80325 * 512, 16065 * 512, "82", "", "", 0, None, None)
    image = ImageTable("msdos", "00000000", 512, (root, swap))
    table = adopt(InstanceDisk(DiskFacts(GIB), UUID, "/dev/x"), Layout(), image, 96390 * 512)
    moved = table.partitions[1]
    assert (moved.start_bytes - 80325 * 512) % MIB == 0
    assert GIB - MIB < moved.start_bytes + moved.size_bytes <= GIB
    assert table.partitions[0].start_bytes + table.partitions[0].size_bytes == moved.start_bytes
    assert_sound(image, table, GIB)


@pytest.mark.parametrize("limit", [1791, 1792, 2000, 9999])
@pytest.mark.parametrize("order", [(14, 1, 15, 3), (14, 15, 3, 1)])
def test_a_root_is_no_larger_than_it_may_be_and_the_rest_stays_free(limit: int, order: tuple[int, ...]) -> None:
    image = reordered(*order)
    table = adopted(image, 20 * GIB, root_size=f"{limit}MiB")
    assert sizes(table)[1] == limit
    assert unused_bytes(DiskFacts(20 * GIB), table) == 20 * GIB - (256 + limit) * MIB
    assert_sound(image, table, 20 * GIB)


def test_a_limit_within_what_is_free_before_the_partition_behind_moves_nothing() -> None:
    parts = (part(1, "root", 4, 96, "ext4"), part(2, "swap", 200, 9, "swap"))
    table = adopted(dataclasses.replace(CLOUD, partitions=parts), 20 * GIB, root_size="150MiB")
    assert (sizes(table), places(table)) == ({1: 150, 2: 9}, {1: 4, 2: 200})


def test_a_root_does_not_grow_beyond_what_its_file_system_can() -> None:
    image = reordered(14, 15, 3, 1)
    old = dataclasses.replace(image.partitions[-1], filesystem=dataclasses.replace(HELD, type="ext3", block_size=1024))
    image = dataclasses.replace(image, partitions=(*image.partitions[:-1], old))
    adopted(image, 4 << 40)
    with pytest.raises(
        DeviceError, match=r"disk 0 \(/dev/x\): its root has 5 TiB, and ext3 takes less than 4 TiB: set a"
    ):
        adopted(image, 6 << 40)
    assert adopted(image, 6 << 40, root_size="3TiB").find("root")


def test_a_root_that_may_not_be_as_large_as_the_images_is_refused_with_both_sizes() -> None:
    with pytest.raises(
        RequestError, match=r"layout.root_size is 1GiB, and the image needs 1791 MiB for its root: make"
    ):
        adopted(CLOUD, 20 * GIB, root_size="1GiB")


def test_a_root_keeps_its_size_where_the_variant_says_so() -> None:
    assert sizes(adopted(CLOUD, 20 * GIB, grow=False))[1] == 1791


def test_a_root_on_a_disk_of_the_images_size_does_not_shrink() -> None:
    odd = dataclasses.replace(CLOUD.partitions[-1], size_bytes=1791 * MIB + 512 * 100)
    image = dataclasses.replace(CLOUD, partitions=(*CLOUD.partitions[:-1], odd))
    table = adopt(InstanceDisk(DiskFacts(2048 * MIB), UUID, "/dev/x"), Layout(), image, 2048 * MIB)
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


def test_a_root_before_an_extended_partition_grows_and_that_moves() -> None:
    """As Debian's installer has it: a root, and swap in an extended partition behind it."""
    parts = (
        part(1, "root", 1, 99, "ext4", "83"),
        part(2, "other", 101, 50, "", "05"),
        part(5, "swap", 102, 49, "swap", "82"),
    )
    image = dataclasses.replace(LOGICAL, partitions=parts)
    table = adopted(image, GIB)
    assert (sizes(table), places(table)) == ({1: 973, 2: 50, 5: 49}, {1: 1, 2: 974, 5: 975})
    assert_sound(image, table, GIB)


@pytest.mark.parametrize("slack", [0, 5])
def test_a_logical_root_before_others_grows_and_the_extended_partition_with_it(slack: int) -> None:
    parts = (
        part(1, "boot", 1, 15, "ext2", "83"),
        part(2, "other", 16, 100 + slack, "", "0f"),
        part(6, "root", 17, 50, "ext4", "83"),
        part(5, "swap", 68, 15, "swap", "82"),
        part(7, "other", 84, 32, "xfs", "83"),
        part(3, "other", 116 + slack, 10, "ext4", "83"),
    )
    image = dataclasses.replace(LOGICAL, partitions=parts)
    table = adopted(image, GIB)
    shift = 1024 - 126 - slack
    assert sizes(table) == {1: 15, 2: 100 + slack + shift, 6: 50 + shift, 5: 15, 7: 32, 3: 10}
    assert places(table) == {1: 1, 2: 16, 6: 17, 5: 68 + shift, 7: 84 + shift, 3: 1024 - 10}
    assert_sound(image, table, GIB)


@pytest.mark.parametrize(("limit", "size"), [(None, 1024 - 10 - 40), ("90MiB", 90), ("80MiB", 80), ("76MiB", 76)])
def test_a_last_logical_root_takes_what_is_free_in_the_extended_partition(limit: str | None, size: int) -> None:
    """Behind it is room in the extended partition, more behind that, and then another partition."""
    *others, extended, swap, root = LOGICAL.partitions
    extended = dataclasses.replace(extended, size_bytes=extended.size_bytes + 5 * MIB)
    image = dataclasses.replace(
        LOGICAL, partitions=(*others, extended, swap, root, part(3, "other", 130, 10, "xfs", "83"))
    )
    table = adopted(image, GIB, root_size=limit)
    assert sizes(table)[6] == size
    assert_sound(image, table, GIB)


def test_an_extended_partition_with_room_behind_all_does_not_leave_the_disk() -> None:
    parts = (
        part(1, "root", 1, 99, "ext4", "83"),
        part(2, "other", 100, 100, "", "05"),
        part(5, "swap", 101, 49, "swap", "82"),
    )
    image = dataclasses.replace(LOGICAL, partitions=parts)
    assert_sound(image, adopted(image, GIB), GIB)
    assert places(adopted(image, GIB)) == {1: 1, 2: 924, 5: 925}


def test_an_msdos_tables_names_are_made_of_its_signature() -> None:
    table = adopted(LOGICAL, GIB)
    assert table.guid == derived_uuid(UUID, "disk 0")[:8]
    assert [each.guid for each in table.partitions] == [f"{table.guid}-{number:02x}" for number in (1, 2, 5, 6)]
    assert [each.type for each in table.partitions] == ["83", "05", "82", "83"]


def test_an_msdos_table_does_not_grow_beyond_what_it_can_name() -> None:
    root = adopted(LOGICAL, 5 << 40).partitions[-1]
    assert (root.start_bytes + root.size_bytes) // 512 < 1 << 32
    assert why_unused(DiskFacts(5 << 40), LOGICAL) == "an msdos table ends at 2 TiB"
    assert why_unused(DiskFacts(2 << 40), LOGICAL) == "an msdos table ends at 2 TiB"  # but for its last sector
    assert why_unused(DiskFacts((2 << 40) - MIB), LOGICAL) is None


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_what_moves_on_an_msdos_disk_stays_below_what_it_can_name(sector_size: int) -> None:
    parts = (part(1, "root", 1, 99, "ext4", "83"), part(2, "swap", 100, 50, "swap", "82"))
    image = dataclasses.replace(LOGICAL, partitions=parts, sector_size=sector_size)
    swap = adopted(image, 50 << 40).partitions[-1]
    end = (1 << 32) * sector_size
    assert end - 2 * MIB < swap.start_bytes + swap.size_bytes < end
    assert why_unused(DiskFacts(50 << 40), image) == f"an msdos table ends at {end >> 40} TiB"


def test_a_disk_smaller_than_the_image_is_refused_with_both_sizes() -> None:
    message = r"disk 0 \(/dev/x\) is too small: it has 2047 MiB and the image needs 2048 MiB;"
    with pytest.raises(DeviceError, match=message):
        adopted(CLOUD, 2047 * MIB)
    assert adopted(CLOUD, 2048 * MIB)


def test_the_end_of_a_disk_without_room_for_a_gpts_backup_is_refused() -> None:
    """An image that is cut off behind its last partition has none; a disk needs one."""
    image = dataclasses.replace(CLOUD, partitions=(*CLOUD.partitions[:1], part(1, "root", 4, 96, "ext4")))
    with pytest.raises(DeviceError, match=r"it has 100 MiB and the image needs 101 MiB"):
        adopt(InstanceDisk(DiskFacts(100 * MIB), UUID, "/dev/x"), Layout(), image, 100 * MIB)


def test_sectors_that_are_not_the_images_are_refused_with_both_sizes() -> None:
    with pytest.raises(DeviceError, match="has sectors of 4096 bytes, and the image's table counts in 512"):
        adopt(InstanceDisk(DiskFacts(20 * GIB, 4096), UUID, "/dev/x"), Layout(), CLOUD, 2 * GIB)
