"""File systems of our own, mounted to be looked into.

Not for: file systems of others; the kernel does not get to see these.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from osprovider import linux
from osprovider.disk.loop import loop_device

__all__ = ["mounted"]


@contextmanager
def mounted(image: Path, root: Path) -> Iterator[Path]:
    """Mount an ext4 file system read-only at a new directory, in a mount namespace of this process."""
    linux.private_mount_namespace()
    root.mkdir()
    with loop_device(image, read_only=True) as loop:
        linux.mount(str(loop), str(root), "ext4", linux.MountFlag.RDONLY, "noload")
        try:
            yield root
        finally:
            linux.umount(str(root))
