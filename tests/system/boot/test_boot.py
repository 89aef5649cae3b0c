"""A disk with our boot code boots under each firmware, and goes on doing so after the guest's own update-grub.

These tests take long, a minute each: a kernel is emulated. What can be seen without booting is tested beside them.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from osprovider.config.model import Layout
from osprovider.disk.bootloader import make_boot_code, write_bios
from osprovider.disk.device import claim
from osprovider.disk.esp import REMOVABLE_PATH, make_esp
from osprovider.disk.table import write_table
from osprovider.layout import DiskFacts, TablePlan, lay_out
from tests.support.boot_context import ROOT_UUID
from tests.support.qemu import Firmware, Guest, boot
from tests.system.boot.conftest import System
from tests.system.disk.support import attached

_DISK_BYTES = 2 << 30
_INSTANCE_UUID = "3f2a1c5e-0d4b-4c6a-9e8f-1a2b3c4d5e6f"


@dataclass(frozen=True, slots=True)
class Cell:
    """One way to boot."""

    firmware: Firmware
    sector_size: int

    def __str__(self) -> str:
        return f"{self.firmware}-{self.sector_size}"


@pytest.fixture(params=[Cell(Firmware.BIOS, 512), Cell(Firmware.UEFI, 512), Cell(Firmware.UEFI, 4096)], ids=str)
def cell(request: pytest.FixtureRequest) -> Cell:
    """The way to boot."""
    wanted: Cell = request.param
    return wanted


@pytest.fixture
def disk(scratch: Path, system: System, cell: Cell) -> Path:
    """A disk with the system on it."""
    path = scratch / "disk"
    firmware = ("bios", "uefi") if cell.sector_size == 512 else ("uefi",)
    table = lay_out(DiskFacts(_DISK_BYTES, cell.sector_size), Layout(), firmware, 0, _INSTANCE_UUID, str(path))
    path.touch()
    os.truncate(path, _DISK_BYTES)
    _write_root(path, table, system.tree)
    with attached(path, sector_size=cell.sector_size) as loop, claim(loop, scratch / "run") as device:
        code = make_boot_code(table, firmware)
        if code.core_image:
            write_bios(device.fd, table, code)
        esp = table.find("esp")
        assert esp is not None
        assert code.efi_image is not None
        make_esp(loop, esp, cell.sector_size, {REMOVABLE_PATH: code.efi_image}, "12ab34cd")
        write_table(device, table)
    return path


def test_a_disk_boots_and_still_does_after_the_guests_update_grub(disk: Path, system: System, cell: Cell) -> None:
    first, made_by_us = _boot_and(disk, system, cell, "update-grub && sync")
    second, made_by_guest = _boot_and(disk, system, cell, "true")
    assert made_by_us.startswith("# Made by osprovider")
    assert "BEGIN /etc/grub.d/10_linux" in made_by_guest
    assert first.split() == second.split()
    expected = f"root=UUID={ROOT_UUID} ro console=tty0 console=ttyS0,38400n8 quiet net.ifnames=0"
    assert first.split()[1:] == expected.split()


def _boot_and(disk: Path, system: System, cell: Cell, command: str) -> tuple[str, str]:
    """Boot, see that all is well, run `command` in the guest, and return the kernel's command line and the menu."""
    (directory := disk.parent / f"machine-{len(list(disk.parent.iterdir()))}").mkdir()
    with boot(
        disk, directory, system.key, firmware=cell.firmware, sector_size=cell.sector_size, keep_disk=False
    ) as guest:
        guest.wait_for_console(r"^web1 login:", 300)
        assert _complaints(guest.console.text()) == []
        guest.wait_for_ssh()
        assert _ask(guest, "findmnt --noheadings --output UUID /") == ROOT_UUID
        assert _ask(guest, "findmnt --noheadings --output UUID /boot/efi") == "12AB-34CD"
        assert _ask(guest, "test -d /sys/firmware/efi && echo uefi || echo bios") == cell.firmware
        assert _ask(guest, "systemctl is-active serial-getty@ttyS0.service") == "active"
        assert _ask(guest, "stty --file=/dev/ttyS0 speed") == "38400"
        seen = _ask(guest, "cat /proc/cmdline"), _ask(guest, "cat /boot/grub/grub.cfg")
        _ask(guest, command)
        guest.ssh(["poweroff", "--force"], check=False)
        guest.wait_for_end(60)
    return seen


def _complaints(console: str) -> list[str]:
    """What GRUB complains of, a missing module say; not that this machine has no graphics, which UEFI's GRUB tries."""
    return re.findall(r"^\s*(error: (?!no suitable video mode found).*)", console, re.MULTILINE)


def _ask(guest: Guest, command: str) -> str:
    return guest.ssh(["sh", "-c", command]).stdout.strip()


def _write_root(disk: Path, table: TablePlan, tree: Path) -> None:
    root = table.find("root")
    assert root is not None
    place = ["-E", f"offset={root.start_bytes}", str(disk), f"{root.size_bytes // 1024}k"]
    subprocess.run(["mkfs.ext4", "-q", "-F", "-U", ROOT_UUID, "-d", str(tree), *place], check=True, capture_output=True)
