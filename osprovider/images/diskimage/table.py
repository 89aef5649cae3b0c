"""The partition table of a disk image, which anybody may have made: read by rules, and taken out.

A table that is damaged is refused, also where a GPT's backup is sound: which of the two the publisher meant is not ours
to guess. What it says is written anew on every instance's disk.
Sources: UEFI Specification 2.10, 5.3 (GPT); Discoverable Partitions Specification; :mod:`osprovider.disk.msdos`.
Not for: what is on the partitions (:mod:`osprovider.images.diskimage.contents`).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path

from osprovider.disk import msdos
from osprovider.disk.gpt import ENTRY, SIGNATURE, Gpt, GptError
from osprovider.errors import ImageError, reason_of
from osprovider.layout import ACTIVE, BOOT_CODE_BYTES, EXTENDED_TYPES, TYPES
from osprovider.manifest import ImagePartition, ImageTable

__all__ = ["IMAGE_SECTOR_SIZE", "read_image_table", "strip_table"]

IMAGE_SECTOR_SIZE = 512
"""What the msdos tables of images count in, in bytes."""

_ROLES = {guid: role for role, guid in TYPES.items()}
_MSDOS_ROLES = {"ef": "esp", "82": "swap", "ea": "boot"}  # ea: the Boot Loader Specification's
_SECTOR_SIZES = (512, 4096)
_MBR_END = 512
_MBR_MAGIC, _MBR_TYPES = b"\x55\xaa", slice(450, 510, 16)
_PROTECTIVE = 0xEE  # the type that announces a GPT
_MOST_PARTITIONS = 24  # an appliance has no more drives
_HIGHEST_NUMBER = 128  # of a GPT of the usual size
_GPT_BYTES = _HIGHEST_NUMBER * ENTRY.size


def read_image_table(raw: Path, name: str, msdos_sector_size: int = IMAGE_SECTOR_SIZE) -> ImageTable | None:
    """Read an image's partition table.

    Args:
        raw: the image, raw; a file or a block device.
        name: the image definition's name, for messages.
        msdos_sector_size: what an msdos table counts in, in bytes, which it does not say, as a GPT does.

    Returns:
        what the table itself says: no file systems, no mount points, and a root only where its type says so. None where
        the image has no table.

    Raises:
        ImageError: it is damaged, its partitions overlap or lie outside of the image; says which.
    """
    try:
        with raw.open("rb", buffering=0) as file:
            table = _read_gpt(file.fileno()) or _read_msdos(file.fileno(), msdos_sector_size)
            size = file.seek(0, os.SEEK_END)  # also of a block device
    except (GptError, msdos.MsdosError) as error:
        raise ImageError(f"image {name}: its partition table is broken: {error}") from error
    except OSError as error:
        raise ImageError(f"image {name}: cannot be read: {reason_of(error)}") from error
    if table is not None:
        _check(table, name, size)
    return table


def strip_table(raw: Path, table: ImageTable) -> None:
    """Take the partition table out of an image, so that a disk that it is copied to does not look installed.

    Boot code stays: the first 440 bytes, and what lies between the table and the first partition. So do the records of
    logical partitions, which nothing finds without the table.

    Args:
        raw: the image.
        table: its table.

    Raises:
        ImageError: the image cannot be written.
    """
    try:
        with raw.open("r+b", buffering=0) as file:
            size, sector = file.seek(0, os.SEEK_END), table.sector_size
            ranges = [(BOOT_CODE_BYTES, _MBR_END)]
            if table.type == "gpt":
                header = Gpt.read(file.fileno(), 1, sector).header
                length = header.entry_count * header.entry_size
                # Wherever a backup is, or was before the image became larger, it names the disk's and all its GUIDs.
                for address in {header.other_address, size // sector - 1}:
                    ranges += _backup(file.fileno(), address, sector, size)
                ranges += [
                    (sector, 2 * sector),
                    (header.entries_address * sector, header.entries_address * sector + length),
                ]
            for start, end in ranges:
                os.pwrite(file.fileno(), bytes(max(min(end, size) - start, 0)), start)
            os.fsync(file.fileno())
    except (GptError, OSError) as error:
        raise ImageError(f"{raw}: its partition table cannot be taken out: {error}") from error


def _backup(fd: int, address: int, sector: int, size: int) -> list[tuple[int, int]]:
    """The bytes of the backup GPT at a sector; none where there is none."""
    try:
        header = Gpt.read(fd, address, sector).header
    except GptError:
        return []
    start, length = header.entries_address * sector, header.entry_count * header.entry_size
    return [(address * sector, (address + 1) * sector), (start, min(start + length, size))]


def _read_gpt(fd: int) -> ImageTable | None:
    first = os.pread(fd, _MBR_END, 0)
    types = first[_MBR_TYPES]
    if first[-2:] == _MBR_MAGIC and any(types) and _PROTECTIVE not in types:
        return None  # an msdos table, and a GPT from before it, which UEFI and the kernel pass over
    for sector in _SECTOR_SIZES:
        if os.pread(fd, len(SIGNATURE), sector) != SIGNATURE:
            continue
        gpt = Gpt.read(fd, 1, sector)
        partitions = [
            ImagePartition(
                number=entry.number,
                role=_ROLES.get(entry.type, "other"),
                start_bytes=entry.first * sector,
                size_bytes=(entry.last + 1 - entry.first) * sector,
                type=entry.type,
                guid=entry.guid,
                name=entry.name,
                attributes=entry.attributes,
                filesystem=None,
                mount=None,
            )
            for entry in gpt
        ]
        return ImageTable("gpt", gpt.guid, sector, _sorted(partitions))
    return None


def _read_msdos(fd: int, sector: int) -> ImageTable | None:
    first = os.pread(fd, _MBR_END, 0)
    found = msdos.read(fd, sector)
    if found is None:
        if first[-2:] == _MBR_MAGIC and _PROTECTIVE in first[_MBR_TYPES]:
            raise GptError("its first sector announces a GPT, and none is there")
        return None
    if not found.entries:
        return None
    partitions = [
        ImagePartition(
            number=entry.number,
            role=_MSDOS_ROLES.get(entry.type, "other"),
            start_bytes=entry.first * sector,
            size_bytes=entry.count * sector,
            type=entry.type,
            guid="",
            name="",
            attributes=ACTIVE if entry.is_active else 0,
            filesystem=None,
            mount=None,
        )
        for entry in found.entries
    ]
    return ImageTable("msdos", found.signature, sector, _sorted(partitions))


def _sorted(partitions: Sequence[ImagePartition]) -> tuple[ImagePartition, ...]:
    """By their place on the disk; an extended partition before those in it."""
    return tuple(sorted(partitions, key=lambda part: (part.start_bytes, part.number)))


def _check(table: ImageTable, name: str, size: int) -> None:
    """Refuse partitions that cannot be."""
    if not table.partitions:
        raise ImageError(f"image {name}: its partition table has no partitions, and so there is no root")
    if len(table.partitions) > _MOST_PARTITIONS:
        raise ImageError(
            f"image {name}: its partition table has {len(table.partitions)} partitions: {_MOST_PARTITIONS} are the most"
        )
    highest = max(part.number for part in table.partitions)
    if highest > _HIGHEST_NUMBER:
        raise ImageError(f"image {name}: its partitions go up to number {highest}: {_HIGHEST_NUMBER} is the highest")
    first = 2 * table.sector_size + _GPT_BYTES if table.type == "gpt" else table.sector_size
    for part in table.partitions:
        end = part.start_bytes + part.size_bytes
        if part.size_bytes <= 0 or part.start_bytes < first:
            raise ImageError(
                f"image {name}: its partition table is broken: partition {part.number} goes from byte "
                f"{part.start_bytes} to {end}, and what is before byte {first} is the table's own"
            )
        if end > size:
            raise ImageError(
                f"image {name}: partition {part.number} ends at byte {end}, beyond the image's {size}: it is cut off"
            )
    for before, after in itertools.pairwise(part for part in table.partitions if part.type not in EXTENDED_TYPES):
        if before.start_bytes + before.size_bytes > after.start_bytes:
            raise ImageError(f"image {name}: its partitions {before.number} and {after.number} overlap")
