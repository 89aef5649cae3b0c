"""A guest's file systems: where each lies, what it is to become, and where the guest has it.

Not for: mounting them (:mod:`osprovider.guest.host`, :mod:`osprovider.guest.appliance`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Volume"]


@dataclass(frozen=True, slots=True)
class Volume:
    """A file system of a guest.

    Attributes:
        device: the file or block device that it fills; a loop device at the partition's offset.
        filesystem: what it is, never guessed: as blkid(8) has it.
        mount: where the guest has it; None where it is only given its UUID.
        uuid: what it gets before it is mounted, as blkid(8) writes it; None to leave it.
        grow: it is to fill its device.
        is_new: nothing in it has to outlive a crash yet: nothing that is written to it waits for the disk.
        fill: it is empty, and gets what the root has in ``mount``, which is empty then.
        subvolumes: of a btrfs, in place of ``mount``: where the guest has which of them, the root first; the one
            without a name is the default one.
    """

    device: Path
    filesystem: str
    mount: str | None = "/"
    uuid: str | None = None
    grow: bool = False
    is_new: bool = False
    fill: bool = False
    subvolumes: tuple[tuple[str, str], ...] = ()
