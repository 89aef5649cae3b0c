"""A small disk in every container that QEMU writes, and any file in every compression, made by the tools themselves.

Not for: systems that boot (`tests.support.image_files`) or that are prepared (`tests.support.small_system`).
"""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from osprovider.images.formats import Container

__all__ = [
    "COMPRESSORS",
    "DISK_BYTES",
    "VARIANTS",
    "Images",
    "Variant",
    "compress",
    "flip",
    "make_container",
    "make_raw",
    "patch",
    "variants_of",
]

Images = Callable[[str], Path]
"""Gives the image of a variant, by its name."""

DISK_BYTES = 24 << 20
"""The disk's size. A VHD without ``force_size`` has some more, for its geometry."""

_BLOCK = 4096
_PLACES = ((0, 40_000), (3 << 20, 300_000), (9 << 20, 4096), ((15 << 20) + 8192, 70_000))

COMPRESSORS = {
    "gzip": ("gzip", "-1", "--no-name"),
    "xz": ("xz", "-1", "--threads=2", "--block-size=1MiB"),
    "zstd": ("zstd", "-q", "-1"),
    "bzip2": ("bzip2", "-1"),
    "lz4": ("lz4", "-q", "-1"),
}
"""The tool that most people use, reading standard input and writing standard output."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One of the ways in which a container can be written.

    Attributes:
        container: QEMU's name.
        options: of ``qemu-img convert``.
        rounded: its disk is rounded up to a geometry.
    """

    container: Container
    options: tuple[str, ...] = ()
    rounded: bool = False


VARIANTS = {
    "qcow2": Variant("qcow2"),
    "qcow2 compat 0.10": Variant("qcow2", ("-o", "compat=0.10")),
    "qcow2 compressed": Variant("qcow2", ("-c",)),
    "qcow2 compressed by zstd": Variant("qcow2", ("-c", "-o", "compression_type=zstd")),
    "qcow2 extended L2": Variant("qcow2", ("-o", "extended_l2=on")),
    "qcow2 clusters of 512": Variant("qcow2", ("-o", "cluster_size=512")),
    "qcow2 clusters of 2 MiB": Variant("qcow2", ("-o", "cluster_size=2M")),
    "qcow2 preallocated": Variant("qcow2", ("-o", "preallocation=metadata")),
    "vmdk": Variant("vmdk"),
    "vmdk stream-optimized": Variant("vmdk", ("-o", "subformat=streamOptimized")),
    "vhd": Variant("vpc", rounded=True),
    "vhd of forced size": Variant("vpc", ("-o", "force_size=on")),
    "vhd fixed": Variant("vpc", ("-o", "subformat=fixed,force_size=on")),
    "vhdx": Variant("vhdx"),
    "vhdx fixed": Variant("vhdx", ("-o", "subformat=fixed")),
    "vdi": Variant("vdi"),
    "vdi static": Variant("vdi", ("-o", "static=on")),
}
"""By what people call them."""


def make_raw(path: Path, size: int = DISK_BYTES) -> Path:
    """Make a sparse disk: a boot signature, data that nothing compresses in a few places and at its very end."""
    source = random.Random(7)
    with path.open("wb") as file:
        file.truncate(size)
        for offset, length in _PLACES:
            file.seek(offset)
            file.write(source.randbytes(length))
        file.seek(510)
        file.write(b"\x55\xaa")
        file.seek(size - 512)
        file.write(source.randbytes(512))
    return path


def make_container(raw: Path, path: Path, variant: Variant) -> Path:
    """Convert a raw disk."""
    words: list[str | Path] = ["qemu-img", "convert", *variant.options, "-f", "raw", "-O", variant.container, raw, path]
    subprocess.run(words, check=True)
    return path


def compress(path: Path, target: Path, compression: str) -> Path:
    """Compress a file, or copy it where that is ``none``."""
    words = COMPRESSORS.get(compression, ("cat",))
    with path.open("rb") as source, target.open("wb") as file:
        subprocess.run(words, check=True, stdin=source, stdout=file)
    return target


def patch(path: Path, offset: int, data: bytes) -> Path:
    """Write over a part of a file."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)
    return path


def flip(path: Path, offset: int) -> Path:
    """Change one bit of a file."""
    with path.open("rb") as file:
        file.seek(offset)
        byte = file.read(1)[0]
    return patch(path, offset, bytes([byte ^ 0x10]))


def variants_of(raw: Path) -> Images:
    """Give an image of the disk ``raw`` in a variant, made once beside it; the variant ``raw`` is the disk itself."""

    def get(name: str) -> Path:
        path = raw.with_name(name)
        return path if path.exists() else make_container(raw, path, VARIANTS[name])

    return get
