"""Disk 0 as osprovider itself divides it: with a GPT, an msdos table, or none.

Sources: UEFI Specification 2.10, section 5.3; Discoverable Partitions Specification; the kernel's
block/partitions/msdos.c.
Not for: tables that disk images bring (:mod:`osprovider.adoption`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from osprovider.config.model import Layout
from osprovider.config.sizes import parse_size
from osprovider.errors import DeviceError, RequestError
from osprovider.layout import (
    ACTIVE,
    MIB,
    MSDOS_LIMIT_SECTORS,
    MSDOS_TYPES,
    TYPES,
    DiskFacts,
    InstanceDisk,
    PartitionPlan,
    Role,
    TablePlan,
    bios_refusal,
    derived_disk_id,
    derived_filesystem_uuid,
    derived_uuid,
    esp_size_bytes,
    msdos_partition_uuid,
    root_limit_bytes,
    size_refusal,
    too_small,
)

__all__ = ["lay_out"]

_MOST_NUMBER = {"gpt": 128, "msdos": 4}
_NAMES: dict[Role, str] = {
    "bios_boot": "BIOS boot partition",
    "esp": "EFI system partition",
    "boot": "boot",
    "swap": "swap",
    "root": "root",
}


def lay_out(
    disk: InstanceDisk,
    layout: Layout,
    firmware: Sequence[str],
    root_bytes: int,
    filesystem: str | None = None,
    *,
    swap_bytes: int = 0,
    root_number: int | None = None,
) -> TablePlan:
    """Divide disk 0.

    The partitions that the firmware asks for come first, then those for ``/boot`` and swap, and the root last, so that
    it can grow when the disk does. The last MiB is left to a backup table. Without a table the root has the whole disk.

    Args:
        disk: see there.
        layout: the variant's, of which ``boot`` is made; ``swap`` is not read.
        firmware: what the disk boots under by itself.
        root_bytes: the least that the root needs; 0 where that is not known yet.
        filesystem: the root's type; the variant's when None.
        swap_bytes: of a partition for swap; 0 for none.
        root_number: the root's number, where somebody names it; the one after the others' when None.

    Raises:
        DeviceError: the disk is too small, says both sizes; or too large for its table; or its sectors keep the
            firmware from booting it.
        RequestError: the root may not be as large as it has to be, says both sizes; or no table has a place for what is
            wanted.
    """
    facts = disk.facts
    if "bios" in firmware and (refusal := bios_refusal(facts.sector_size)):
        raise DeviceError(f"disk 0 ({disk.name}): {refusal}")
    filesystem = filesystem or layout.filesystem
    if layout.table == "none":
        return _undivided(disk, layout, firmware, root_bytes, filesystem, swap_bytes)
    table = TablePlan(derived_disk_id(disk.instance_uuid, layout.table), facts.sector_size, (), layout.table)
    wanted = _wanted(facts, layout, firmware, swap_bytes)
    *numbers, number = _numbers(len(wanted) + 1, layout.table, root_number)
    step = max(facts.alignment_bytes, MIB)
    front, start = _in_a_row(disk, table, wanted, numbers, step)
    end = (facts.size_bytes - MIB) // step * step
    _refuse_too_small(disk, front, _rounded_up(start + max(root_bytes, MIB), step), end, is_known=bool(root_bytes))
    size = _root_size_bytes(facts, layout, end - start, root_bytes, step)
    _refuse_too_large(filesystem, size, disk)
    partitions = [*front, _partition(disk, table, number, "root", start, size, filesystem)]
    if layout.table == "msdos":
        _refuse_beyond_msdos(disk, start + size)
        _mark_active(partitions)
    return dataclasses.replace(table, partitions=tuple(partitions))


def _in_a_row(
    disk: InstanceDisk,
    table: TablePlan,
    wanted: Sequence[tuple[Role, int, str | None]],
    numbers: Sequence[int],
    step: int,
) -> tuple[list[PartitionPlan], int]:
    """Partitions one behind the other from the disk's start on, and where the next one would begin."""
    position, partitions = step, []
    for number, (role, size, filesystem) in zip(numbers, wanted, strict=True):
        partitions.append(_partition(disk, table, number, role, position, size, filesystem))
        position += _rounded_up(size, step)
    return partitions, position


def _undivided(
    disk: InstanceDisk, layout: Layout, firmware: Sequence[str], root_bytes: int, filesystem: str, swap_bytes: int
) -> TablePlan:
    """A disk without a table."""
    facts = disk.facts
    for what, is_wanted, instead in (
        ("a boot loader", bool(firmware), "set layout.firmware to [], or boot.loader to none"),
        ("a partition for /boot", layout.boot is not None, "set layout.boot to none"),
        ("a partition for swap", bool(swap_bytes), "set layout.swap to none, {file: SIZE} or {disk: 1}"),
    ):
        if is_wanted:
            raise RequestError(f"layout.table: none leaves no place for {what}: {instead}; or set layout.table to gpt")
    if root_bytes > facts.size_bytes:
        raise too_small(disk, root_bytes)
    size = _root_size_bytes(facts, layout, facts.size_bytes, root_bytes, MIB)
    size -= size % facts.sector_size
    _refuse_too_large(filesystem, size, disk)
    table = TablePlan("", facts.sector_size, (), "none")
    return dataclasses.replace(table, partitions=(_partition(disk, table, 0, "root", 0, size, filesystem),))


def _refuse_too_large(filesystem: str, size_bytes: int, disk: InstanceDisk) -> None:
    """Refuse a root that its file system cannot fill."""
    if refusal := size_refusal(filesystem, size_bytes):
        raise DeviceError(
            f"disk 0 ({disk.name}): its root {refusal}: set layout.filesystem to ext4, xfs or btrfs, or a "
            "layout.root_size"
        )


def _refuse_too_small(
    disk: InstanceDisk, front: Sequence[PartitionPlan], least_end: int, end: int, *, is_known: bool
) -> None:
    """Refuse a disk that ends before the least root behind other partitions does.

    Args:
        disk: see there.
        front: the partitions in front of the root, some of which the variant has asked for.
        least_end: where the root ends at the least, in bytes.
        end: where it may end.
        is_known: what the root needs is in that.
    """
    if least_end > end:
        chosen = sum(part.size_bytes for part in front if part.role in ("boot", "swap"))
        of_it = f", {chosen // MIB} MiB of it for /boot and swap" if chosen else ""
        raise too_small(disk, least_end + MIB, of_it if is_known else f"{of_it} beside its own files")


def _refuse_beyond_msdos(disk: InstanceDisk, end_bytes: int) -> None:
    """Refuse a last partition that ends where no entry of an msdos table can say."""
    facts = disk.facts
    if end_bytes > MSDOS_LIMIT_SECTORS * facts.sector_size:
        raise DeviceError(
            f"disk 0 ({disk.name}) has {facts.size_bytes >> 30} GiB, and the partitions of an msdos table end at "
            f"{(MSDOS_LIMIT_SECTORS + 1) * facts.sector_size >> 30} GiB: set layout.table to gpt, or a layout.root_size"
        )


def _mark_active(partitions: list[PartitionPlan]) -> None:
    """Set the active flag of the partition that a BIOS's boot code starts from."""
    starts = next(index for index, part in enumerate(partitions) if part.role in ("boot", "root"))
    partitions[starts] = dataclasses.replace(partitions[starts], attributes=ACTIVE)


def _root_size_bytes(facts: DiskFacts, layout: Layout, room_bytes: int, needed_bytes: int, step: int) -> int:
    """What the root takes of its room: all, unless the variant says otherwise and its need is known."""
    size = room_bytes if layout.grow or not needed_bytes else min(_rounded_up(needed_bytes, step), room_bytes)
    return min(size, root_limit_bytes(facts, layout, needed_bytes))


def _rounded_up(size_bytes: int, step: int) -> int:
    return -(-size_bytes // step) * step


def _wanted(
    facts: DiskFacts, layout: Layout, firmware: Sequence[str], swap_bytes: int
) -> list[tuple[Role, int, str | None]]:
    """The partitions in front of the root: role, size in bytes, file system."""
    wanted: list[tuple[Role, int, str | None]] = []
    if "bios" in firmware and layout.table == "gpt":
        wanted.append(("bios_boot", MIB, None))
    if "uefi" in firmware:
        wanted.append(("esp", esp_size_bytes(facts.sector_size), "vfat"))
    if layout.boot is not None:
        wanted.append(("boot", _rounded_up(parse_size(layout.boot.size), MIB), layout.boot.filesystem))
    if swap_bytes:
        wanted.append(("swap", _rounded_up(swap_bytes, MIB), "swap"))
    return wanted


def _numbers(count: int, table: str, root: int | None) -> list[int]:
    """The partitions' numbers in their order on the disk, the root's last."""
    if root is None:
        return list(range(1, count + 1))
    if root > _MOST_NUMBER[table]:
        most = _MOST_NUMBER[table]
        raise RequestError(
            f"INSTANCE_HV_root_path names partition {root}, and layout.table: {table} has {most} at most: name another"
        )
    others = (number for number in range(1, count + 1) if number != root)
    return [*(next(others) for _ in range(count - 1)), root]


def _partition(
    disk: InstanceDisk, table: TablePlan, number: int, role: Role, start: int, size: int, filesystem: str | None
) -> PartitionPlan:
    instance_uuid, what = disk.instance_uuid, f"disk 0 {role}"
    new_uuid = None
    if filesystem is not None:
        new_uuid = derived_filesystem_uuid(instance_uuid, what, filesystem)
    guids = {"gpt": derived_uuid(instance_uuid, what), "msdos": msdos_partition_uuid(table.guid, number), "none": ""}
    return PartitionPlan(
        number=number,
        role=role,
        start_bytes=start,
        size_bytes=size,
        guid=guids[table.type],
        name=_NAMES[role] if table.type == "gpt" else "",
        type={"gpt": TYPES, "msdos": MSDOS_TYPES, "none": {}}[table.type].get(role, ""),
        filesystem=filesystem,
        filesystem_uuid=new_uuid,
        mount={"root": "/", "boot": "/boot"}.get(role),
    )
