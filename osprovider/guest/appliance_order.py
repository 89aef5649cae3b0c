"""What the process around the appliance is asked for, as it goes over its socket.

Both sides know it; it imports next to nothing, since that process shall be small.
Not for: deciding on it (:mod:`osprovider.guest.appliance`), or doing it (:mod:`osprovider.guest.appliance_process`).
"""

from __future__ import annotations

import json
from typing import NamedTuple

__all__ = ["HELD_MIB", "LIBGUESTFS_MIB", "Drive", "Order"]

LIBGUESTFS_MIB = 256
"""The least memory that libguestfs gives its machine (its lib/launch.c)."""
HELD_MIB = 92
"""The most memory of its machine that QEMU holds itself; a larger one's is a file."""


class Drive(NamedTuple):
    """A file system to serve; see :class:`osprovider.guest.mounting.Volume`.

    Attributes:
        driver: of the appliance's kernel, that mounts it.
        options: mount options, comma-separated.
    """

    device: str
    filesystem: str
    driver: str
    options: str
    mount: str | None
    uuid: str | None
    grow: bool
    fill: bool
    subvolumes: tuple[tuple[str, str], ...]


class Order(NamedTuple):
    """What to serve.

    Attributes:
        drives: the guest's file systems.
        cache: where libguestfs keeps the appliance that it builds once.
        accelerated: with KVM; else emulated.
        memory_mib: what its machine has.
        read_only: the guest cannot be written.
        overlay: what is written stays in this process' memory and is lost with it; the devices are only read.
        lend: the root directory is lent out.
        trim: in the end the devices are told what the file systems do not use.
    """

    drives: tuple[Drive, ...]
    cache: str
    accelerated: bool
    read_only: bool
    memory_mib: int
    overlay: bool = False
    lend: bool = True
    trim: bool = False

    def to_json(self) -> bytes:
        """As it goes over the socket."""
        return json.dumps({**self._asdict(), "drives": [drive._asdict() for drive in self.drives]}).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Order:
        """What :meth:`to_json` made."""
        data = json.loads(text)
        return cls(**{**data, "drives": tuple(Drive(**drive) for drive in data["drives"])})
