"""What a request will do, as pure data: the plan, whose JSON is the dry run.

Making a plan reads configuration and a manifest, never the disk; what can be refused is refused here.
Not for: carrying it out (:mod:`osprovider.deploy`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["DiskFacts", "PartitionPlan", "Role", "TablePlan"]

Role = Literal["bios_boot", "esp", "root"]


@dataclass(frozen=True, slots=True)
class DiskFacts:
    """What a plan has to know of a device.

    Attributes:
        size_bytes: its size. sector_size: its logical sector size in bytes, 512 for a plain file.
        alignment_bytes: what it wants partitions to start at a multiple of; 1 MiB where it says nothing.
    """

    size_bytes: int
    sector_size: int = 512
    alignment_bytes: int = 1 << 20


@dataclass(frozen=True, slots=True)
class PartitionPlan:
    """A partition that will be made.

    Attributes:
        number: in the table, 1-based.
        role: what it is for.
        start_bytes: from the disk's start. size_bytes: its length. Both multiples of the sector size.
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
