"""What a disk image holds: its partition table, its file systems, and which of them is the root.

The image is anybody's. Its superblocks are read by blkid in the sandbox.
Sources: Discoverable Partitions Specification; blkid(8), low-level probing.
Not for: converting images to raw (:mod:`osprovider.images.diskimage.convert`), opening their file systems
(:mod:`osprovider.images.diskimage.reading`), reading the table itself
(:mod:`osprovider.images.diskimage.table`), where the system has which file system
(:mod:`osprovider.images.diskimage.mount_points`).
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from osprovider.background import background
from osprovider.descriptors import path_of
from osprovider.disk.loop import loop_device
from osprovider.disk.metadata import ExtInFile
from osprovider.errors import GuestError, ImageError, NodeError, ToolError
from osprovider.guest import fstab
from osprovider.guest.host import HostGuest
from osprovider.guest.protocol import Guest
from osprovider.images.diskimage.mount_points import ESP, SUBVOLUME, System, placed_in, type_of
from osprovider.images.diskimage.reading import SUPPORTED, Reading, refuse_spread
from osprovider.images.diskimage.table import IMAGE_SECTOR_SIZE, read_image_table, strip_table
from osprovider.manifest import EXT, Filesystem, ImagePartition, ImageTable
from osprovider.paths import Directories
from osprovider.run import run
from osprovider.sandbox import confine

__all__ = ["Contents", "examine", "find_partitions", "settle"]

_MAY_BE_ROOT = EXT | {"xfs", "btrfs"}
_NEVER_ROOT = frozenset({"bios_boot", "esp", "boot", "swap"})

# blkid's names of what holds a root elsewhere, and what people call it
_NOT_A_ROOT = {
    "LVM2_member": "LVM",
    "crypto_LUKS": "LUKS",
    "linux_raid_member": "Linux RAID",
    "BitLocker": "BitLocker",
    "zfs_member": "ZFS",
    "bcache": "bcache",
    "bcachefs": "bcachefs",
    "f2fs": "F2FS",
    "ntfs": "NTFS",
}

_SYSTEM = ("/etc/os-release", "/usr/lib/os-release", fstab.PATH)
_NOTHING = 2  # blkid(8), "EXIT STATUS"
_WIPE = 8  # likewise: ambivalent
_PROBE_SECONDS = 60
_LONGEST_FSTAB = 256 << 10  # characters; a line takes microseconds for each partition

_Found = TypeVar("_Found")


@dataclass(frozen=True, slots=True)
class Contents:
    """What a disk image holds.

    Attributes:
        table: its partition table; None where the image is a file system by itself.
        filesystem: the root's.
    """

    table: ImageTable | None
    filesystem: Filesystem


def settle(raw: Path, name: str) -> tuple[ImageTable | None, tuple[ImagePartition, ...]]:
    """Make a template of a disk image: it loses its table, and its ext file systems are checked and settled.

    Args:
        raw: the image, raw.
        name: the image definition's name, for messages.

    Returns:
        its partition table, None where it is a file system by itself; and its partitions with their file systems, which
        have no places yet.

    Raises:
        ImageError: it has no table that is known, or a file system that is broken beyond repair; says which.
    """
    table, parts = _partitions(raw, name, IMAGE_SECTOR_SIZE)
    for part in parts:
        if type_of(part) in EXT:
            what = f"image {name}: {_called(part)}"
            refuse_spread(raw, [part], what)
            try:
                with raw.open("r+b", buffering=0) as file:
                    ExtInFile(file.fileno(), part.start_bytes).settle(part.size_bytes)
            except (GuestError, ToolError) as error:
                raise ImageError(f"{what}: {error}; fetch or make it again") from error
    if table is not None:
        strip_table(raw, table)
    return table, parts


def examine(
    raw: Path,
    name: str,
    held: tuple[ImageTable | None, tuple[ImagePartition, ...]],
    directories: Directories,
    isolation: str,
    look: Callable[[HostGuest], _Found],
) -> tuple[Contents, _Found]:
    """Look into a disk image.

    Args:
        raw: the image; nobody writes to it meanwhile.
        name: the image definition's name, for messages.
        held: what :func:`settle` found on it.
        directories: where mount points and the appliance lie.
        isolation: where it is opened: ``host``, ``appliance``, or ``auto`` for the sandbox where that will do.
        look: called with the guest, all its file systems mounted read-only; what it returns is returned.

    Raises:
        ImageError: it has no root or more than one, or one that is damaged or not supported; says which.
    """
    return Reading(raw, name, directories, isolation).done(lambda reading: _examined(reading, *held, look))


def _examined(
    reading: Reading,
    table: ImageTable | None,
    bare: Sequence[ImagePartition],
    look: Callable[[HostGuest], _Found],
) -> tuple[Contents, _Found]:
    name = reading.name
    parts, seen = _placed(reading, table, bare, look)
    root = next(part for part in parts if part.role == "root")
    if root.filesystem is None:
        raise ImageError(f"image {name}: {_called(root)} is the root and has no file system")
    if table is None and root.filesystem.subvolumes:
        raise ImageError(
            f"image {name}: its file system has the root in a subvolume, which the boot loader that it would get does "
            "not find: give it a partition table and a boot loader of its own"
        )
    if not seen:
        with reading.opened(parts, f"image {name}") as guest:
            seen.append(look(guest))
    return Contents(dataclasses.replace(table, partitions=parts) if table else None, root.filesystem), seen[0]


def find_partitions(
    raw: Path,
    name: str,
    directories: Directories,
    isolation: str = "auto",
    *,
    msdos_sector_size: int = IMAGE_SECTOR_SIZE,
) -> tuple[ImageTable | None, tuple[ImagePartition, ...]]:
    """Find a disk's file systems, and where the system that is on one of them has the others.

    Args:
        raw: the disk, a file or a block device; nobody writes to it meanwhile.
        name: the image definition's name, for messages.
        directories: where mount points and the appliance lie.
        isolation: as for :func:`examine`.
        msdos_sector_size: see :func:`osprovider.images.diskimage.table.read_image_table`.

    Returns:
        its partition table as it is, None where it has none; and its partitions with their file systems, roles and
        mount points. A disk without a table is one partition, number 0, from its first byte to its last.

    Raises:
        ImageError: as for :func:`examine`.
    """
    table, bare = _partitions(raw, name, msdos_sector_size)
    reading = Reading(raw, name, directories, isolation)
    parts, _ = reading.done(lambda reading: _placed(reading, table, bare, lambda _: None))
    return table, parts


# -- superblocks ------------------------------------------------------------------------------------------------------


def _probe(raw: Path, name: str, offset: int, size: int) -> Filesystem | None:
    """What is on a range of the image, by its superblock alone; None where nothing known is."""
    blkid = ["blkid", "--probe", "--output", "export", "--size", str(size)]
    not_probed = f"image {name}: what begins at byte {offset} cannot be looked at"
    with ExitStack() as stack:
        if raw.is_block_device():  # which the sandbox has no device nodes for, and must not be able to write to
            loop = stack.enter_context(loop_device(raw, offset_bytes=offset, size_bytes=size, read_only=True))
            fd = stack.enter_context(loop.open("rb", buffering=0)).fileno()
            boxed, passed = confine([*blkid, path_of(fd)]), [fd]
        else:
            boxed, passed = confine([*blkid, "--offset", str(offset), "/image"], read={raw: "/image"}), []
        try:
            result = run(boxed, check=False, timeout=_PROBE_SECONDS, pass_fds=passed)
        except ToolError as error:
            raise NodeError(f"{not_probed}: {error.last_line}; see what this node is short of") from error
    if result.status not in {0, _NOTHING, _WIPE}:
        said = result.stderr.decode(errors="replace").strip() or f"blkid ended with {result.status}"
        raise ImageError(f"{not_probed}: {said.splitlines()[-1]}; it is damaged, or this node is short of memory")
    if result.status == _WIPE:
        raise ImageError(
            f"image {name}: what begins at byte {offset} looks like more than one file system: wipe the other (wipefs)"
        )
    values = {
        key: re.sub(r"\\(.)", r"\1", value)
        for key, _, value in (line.partition("=") for line in result.text.splitlines())
    }
    if result.status != 0 or "TYPE" not in values:
        return None
    return Filesystem(
        type=values["TYPE"],
        uuid=values.get("UUID", ""),
        label=values.get("LABEL", ""),
        block_size=int(values.get("BLOCK_SIZE", "512")),
        size_bytes=size,
        used_bytes=size,
    )


def _with_filesystem(part: ImagePartition, raw: Path, name: str) -> ImagePartition:
    if part.role == "bios_boot":  # GRUB's code may look like anything
        return part
    return dataclasses.replace(part, filesystem=_probe(raw, name, part.start_bytes, part.size_bytes))


# -- the root ---------------------------------------------------------------------------------------------------------


def _placed(
    reading: Reading,
    table: ImageTable | None,
    parts: Sequence[ImagePartition],
    look: Callable[[HostGuest], _Found],
) -> tuple[tuple[ImagePartition, ...], list[_Found]]:
    """Partitions with their roles and places, and what ``look`` saw, unless the disk has to be opened again for that.

    An appliance starts for seconds, and mostly a guest is right at once where all is mounted by its type.
    """
    systems = []
    for candidate in _candidates(parts):
        guess = placed_in(parts, System(candidate), table)
        with reading.opened(guess, f"image {reading.name}: {_called(candidate)}") as guest:
            for system in _systems_in(guest, candidate):
                placed = placed_in(parts, system, table)
                systems.append((system, placed, [look(guest)] if placed == guess else []))
    if not systems:
        raise _no_root(parts, reading.name)
    if len(systems) > 1:
        raise _several_roots([system for system, _, _ in systems], reading.name)
    ((_, placed, seen),) = systems
    return placed, seen


def _partitions(raw: Path, name: str, msdos_sector_size: int) -> tuple[ImageTable | None, tuple[ImagePartition, ...]]:
    """The disk's table, and what lies on its partitions by their superblocks."""
    with raw.open("rb", buffering=0) as file:
        alone = _probe(raw, name, 0, file.seek(0, os.SEEK_END))
    if alone is not None:
        return None, (ImagePartition(0, "other", 0, alone.size_bytes, "", "", "", 0, alone, None),)
    table = read_image_table(raw, name, msdos_sector_size)
    if table is None:
        raise ImageError(f"image {name}: has no partition table, and no file system that is known")
    with background("probe") as start:
        probes = [start(_with_filesystem, part, raw, name) for part in table.partitions]
        parts = tuple(probe.result() for probe in probes)
    for part in parts:
        if type_of(part) == "swsuspend":  # every instance would go on with that, on file systems that have changed
            raise ImageError(
                f"image {name}: {_called(part)} holds a system that hibernates (swsuspend): wake it up and shut it down"
            )
    return table, parts


def _candidates(partitions: Sequence[ImagePartition]) -> list[ImagePartition]:
    """What may be the root: the partition of that type, or else any that is of no other type."""
    candidates = [part for part in partitions if part.role == "root"]
    candidates = candidates or [part for part in partitions if part.role not in _NEVER_ROOT]
    return [part for part in candidates if type_of(part) in _MAY_BE_ROOT]


def _systems_in(guest: Guest, part: ImagePartition) -> list[System]:
    """What a file system holds: a system at its top, or (btrfs) one in each of some subvolumes."""
    if any(guest.exists(path) for path in _SYSTEM):
        tops = [""]
    elif type_of(part) == "btrfs":
        found = {path.split("/")[1] for file in _SYSTEM for path in guest.glob(f"/*{file}")}
        tops = [f"/{top}" for top in sorted(found) if SUBVOLUME.fullmatch(top)]
    else:
        tops = []
    return [System(part, top.removeprefix("/"), _fstab(guest, top), _esp(guest, top)) for top in tops]


def _esp(guest: Guest, top: str) -> str:
    return next((place for place in ESP if guest.is_directory(f"{top}{place}")), ESP[0])


def _fstab(guest: Guest, top: str) -> str:
    """Its text; none where it is nothing to read, which the deployment tells of."""
    path = f"{top}/etc/fstab"
    try:
        return guest.read_text(path)[:_LONGEST_FSTAB] if guest.exists(path) else ""
    except GuestError:
        return ""


def _several_roots(systems: Sequence[System], name: str) -> ImageError:
    places = " and ".join(f"{_called(each.part)} {each.subvolume}".strip() for each in systems)
    way = "set the type of one partition (root-x86-64)"
    if len({each.part.number for each in systems}) == 1:
        way = "make one the default subvolume (btrfs subvolume set-default)"
    return ImageError(f"image {name}: {places} could both be the root: {way}")


def _no_root(partitions: Sequence[ImagePartition], name: str) -> ImageError:
    """Why there is none, with what is there in place of one."""
    for part in partitions:
        kind = type_of(part)
        if kind in _NOT_A_ROOT:
            return ImageError(
                f"image {name}: {_called(part)} is {_NOT_A_ROOT[kind]} ({kind}), which is not supported: {SUPPORTED}"
            )
    for part in partitions:
        if part.role == "root" and type_of(part) not in _MAY_BE_ROOT:
            kind = type_of(part) or "nothing that is known"
            return ImageError(f"image {name}: {_called(part)} is the root by its type and holds {kind}: {SUPPORTED}")
    held = ", ".join(f"{_called(part)}: {type_of(part) or 'nothing known'}" for part in partitions)
    return ImageError(f"image {name}: no file system holds a system ({' or '.join(_SYSTEM)}); {held}")


def _called(part: ImagePartition) -> str:
    return f"partition {part.number}" if part.number else "its file system"
