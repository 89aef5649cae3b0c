"""Room for a while: an empty file system in a file without a name, of which nothing is left however we end.

Not for: what is to be kept; nor what fits into memory.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from osprovider.descriptors import path_of
from osprovider.disk import filesystem
from osprovider.disk.loop import loop_device
from osprovider.guest.mounting import mounted
from osprovider.paths import Directories

__all__ = ["scratch"]

_OWN_BYTES = 16 << 20  # and a sixteenth: its own tables
_MOST_BYTES = 1 << 40


@contextmanager
def scratch(directories: Directories, size_bytes: int, name: str) -> Iterator[Path]:
    """Mount an empty file system, as long as the body runs; the cache directory has what is written to it.

    Args:
        directories: where that is, and mount points are made. The caller is in a mount namespace of its own.
        size_bytes: how much it holds, about; a TiB at most.
        name: the mount point's.

    Raises:
        DeviceError, GuestError, ToolError: it cannot be made or mounted.
    """
    size = min(size_bytes + size_bytes // 16 + _OWN_BYTES, _MOST_BYTES) & ~0xFFFFF
    directories.cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=directories.cache) as file:
        os.truncate(file.fileno(), size)
        with loop_device(Path(path_of(file.fileno()))) as device:
            without = filesystem.WITHOUT_JOURNAL
            filesystem.make(
                device, "ext4", uuid=str(uuid4()), label="", size_bytes=size, without=without, reserved_percent=0
            )
            with mounted(device, "ext4", directories.run, is_new=True, place=name):
                yield directories.run / name
