"""The hook kernel-args: boot entries of the guest's own get the instance's console and arguments, once."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from osprovider.config.model import Boot, Variant
from osprovider.customize.context import Context
from tests.support.boot_context import boot_context, run_hook

VARIANT = Variant(boot=Boot(kernel_args=("quiet", "panic=10")))
CONSOLES = "console=tty0 console=ttyS0,38400n8"

GRUB = """\
menuentry 'Debian GNU/Linux' {{
\tsearch --no-floppy --fs-uuid --set=root 5d0f
\techo\t'Loading Linux ...'
\tlinux\t/boot/vmlinuz-6.1.0-1-amd64 root=UUID=5d0f {arguments}
\tinitrd\t/boot/initrd.img-6.1.0-1-amd64
}}
menuentry 'UEFI' {{
\tlinuxefi /vmlinuz-5.14 root=UUID=5d0f {arguments}
\tlinux16 /boot/memtest86+.bin console=ttyS0,115200
}}
"""
BLS = (
    "title Fedora\nversion 6.11\nlinux /vmlinuz-6.11\ninitrd /initramfs-6.11.img\noptions root=UUID=5d0f {arguments}\n"
)
BY_VARIABLE = "title Rocky 8\nlinux /vmlinuz-4.18\noptions $kernelopts $tuned_params\n"
ALPINE_MENU = (
    "DEFAULT menu.c32\nSERIAL {serial}\nLABEL virt\n  LINUX vmlinuz-virt\n  APPEND root=UUID=5d0f {arguments}\n"
)
ALPINE_SETTINGS = """\
# configuration for extlinux config builder
default_kernel_opts="{arguments}"
modules=ext4
serial_port={port}
serial_baud={baud}
"""
BEFORE = {"arguments": "ro console=tty1 net.ifnames=0 console=ttyS0,115200n8 quiet"}
AFTER = {"arguments": f"ro net.ifnames=0 quiet panic=10 {CONSOLES}"}


def environment_block(options: str) -> str:
    """A GRUB environment block, which a bootcount and the kernel's options stand in."""
    return f"# GRUB Environment Block\nsaved_entry=0\nkernelopts={options}\nboot_success=1\n".ljust(1024, "#")


FILES = {
    "boot/grub/grub.cfg": (GRUB.format(**BEFORE), GRUB.format(**AFTER)),
    "boot/efi/EFI/centos/grub.cfg": (GRUB.format(**BEFORE), GRUB.format(**AFTER)),
    "efi/efi/alpine/grub.cfg": (GRUB.format(**BEFORE), GRUB.format(**AFTER)),
    "boot/loader/entries/fedora.conf": (BLS.format(**BEFORE), BLS.format(**AFTER)),
    "boot/loader/entries/rocky.conf": (BY_VARIABLE, BY_VARIABLE),
    "boot/grub2/grubenv": (environment_block(BEFORE["arguments"]), environment_block(AFTER["arguments"])),
    "etc/kernel/cmdline": (BEFORE["arguments"] + "\n", AFTER["arguments"] + "\n"),
    "boot/extlinux.conf": (
        ALPINE_MENU.format(serial="0 115200", **BEFORE),
        ALPINE_MENU.format(serial="0 38400", **AFTER),
    ),
    "etc/update-extlinux.conf": (
        ALPINE_SETTINGS.format(port="", baud="115200", **BEFORE),
        ALPINE_SETTINGS.format(port="0", baud="38400", **AFTER),
    ),
}


def write(root: Path, name: str, text: str) -> Path:
    """A file of the guest's."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", FILES)
def test_arguments_are_added_and_consoles_make_way_once(tmp_path: Path, name: str) -> None:
    before, after = FILES[name]
    path = write(tmp_path, name, before)
    for _ in range(2):
        run_hook("kernel-args", tmp_path, boot_context(variant=VARIANT))
        assert path.read_text() == after


@pytest.mark.parametrize("name", FILES)
def test_without_a_serial_console_the_images_own_stays(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, name, FILES[name][0])
    run_hook("kernel-args", tmp_path, boot_context(variant=VARIANT, serial=None))
    text = path.read_text()
    assert text.count("console=") == FILES[name][0].count("console=")
    assert ("SERIAL 0 115200" in text) == ("SERIAL 0 115200" in FILES[name][0])
    assert ("panic=10" in text) == (FILES[name][0] != BY_VARIABLE)


def test_a_menu_without_a_serial_line_gets_one(tmp_path: Path) -> None:
    path = write(tmp_path, "boot/extlinux/extlinux.conf", "DEFAULT x\nLABEL x\n\tKERNEL /vmlinuz\n\tappend ro quiet")
    run_hook("kernel-args", tmp_path, boot_context(variant=VARIANT))
    expected = f"SERIAL 0 38400\nDEFAULT x\nLABEL x\n\tKERNEL /vmlinuz\n\tappend ro quiet panic=10 {CONSOLES}"
    assert path.read_text() == expected


def test_an_environment_block_that_is_full_stays_and_is_told_of(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    full = f"# GRUB Environment Block\nkernelopts={'x' * 980}\n".ljust(1024, "#")
    path = write(tmp_path, "boot/grub2/grubenv", full)
    run_hook("kernel-args", tmp_path, boot_context(variant=VARIANT))
    assert path.read_text() == full
    assert "/boot/grub2/grubenv of the guest keeps its kernel arguments" in "".join(capfd.readouterr())


def test_a_menu_of_ours_is_the_other_hooks(tmp_path: Path) -> None:
    run_hook("grub", tmp_path, boot_context())
    before = (tmp_path / "boot/grub/grub.cfg").read_text()
    run_hook("kernel-args", tmp_path, boot_context(variant=VARIANT))
    assert (tmp_path / "boot/grub/grub.cfg").read_text() == before


@pytest.mark.parametrize(
    "context",
    [
        boot_context(variant=VARIANT, external_kernel=True),
        boot_context(variant=Variant(boot=Boot(loader="none"))),
        dataclasses.replace(boot_context(variant=VARIANT), manifest=None),
    ],
    ids=["external kernel", "no loader wanted", "rename"],
)
def test_where_the_disk_does_not_boot_by_itself_nothing_changes(tmp_path: Path, context: Context) -> None:
    paths = {write(tmp_path, name, before): before for name, (before, _) in FILES.items() if "loader" not in name}
    run_hook("kernel-args", tmp_path, context)
    assert {path: path.read_text() for path in paths} == paths


def test_what_cannot_be_read_is_told_of_and_stays(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "boot/loader/entries").mkdir(parents=True)
    (tmp_path / "boot/loader/entries/huge.conf").write_bytes(b"\n" * ((16 << 20) + 1))
    run_hook("kernel-args", tmp_path, boot_context(variant=VARIANT))
    assert "huge.conf" in "".join(capfd.readouterr())


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("unit", [" ", "x", "=", "search --fs-uuid ", "linux vmlinu", 'serial_port="'])
def test_a_long_line_of_somebody_elses_takes_no_longer_than_reading_it(tmp_path: Path, name: str, unit: str) -> None:
    """A time that grew with the square of its length would be noticed: nobody would wait for it."""
    first = FILES[name][0].splitlines()[-1]
    path = write(tmp_path, name, f"{first}{unit * (4_000_000 // len(unit))}\n{unit * (4_000_000 // len(unit))}y\n")
    run_hook("kernel-args", tmp_path, boot_context(variant=VARIANT))
    run_hook("grub", tmp_path, boot_context(variant=VARIANT))
    assert path.exists()
