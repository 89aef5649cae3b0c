"""What deployment must know of a template, so that it never has to look inside: the template's manifest.

Not for: making or finding templates (:mod:`osprovider.images.store`).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from osprovider.errors import ImageError

__all__ = ["FORMAT", "Distribution", "Extent", "Filesystem", "Kernel", "Manifest"]

FORMAT = 1
"""The manifest's version; another one means the template is made again."""


@dataclass(frozen=True, slots=True)
class Extent:
    """A range of the template that holds data; everything between extents is zero.

    Attributes:
        offset: in bytes from the template's start. length: in bytes, at most 4 MiB. Both multiples of 4096.
        crc32: of its bytes (zlib's), checked while it is copied.
    """

    offset: int
    length: int
    crc32: int


@dataclass(frozen=True, slots=True)
class Filesystem:
    """The template's file system.

    Attributes:
        type: ``ext4``, ``ext3`` or ``ext2``.
        uuid: the template's own; every instance gets another.
        label: may be empty.
        block_size: in bytes.
        size_bytes: of the file system, and so of the smallest root partition that can take it.
        used_bytes: what its files and metadata occupy.
    """

    type: str
    uuid: str
    label: str
    block_size: int
    size_bytes: int
    used_bytes: int


@dataclass(frozen=True, slots=True)
class Distribution:
    """Who made the system, as its os-release(5) says (``debian``, ``12``, ``bookworm``, ``Debian GNU/Linux 12``)."""

    id: str
    version_id: str
    codename: str
    pretty_name: str


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel that the image boots: paths in the guest. ``initrd`` is None where it has none."""

    version: str
    image: str
    initrd: str | None


@dataclass(frozen=True, slots=True)
class Manifest:
    """A prepared image.

    Attributes:
        format: :data:`FORMAT`.
        key: the digest over all that the result depends on; names the template in the store.
        image: the image definition's name when it was prepared.
        created: when, UTC, ISO 8601 (``2026-11-21T00:30:00Z``).
        architecture: as dpkg names it (``amd64``).
        distribution: see there.
        init: ``systemd``, ``sysvinit``, ``openrc`` or ``none``.
        network_stacks: of ``networkd`` and ``ifupdown``, those that the image has, the preferred one first.
        boot_loaders: of ``grub-bios`` and ``grub-uefi``, those whose files the image has.
        kernels: newest first.
        filesystem: see there.
        extents: what has to be copied, sorted by offset, without overlap.
        built_here: this site's own build made every byte of it, so that the host may mount it.
        tools: versions of what made it, by name (``mmdebstrap: 1.3.5``).
        definition: what was built, as JSON-ready data.
    """

    format: int
    key: str
    image: str
    created: str
    architecture: str
    distribution: Distribution
    init: str
    network_stacks: tuple[str, ...]
    boot_loaders: tuple[str, ...]
    kernels: tuple[Kernel, ...]
    filesystem: Filesystem
    extents: tuple[Extent, ...]
    built_here: bool
    tools: Mapping[str, str]
    definition: Mapping[str, Any]

    @property
    def data_bytes(self) -> int:
        """How much a deployment copies, in bytes."""
        return sum(extent.length for extent in self.extents)

    def to_json(self) -> str:
        """The manifest as it lies in the store."""
        data = dataclasses.asdict(self)
        data["extents"] = [[extent.offset, extent.length, extent.crc32] for extent in self.extents]
        return json.dumps(data, indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        """Read what :meth:`to_json` wrote.

        Raises:
            ImageError: it is not a manifest of this format.
        """
        try:
            data = json.loads(text)
            if data["format"] != FORMAT:
                raise ImageError(
                    f"a manifest of format {data['format']}, where {FORMAT} is known: build the image again"
                )
            data["distribution"] = Distribution(**data["distribution"])
            data["filesystem"] = Filesystem(**data["filesystem"])
            data["kernels"] = tuple(Kernel(**kernel) for kernel in data["kernels"])
            data["extents"] = tuple(Extent(*extent) for extent in data["extents"])
            data["network_stacks"] = tuple(data["network_stacks"])
            data["boot_loaders"] = tuple(data["boot_loaders"])
            return cls(**data)
        except (KeyError, TypeError, ValueError) as error:
            raise ImageError(f"not a manifest: {error}") from error
