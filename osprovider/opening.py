"""A guest's file systems, opened where they may be: on the node, by programs in the sandbox, or in the appliance.

Which it is follows from who made them (:mod:`osprovider.plan`); whether the sandbox will do, from what they are, here.
Not for: where the guest has them (:mod:`osprovider.guest.mounting`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from osprovider import programs
from osprovider.disk import changing
from osprovider.disk.scratch import scratch
from osprovider.errors import GuestError
from osprovider.guest import fat, writing
from osprovider.guest.confined import changed_together, read_together, why_not_readable
from osprovider.guest.host import HostGuest
from osprovider.guest.mounting import Volume, mounted_together
from osprovider.log import reporter
from osprovider.paths import Directories

__all__ = ["guest_of", "where_to_change"]


def where_to_change(configured: str, path: Path, filesystems: Iterable[tuple[str, int]]) -> str:
    """Where a guest's file systems are opened to be changed, which were not made here, or that a guest has run on.

    Args:
        configured: a variant's ``isolation``.
        path: the file or block device with all of them; nothing is mounted of it.
        filesystems: each one's type, as blkid(8) has it, and where it begins, in bytes.

    Returns:
        ``host``, or ``sandbox`` where that will do, or else ``appliance``.

    Raises:
        GuestError: one cannot be read at all.
    """
    if configured != "auto":
        return configured
    why = writing.why_not_here() or next(filter(None, (_why_not(path, *each) for each in filesystems)), None)
    if why is None:
        return "sandbox"
    reporter.debug(f"{path}: {why}; it is opened in the appliance")
    return "appliance"


def _why_not(path: Path, filesystem: str, start_bytes: int) -> str | None:
    """Why a file system cannot be changed in the sandbox."""
    if filesystem == "swap":
        return None
    if filesystem == "vfat":
        return next((f"{name} is missing" for name in fat.PROGRAMS if not programs.is_installed(name)), None)
    return writing.why_not(path, filesystem, start_bytes)


@contextmanager
def guest_of(
    volumes: Sequence[Volume], isolation: str, directories: Directories, *, read_only: bool = False
) -> Iterator[HostGuest]:
    """A guest's file systems, changed as their volumes say, as long as the body runs.

    Args:
        volumes: the root first.
        isolation: ``host`` or ``appliance``; or ``sandbox``, which is not for every file system.
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
        if read_only:
            if why := why_not_readable(volumes):
                raise GuestError(f"cannot be read in the sandbox: {why}")
            with read_together(volumes, directories.run) as guest:
                yield guest
        else:
            for volume in volumes:
                changing.change(volume, directories.run, confined=True)
            with changed_together(volumes, directories.run, partial(scratch, directories)) as guest:
                yield guest
    else:
        from osprovider.guest.appliance import appliance  # dear to import

        with appliance(volumes, directories, read_only=read_only) as guest:
            yield guest
