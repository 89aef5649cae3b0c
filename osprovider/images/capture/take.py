"""A disk with an installed system becomes an image: the disk of an instance that is shut down, as it lies there.

The disk is only read, and what is on it is only parsed in the sandbox and in the libguestfs appliance. A tree is packed
straight from the disk: what has to be changed for it is written to an overlay in the appliance's memory, so that there
is no copy of anything. An image of the disk is made of a sparse copy, because only there can free space be given back.
Not for: activating an instance's disks (:mod:`osprovider.ganeti.activation`); what is taken out of a system
(:mod:`osprovider.images.anonymize`).
"""

from __future__ import annotations

import errno
import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from osprovider.config.model import Image
from osprovider.config.sizes import parse_size
from osprovider.disk.device import claim
from osprovider.errors import ImageError, OsproviderError
from osprovider.guest.appliance import require_appliance
from osprovider.guest.unclean import why_unclean
from osprovider.images import formats
from osprovider.images.capture.disk import copy_disk
from osprovider.images.capture.order import CaptureOrder, Found, naming
from osprovider.images.capture.tree import pack
from osprovider.images.definition import checksum_of
from osprovider.images.diskimage.contents import find_partitions
from osprovider.images.diskimage.reading import volumes_of
from osprovider.images.newfile import new_file
from osprovider.images.space import is_full
from osprovider.log import reporter
from osprovider.paths import Directories
from osprovider.programs import require

__all__ = ["Captured", "capture"]

_BLKFLSBUF = 0x1261  # <linux/fs.h>
_SPARE = 1.1
_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Captured:
    """What was made.

    Attributes:
        system: as its os-release(5) calls it.
        size_bytes: of the file.
        checksum: likewise, as definitions have it.
        max_size: what a definition has to allow it to unpack to; None where its default is enough.
    """

    system: str
    size_bytes: int
    checksum: str
    max_size: str | None


def capture(order: CaptureOrder, directories: Directories) -> Captured:
    """Make an image of a disk.

    Args:
        order: which, and how.
        directories: where locks and the appliance lie.

    Raises:
        DeviceError: the disk is in use, or cannot be read.
        ImageError: there is no system on it that can be captured, it was not shut down in order, or the image cannot be
            written; names the disk or the file.
        GuestError: the appliance cannot run on this node.
    """
    if order.output.exists() and order.source.exists() and order.output.samefile(order.source):
        raise ImageError(f"{order.output}: is the disk itself, which stays as it is; name another file")
    require_appliance()
    if order.kind == "qcow2":
        require("qemu-img", what=str(order.output))
    with (
        claim(order.source, directories.run, read_only=True) as device,
        new_file(order.output, force=order.force) as (fd, new),
    ):
        if device.is_block:
            fcntl.ioctl(device.fd, _BLKFLSBUF)  # a guest writes past this node's page cache
        found = _find(order, directories)
        try:
            if order.kind == "tar":
                system, unpacked = pack(order, found, fd, directories)
            else:
                system, unpacked = copy_disk(order, device, found, new, directories), device.facts.size_bytes
        except (OsproviderError, OSError) as error:
            if _ran_out_of_space(error, order.output.parent):
                raise ImageError(f"{order.output}: cannot be written: there is no space left") from error
            raise
        return Captured(system, os.fstat(fd).st_size, checksum_of(new, order.output), _max_size(unpacked))


def _find(order: CaptureOrder, directories: Directories) -> Found:
    """Look at the disk, and refuse what cannot be captured."""
    source = order.source
    kind = formats.detect(source)
    if str(kind) != "raw":
        raise ImageError(f"{source}: is {kind}, and no disk itself: osprovider image add {source} takes it as it is")
    with reporter.step(f"look at {source}"), naming(order):
        table, parts = find_partitions(source, order.name, directories)
        with volumes_of(source, parts) as volumes:
            for volume in volumes:
                why = why_unclean(volume.device, volume.filesystem)
                if why is not None:
                    raise ImageError(
                        f"the file system of {volume.mount} ({volume.filesystem}) was not unmounted: {why}; start the "
                        "instance, have it shut down by itself, and capture it then"
                    )
    return Found(table, parts)


def _max_size(unpacked: int) -> str | None:
    """What an image's definition must allow, where that is more than it does by itself."""
    needed = int(unpacked * _SPARE)
    return f"{-(-needed // _GIB)}GiB" if needed > parse_size(Image().max_size) else None


def _ran_out_of_space(error: BaseException | None, directory: Path) -> bool:
    """Was it that the directory's file system is full; what had been written may be gone by now."""
    if is_full(directory):
        return True
    while error is not None:
        if os.strerror(errno.ENOSPC).lower() in str(error).lower():
            return True
        error = error.__cause__
    return False
