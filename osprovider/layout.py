"""The division of a disk, as pure data and arithmetic.

Not for: reading or writing tables (:mod:`osprovider.disk.table`).
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

from osprovider.config.model import Layout
from osprovider.errors import DeviceError
from osprovider.images.manifest import ImageTable
from osprovider.log import human_bytes

__all__ = [
    "TYPES",
    "DiskFacts",
    "PartitionPlan",
    "Role",
    "TablePlan",
    "adopt",
    "bios_refusal",
    "derived_uuid",
    "derived_volume_id",
    "esp_size_bytes",
    "lay_out",
]

Role = Literal["bios_boot", "esp", "root", "boot", "swap", "other"]

MIB = 1 << 20

TYPES: dict[Role, str] = {
    "bios_boot": "21686148-6449-6e6f-744e-656564454649",
    "esp": "c12a7328-f81f-11d2-ba4b-00a0c93ec93b",
    "root": "4f68bce3-e8cd-4db1-96e7-fbcaf984b709",  # root on x86-64
    "boot": "bc13c2ff-59e6-4262-a352-b275fd6f7172",  # extended boot loader partition
    "swap": "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f",
}
"""The GPT's type of a partition by its role (UEFI 2.10, table 5.7; Discoverable Partitions Specification)."""


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
        type: the GPT's type GUID, lower case.
        attributes: the GPT's attribute bits.
        filesystem: what is on it, as blkid(8) has it (``vfat``); None where there is none.
        filesystem_uuid: the file system's new UUID, likewise (``1234-ABCD``).
        mount: where the guest's fstab(5) mounts it; None where it does not.
    """

    number: int
    role: Role
    start_bytes: int
    size_bytes: int
    guid: str
    name: str
    type: str
    attributes: int = 0
    filesystem: str | None = None
    filesystem_uuid: str | None = None
    mount: str | None = None


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


def derived_volume_id(instance_uuid: str, what: str) -> str:
    """Likewise a FAT's volume ID, as blkid(8) writes it (``1234-ABCD``)."""
    digits = derived_uuid(instance_uuid, what)[:8].upper()
    return f"{digits[:4]}-{digits[4:]}"


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
    facts: DiskFacts,
    layout: Layout,
    firmware: Sequence[str],
    root_bytes: int,
    instance_uuid: str,
    disk: str,
    filesystem: str | None = None,
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
        filesystem: the root's type; the variant's when None.

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
        made = PartitionPlan(number, role, position, size, guid, name, TYPES[role])
        if role == "esp":
            volume_id = derived_volume_id(instance_uuid, "disk 0 esp file system")
            made = dataclasses.replace(made, filesystem="vfat", filesystem_uuid=volume_id)
        partitions.append(made)
        position += -(-size // step) * step
    end = (facts.size_bytes - MIB) // step * step
    least = position + max(root_bytes, MIB)
    if least > end:
        raise _too_small(facts, -(-least // step) * step + MIB, disk)
    size = end - position if layout.grow or not root_bytes else -(-root_bytes // step) * step
    partitions.append(
        PartitionPlan(
            len(partitions) + 1,
            "root",
            position,
            size,
            derived_uuid(instance_uuid, "disk 0 root"),
            "root",
            TYPES["root"],
            filesystem=filesystem or layout.filesystem,
            filesystem_uuid=derived_uuid(instance_uuid, "disk 0 root file system"),
        )
    )
    return TablePlan(derived_uuid(instance_uuid, "disk 0"), facts.sector_size, tuple(partitions))


def adopt(
    facts: DiskFacts, layout: Layout, image: ImageTable, size_bytes: int, instance_uuid: str, disk: str
) -> TablePlan:
    """Take over the table of a disk image: the same partitions in the same places, and nobody else's GUIDs and UUIDs.

    The root grows to the disk's end where nothing lies behind it. Its type becomes the Discoverable Partitions
    Specification's, by which it is found again.

    Args:
        facts: of the disk.
        layout: the variant's, of which only ``grow`` applies.
        image: the image's table.
        size_bytes: the image's.
        instance_uuid: gives the GUIDs.
        disk: how messages name it.

    Raises:
        DeviceError: the disk is too small, says both sizes; its sectors are not the image's; its table is not a GPT.
    """
    if image.type != "gpt":
        raise DeviceError(
            f"disk 0 ({disk}): the image has an {image.type} table, which is not supported yet: use a GPT"
        )
    if image.sector_size != facts.sector_size:
        raise DeviceError(
            f"disk 0 ({disk}): has sectors of {facts.sector_size} bytes, and the image's table counts in "
            f"{image.sector_size}: it cannot be installed there"
        )
    last = max(part.start_bytes + part.size_bytes for part in image.partitions)
    needed = -(-last // MIB) * MIB + MIB
    if facts.size_bytes < min(needed, size_bytes):
        raise _too_small(facts, min(needed, size_bytes), disk)
    end = (facts.size_bytes - MIB) // MIB * MIB
    partitions = []
    for part in image.partitions:
        role = cast("Role", part.role)
        size = part.size_bytes
        if role == "root" and layout.grow and part.start_bytes + size == last:
            size = max(size, end - part.start_bytes)
        what = f"disk 0 partition {part.number}"
        make = derived_volume_id if part.filesystem and part.filesystem.type == "vfat" else derived_uuid
        partitions.append(
            PartitionPlan(
                part.number,
                role,
                part.start_bytes,
                size,
                derived_uuid(instance_uuid, what),
                part.name,
                TYPES["root"] if role == "root" else part.type,
                part.attributes,
                part.filesystem.type if part.filesystem else None,
                make(instance_uuid, f"{what} file system") if part.filesystem else None,
                part.mount,
            )
        )
    return TablePlan(derived_uuid(instance_uuid, "disk 0"), facts.sector_size, tuple(partitions))


def _too_small(facts: DiskFacts, needed: int, disk: str) -> DeviceError:
    return DeviceError(
        f"disk 0 ({disk}) is too small: it has {human_bytes(facts.size_bytes)} and the image needs "
        f"{human_bytes(needed)} ({needed // MIB + bool(needed % MIB)} MiB); give the instance a larger disk"
    )
