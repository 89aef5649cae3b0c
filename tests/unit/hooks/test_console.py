"""The hook console: a login prompt where the hypervisor has its serial console."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.boot_context import boot_context, run_hook

WANTS = "etc/systemd/system/getty.target.wants"
INITTAB = """\
id:2:initdefault:
1:2345:respawn:/sbin/getty 38400 tty1
#T0:23:respawn:/sbin/getty -L ttyS0 9600 vt100
"""
OURS = """\
# osprovider: the serial console
osS0:2345:respawn:/sbin/getty -L ttyS0 38400 vt100
"""


@pytest.fixture
def systemd(tmp_path: Path) -> Path:
    """A guest with systemd."""
    units = tmp_path / "usr/lib/systemd/system"
    units.mkdir(parents=True)
    (units / "serial-getty@.service").touch()
    return tmp_path


@pytest.fixture
def inittab(tmp_path: Path) -> Path:
    """A guest with sysvinit; its /etc/inittab."""
    path = tmp_path / "etc/inittab"
    path.parent.mkdir()
    path.write_text(INITTAB)
    return path


@pytest.mark.parametrize("device", ["ttyS0", "ttyS1", "hvc0"])
def test_systemd_starts_a_getty_there(systemd: Path, device: str) -> None:
    run_hook("console", systemd, boot_context(serial=(device, 115200)))
    (link,) = (systemd / WANTS).iterdir()
    assert link.name == f"serial-getty@{device}.service"
    assert str(link.readlink()) == "/usr/lib/systemd/system/serial-getty@.service"


def test_units_where_lib_is_a_directory_of_its_own_are_found(tmp_path: Path) -> None:
    units = tmp_path / "lib/systemd/system"
    units.mkdir(parents=True)
    (units / "serial-getty@.service").touch()
    run_hook("console", tmp_path, boot_context())
    assert (
        str((tmp_path / WANTS / "serial-getty@ttyS0.service").readlink()) == "/lib/systemd/system/serial-getty@.service"
    )


def test_sysvinit_starts_a_getty_there(inittab: Path) -> None:
    run_hook("console", inittab.parents[1], boot_context())
    assert inittab.read_text() == INITTAB + OURS


def test_a_getty_that_the_guest_has_is_kept_as_it_is(inittab: Path) -> None:
    own = INITTAB.replace("#T0", "T0")
    inittab.write_text(own)
    run_hook("console", inittab.parents[1], boot_context())
    assert inittab.read_text() == own


def test_a_last_line_without_its_end_stays_a_line(inittab: Path) -> None:
    inittab.write_text(INITTAB.rstrip("\n"))
    run_hook("console", inittab.parents[1], boot_context())
    assert inittab.read_text() == INITTAB + OURS


def test_running_twice_changes_nothing(inittab: Path) -> None:
    for _ in range(2):
        run_hook("console", inittab.parents[1], boot_context())
    assert inittab.read_text() == INITTAB + OURS


def test_another_console_takes_the_place_of_ours(inittab: Path) -> None:
    run_hook("console", inittab.parents[1], boot_context(serial=("ttyS1", 9600)))
    run_hook("console", inittab.parents[1], boot_context())
    assert inittab.read_text() == INITTAB + OURS


def test_without_a_serial_console_nothing_is_written(systemd: Path, inittab: Path) -> None:
    run_hook("console", systemd, boot_context(serial=None))
    assert not (systemd / WANTS).exists()
    assert inittab.read_text() == INITTAB
