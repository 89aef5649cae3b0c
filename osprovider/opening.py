"""A guest's file systems, opened where they may be: mounted by the node, or in the libguestfs appliance.

To be read, most can be opened by programs in the sandbox as well, which takes a tenth of a second.

Not for: deciding which (:mod:`osprovider.plan`), or where the guest has them (:mod:`osprovider.guest.mounting`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from osprovider.disk import changing
from osprovider.errors import GuestError
from osprovider.guest.host import HostGuest
from osprovider.guest.mounting import Volume, mounted_together, why_not_confined
from osprovider.paths import Directories

__all__ = ["guest_of", "isolation_of_others"]


def isolation_of_others(configured: str) -> str:
    """Where a file system is opened that was not made here, or that a guest has run on: ``host`` or ``appliance``.

    Args:
        configured: a variant's ``isolation``.
    """
    return "host" if configured == "host" else "appliance"


@contextmanager
def guest_of(
    volumes: Sequence[Volume], isolation: str, directories: Directories, *, read_only: bool = False
) -> Iterator[HostGuest]:
    """A guest's file systems, changed as their volumes say, as long as the body runs.

    Args:
        volumes: the root first.
        isolation: ``host`` or ``appliance``; or ``sandbox``, which is only to read, and not for every file system.
        directories: where mount points and the appliance lie.
        read_only: the guest cannot be written.

    Raises:
        DeviceError, GuestError, ToolError: they cannot be changed or mounted so, or what was written was lost.
    """
    if isolation == "host":
        for volume in volumes:
            changing.change(volume, directories.run)
        with mounted_together(volumes, directories.run, read_only=read_only) as guest:
            if guest.mountpoint is not None:
                changing.grow_mounted(volumes[0], guest.mountpoint)
            yield guest
    elif isolation == "sandbox":
        if why := why_not_confined(volumes):
            raise GuestError(f"cannot be read in the sandbox: {why}")
        with mounted_together(volumes, directories.run, read_only=True, confined=True) as guest:
            yield guest
    else:
        from osprovider.guest.appliance import appliance  # dear to import

        with appliance(volumes, directories, read_only=read_only) as guest:
            yield guest
