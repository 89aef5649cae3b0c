"""A guest that has a signed shim and a signed GRUB boots with them, where Secure Boot lets nothing else."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.leftovers import no_leftovers
from tests.support.qemu import Firmware, boot
from tests.system.boot.matrix import log_in_as_root, make_site, prepare, write_variant

MIB = 1 << 20
PACKAGES = ("grub-efi-amd64-signed", "shim-signed", "shim-helpers-amd64-signed", "shim-unsigned")
# What the packages bring stands for packages in the image: one less to build.
HOOK = """\
# before: grub
from pathlib import Path
def run(guest, context):
    guest.copy_in(Path({tree!r}), "/usr")
"""


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """What Debian's packages have below /usr."""
    subprocess.run(["apt-get", "-q", "download", *PACKAGES], cwd=tmp_path, check=True, capture_output=True)
    for name in PACKAGES:
        (package,) = tmp_path.glob(f"{name}_*.deb")
        subprocess.run(["dpkg-deb", "--extract", package, tmp_path / "tree"], check=True)
    return tmp_path / "tree/usr"


def test_the_guests_signed_loaders_boot_it_with_secure_boot(scratch: Path, run_directory: Path, packages: Path) -> None:
    prepared = prepare(run_directory)
    with no_leftovers([scratch]):
        site = make_site(scratch, prepared)
        site.write("hooks/signed", HOOK.format(tree=str(packages)))
        write_variant(site, {})
        disk = site.disk(1280 * MIB)
        site.created(disk, variant="cell", nics=[])
    (directory := scratch / "machine").mkdir()
    with boot(disk, directory, firmware=Firmware.SECURE) as guest:
        shell = log_in_as_root(guest)
        # The variable's attributes, four bytes, and its value.
        assert shell.ask("od -An -tu1 -j4 /sys/firmware/efi/efivars/SecureBoot-*") == "1"
        assert "Secure boot enabled" in shell.ask("dmesg | grep secureboot")
        assert sorted(shell.ask("cd /boot/efi && find . -type f").split()) == [
            "./EFI/BOOT/BOOTX64.EFI",
            "./EFI/BOOT/grubx64.efi",
            "./EFI/debian/grub.cfg",
        ]
        assert "error:" not in guest.console.text()
        # As an upgrade runs it with the answers of the hook grub: it leads to the menu in the same words, and leaves
        # the removable path without shim's fallback, which would look for boot entries to make at every start.
        words = "tr -s '\\n' ' ' </boot/efi/EFI/debian/grub.cfg"
        before = shell.ask(words)
        shell.ask("grub-install --target=x86_64-efi --force-extra-removable --no-nvram 2>&1")
        assert shell.ask(words).split() == before.split()
        assert set(shell.ask("ls /boot/efi/EFI/BOOT").split()) == {"BOOTX64.EFI", "grubx64.efi", "mmx64.efi"}
