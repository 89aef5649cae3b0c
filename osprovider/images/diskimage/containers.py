"""Disk images in containers, judged before any other program reads them.

QEMU's tools are only let near an image that says nothing that reaches beyond its file: no backing file, no external
data, no other extent (CVE-2024-32498 and CVE-2024-44082 were that).
Not for: what the headers hold (:mod:`osprovider.images.diskimage.headers`), or telling what a file is
(:mod:`osprovider.images.formats`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from osprovider.images.diskimage.headers import qcow2, vdi, vhd, vhdx, vmdk
from osprovider.images.diskimage.headers.reader import LARGEST_DISK, Reader
from osprovider.images.formats import Container

__all__ = ["check_container"]

_CHECKS: dict[Container, Callable[[Reader], int]] = {
    "qcow2": qcow2.check,
    "vmdk": vmdk.check,
    "vpc": vhd.check,
    "vhdx": vhdx.check,
    "vdi": vdi.check,
}


def check_container(path: Path, container: Container, *, name: str | None = None) -> int:
    """Read a disk image's header, before any other program does.

    Args:
        path: the file, not compressed.
        container: what it is.
        name: what messages call it, if not by its path.

    Returns:
        the size of the disk in it, in bytes.

    Raises:
        ImageError: it is damaged, refers to other files, is encrypted, or uses what is not known; names the field.
    """
    size = path.stat().st_size
    if container not in _CHECKS:
        return size
    with path.open("rb", buffering=0) as file:
        reader = Reader(name or str(path), container, file.fileno(), size)
        virtual = _CHECKS[container](reader)
    if not 0 < virtual <= LARGEST_DISK:
        raise reader.wrong("the disk's size", f"{virtual} bytes make no sense")
    return virtual
