"""What deployment must know of a template, so that it never has to look inside: the template's manifest.

The part that prepares images writes it, and the one that deploys them reads it; neither needs to know the other.
Not for: making or finding templates (:mod:`osprovider.images.store`).
"""

from __future__ import annotations

import dataclasses
import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osprovider.errors import ImageError

__all__ = [
    "EXT",
    "MANIFEST_FORMAT",
    "Distribution",
    "Extent",
    "Filesystem",
    "ImagePartition",
    "ImageTable",
    "Kernel",
    "Manifest",
    "Origin",
    "OtherVersion",
    "Template",
    "is_intact",
]

MANIFEST_FORMAT = 6
"""The manifest's version; another one means the template is made again."""

EXT = frozenset({"ext2", "ext3", "ext4"})
"""The types of ext file systems, as blkid(8) has them."""

_CHECKSUM = re.compile(rb'\{\n "checksum": "([0-9a-f]{8})",')


class OtherVersion(ImageError):  # noqa: N818 - its name is what it is
    """Another version of osprovider made the template, which this one makes anew when it is needed.

    Attributes:
        image: the definition's name, where it is said as it is now.
    """

    def __init__(self, found: object, image: object) -> None:
        super().__init__(
            f"made by another version of osprovider: its manifest has format {found}, and this one knows "
            f"{MANIFEST_FORMAT}"
        )
        self.image = image if isinstance(image, str) else None


@dataclass(frozen=True, slots=True)
class Extent:
    """A range of the template that holds data; everything between extents is zero.

    Attributes:
        offset: in bytes from the template's start, a multiple of 4096.
        length: in bytes, likewise; at most 4 MiB.
        crc32: of its bytes (zlib's), checked while it is copied.
    """

    offset: int
    length: int
    crc32: int


@dataclass(frozen=True, slots=True)
class Filesystem:
    """A file system of the template.

    Attributes:
        type: as blkid(8) has it: ``ext4``, ``ext3``, ``ext2``, ``xfs``, ``btrfs``, ``vfat`` or ``swap``.
        uuid: the template's own; every instance gets another. A FAT's is its volume ID (``1234-ABCD``).
        label: may be empty.
        block_size: in bytes.
        size_bytes: of the file system, and so of the smallest partition that can take it.
        used_bytes: what its files and metadata occupy; ``size_bytes`` where nobody can say.
        subvolumes: of a btrfs whose root is not its default subvolume, or has others in it: where the guest has which
            of them (``("/", "@"), ("/home", "@home")``), the root first; an empty name is the default one.
    """

    type: str
    uuid: str
    label: str
    block_size: int
    size_bytes: int
    used_bytes: int
    subvolumes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class ImagePartition:
    """A partition of a disk image.

    Attributes:
        number: in the table, 1-based.
        role: what it is for: ``bios_boot``, ``esp``, ``boot`` (``/boot`` of its own), ``root``, ``swap`` or ``other``.
        start_bytes: from the disk's start.
        size_bytes: its length.
        type: the GPT's type GUID, lower case; the type of an msdos table as two hexadecimal digits (``83``). The
            extended partition is listed like the logical ones in it.
        guid: its own GUID, lower case; empty in an msdos table.
        name: the GPT's partition name; empty in an msdos table.
        attributes: the GPT's attribute bits; of an msdos table :data:`osprovider.layout.ACTIVE`, or 0.
        filesystem: what is on it; None where there is none.
        mount: where the image's fstab(5) mounts it (``/boot/efi``); None where it says nothing.
    """

    number: int
    role: str
    start_bytes: int
    size_bytes: int
    type: str
    guid: str
    name: str
    attributes: int
    filesystem: Filesystem | None
    mount: str | None


@dataclass(frozen=True, slots=True)
class ImageTable:
    """The partition table that a disk image brought. It is not in the template: a deployment writes it last.

    Attributes:
        type: ``gpt`` or ``msdos``.
        id: the disk's GUID, or an msdos table's signature as eight hexadecimal digits; lower case.
        sector_size: in bytes, what the table counts in.
        partitions: by their place on the disk.
    """

    type: str
    id: str
    sector_size: int
    partitions: tuple[ImagePartition, ...]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an image's bits came from, and why they are trusted.

    Attributes:
        location: the path or URL, without a password.
        digest: of what was fetched (``sha256:`` and 64 hexadecimal digits).
        size_bytes: likewise.
        format: what it was, by content (``qcow2``, ``tar.zstd``).
        verified: how it was verified, for people (``SHA512SUMS, signed by DF9B...``); ``nothing`` where nothing was
            asked for.
    """

    location: str
    digest: str
    size_bytes: int
    format: str
    verified: str


@dataclass(frozen=True, slots=True)
class Distribution:
    """Who made the system, as its os-release(5) says (``debian``, ``12``, ``bookworm``, ``Debian GNU/Linux 12``)."""

    id: str
    version_id: str
    codename: str
    pretty_name: str


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel that the image boots: paths in the guest, ``initrd`` None where it has none."""

    version: str
    image: str
    initrd: str | None


@dataclass(frozen=True, slots=True)
class Manifest:
    """A prepared image.

    Attributes:
        format: :data:`MANIFEST_FORMAT`.
        key: the digest over all that the result depends on; names the template in the store.
        image: the image definition's name when it was prepared.
        created: when, UTC, ISO 8601 (``2026-11-21T00:30:00Z``).
        architecture: as dpkg names it (``amd64``).
        distribution: see there.
        init: ``systemd``, ``sysvinit``, ``openrc`` or ``none``.
        network_stacks: of ``networkd`` and ``ifupdown``, those that the image has, the preferred one first.
        boot_loaders: of ``grub-bios`` and ``grub-uefi``, those whose files the image has.
        kernels: newest first.
        size_bytes: the template's, and the least that a disk, or a root partition, has to offer it.
        table: of a disk image, which is copied to the disk's start; None for a file system, which becomes the root
            partition of a table that the variant describes.
        filesystem: the root's.
        packages: how many there are; their list lies beside the manifest.
        packages_crc32: of that list (zlib's).
        extents: what has to be copied, sorted by offset, without overlap.
        built_here: our own mkfs made its file system, so that the node may mount it.
        tools: versions of what made it, by name (``mmdebstrap: 1.3.5``).
        definition: what was built, as JSON-ready data.
        origin: where it came from; None for what was built here from packages.
        metadata: what of the extents are the file system's own blocks (tables, bitmaps, directories), sorted, without
            overlap; empty where that is not known, or too much to be held in memory.
        digest: of the template (``sha256:`` and 64 hexadecimal digits), which is the same wherever the same definition
            was built from the same packages; None for what came from elsewhere.
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
    size_bytes: int
    table: ImageTable | None
    filesystem: Filesystem
    packages: int
    packages_crc32: int
    extents: tuple[Extent, ...]
    built_here: bool
    tools: Mapping[str, str]
    definition: Mapping[str, Any]
    origin: Origin | None = None
    metadata: tuple[Extent, ...] = ()
    digest: str | None = None

    @property
    def data_bytes(self) -> int:
        """How much a deployment copies, in bytes."""
        return sum(extent.length for extent in self.extents)

    def without_extents(self) -> Manifest:
        """What people and hooks are told of it."""
        return dataclasses.replace(self, extents=(), metadata=())

    def to_json(self) -> str:
        """The manifest as it lies in the store; its first line has the checksum (zlib's CRC-32) of what follows."""
        data = dataclasses.asdict(self)
        for name in ("extents", "metadata"):
            data[name] = [dataclasses.astuple(extent) for extent in getattr(self, name)]
        text = f"{json.dumps(data, indent=1, sort_keys=True).removeprefix('{')}\n"
        return f'{{\n "checksum": "{zlib.crc32(text.encode()):08x}",{text}'

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        """Read what :meth:`to_json` wrote, be it intact or not.

        Raises:
            OtherVersion: it is of another format.
            ImageError: it is no manifest.
        """
        try:
            data = json.loads(text)
            if data["format"] != MANIFEST_FORMAT:
                raise OtherVersion(data["format"], data.get("image"))
            data.pop("checksum", None)
            data["distribution"] = Distribution(**data["distribution"])
            data["filesystem"] = _filesystem(data["filesystem"])
            data["table"] = _table(data["table"]) if data["table"] else None
            data["origin"] = Origin(**data["origin"]) if data["origin"] else None
            data["kernels"] = tuple(Kernel(**kernel) for kernel in data["kernels"])
            for name in ("extents", "metadata"):
                data[name] = tuple(Extent(*extent) for extent in data[name])
            data["network_stacks"] = tuple(data["network_stacks"])
            data["boot_loaders"] = tuple(data["boot_loaders"])
            return cls(**data)
        except (KeyError, TypeError, ValueError) as error:
            raise ImageError(f"not a manifest: {error}") from error


def is_intact(text: bytes) -> bool:
    """Is it what :meth:`Manifest.to_json` wrote, to the last bit."""
    found = _CHECKSUM.match(text)
    return found is not None and int(found[1], 16) == zlib.crc32(text[found.end() :])


@dataclass(frozen=True, slots=True)
class Template:
    """A template in use.

    Attributes:
        manifest: its manifest.
        fd: its file, open for reading.
        path: its file.
    """

    manifest: Manifest
    fd: int
    path: Path


def _filesystem(data: dict[str, Any]) -> Filesystem:
    subvolumes = tuple((mount, name) for mount, name in data.get("subvolumes", ()))
    return Filesystem(**{**data, "subvolumes": subvolumes})


def _table(data: dict[str, Any]) -> ImageTable:
    partitions = []
    for each in data["partitions"]:
        filesystem = _filesystem(each["filesystem"]) if each["filesystem"] else None
        partitions.append(ImagePartition(**{**each, "filesystem": filesystem}))
    return ImageTable(**{**data, "partitions": tuple(partitions)})
