"""Opening a disk's file systems to be read, without the node's kernel where they may be anybody's.

An appliance starts for seconds, a program in the sandbox at once; but that does not read every file system.
Not for: what is to be found on a disk (:mod:`osprovider.images.diskimage.contents`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from osprovider import linux
from osprovider.disk.loop import loop_device
from osprovider.errors import ApplianceError, GuestError, ImageError, NodeError
from osprovider.guest.host import HostGuest
from osprovider.guest.mounting import Volume
from osprovider.images.diskimage.mount_points import MOUNTED, type_of
from osprovider.images.diskimage.spread import why_not_alone
from osprovider.log import reporter
from osprovider.manifest import ImagePartition
from osprovider.opening import guest_of
from osprovider.paths import Directories

__all__ = ["SUPPORTED", "Reading", "refuse_spread", "volumes_of"]

SUPPORTED = "put the root on a file system of its own (ext4, xfs, btrfs)"
"""What to do about a root that cannot be read."""

_Found = TypeVar("_Found")


class _SandboxError(ImageError):
    """A disk cannot be read by programs in the sandbox."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A disk that is to be read, and where.

    Attributes:
        raw: the disk, a file or a block device; nobody writes to it meanwhile.
        name: the image definition's name, for messages.
        directories: where mount points and the appliance lie.
        isolation: where it is opened: ``host``, ``sandbox`` or ``appliance``; or ``auto``, which :meth:`done` decides.
    """

    raw: Path
    name: str
    directories: Directories
    isolation: str

    def done(self, work: Callable[[Reading], _Found]) -> _Found:
        """Do what needs it to be :meth:`opened`: with ``auto`` in the sandbox, or else in the appliance.

        Args:
            work: called with where; called again where it could not be done there.

        Returns:
            what ``work`` returns.

        Raises:
            ImageError, NodeError: as ``work`` raises them, but for what the sandbox alone cannot.
        """
        if self.isolation != "auto":
            return work(self)
        try:
            return work(dataclasses.replace(self, isolation="sandbox"))
        except _SandboxError as error:
            why_not = str(error)
        reporter.debug(f"{why_not}; it is opened in the appliance")
        try:
            return work(dataclasses.replace(self, isolation="appliance"))
        except NodeError:  # which would not have mattered
            reporter.warning(why_not)
            raise

    @contextmanager
    def opened(self, partitions: Sequence[ImagePartition], what: str) -> Iterator[HostGuest]:
        """The guest, with all its file systems where they belong.

        Args:
            partitions: those that have a place.
            what: is opened, for messages.

        Raises:
            ImageError: one is damaged, or needs another device.
            NodeError: the appliance does not work.
        """
        refuse_spread(self.raw, [part for part in partitions if part.mount is not None], what)
        if self.isolation != "appliance":
            linux.private_mount_namespace()
        try:
            with (
                volumes_of(self.raw, partitions) as found,
                guest_of(found, self.isolation, self.directories, read_only=True) as guest,
            ):
                yield guest
        except ApplianceError as error:
            raise NodeError(f"{what}: {error}") from error
        except GuestError as error:
            fault = _SandboxError if self.isolation == "sandbox" else ImageError
            raise fault(f"{what}: {error}") from error


def refuse_spread(raw: Path, partitions: Sequence[ImagePartition], what: str) -> None:
    """Refuse file systems of which a part is on another device.

    Args:
        raw: the disk.
        partitions: where they are.
        what: has them, for messages.

    Raises:
        ImageError: says which, and why.
    """
    with raw.open("rb", buffering=0) as file:
        for part in partitions:
            if why := why_not_alone(file.fileno(), part.start_bytes, type_of(part)):
                where = "" if part.mount in (None, "/") else f"the file system of {part.mount}: "
                raise ImageError(f"{what}: {where}{why}, which is not supported: {SUPPORTED}")


@contextmanager
def volumes_of(raw: Path, partitions: Sequence[ImagePartition], *, read_only: bool = True) -> Iterator[list[Volume]]:
    """Devices for a disk's file systems that have a place in its system, the root first.

    Args:
        raw: the disk.
        partitions: those of :func:`osprovider.images.diskimage.contents.find_partitions` that are wanted.
        read_only: nothing can write to them.

    Raises:
        DeviceError: no loop device can be attached.
    """
    placed = sorted((part for part in partitions if part.mount is not None), key=lambda part: part.mount != "/")
    with ExitStack() as stack:
        yield [
            Volume(
                stack.enter_context(
                    loop_device(raw, offset_bytes=part.start_bytes, size_bytes=part.size_bytes, read_only=read_only)
                ),
                type_of(part),
                part.mount,
                subvolumes=part.filesystem.subvolumes if part.filesystem else (),
            )
            for part in placed
            if type_of(part) in MOUNTED
        ]
