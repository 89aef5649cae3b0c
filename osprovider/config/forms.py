"""Values that are written as a scalar where a word says it all, and as a map where there is more to say.

Such a value has a class for its map, whose fields are described as those of :mod:`osprovider.config.model` are, and a
way from either form to what it means and back.
Not for: values that have one form (:mod:`osprovider.config.model`); reading them (:mod:`osprovider.config.schema`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from osprovider.config import checks
from osprovider.config.value_check import Check

__all__ = ["BootPartition", "ScalarOrMap", "Swap", "SwapPlace"]


@dataclass(frozen=True, slots=True)
class ScalarOrMap:
    """Annotation of a value that is written as text or as a map: ``Annotated[T, ScalarOrMap(...)]``.

    Attributes:
        check: of the text.
        map: the dataclass whose keys a map has.
        read: makes T of the text or of an instance of ``map``; ValueError: what is wrong, and what to write instead.
        write: the way back: the text or the instance that ``read`` made a T of.
    """

    check: Check
    map: type
    read: Callable[[Any], object]
    write: Callable[[Any], object]


@dataclass(frozen=True, slots=True)
class BootPartition:
    """A partition for /boot."""

    size: Annotated[str, checks.size] = field(default="1GiB", metadata={"help": "its size"})
    filesystem: Literal["ext4", "ext3", "ext2"] = field(default="ext4", metadata={"help": "its file system"})

    @staticmethod
    def read(value: str | BootPartition) -> BootPartition | None:
        """What a variant's ``none`` or map means."""
        return None if isinstance(value, str) else value

    @staticmethod
    def write(value: BootPartition | None) -> str | BootPartition:
        """The way back."""
        return "none" if value is None else value


@dataclass(frozen=True, slots=True)
class SwapPlace:
    """Where the instance swaps to that is no partition: one of a disk and a file."""

    disk: Annotated[str, checks.disk] | None = field(
        default=None, metadata={"help": "a whole disk, by its index or its name in Ganeti"}
    )
    file: Annotated[str, checks.size] | None = field(default=None, metadata={"help": "a file of this size on the root"})


@dataclass(frozen=True, slots=True)
class Swap:
    """Where the instance swaps to.

    Attributes:
        kind: ``memory`` is a partition as large as the instance's memory.
        size: of the partition or the file, with its unit.
        disk: its index or its name in Ganeti.
    """

    kind: Literal["none", "memory", "partition", "disk", "file"] = "none"
    size: str | None = None
    disk: str | None = None

    @classmethod
    def read(cls, value: str | SwapPlace) -> Swap:
        """What a variant's word, size or map means.

        Raises:
            ValueError: the map says nothing, or two things.
        """
        if isinstance(value, str):
            words = {"none": cls(), "memory": cls("memory")}
            return words.get(value) or cls("partition", size=value)
        if (value.disk is None) == (value.file is None):
            what = "disk and file are both there" if value.disk else "neither disk nor file is there"
            raise ValueError(f"{what}; write one of them (and 'file: ~' to drop what another file says)")
        return cls("disk", disk=value.disk) if value.disk else cls("file", size=value.file)

    def write(self) -> str | SwapPlace:
        """The way back."""
        if self.kind in ("disk", "file"):
            return SwapPlace(disk=self.disk, file=self.size)
        return self.size or self.kind
