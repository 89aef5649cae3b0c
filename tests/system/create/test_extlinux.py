"""``create`` with EXTLINUX as the boot loader: nothing of GRUB's on the disk.

That it boots is shown in tests/system/boot.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from tests.system.create.site import Site, debugfs, sfdisk

GIB = 1 << 30
VARIANT = "image: debian-12\nlayout: {firmware: [bios]}\nboot: {loader: extlinux, timeout: 0}\n"


def test_the_boot_code_the_mark_and_the_menu_are_in_place(site: Site) -> None:
    disk = site.disk(3 * GIB)
    with disk.open("r+b") as file:
        file.write(b"\xa5" * (64 << 10))
    site.write("variants/extlinux.yaml", VARIANT)
    outcome = site.created(disk, variant="extlinux")
    assert "extlinux for bios" in outcome.said
    root = sfdisk(disk)["partitions"][-1]
    assert root["attrs"] == "LegacyBIOSBootable"
    with disk.open("rb") as file:
        assert file.read(440).rstrip(b"\0") == Path("/usr/lib/EXTLINUX/gptmbr.bin").read_bytes().rstrip(b"\0")
        file.seek(root["start"] * 512)
        sector = file.read(512)
    assert sector[3:11] == b"SYSLINUX"
    assert struct.unpack_from("<H", sector, 510) == (0xAA55,)
    menu = debugfs(disk, "cat /boot/extlinux/extlinux.conf")
    assert "DEFAULT linux\nPROMPT 0\n" in menu
    assert "LINUX /vmlinuz\n  INITRD /initrd.img\n" in menu
    assert re.findall(r"APPEND (root=UUID=)\S+ ro console=tty0 console=ttyS0,38400n8 quiet", menu)
    assert "ldlinux.sys" in debugfs(disk, "ls /boot/extlinux")
    assert "grub.cfg" not in debugfs(disk, "ls /boot/grub")


def test_links_in_the_tree_lead_extlinux_nowhere(site: Site, tmp_path: Path) -> None:
    """It opens what it finds of its own files to write; a site's hook stands for a hostile image."""
    (precious := tmp_path / "precious").write_text("precious")
    site.write(
        "hooks/zz-links",
        "# after: extlinux\ndef run(guest, context):\n"
        f"    guest.symlink({str(precious)!r}, '/boot/extlinux/ldlinux.sys')\n"
        f"    guest.symlink({str(precious)!r}, '/boot/extlinux/ldlinux.c32')\n",
    )
    site.write("variants/extlinux.yaml", VARIANT)
    site.created(site.disk(3 * GIB), variant="extlinux")
    assert precious.read_text() == "precious"


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ("boot: {loader: extlinux}", "starts from a BIOS alone: set layout.firmware to [bios]"),
        ("layout: {firmware: [bios], filesystem: xfs}\nboot: {loader: extlinux}", "the root is xfs"),
        ("layout: {firmware: [bios]}\nboot: {loader: extlinux}\nisolation: appliance", "set isolation to auto"),
    ],
)
def test_what_it_cannot_boot_is_refused_before_the_disk_is_touched(site: Site, variant: str, message: str) -> None:
    disk = site.disk(3 * GIB)
    site.write("variants/extlinux.yaml", f"image: debian-12\n{variant}\n")
    outcome = site.create(disk, variant="extlinux")
    assert outcome.status == 2
    assert message in outcome.last_line
    assert disk.stat().st_blocks == 0


def test_a_node_without_it_refuses_before_the_disk_is_touched(site: Site) -> None:
    disk = site.disk(3 * GIB)
    site.write("variants/extlinux.yaml", VARIANT)
    outcome = site.create_without("/usr/lib/EXTLINUX", disk, variant="extlinux")
    assert outcome.status == 2, outcome.said
    assert "this node does not have it: apt install extlinux" in outcome.last_line
    assert disk.stat().st_blocks == 0
