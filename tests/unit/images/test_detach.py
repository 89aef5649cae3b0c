"""What an unpacked system knows of its old disk is taken out; everything else stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from osprovider.images.detach import detach
from tests.support.guests import directory_guest


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An installed system's files."""
    for directory in ("etc", "boot/grub"):
        (tmp_path / directory).mkdir(parents=True)
    return tmp_path


def test_lines_of_file_systems_that_stayed_behind_are_gone(root: Path) -> None:
    behind = [
        "UUID=0b6c5a42-7f3e-5d4e-9a11-3c5d7e9f1b23 / ext4 errors=remount-ro 0 1",
        'PARTUUID="24904288-01" /boot ext4 defaults 0 2',
        "LABEL=data /srv xfs defaults 0 2",
        "PARTLABEL=swap none swap sw 0 0",
        "/dev/vda2 none swap sw 0 0",
        "/dev/mapper/vg-home\t/home ext4 defaults 0 2",
        "/dev/srv/www /var/www ext4 defaults 0 2",
        "/dev/fd-vg/data /data ext4 defaults 0 2",
    ]
    stay = [
        "# / was on /dev/sda1 during installation",
        "",
        "tmpfs /tmp tmpfs size=1g 0 0",
        "nas.example.org:/export /mnt nfs defaults 0 0",
        "//nas.example.org/share /mnt/share cifs guest 0 0",
        "/swapfile none swap sw 0 0",
        "/dev/sr0 /media/cdrom0 udf,iso9660 user,noauto 0 0",
        "/dev/fd0 /media/floppy0 auto user,noauto 0 0",
    ]
    mixed = [stay[0], behind[0], *behind[1:3], *stay[1:3], *behind[3:], *stay[3:]]
    (root / "etc/fstab").write_text("".join(f"{line}\n" for line in mixed))
    with directory_guest(root) as guest:
        assert list(detach(guest)) == behind
    assert (root / "etc/fstab").read_text().splitlines() == stay


def test_the_menu_is_gone_and_the_rest_of_grub_stays(root: Path) -> None:
    for name in ("grub.cfg", "device.map", "custom.cfg"):
        (root / "boot/grub" / name).write_text("search --fs-uuid --set=root 0b6c5a42\n")
    with directory_guest(root) as guest:
        detach(guest)
    assert [path.name for path in (root / "boot/grub").iterdir()] == ["custom.cfg"]


def test_nothing_that_stayed_behind_is_decrypted(root: Path) -> None:
    """systemd-cryptsetup-generator(8) would have each boot wait for it."""
    behind = [
        "cryptswap1 UUID=0b6c5a42-7f3e-5d4e-9a11-3c5d7e9f1b23 /dev/urandom swap,cipher=aes-xts-plain64",
        "\tdata\t/dev/vda5 none luks",
    ]
    stay = [
        "# <name> <device> <key> <options>",
        "#old /dev/vda6 none luks",
        "",
        "vault /srv/vault.img none luks,noauto",
    ]
    (root / "etc/crypttab").write_text("".join(f"{line}\n" for line in [*stay[:2], *behind, *stay[2:]]))
    with directory_guest(root) as guest:
        assert detach(guest) == ()
    assert (root / "etc/crypttab").read_text().splitlines() == stay


def test_a_tree_without_either_stays_as_it_is(root: Path) -> None:
    with directory_guest(root) as guest:
        assert detach(guest) == ()
    assert not (root / "etc/fstab").exists()
