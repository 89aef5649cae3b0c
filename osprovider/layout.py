"""The division of a disk, as pure data and arithmetic.

Not for: reading or writing tables (:mod:`osprovider.disk.table`).
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from osprovider.config.model import Layout
from osprovider.errors import DeviceError
from osprovider.log import human_bytes

__all__ = [
    "DiskFacts",
    "PartitionPlan",
    "Role",
    "TablePlan",
    "bios_refusal",
    "derived_uuid",
    "esp_size_bytes",
    "lay_out",
]

Role = Literal["bios_boot", "esp", "root"]

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class DiskFacts:
    """What a plan has to know of a device.

    Attributes:
        size_bytes: its size.
        sector_size: its logical sector size in bytes, 512 for a plain file.
        alignment_bytes: what it wants partitions to start at a multiple of; 1 MiB where it says nothing.
    """

    size_bytes: int
    sector_size: int = 512
    alignment_bytes: int = MIB


@dataclass(frozen=True, slots=True)
class PartitionPlan:
    """A partition that will be made.

    Attributes:
        number: in the table, 1-based.
        role: what it is for.
        start_bytes: from the disk's start, a multiple of the sector size.
        size_bytes: its length, likewise.
        guid: its own GUID, lower case.
        name: the GPT's partition name.
    """

    number: int
    role: Role
    start_bytes: int
    size_bytes: int
    guid: str
    name: str


@dataclass(frozen=True, slots=True)
class TablePlan:
    """A partition table that will be made.

    Attributes:
        guid: the disk's GUID, lower case.
        sector_size: in bytes.
        partitions: by number.
    """

    guid: str
    sector_size: int
    partitions: tuple[PartitionPlan, ...]

    def find(self, role: Role) -> PartitionPlan | None:
        """The partition with this role, or None."""
        return next((part for part in self.partitions if part.role == role), None)


def derived_uuid(instance_uuid: str, what: str) -> str:
    """The UUID that ``what`` of this instance has: the same after a reinstall, never another instance's.

    A version 5 UUID (RFC 9562, section 5.5) in the name space of the instance's own.
    """
    return str(uuid.uuid5(uuid.UUID(instance_uuid), f"osprovider {what}"))


def esp_size_bytes(sector_size: int) -> int:
    """The size of an EFI system partition on sectors of this size, in bytes.

    FAT32 has at least 65525 clusters (Microsoft's FAT specification 1.03, "FAT type determination"), and a cluster is
    at least a sector: 33 MiB are enough for 512-byte sectors, 257 MiB for 4096-byte ones. What is there beyond is for
    what the guest puts beside its loader later.
    """
    return 128 * MIB if sector_size <= 1024 else 264 * MIB


def bios_refusal(sector_size: int) -> str | None:
    """Why a disk that the instance sees with sectors of this size cannot be booted by a BIOS; None when it can.

    SeaBIOS leaves such disks out ("block size 4096 is unsupported", its src/hw/virtio-blk.c and blockcmd.c), and GRUB's
    boot.img and diskboot.img count in sectors of 512 bytes.

    Args:
        sector_size: in bytes.
    """
    if sector_size == 512:
        return None
    return f"no BIOS boots a disk with sectors of {sector_size} bytes: set the variant's layout.firmware to [uefi]"


def lay_out(
    facts: DiskFacts, layout: Layout, firmware: Sequence[str], root_bytes: int, instance_uuid: str, disk: str
) -> TablePlan:
    """Divide disk 0.

    The partitions that the firmware asks for come first and the root last, so that it can grow when the disk does. The
    last MiB is left to the backup table.

    Args:
        facts: of the disk.
        layout: the variant's.
        firmware: what the disk boots under by itself.
        root_bytes: the least that the root needs; 0 where that is not known yet.
        instance_uuid: gives the GUIDs.
        disk: how messages name it.

    Raises:
        DeviceError: the disk is too small, says both sizes; or its sectors keep the firmware from booting it.
    """
    if "bios" in firmware and (refusal := bios_refusal(facts.sector_size)):
        raise DeviceError(f"disk 0 ({disk}): {refusal}")
    wanted: list[tuple[Role, int, str]] = []
    if "bios" in firmware:
        wanted.append(("bios_boot", MIB, "BIOS boot partition"))
    if "uefi" in firmware:
        wanted.append(("esp", esp_size_bytes(facts.sector_size), "EFI system partition"))
    step = max(facts.alignment_bytes, MIB)
    position = step
    partitions = []
    for number, (role, size, name) in enumerate(wanted, 1):
        guid = derived_uuid(instance_uuid, f"disk 0 {role}")
        partitions.append(PartitionPlan(number, role, position, size, guid, name))
        position += -(-size // step) * step
    end = (facts.size_bytes - MIB) // step * step
    least = position + max(root_bytes, MIB)
    if least > end:
        needed = -(-least // step) * step + MIB
        raise DeviceError(
            f"disk 0 ({disk}) is too small: it has {human_bytes(facts.size_bytes)} and the image needs "
            f"{human_bytes(needed)} ({needed // MIB + bool(needed % MIB)} MiB); give the instance a larger disk"
        )
    size = end - position if layout.grow or not root_bytes else -(-root_bytes // step) * step
    partitions.append(
        PartitionPlan(len(partitions) + 1, "root", position, size, derived_uuid(instance_uuid, "disk 0 root"), "root")
    )
    return TablePlan(derived_uuid(instance_uuid, "disk 0"), facts.sector_size, tuple(partitions))
