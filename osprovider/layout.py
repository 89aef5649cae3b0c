"""The division of a disk, as pure data and arithmetic.

Not for: how a disk is divided (:mod:`osprovider.division`; by a disk image :mod:`osprovider.adoption`), reading or
writing tables (:mod:`osprovider.disk.table`).
"""

from __future__ import annotations

import dataclasses
import uuid
from dataclasses import dataclass
from typing import Literal

from osprovider.config.model import Layout
from osprovider.config.sizes import parse_size
from osprovider.errors import DeviceError, RequestError

__all__ = [
    "ACTIVE",
    "BOOT_CODE_BYTES",
    "EXTENDED_TYPES",
    "FILLED",
    "MIB",
    "MSDOS_LIMIT_SECTORS",
    "MSDOS_TYPES",
    "SWAP_FILE",
    "TYPES",
    "DiskFacts",
    "InstanceDisk",
    "PartitionPlan",
    "Placement",
    "Role",
    "TablePlan",
    "TableType",
    "bios_refusal",
    "copy_rounds",
    "derived_disk_id",
    "derived_filesystem_uuid",
    "derived_uuid",
    "esp_size_bytes",
    "least_filled_bytes",
    "less_than_said",
    "msdos_partition_uuid",
    "root_limit_bytes",
    "size_refusal",
    "template_filesystem",
    "too_small",
    "with_subvolume",
]

TableType = Literal["gpt", "msdos", "none"]
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

MSDOS_TYPES: dict[Role, str] = {"esp": "ef", "root": "83", "boot": "83", "swap": "82"}
"""The same in an msdos table, which leaves the gap in front of its first partition to boot code."""

MSDOS_LIMIT_SECTORS = (1 << 32) - 1
"""Where the last partition of an msdos table ends at most: its entries count in 32 bits."""

ACTIVE = 1 << 7
"""The attribute that stands for an msdos table's active flag: the BIOS's boot code starts from this partition."""

BOOT_CODE_BYTES = 440
"""Of LBA 0, boot code; behind it are the disk's signature and an msdos or protective table (UEFI 2.10, 5.2.1)."""

EXTENDED_TYPES = frozenset({"05", "0f", "85"})
"""Types of the partition of an msdos table that holds the logical ones."""

FILLED = frozenset({"xfs", "btrfs"})
"""File systems of a root that are made at their final size and filled, in place of copied from a template and grown."""

SWAP_FILE = "/swapfile"
"""Where the guest has the file that it swaps to, if it has one."""

_SUBVOLUME = "@"
_LEAST_FILLED = 300 * MIB  # mkfs.xfs(8): no file system is smaller
_FILLED_OVERHEAD = 256 * MIB
_OF_32_BITS = frozenset({"ext2", "ext3"})  # mke2fs(8): 2^32 blocks, less one


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
class InstanceDisk:
    """Disk 0 of an instance, as far as its division depends on it.

    Attributes:
        facts: of the device, with the sectors that the instance sees.
        instance_uuid: gives the GUIDs and UUIDs on it.
        name: how messages name it.
    """

    facts: DiskFacts
    instance_uuid: str
    name: str


@dataclass(frozen=True, slots=True)
class PartitionPlan:
    """A partition that will be made.

    Attributes:
        number: in the table, 1-based; 0 of what fills a disk without a table.
        role: what it is for.
        start_bytes: from the disk's start, a multiple of the sector size.
        size_bytes: its length, likewise.
        guid: its own GUID, lower case; in an msdos table what is made of the disk's signature (``1234abcd-01``). The
            PARTUUID of blkid(8) either way; empty where there is no table.
        name: the GPT's partition name; empty in an msdos table.
        type: the GPT's type GUID, lower case; the type of an msdos table as two hexadecimal digits.
        attributes: the GPT's attribute bits; of an msdos table :data:`ACTIVE`, or 0.
        filesystem: what is on it, as blkid(8) has it (``vfat``); None where there is none.
        filesystem_uuid: the file system's new UUID, likewise (``1234-ABCD``); None where it keeps what it has.
        mount: where the guest's fstab(5) mounts it; None where it does not.
        subvolumes: see :class:`osprovider.manifest.Filesystem`.
        source_bytes: where the partition begins in the disk image that its content comes from; None where that is none.
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
    subvolumes: tuple[tuple[str, str], ...] = ()
    source_bytes: int | None = None

    @property
    def subvolume(self) -> str:
        """Of a root on a btrfs, the subvolume that is the root; empty where that is the default one."""
        return next((name for place, name in self.subvolumes if place == "/"), "")

    @property
    def is_moved(self) -> bool:
        """Does it begin elsewhere than in its image."""
        return self.source_bytes not in (None, self.start_bytes)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a range of a template goes.

    Attributes:
        source_bytes: where it begins in the template.
        size_bytes: its length.
        target_bytes: where it begins on the disk.
    """

    source_bytes: int
    size_bytes: int
    target_bytes: int


@dataclass(frozen=True, slots=True)
class TablePlan:
    """A partition table that will be made.

    Attributes:
        guid: the disk's GUID, lower case; an msdos table's signature as eight hexadecimal digits; empty where there
            is no table.
        sector_size: in bytes.
        partitions: by number; those of a disk image by their place on the disk.
        type: what kind it is.
        placements: where a disk image goes, by ranges of it; none where the table is not an image's.
    """

    guid: str
    sector_size: int
    partitions: tuple[PartitionPlan, ...]
    type: TableType = "gpt"
    placements: tuple[Placement, ...] = ()

    def find(self, role: Role) -> PartitionPlan | None:
        """The partition with this role, or None."""
        return next((part for part in self.partitions if part.role == role), None)


def derived_uuid(instance_uuid: str, what: str) -> str:
    """The UUID that ``what`` of this instance has: the same after a reinstall, never another instance's.

    A version 5 UUID (RFC 9562, section 5.5) in the name space of the instance's own.
    """
    return str(uuid.uuid5(uuid.UUID(instance_uuid), f"osprovider {what}"))


def derived_disk_id(instance_uuid: str, table: TableType) -> str:
    """What disk 0 is known by in its table: a GPT's GUID, an msdos table's signature; nothing where there is none."""
    guid = derived_uuid(instance_uuid, "disk 0")
    return {"gpt": guid, "msdos": guid[:8], "none": ""}[table]


def derived_filesystem_uuid(instance_uuid: str, what: str, filesystem: str) -> str:
    """The UUID of the file system on ``what``, as blkid(8) writes it: of a FAT its volume ID (``1234-ABCD``)."""
    new = derived_uuid(instance_uuid, f"{what} file system")
    return f"{new[:4]}-{new[4:8]}".upper() if filesystem == "vfat" else new


def msdos_partition_uuid(signature: str, number: int) -> str:
    """A partition's PARTUUID in an msdos table, as blkid(8) and the kernel make it (``1234abcd-01``)."""
    return f"{signature}-{number:02x}"


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


def template_filesystem(filesystem: str) -> str:
    """The file system of the template that a root of this type is made from."""
    return "ext4" if filesystem in FILLED else filesystem


def least_filled_bytes(template_bytes: int) -> int:
    """The least size of an xfs or btrfs that is to hold a template's tree, in bytes.

    The template has its files, its journal and room for another. An xfs has a log of 64 MiB and inodes of twice the
    size, and reserves some percent for its own trees; a btrfs has its metadata twice, with small files in it, and gives
    space away in pieces of a tenth of its size. Debian 12's template has 707 MiB; its tree fits in an xfs of 520 MiB
    and in a btrfs of 440, which takes eight times as long as one of 3 GiB.
    """
    return max(_LEAST_FILLED, template_bytes + template_bytes // 8 + _FILLED_OVERHEAD)


def copy_rounds(table: TablePlan, size_bytes: int) -> tuple[tuple[Placement, ...], ...]:
    """Where a template goes, in rounds; what one of them brings is on the disk before the next begins.

    Without a table, what is at the root's start tells of an installed system, and so comes last.

    Args:
        table: the disk's.
        size_bytes: the template's.
    """
    root = table.find("root")
    start = root.start_bytes if root else 0
    whole = table.placements or (Placement(0, size_bytes, start),)
    if table.type != "none" or size_bytes <= MIB:
        return (whole,)
    return (Placement(MIB, size_bytes - MIB, start + MIB),), (Placement(0, MIB, start),)


def with_subvolume(table: TablePlan) -> TablePlan:
    """The table with the root of a btrfs in a subvolume of it, so that snapshots of the system can lie beside it.

    Timeshift, grub-btrfs and Ubuntu's installer call it so.
    """
    parts = (
        dataclasses.replace(part, subvolumes=(("/", _SUBVOLUME),))
        if part.role == "root" and part.filesystem == "btrfs"
        else part
        for part in table.partitions
    )
    return dataclasses.replace(table, partitions=tuple(parts))


def root_limit_bytes(facts: DiskFacts, layout: Layout, needed: int) -> int:
    """The most that the root gets, in bytes, a multiple of the sector size.

    Args:
        facts: of the disk.
        layout: the variant's.
        needed: the least that the root needs, in bytes.

    Raises:
        RequestError: it gets less than it needs; says both sizes.
    """
    if layout.root_size is None:
        return facts.size_bytes
    limit = parse_size(layout.root_size) // facts.sector_size * facts.sector_size
    if limit < needed:
        raise RequestError(
            f"layout.root_size is {layout.root_size}, and the image needs {-(-needed // MIB)} MiB for its root: "
            "make it larger"
        )
    return limit


def less_than_said(index: int, size_bytes: int, said_bytes: int) -> str | None:
    """What to say of a disk that has less than Ganeti believes, which may be another one; None where it has not.

    It may have more: storage rounds sizes up.

    Args:
        index: Ganeti's, of the disk.
        size_bytes: what it has.
        said_bytes: what Ganeti says.
    """
    if size_bytes >= said_bytes:
        return None
    return f"disk {index} has {size_bytes // MIB} MiB, and Ganeti says {said_bytes // MIB} MiB (DISK_{index}_SIZE)"


def size_refusal(filesystem: str, size_bytes: int, block_size: int = 4096) -> str | None:
    """What to say where a file system cannot have this many bytes, with blocks of that size; None where it can."""
    if filesystem not in _OF_32_BITS or size_bytes // block_size < 1 << 32:
        return None
    return f"has {size_bytes >> 40} TiB, and {filesystem} takes less than {(block_size << 32) >> 40} TiB"


def too_small(disk: InstanceDisk, needed: int, of_it: str = "") -> DeviceError:
    """What to say of a disk that has less than these bytes.

    Args:
        disk: see there.
        needed: in bytes.
        of_it: what a part of that is for.
    """
    return DeviceError(
        f"disk 0 ({disk.name}) is too small: it has {disk.facts.size_bytes // MIB} MiB and the image needs "
        f"{-(-needed // MIB)} MiB{of_it}; give the instance a larger disk"
    )
