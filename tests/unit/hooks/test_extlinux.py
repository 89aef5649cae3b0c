"""The hook extlinux: the menu of a loader without a menu."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from osprovider.config.model import Boot, Layout, Variant
from osprovider.customize.context import Context, ContextPartition
from osprovider.ganeti.hypervisor import SerialConsole
from osprovider.manifest import Kernel
from tests.support.boot_context import ROOT_GUID, ROOT_UUID, boot_context, run_hook

MENU = "boot/extlinux/extlinux.conf"
VARIANT = Variant(layout=Layout(firmware=("bios",)), boot=Boot(loader="extlinux", timeout=3))
KERNELS = (
    Kernel("6.1.0-2-amd64", "/boot/vmlinuz-6.1.0-2-amd64", "/boot/initrd.img-6.1.0-2-amd64"),
    Kernel("6.1.0-1-amd64", "/boot/vmlinuz-6.1.0-1-amd64", None),
)
CONSOLES = "console=tty0 console=ttyS0,38400n8"
GOLDEN = f"""\
# Made by osprovider for this instance; change it as you like after taking this line away.
SERIAL 0 38400
DEFAULT 6.1.0-2-amd64
PROMPT 1
TIMEOUT 30

LABEL 6.1.0-2-amd64
  LINUX /boot/vmlinuz-6.1.0-2-amd64
  INITRD /boot/initrd.img-6.1.0-2-amd64
  APPEND root=UUID={ROOT_UUID} ro {CONSOLES} quiet

LABEL 6.1.0-1-amd64
  LINUX /boot/vmlinuz-6.1.0-1-amd64
  APPEND root=PARTUUID={ROOT_GUID} ro {CONSOLES} quiet
"""


def context(variant: Variant = VARIANT, **changes: object) -> Context:
    """What the hook is told."""
    return dataclasses.replace(boot_context(variant=variant, kernels=KERNELS), **changes)  # type: ignore[arg-type]


def test_the_menu_has_each_kernel(tmp_path: Path) -> None:
    run_hook("extlinux", tmp_path, context())
    assert (tmp_path / MENU).read_text() == GOLDEN
    run_hook("extlinux", tmp_path, context())
    assert (tmp_path / MENU).read_text() == GOLDEN


def test_the_link_that_debian_keeps_to_its_newest_kernel_comes_first(tmp_path: Path) -> None:
    (tmp_path / "boot").mkdir()
    for name, target in (("vmlinuz", "boot/vmlinuz-6.1.0-2-amd64"), ("initrd.img", "boot/initrd.img-6.1.0-2-amd64")):
        (tmp_path / target).touch()
        (tmp_path / name).symlink_to(target)
    run_hook("extlinux", tmp_path, context())
    menu = (tmp_path / MENU).read_text()
    assert "DEFAULT linux\n" in menu
    assert f"LABEL linux\n  LINUX /vmlinuz\n  INITRD /initrd.img\n  APPEND root=UUID={ROOT_UUID}" in menu


def test_on_a_boot_partition_kernels_lie_at_its_top(tmp_path: Path) -> None:
    boot = ContextPartition(1, "boot", 1 << 20, 1 << 30, ROOT_GUID, "ext4", ROOT_UUID)
    made = context()
    disk = dataclasses.replace(made.disks[0], partitions=(boot, *made.disks[0].partitions))
    run_hook("extlinux", tmp_path, dataclasses.replace(made, disks=(disk,)))
    assert "LINUX /vmlinuz-6.1.0-2-amd64\n  INITRD /initrd.img-6.1.0-2-amd64\n" in (tmp_path / MENU).read_text()


@pytest.mark.parametrize("serial", [None, SerialConsole("hvc0", 38400)])
def test_no_serial_port_is_used_that_is_none(tmp_path: Path, serial: SerialConsole | None) -> None:
    run_hook("extlinux", tmp_path, context(serial_console=serial))
    assert "SERIAL" not in (tmp_path / MENU).read_text()


def test_without_a_time_to_wait_there_is_no_prompt(tmp_path: Path) -> None:
    run_hook("extlinux", tmp_path, context(Variant(boot=Boot(loader="extlinux", timeout=0))))
    assert "PROMPT 0\nTIMEOUT 0\n" in (tmp_path / MENU).read_text()


def test_a_menu_of_the_guests_own_stays(tmp_path: Path) -> None:
    (tmp_path / MENU).parent.mkdir(parents=True)
    (tmp_path / MENU).write_text("DEFAULT mine\n")
    run_hook("extlinux", tmp_path, context())
    assert (tmp_path / MENU).read_text() == "DEFAULT mine\n"


@pytest.mark.parametrize("made", [boot_context(), context(external_kernel=True), context(disks=())])
def test_it_writes_nothing_where_it_is_not_the_loader(tmp_path: Path, made: Context) -> None:
    run_hook("extlinux", tmp_path, made)
    assert list(tmp_path.rglob("*")) == []
