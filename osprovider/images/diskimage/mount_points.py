"""Where a system has its file systems, as its fstab(5) and the types of partitions say.

Sources: fstab(5); Discoverable Partitions Specification; btrfs(5), "MOUNT OPTIONS".
Not for: finding the system (:mod:`osprovider.images.diskimage.contents`).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from osprovider.guest import fstab
from osprovider.guest.appliance import DRIVERS
from osprovider.layout import msdos_partition_uuid
from osprovider.manifest import ImagePartition, ImageTable

__all__ = ["ESP", "MOUNTED", "SUBVOLUME", "System", "placed_in", "type_of"]

MOUNTED = frozenset(DRIVERS) - {"swap"}
"""File systems that can be mounted."""

ESP = ("/boot/efi", "/efi")
"""Where a system has the EFI system partition, the likelier first."""

SUBVOLUME = re.compile(r"[\w@./-]{1,255}", re.ASCII)
"""A subvolume's name that cannot be misread in mount options."""

_PLACE = re.compile(r"/[\w./-]{0,254}", re.ASCII)
_MOST_SUBVOLUMES = 31  # that a system has mounted beside its root


@dataclass(frozen=True, slots=True)
class System:
    """A file system that holds one.

    Attributes:
        part: where it is.
        subvolume: where it does not lie at the top (btrfs).
        fstab: its fstab(5).
        esp: where it has the EFI system partition, unless its fstab knows better.
    """

    part: ImagePartition
    subvolume: str = ""
    fstab: str = ""
    esp: str = ESP[0]


def type_of(part: ImagePartition) -> str:
    """What is on a partition, as blkid(8) has it; empty where nothing known is."""
    return part.filesystem.type if part.filesystem else ""


def placed_in(
    partitions: Sequence[ImagePartition], system: System, table: ImageTable | None
) -> tuple[ImagePartition, ...]:
    """The partitions with what can be found out about their places in the system.

    Args:
        partitions: the disk's.
        system: what was found on one of them.
        table: None where there is none.
    """
    mounts: dict[int, str] = {}
    subvolumes: list[tuple[str, str]] = []
    for line in _mounts(system.fstab):
        for part in partitions:
            if not _is_named(part, line.device, table) or type_of(part) not in MOUNTED:
                continue
            if part.number == system.part.number:
                if (subvolume := _subvolume_of(line.options)) and len(subvolumes) < _MOST_SUBVOLUMES:
                    subvolumes.append((line.place, subvolume))
            elif line.place not in mounts.values():
                mounts.setdefault(part.number, line.place)
    for part in partitions:
        place = {"boot": "/boot", "esp": system.esp}.get(part.role)
        if place and place not in mounts.values() and type_of(part) in MOUNTED:
            mounts.setdefault(part.number, place)
    if system.subvolume or subvolumes:
        subvolumes.insert(0, ("/", system.subvolume))
    return tuple(_place(part, system, mounts, tuple(subvolumes)) for part in partitions)


def _place(
    part: ImagePartition, system: System, mounts: Mapping[int, str], subvolumes: tuple[tuple[str, str], ...]
) -> ImagePartition:
    if part.number == system.part.number:
        filesystem = part.filesystem and dataclasses.replace(part.filesystem, subvolumes=subvolumes)
        return dataclasses.replace(part, role="root", mount="/", filesystem=filesystem)
    mount = mounts.get(part.number)
    role = "boot" if mount == "/boot" else "swap" if type_of(part) == "swap" else part.role
    is_other = role == "root" or (role == "boot" and mount != "/boot")
    return dataclasses.replace(part, role="other" if is_other else role, mount=mount)


def _mounts(text: str) -> Iterator[fstab.Line]:
    """What is mounted beside the root; of what is mounted by hand only what boots."""
    for line in fstab.lines(text):
        is_plain = _PLACE.fullmatch(line.place) and ".." not in line.place.split("/")
        boots = "noauto" not in line.options or line.place.startswith(("/boot", "/efi"))
        if is_plain and boots and line.place != "/":
            yield line


def _subvolume_of(options: Sequence[str]) -> str | None:
    for option in options:
        key, _, value = option.partition("=")
        if key == "subvol" and SUBVOLUME.fullmatch(value):
            return value.lstrip("/")
    return None


def _is_named(part: ImagePartition, spelling: str, table: ImageTable | None) -> bool:
    """Does fstab's first field mean this partition, in any of its spellings."""
    number, tag = fstab.node_number(spelling), fstab.tag_of(spelling)
    if number is not None or tag is None:
        return number is not None and number == part.number
    names = {
        "uuid": part.filesystem.uuid if part.filesystem else "",
        "label": part.filesystem.label if part.filesystem else "",
        "partuuid": part.guid or (msdos_partition_uuid(table.id, part.number) if table else ""),
        "partlabel": part.name,
    }
    kind, value = tag
    known = names[kind]
    return bool(known) and (value.lower() == known.lower() if kind.endswith("uuid") else value == known)
