"""The tree of a disk, packed by the appliance as a compressed tar.

Not for: an image of the disk itself (:mod:`osprovider.images.capture.disk`).
"""

from __future__ import annotations

import os
from contextlib import ExitStack

from osprovider.guest.appliance import appliance
from osprovider.images.capture.compressor import compressor
from osprovider.images.capture.order import CaptureOrder, Found, naming, take_identity
from osprovider.images.detach import detach
from osprovider.images.diskimage.reading import volumes_of
from osprovider.log import reporter
from osprovider.paths import Directories

__all__ = ["pack"]

_LABELLED = "/etc/selinux/config"


def pack(order: CaptureOrder, found: Found, target: int, directories: Directories) -> tuple[str, int]:
    """Pack the tree.

    Args:
        order: what of.
        found: what is on the disk.
        target: the file, open for writing.
        directories: where the appliance lies.

    Returns:
        what the system calls itself, and how many bytes the tar has, unpacked.

    Raises:
        ImageError: the system cannot be captured, or the file not be written.
    """
    wanted = [part for part in found.parts if part.role != "esp"]  # every instance gets its own
    with ExitStack() as stack, naming(order):
        volumes = stack.enter_context(volumes_of(order.source, wanted))
        packed = stack.enter_context(compressor(target, order.output))
        inside = stack.enter_context(ExitStack())
        guest = inside.enter_context(appliance(volumes, directories, overlay=True, archive=packed.fileno()))
        system = take_identity(order, guest)
        detach(guest)
        if guest.exists(_LABELLED):
            guest.write("/.autorelabel", "")  # SELinux's labels are not in an image's tree; selinux-autorelabel(8)
        used = os.fstatvfs(guest.root_fd)
        total = (used.f_blocks - used.f_bfree) * used.f_frsize
        with reporter.progress(f"image {order.name}: pack", total) as advance:
            packed.advance = advance
            inside.close()
    return system, packed.count
