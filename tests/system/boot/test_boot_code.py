"""The boot code: what it consists of, where it is written, and what is refused."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from osprovider.disk.device import claim
from osprovider.disk.esp import REMOVABLE_PATH
from osprovider.disk.grub_images import BootCode, make_boot_code, write_bios
from osprovider.errors import DeviceError
from osprovider.layout import TYPES, PartitionPlan, Role, TablePlan, bios_refusal, esp_size_bytes
from tests.support.sparse import sparse_file
from tests.system.disk.support import attached, put_esp, used_disk

MIB = 1 << 20
GARBAGE = b"\xa5"
DISK_BYTES = 300 * MIB


def table(sector_size: int = 512, *, bios_boot_bytes: int = MIB, root_number: int = 3) -> TablePlan:
    """A disk with what every firmware asks for."""

    def ids(digit: str, role: Role) -> tuple[str, str, str]:
        return f"d0000000-0000-4000-8000-00000000000{digit}", role, TYPES[role]

    esp_bytes = esp_size_bytes(sector_size)
    return TablePlan(
        "d0000000-0000-4000-8000-000000000000",
        sector_size,
        (
            PartitionPlan(1, "bios_boot", 3 * MIB, bios_boot_bytes, *ids("1", "bios_boot")),
            PartitionPlan(2, "esp", 4 * MIB, esp_bytes, *ids("2", "esp")),
            PartitionPlan(root_number, "root", 4 * MIB + esp_bytes, MIB, *ids("3", "root")),
        ),
    )


@pytest.fixture(scope="module")
def code() -> BootCode:
    """Boot code for both firmwares."""
    return make_boot_code(table(), ["bios", "uefi"])


@pytest.fixture
def disk(scratch: Path) -> Path:
    """A disk that held something else."""
    return used_disk(scratch / "disk", DISK_BYTES)


@pytest.fixture
def handle(disk: Path) -> Iterator[int]:
    """The disk, open."""
    opened = os.open(disk, os.O_RDWR)
    yield opened
    os.close(opened)


def assert_garbage(handle: int, start: int, end: int) -> None:
    """Nothing between these bytes was written."""
    assert os.pread(handle, end - start, start) == GARBAGE * (end - start)


def test_only_what_the_firmware_needs_is_made() -> None:
    bios = make_boot_code(table(), ["bios"])
    assert bios.efi_image is None
    assert bios.boot_image is not None
    assert len(bios.boot_image) == 440
    assert bios.core_image is not None
    uefi = make_boot_code(table(), ["uefi"])
    assert uefi.boot_image is None
    assert uefi.core_image is None
    assert uefi.efi_image is not None
    assert make_boot_code(table(), []) == BootCode()


def test_the_root_is_found_by_its_number_on_whatever_drive_was_booted() -> None:
    image = make_boot_code(table(root_number=7), ["uefi"]).efi_image
    assert image is not None
    assert b"\0(,gpt7)/boot/grub\0" in image


def msdos(first_bytes: int = MIB) -> TablePlan:
    """A disk with an msdos table, a boot partition and a root."""
    boot = PartitionPlan(1, "boot", first_bytes, MIB, "12345678-01", "", "83", 1 << 7)
    root = PartitionPlan(2, "root", first_bytes + MIB, MIB, "12345678-02", "", "83")
    return TablePlan("12345678", 512, (boot, root), "msdos")


@pytest.mark.parametrize(
    ("plan", "prefix"),
    [
        (msdos(), b"(,msdos1)/grub"),
        (TablePlan("12345678", 512, msdos().partitions[1:], "msdos"), b"(,msdos2)/boot/grub"),
        (
            TablePlan(table().guid, 512, (*table().partitions, replace(msdos().partitions[0], number=4))),
            b"(,gpt4)/grub",
        ),
    ],
)
def test_the_menu_is_on_the_boot_partition_or_else_on_the_root(plan: TablePlan, prefix: bytes) -> None:
    code = make_boot_code(plan, ["uefi"])
    assert code.efi_image is not None
    assert b"\0" + prefix + b"\0" in code.efi_image


def test_core_img_lies_in_the_gap_behind_an_msdos_table(handle: int, code: BootCode) -> None:
    write_bios(handle, msdos(), code)
    assert code.core_image is not None
    assert struct.unpack("<Q", os.pread(handle, 8, 0x5C)) == (1,)
    start, count, _segment = struct.unpack("<QHH", os.pread(handle, 12, 512 + 500))
    assert (start, count) == (2, -(-len(code.core_image) // 512) - 1)
    assert os.pread(handle, len(code.core_image) - 512, 1024) == code.core_image[512:]
    assert_garbage(handle, 440, 512)
    assert_garbage(handle, 512 + (count + 1) * 512, DISK_BYTES)


def test_the_same_disk_gets_the_same_code(code: BootCode) -> None:
    assert make_boot_code(table(), ["bios", "uefi"]) == code


def test_without_a_root_there_is_nothing_to_boot() -> None:
    with pytest.raises(DeviceError, match="no boot loader without a root partition"):
        make_boot_code(TablePlan("d0000000-0000-4000-8000-000000000000", 512, ()), ["bios"])


def test_boot_img_and_core_img_know_where_they_lie(handle: int, code: BootCode) -> None:
    write_bios(handle, table(), code)
    assert code.core_image is not None
    first_sector = 3 * MIB // 512
    assert struct.unpack("<Q", os.pread(handle, 8, 0x5C)) == (first_sector,)
    start, count, segment = struct.unpack("<QHH", os.pread(handle, 12, 3 * MIB + 500))
    assert (start, count, segment) == (first_sector + 1, -(-len(code.core_image) // 512) - 1, 0x820)
    # From the second sector on it is as grub-mkimage made it, and filled up with zeros.
    assert os.pread(handle, (count + 1) * 512, 3 * MIB)[512:].rstrip(b"\0") == code.core_image[512:].rstrip(b"\0")


def test_what_else_is_on_the_disk_stays(handle: int, code: BootCode) -> None:
    write_bios(handle, table(), code)
    assert_garbage(handle, 440, 3 * MIB)
    assert_garbage(handle, 4 * MIB, DISK_BYTES)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (table(4096), "no BIOS boots a disk with sectors of 4096 bytes: set the variant's layout.firmware to"),
        (table(bios_boot_bytes=64 << 10), r"does not fit in the BIOS boot partition \(partition 1, 65536 bytes\)"),
        (TablePlan("d0000000-0000-4000-8000-000000000000", 512, ()), "no BIOS boot partition"),
        (msdos(63 * 512), r"does not fit in the gap behind the msdos table \(31744 bytes\): make it larger"),
    ],
    ids=["4096-byte sectors", "partition too small", "no partition", "gap too small"],
)
def test_what_cannot_boot_is_refused_before_anything_is_written(
    handle: int, code: BootCode, plan: TablePlan, message: str
) -> None:
    with pytest.raises(DeviceError, match=message):
        write_bios(handle, plan, code)
    assert_garbage(handle, 0, DISK_BYTES)


def test_no_bios_boots_large_sectors() -> None:
    assert bios_refusal(512) is None
    assert bios_refusal(4096) is not None


def test_a_disk_that_ends_too_early_is_named_as_the_cause(scratch: Path, code: BootCode) -> None:
    path = sparse_file(scratch / "short", 3 * MIB + 4096)
    with attached(path) as loop:
        opened = os.open(loop, os.O_RDWR)
        try:
            with pytest.raises(DeviceError, match=r"/dev/loop\d+: cannot be written at byte 3149824"):
                write_bios(opened, table(), code)
        finally:
            os.close(opened)


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_the_esp_is_a_sound_fat32_with_the_loader(scratch: Path, disk: Path, sector_size: int) -> None:
    esp = table(sector_size).find("esp")
    assert esp is not None
    loader = os.urandom(1_000_001)
    # As it is used: while the disk is claimed for us alone.
    with attached(disk, sector_size=sector_size) as loop, claim(loop, scratch / "run"):
        put_esp(loop, esp, sector_size, {REMOVABLE_PATH: loader}, "12ab34cd")
    image = scratch / "esp"
    with disk.open("rb") as file, image.open("wb") as copy:
        file.seek(esp.start_bytes)
        copy.write(file.read(esp.size_bytes))
    check = subprocess.run(["fsck.vfat", "-n", "-v", image], check=False, capture_output=True, text=True)
    assert check.returncode == 0, check.stdout + check.stderr
    assert f"{sector_size} bytes per logical sector" in check.stdout
    assert _blkid(image, "UUID") == "12AB-34CD"
    assert _blkid(image, "VERSION") == "FAT32"
    read = ["mtype", "-i", str(image), "::/EFI/BOOT/BOOTX64.EFI"]
    assert subprocess.run(read, check=True, capture_output=True).stdout == loader


def test_the_esp_is_the_same_each_time_and_leaves_the_rest_of_the_disk_alone(handle: int, disk: Path) -> None:
    esp = table().find("esp")
    assert esp is not None
    end = esp.start_bytes + esp.size_bytes
    put_esp(disk, esp, 512, {REMOVABLE_PATH: b"loader"}, "12ab34cd")
    first = os.pread(handle, esp.size_bytes, esp.start_bytes)
    assert_garbage(handle, 0, esp.start_bytes)
    assert_garbage(handle, end, DISK_BYTES)
    os.pwrite(handle, b"\x5a" * esp.size_bytes, esp.start_bytes)
    put_esp(disk, esp, 512, {REMOVABLE_PATH: b"loader"}, "12ab34cd")
    second = os.pread(handle, esp.size_bytes, esp.start_bytes)
    different = [
        place for place in range(0, esp.size_bytes, 512) if first[place : place + 512] != second[place : place + 512]
    ]
    # What differs was never written, for no file refers to it.
    assert all(first[place] == GARBAGE[0] for place in different)
    assert different


def test_a_disk_that_ends_within_the_esp_is_named(scratch: Path) -> None:
    esp = table().find("esp")
    assert esp is not None
    path = sparse_file(scratch / "short", esp.start_bytes + MIB)
    with attached(path) as loop, pytest.raises(DeviceError, match=f"{loop}: "):
        put_esp(loop, esp, 512, {REMOVABLE_PATH: b"loader"}, "12ab34cd")


def _blkid(image: Path, tag: str) -> str:
    command = ["blkid", "--probe", "--match-tag", tag, "--output", "value", str(image)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
