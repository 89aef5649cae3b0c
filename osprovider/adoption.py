"""The partition table of a disk image as an instance's: the same partitions, the root as large as the disk allows.

What lies behind the root makes room: it moves towards the disk's end, all of it as far, a whole number of MiB. So the
partitions' order and alignment stay, and what lies between them, and the template is copied in two parts in place of
one. A partition only moves where what is on it is known to count from the partition's own start: the file systems here
and swap do. A BIOS boot partition does not, whose sectors are named by number in the boot sector and in itself (GRUB's
boot.img and diskboot.img); nor may what nobody knows. What is in front of such a partition stays where it is.
Sources: UEFI Specification 2.10, section 5.3; the kernel's block/partitions/msdos.c.
Not for: disks that osprovider divides itself (:mod:`osprovider.division`), records of logical partitions and boot
sectors of what has moved (:mod:`osprovider.disk.msdos`, :mod:`osprovider.disk.bootsector`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from osprovider.config.model import Layout
from osprovider.errors import DeviceError
from osprovider.layout import (
    EXTENDED_TYPES,
    MIB,
    MSDOS_LIMIT_SECTORS,
    TYPES,
    DiskFacts,
    InstanceDisk,
    PartitionPlan,
    Placement,
    Role,
    TablePlan,
    TableType,
    derived_disk_id,
    derived_filesystem_uuid,
    derived_uuid,
    msdos_partition_uuid,
    root_limit_bytes,
    size_refusal,
    too_small,
)
from osprovider.manifest import EXT, ImagePartition, ImageTable

__all__ = ["adopt", "keeping_uuids", "unused_bytes", "why_unused"]

_KNOWN = EXT | {"xfs", "btrfs", "vfat", "swap"}
"""What is given a new UUID, and may move: all of it counts from the partition's start."""

_LAST_PRIMARY = 4


@dataclass(frozen=True, slots=True)
class _Growth:
    """How much larger the root becomes, and how far what lies behind it moves; in bytes."""

    root_bytes: int
    shift_bytes: int


def adopt(disk: InstanceDisk, layout: Layout, image: ImageTable, size_bytes: int) -> TablePlan:
    """Take over the table of a disk image: the same partitions in the same order, and nobody else's GUIDs and UUIDs.

    In a GPT the root's type becomes the Discoverable Partitions Specification's, by which it is found again.

    Args:
        disk: see there.
        layout: the variant's, of which only ``grow`` and ``root_size`` apply.
        image: the image's table.
        size_bytes: the image's.

    Raises:
        DeviceError: the disk is too small, says both sizes; or its sectors are not the image's; or its root would be
            larger than its file system can be.
        RequestError: the root may not be as large as the image's; says both sizes.
    """
    facts = disk.facts
    if image.sector_size != facts.sector_size:
        raise DeviceError(
            f"disk 0 ({disk.name}): has sectors of {facts.sector_size} bytes, and the image's table counts in "
            f"{image.sector_size}: it cannot be installed there"
        )
    backup = _backup_bytes(image.sector_size) if image.type == "gpt" else 0
    needed = max(size_bytes, _end_of_last(image) + backup)
    if facts.size_bytes < needed:
        raise too_small(disk, needed)
    kind: TableType = "msdos" if image.type == "msdos" else "gpt"
    disk_id = derived_disk_id(disk.instance_uuid, kind)
    growth = _growth(facts, layout, image)
    table = TablePlan(
        guid=disk_id,
        sector_size=facts.sector_size,
        partitions=tuple(_adopted(part, growth, image, disk_id, disk.instance_uuid) for part in image.partitions),
        type=kind,
        placements=_placements(facts, image, growth, size_bytes),
    )
    _refuse_too_large(image, table, disk)
    return table


def _refuse_too_large(image: ImageTable, table: TablePlan, disk: InstanceDisk) -> None:
    """Refuse a root that grows beyond what its file system can."""
    held = next((part.filesystem for part in image.partitions if part.role == "root"), None)
    root = table.find("root")
    if held and root and (refusal := size_refusal(held.type, root.size_bytes, held.block_size)):
        raise DeviceError(
            f"disk 0 ({disk.name}): its root {refusal}: set a layout.root_size, which the root grows to at most"
        )


def keeping_uuids(image: ImageTable) -> tuple[str, ...]:
    """What keeps a UUID that all instances of an image share, as lines: nobody knows here how to give it another.

    Args:
        image: the image's table.
    """
    return tuple(
        f"partition {part.number} holds {part.filesystem.type} and keeps its UUID, as in every instance of the image"
        for part in image.partitions
        if part.filesystem and part.filesystem.uuid and part.filesystem.type not in _KNOWN
    )


def unused_bytes(facts: DiskFacts, table: TablePlan) -> int:
    """How much of a disk lies behind all of its partitions."""
    return facts.size_bytes - max(part.start_bytes + part.size_bytes for part in table.partitions)


def why_unused(facts: DiskFacts, image: ImageTable) -> str | None:
    """Why an image's root cannot take all of a disk, as the middle of a line; None where it can.

    Args:
        facts: of the disk.
        image: the image's table.
    """
    fixed = _fixed(image)
    if fixed is not None:
        held = fixed.filesystem.type if fixed.filesystem else "what nobody knows"
        why = "boot code names its sectors" if fixed.role == "bios_boot" else f"it holds {held}"
        return f"partition {fixed.number} ({fixed.role}) lies behind it and cannot move, because {why}"
    if image.type == "msdos" and facts.size_bytes > MSDOS_LIMIT_SECTORS * image.sector_size:
        return f"an msdos table ends at {(MSDOS_LIMIT_SECTORS + 1) * image.sector_size >> 40} TiB"
    return None


# -- arithmetic -------------------------------------------------------------------------------------------------------


def _root(image: ImageTable) -> ImagePartition:
    return next(part for part in image.partitions if part.role == "root")


def _end(part: ImagePartition) -> int:
    return part.start_bytes + part.size_bytes


def _end_of_last(image: ImageTable) -> int:
    return max(map(_end, image.partitions))


def _behind(image: ImageTable) -> list[ImagePartition]:
    """What lies behind the root, by its place on the disk."""
    return [part for part in image.partitions if part.start_bytes >= _end(_root(image))]


def _fixed(image: ImageTable) -> ImagePartition | None:
    """The first partition behind the root that cannot move."""
    return next((part for part in _behind(image) if not _may_move(part)), None)


def _may_move(part: ImagePartition) -> bool:
    if part.type in EXTENDED_TYPES or part.role == "swap":  # the one holds no more than what is listed, the other none
        return True
    return part.role != "bios_boot" and part.filesystem is not None and part.filesystem.type in _KNOWN


def _is_logical(part: ImagePartition, image: ImageTable) -> bool:
    return image.type == "msdos" and part.number > _LAST_PRIMARY


def _growth(facts: DiskFacts, layout: Layout, image: ImageTable) -> _Growth:
    """The root takes what is free right behind it, and then what the others leave by moving."""
    root, behind = _root(image), _behind(image)
    wanted = root_limit_bytes(facts, layout, root.size_bytes) - root.size_bytes
    if not layout.grow:
        return _Growth(0, 0)
    end = _usable_end(facts, image)
    gap = max((behind[0].start_bytes if behind else end) - _end(root), 0)
    if behind and _is_logical(behind[0], image):
        gap = 0  # there is its record
    shift = 0
    if behind and _fixed(image) is None:
        shift = max(min(end - _end_of_last(image), wanted - gap), 0) // MIB * MIB
    return _Growth(min(gap + shift, wanted), shift)


def _backup_bytes(sector_size: int) -> int:
    """What a backup GPT of 128 entries takes."""
    return sector_size + 128 * 128


def _usable_end(facts: DiskFacts, image: ImageTable) -> int:
    """Where a partition may end, at a multiple of 1 MiB."""
    if image.type == "gpt":
        return (facts.size_bytes - MIB) // MIB * MIB
    return min(facts.size_bytes, MSDOS_LIMIT_SECTORS * image.sector_size) // MIB * MIB


def _placements(facts: DiskFacts, image: ImageTable, growth: _Growth, size_bytes: int) -> tuple[Placement, ...]:
    """Where the template goes: the part behind the root's end by itself where that has moved."""
    shift = growth.shift_bytes
    if shift == 0:
        return (Placement(0, size_bytes, 0),)
    split = _end(_root(image))
    rest = min(size_bytes, facts.size_bytes - shift) - split  # behind the last partition there may be too much
    return Placement(0, split, 0), Placement(split, rest, split + shift)


def _placed(part: ImagePartition, growth: _Growth, image: ImageTable) -> tuple[int, int]:
    """Where a partition begins on the instance's disk, and its size."""
    root = _root(image)
    if part.number == root.number:
        return part.start_bytes, part.size_bytes + growth.root_bytes
    if part.start_bytes >= _end(root):
        return part.start_bytes + growth.shift_bytes, part.size_bytes
    if part.type in EXTENDED_TYPES and _is_logical(root, image):
        end = max(_end(part) + growth.shift_bytes, _end(root) + growth.root_bytes)
        return part.start_bytes, end - part.start_bytes
    return part.start_bytes, part.size_bytes


def _adopted(
    part: ImagePartition, growth: _Growth, image: ImageTable, disk_id: str, instance_uuid: str
) -> PartitionPlan:
    """A partition of an image as the instance has it."""
    what = f"disk 0 partition {part.number}"
    is_gpt = image.type == "gpt"
    start, size = _placed(part, growth, image)
    found = part.filesystem
    new_uuid = None
    if found is not None and found.uuid and found.type in _KNOWN:
        new_uuid = derived_filesystem_uuid(instance_uuid, what, found.type)
    return PartitionPlan(
        number=part.number,
        role=cast("Role", part.role),
        start_bytes=start,
        size_bytes=size,
        guid=derived_uuid(instance_uuid, what) if is_gpt else msdos_partition_uuid(disk_id, part.number),
        name=part.name,
        type=TYPES["root"] if part.role == "root" and is_gpt else part.type,
        attributes=part.attributes,
        filesystem=found.type if found else None,
        filesystem_uuid=new_uuid,
        mount=part.mount,
        subvolumes=found.subvolumes if found else (),
        source_bytes=part.start_bytes,
    )
