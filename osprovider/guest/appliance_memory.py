"""How an appliance gets by with little of the node's memory, whatever file systems it works on.

Its machine has less than libguestfs would give it; what its programs need beyond that, e2fsck of terabytes before all,
they swap to a file in the cache, of which nothing outlives the appliance; only for what its kernel itself has to keep
of a file system there is more.
Not for: starting it, nor what QEMU needs beside its machine.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from osprovider.descriptors import path_of
from osprovider.guest.mounting import Volume
from osprovider.guest.unclean import xfs_replay_bytes
from osprovider.run import run

__all__ = ["kernels", "memory_mib", "swap_file"]

# Linux 6.1 takes 72 MiB to boot with as the cloud package; with 86 the ordinary one unpacks itself onto its initrd.
_LEAST_MIB = 88
# Newer ones are larger: Debian 13's 6.12 takes 90 MiB.
_LEAST_MIB_OF_NEWER = 96
_NEWER = (6, 2)
_KERNELS = Path("/boot")
# Linux keeps a note of each group of blocks of an ext4, and its descriptor: 1.6 MiB for a TiB.
_BYTES_PER_MIB = 512 << 30
_LOG_BYTES_PER_MIB = 2 << 20
_MOST_MIB = 2048
_SWAP_BYTES = 2 << 30


def kernels() -> list[Path]:
    """The node's kernels, of which the appliance's is the newest (supermin(1), ``SUPERMIN_KERNEL``)."""
    return list(_KERNELS.glob("vmlinuz-*"))


def memory_mib(volumes: Iterable[Volume]) -> int:
    """Return how much memory the machine needs for these file systems, in MiB.

    XFS keeps what it replays of its log, if anything is left in it, as by an instance that was not shut down.

    Raises:
        GuestError: an xfs cannot be read.
    """
    sizes, logs = [], 0
    for volume in volumes:
        with volume.device.open("rb") as file:
            sizes.append(file.seek(0, os.SEEK_END))
        if volume.filesystem == "xfs":
            logs += xfs_replay_bytes(volume.device)
    return min(_least_mib() + max(sizes) // _BYTES_PER_MIB + -(-logs // _LOG_BYTES_PER_MIB), _MOST_MIB)


def _least_mib() -> int:
    """What the appliance's kernel needs."""
    versions = [re.findall(r"\d+", path.name) for path in kernels()]
    newest = max((tuple(map(int, version[:2])) for version in versions), default=())
    return _LEAST_MIB if newest < _NEWER else _LEAST_MIB_OF_NEWER


@contextmanager
def swap_file(directory: Path) -> Iterator[tuple[int, str]]:
    """Make a file without a name and without blocks to swap to; gives its descriptor and its UUID.

    An image's own swap is never taken for it: nobody knows the UUID beforehand.
    """
    uuid = str(uuid4())
    with tempfile.TemporaryFile(dir=directory) as file:
        os.truncate(file.fileno(), _SWAP_BYTES)
        fd = file.fileno()
        run(["mkswap", "--quiet", "--uuid", uuid, path_of(fd)], pass_fds=[fd])
        yield fd, uuid
