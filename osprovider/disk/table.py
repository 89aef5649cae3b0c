"""The partition table: written whole and last.

libparted makes a GPT on a scratch disk, a sparse file in memory as large as the disk and with its sectors. There it
gets what libparted 3.5 has no way to set (numbers, GUIDs, any type, attributes, any name) and is compared with the
plan. Only then are its sectors copied: the backup at the disk's end first, the primary, which makes the disk look
installed, last. So the disk never holds half a table, or one with GUIDs that nobody planned; and neither libparted nor
a re-reading kernel touches it. An msdos table is :mod:`osprovider.disk.msdos`'s work, whose primary entries come last.

Where there is none, nothing is written here, and what holds is less: the root file system begins where a table would
be, and whoever finds its superblock takes the disk for an installed one. From the start of an installation its place is
zero (:func:`osprovider.disk.wipe.clear_signatures`), the copy brings it last (:func:`osprovider.layout.copy_rounds`),
and any failure or signal makes it zero again. But hooks need it: a SIGKILL, or the node's end, while they run leaves a
system that is whole and has not seen all of them, and an xfs or btrfs one that is not yet full. Ganeti knows of it,
because ``create`` never said that it was done.
Sources: UEFI Specification 2.10, section 5.3 (GPT); Discoverable Partitions Specification; libparted's labels/gpt.c.
Not for: dividing the disk (:mod:`osprovider.division`), boot code (:mod:`osprovider.disk.grub_images`).
"""

from __future__ import annotations

import os
import uuid
import zlib
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from osprovider.descriptors import in_memory, path_of
from osprovider.disk import msdos
from osprovider.disk.device import Device
from osprovider.disk.gpt import ENTRY, Gpt, GptError
from osprovider.disk.loop import loop_device
from osprovider.disk.raw import sync, write_all
from osprovider.errors import DeviceError
from osprovider.layout import BOOT_CODE_BYTES, TablePlan

__all__ = ["NewTable", "make_table", "write_table"]

_MBR_SIZE = 512


@dataclass(frozen=True, slots=True)
class NewTable:
    """A partition table that is made and not yet on its disk.

    Attributes:
        plan: what it says.
        primary: of a GPT, its sectors at the disk's start; None for another table.
        backup: likewise at its end.
        mbr: the protective MBR behind the boot code: bytes 440 to 511 of LBA 0.
    """

    plan: TablePlan
    primary: Gpt | None = None
    backup: Gpt | None = None
    mbr: bytes = b""


def make_table(device: Device, table: TablePlan) -> NewTable:
    """Make a partition table. Touches no disk; may run in any thread.

    Args:
        device: the disk that it is for.
        table: what it will have. Its sectors are those that the instance sees, which may be smaller than the device's.

    Raises:
        DeviceError: the table does not fit the disk.
    """
    if table.type != "gpt":
        return NewTable(table)
    with in_memory(f"partition table of {device.path}"[:240]) as fd:
        os.ftruncate(fd, device.facts.size_bytes)
        _make(fd, device.path, table)
        mbr = os.pread(fd, _MBR_SIZE, 0)[BOOT_CODE_BYTES:]
        primary, backup = (_identified(gpt, table) for gpt in _both(fd, device, table.sector_size))
    if not _says(primary, table):
        raise DeviceError(f"{device.path}: the partition table does not come out as it was planned")
    return NewTable(table, primary, backup, mbr)


def write_table(device: Device, new: NewTable) -> None:
    """Give a disk its partition table, and prove that it has it. Boot code (LBA 0, bytes 0 to 439) stays.

    Args:
        device: the disk, claimed.
        new: made for it. Of the type ``none``, nothing is written.

    Raises:
        DeviceError: the disk does not keep it.
    """
    if new.primary and new.backup:
        _write_gpt(device, new.plan, new.primary, new.backup, new.mbr)
    elif new.plan.type == "msdos":
        _write_msdos(device, new.plan)


def _write_gpt(device: Device, table: TablePlan, primary: Gpt, backup: Gpt, mbr: bytes) -> None:
    sector_size = table.sector_size
    backup.write(device.fd, sector_size)
    sync(device.fd)
    primary.write(device.fd, sector_size)
    # Whole sectors only: a disk of 4096-byte sectors reads the rest in first otherwise.
    first = bytearray(os.pread(device.fd, sector_size, 0))
    first[BOOT_CODE_BYTES:_MBR_SIZE] = mbr
    write_all(device.fd, bytes(first), 0)
    sync(device.fd)
    _forget_cached(device)
    if not all(_says(gpt, table) for gpt in _both(device.fd, device, sector_size)):
        raise _not_kept(device)


def _write_msdos(device: Device, table: TablePlan) -> None:
    wanted = msdos.Msdos(
        table.guid,
        tuple(
            msdos.Entry(
                number=part.number,
                type=part.type,
                first=part.start_bytes // table.sector_size,
                count=part.size_bytes // table.sector_size,
                is_active=bool(part.attributes),
            )
            for part in sorted(table.partitions, key=lambda part: part.number)
        ),
    )
    try:
        msdos.write(device.fd, wanted, table.sector_size)
        sync(device.fd)
        _forget_cached(device)
        found = msdos.read(device.fd, table.sector_size)
    except msdos.MsdosError as error:
        raise DeviceError(f"{device.path}: {error}") from error
    if found != wanted:
        raise _not_kept(device)


def _forget_cached(device: Device) -> None:
    """What is compared shall come from the disk."""
    os.posix_fadvise(device.fd, 0, 1 << 20, os.POSIX_FADV_DONTNEED)
    os.posix_fadvise(device.fd, device.facts.size_bytes - (1 << 20), 0, os.POSIX_FADV_DONTNEED)


def _not_kept(device: Device) -> DeviceError:
    return DeviceError(f"{device.path}: does not keep the partition table that was written: the disk is failing")


def _identified(gpt: Gpt, table: TablePlan) -> Gpt:
    """The same with all that ``table`` says of its partitions, whose places it has in that order."""
    entries = bytearray(len(gpt.entries))
    size = gpt.header.entry_size
    for index, part in enumerate(table.partitions):
        _, _, start, end, _, _ = ENTRY.unpack_from(gpt.entries, index * size)
        identity = uuid.UUID(part.type).bytes_le, uuid.UUID(part.guid).bytes_le
        name = part.name.encode("utf-16-le")
        ENTRY.pack_into(entries, (part.number - 1) * size, *identity, start, end, part.attributes, name)
    header = gpt.header._replace(guid=uuid.UUID(table.guid).bytes_le, entries_crc32=zlib.crc32(entries))
    return Gpt(header.sealed(), bytes(entries))


def _says(gpt: Gpt, table: TablePlan) -> bool:
    """Does a GPT say what was planned, as far as a GPT can."""
    sector = table.sector_size
    found = []
    for each in gpt:
        size = (each.last + 1 - each.first) * sector
        found.append((each.number, each.first * sector, size, each.type, each.guid, each.name, each.attributes))
    planned = [
        (each.number, each.start_bytes, each.size_bytes, each.type, each.guid, each.name, each.attributes)
        for each in table.partitions
    ]
    return gpt.guid == table.guid and sorted(found) == sorted(planned)


def _read(fd: int, address: int, sector_size: int) -> Gpt | None:
    """The GPT whose header is at this sector; None where there is none, or it is damaged."""
    try:
        return Gpt.read(fd, address, sector_size)
    except GptError:
        return None


def _both(fd: int, device: Device, sector_size: int) -> tuple[Gpt, Gpt]:
    """The primary and the backup GPT, each where it belongs on a disk of this size."""
    primary = _read(fd, 1, sector_size)
    backup = _read(fd, device.facts.size_bytes // sector_size - 1, sector_size)
    if primary is None or backup is None:
        raise DeviceError(f"{device.path}: its partition table cannot be read back")
    return primary, backup


def _make(fd: int, path: Path, table: TablePlan) -> None:
    """Have libparted lay the partitions out on the scratch disk ``fd``. ``path`` is what errors name."""
    import parted  # only here: it takes 10 ms

    try:
        with loop_device(Path(path_of(fd)), sector_size=table.sector_size) as loop, ExitStack() as stack:
            device = parted.Device(path=str(loop))
            # libparted keeps what it once knew of a path, and the next loop device of this name is another one.
            stack.callback(device.removeFromCache)
            disk = parted.freshDisk(device, "gpt")
            for part in table.partitions:
                start = part.start_bytes // table.sector_size
                length = part.size_bytes // table.sector_size
                geometry = parted.Geometry(device=device, start=start, length=length)
                partition = parted.Partition(disk=disk, type=parted.PARTITION_NORMAL, geometry=geometry)
                disk.addPartition(partition, parted.Constraint(exactGeom=geometry))
            disk.commitToDevice()
    except (
        parted.CreateException,
        parted.DeviceException,
        parted.DiskException,
        parted.GeometryException,
        parted.IOException,
        parted.PartitionException,
    ) as error:
        raise DeviceError(f"{path}: {error}") from error
