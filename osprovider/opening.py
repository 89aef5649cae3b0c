"""A guest's file systems, opened where they may be: mounted by this machine, or in the libguestfs appliance.

Not for: deciding which (:mod:`osprovider.plan`), or where the guest has them (:mod:`osprovider.guest.mounting`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from osprovider.disk import filesystem
from osprovider.guest.host import HostGuest
from osprovider.guest.mounting import Volume, mounted_together
from osprovider.log import human_bytes, reporter
from osprovider.paths import Directories

__all__ = ["guest_of"]


@contextmanager
def guest_of(volumes: Sequence[Volume], isolation: str, directories: Directories) -> Iterator[HostGuest]:
    """A guest's file systems, changed as their volumes say, as long as the body runs.

    Args:
        volumes: the root first; on the host the others only take their places in it, and each has its UUID.
        isolation: ``host`` or ``appliance``.
        directories: where mount points and the appliance lie.

    Raises:
        GuestError: they cannot be changed or mounted, or what was written was lost.
    """
    root = volumes[0]
    if isolation == "host":
        if root.grow:
            with reporter.step("file system: new size") as detail:
                filesystem.grow(root.device)
                detail(human_bytes(filesystem.read_superblock(root.device).size_bytes))
        with mounted_together(volumes, directories.run) as guest:
            yield guest
    else:
        from osprovider.guest.appliance import appliance  # dear to import

        with appliance(volumes, directories) as guest:
            yield guest
