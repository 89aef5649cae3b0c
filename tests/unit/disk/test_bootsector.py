"""File systems that were moved say where they begin now, as their own tools read it."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest

from osprovider.disk.bootsector import tell_moved
from osprovider.layout import PartitionPlan, TablePlan
from tests.support.sparse import sparse_file

MIB = 1 << 20
OLD, NEW = 3 * MIB, 5 * MIB


def plan(filesystem: str, sector_size: int, *, start: int = NEW) -> TablePlan:
    """One partition, which has moved unless it begins where it was."""
    part = PartitionPlan(1, "esp", start, 64 * MIB, "", "", "", filesystem=filesystem, source_bytes=OLD)
    return TablePlan("", sector_size, (part,))


def disk_with(path: Path, *mkfs: str) -> bytearray:
    """A file system at its new place on a disk, and all of the disk's content."""
    made = sparse_file(path.with_name("made"), 64 * MIB)
    subprocess.run([*mkfs, made], check=True, capture_output=True)
    path.write_bytes(b"\xa5" * NEW + made.read_bytes() + b"\xa5" * MIB)
    return bytearray(path.read_bytes())


def told(path: Path, table: TablePlan) -> bytes:
    with path.open("r+b") as file:
        tell_moved(file.fileno(), table)
    return path.read_bytes()


@pytest.mark.parametrize("sector_size", [512, 4096])
@pytest.mark.parametrize("fat", ["16", "32"])
def test_a_fat_says_its_new_start_in_both_boot_sectors_and_stays_sound(
    fat: str, sector_size: int, tmp_path: Path
) -> None:
    hidden = ["-h", str(OLD // sector_size), "-S", str(sector_size)]
    before = disk_with(tmp_path / "disk", "mkfs.vfat", "-F", fat, "-s", {"16": "4", "32": "1"}[fat], *hidden)
    for sector in (0, 6) if fat == "32" else (0,):
        struct.pack_into("<I", before, NEW + sector * sector_size + 28, NEW // sector_size)
    after = told(tmp_path / "disk", plan("vfat", sector_size))
    assert after == before
    (tmp_path / "made").write_bytes(after[NEW:-MIB])
    subprocess.run(["fsck.vfat", "-n", tmp_path / "made"], check=True, capture_output=True)


def test_one_that_is_farther_than_it_can_say_says_the_most(tmp_path: Path) -> None:
    """As it is behind a root that fills a disk of 3 TiB."""
    far = 3 << 40
    disk_with(tmp_path / "disk", "mkfs.vfat", "-h", str(OLD // 512))
    disk = sparse_file(tmp_path / "large", far + 64 * MIB)
    with disk.open("r+b") as file:
        file.seek(far)
        file.write((tmp_path / "made").read_bytes()[:MIB])
        tell_moved(file.fileno(), plan("vfat", 512, start=far))
        file.seek(far + 28)
        assert file.read(4) == b"\xff" * 4


def test_a_boot_sector_of_extlinux_says_its_new_start(tmp_path: Path) -> None:
    disk_with(tmp_path / "disk", "mkfs.ext4", "-q", "-F")
    with (tmp_path / "disk").open("r+b") as file:
        file.seek(NEW)
        file.write(b"\xeb\x58\x90EXTLINUX".ljust(28, b"\0") + struct.pack("<I", OLD // 512))
        file.seek(NEW + 510)
        file.write(b"\x55\xaa")
    after = told(tmp_path / "disk", plan("ext4", 512))
    assert struct.unpack_from("<I", after, NEW + 28) == (NEW // 512,)


@pytest.mark.parametrize(
    ("mkfs", "filesystem", "start"),
    [
        (["mkfs.vfat", "-h", "0"], "vfat", NEW),  # made in a file by itself
        (["mkfs.vfat", "-h", str(OLD // 512)], "vfat", OLD),  # has not moved
        (["mkfs.ext4", "-q", "-F"], "ext4", NEW),  # has no boot sector
        (["mkswap", "-q"], "swap", NEW),
    ],
)
def test_what_did_not_name_the_old_start_or_has_not_moved_stays(
    mkfs: list[str], filesystem: str, start: int, tmp_path: Path
) -> None:
    before = disk_with(tmp_path / "disk", *mkfs)
    assert told(tmp_path / "disk", plan(filesystem, 512, start=start)) == before
