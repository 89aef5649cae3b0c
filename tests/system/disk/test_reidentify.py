"""What named the image's file systems and partitions names the instance's afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from osprovider.disk.reidentify import new_names, rewrite
from osprovider.guest.host import HostGuest
from osprovider.images.manifest import Filesystem, ImagePartition, ImageTable
from osprovider.layout import PartitionPlan, TablePlan, TableType

ROOT, NEW_ROOT = "11111111-aaaa-4aaa-8aaa-111111111111", "99999999-bbbb-4bbb-8bbb-999999999999"
ESP, NEW_ESP = "1234-ABCD", "FEDC-9876"
PART, NEW_PART = "33333333-cccc-4ccc-8ccc-333333333333", "77777777-dddd-4ddd-8ddd-777777777777"
NAMES = {ROOT: NEW_ROOT, ESP: NEW_ESP, PART: NEW_PART}


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[HostGuest]:
    """An empty tree at ``tmp_path``."""
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield HostGuest(fd)
    os.close(fd)


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        ("/etc/fstab", f"UUID={ROOT} / ext4 defaults 0 1\n", f"UUID={NEW_ROOT} / ext4 defaults 0 1\n"),
        ("/etc/fstab", f"UUID={ESP} /boot/efi vfat\n", f"UUID={NEW_ESP} /boot/efi vfat\n"),
        ("/etc/fstab", f"UUID={ESP.lower()} /boot/efi vfat\n", f"UUID={NEW_ESP} /boot/efi vfat\n"),
        ("/etc/fstab", f'PARTUUID="{PART}" / ext4\n', f'PARTUUID="{NEW_PART}" / ext4\n'),
        ("/etc/fstab", f"/dev/disk/by-uuid/{ROOT} / ext4\n", f"/dev/disk/by-uuid/{NEW_ROOT} / ext4\n"),
        ("/etc/crypttab", f"data UUID={ROOT.upper()} none\n", f"data UUID={NEW_ROOT} none\n"),
        ("/boot/grub/grub.cfg", f"search --fs-uuid --set=root {ROOT}\n", f"search --fs-uuid --set=root {NEW_ROOT}\n"),
        ("/boot/grub2/grub.cfg", f"root=UUID={ROOT} ro\n", f"root=UUID={NEW_ROOT} ro\n"),
        ("/boot/efi/EFI/debian/grub.cfg", f"search.fs_uuid {ROOT} root\n", f"search.fs_uuid {NEW_ROOT} root\n"),
        ("/boot/loader/entries/a.conf", f"options root=PARTUUID={PART}\n", f"options root=PARTUUID={NEW_PART}\n"),
        ("/etc/kernel/cmdline", f"root=UUID={ROOT}", f"root=UUID={NEW_ROOT}"),
        ("/etc/grub.d/40_custom", f"search --fs-uuid {ROOT}\n", f"search --fs-uuid {NEW_ROOT}\n"),
        ("/etc/systemd/system/srv.mount", f"What=/dev/disk/by-uuid/{ROOT}\n", f"What=/dev/disk/by-uuid/{NEW_ROOT}\n"),
        ("/boot/grub2/i386-pc/load.cfg", f"search.fs_uuid {ROOT} root\n", f"search.fs_uuid {NEW_ROOT} root\n"),
        ("/efi/loader/entries/a.conf", f"options root=UUID={ROOT}\n", f"options root=UUID={NEW_ROOT}\n"),
        ("/etc/initramfs-tools/conf.d/resume", f"RESUME=UUID={ROOT}\n", f"RESUME=UUID={NEW_ROOT}\n"),
    ],
)
def test_names_follow_in_any_spelling(path: str, old: str, new: str, guest: HostGuest) -> None:
    guest.write(path, old)
    assert rewrite(guest, NAMES) == 1
    assert guest.read_text(path) == new


def _table(kind: str, name: str, filesystem: str, *, guid: str) -> ImageTable:
    held = Filesystem("ext4", filesystem, "", 4096, 1 << 20, 1 << 20)
    part = ImagePartition(1, "root", 1 << 20, 1 << 20, "83", guid, "", 0, held, "/")
    return ImageTable(kind, name, 512, (part,))


def _planned(kind: TableType, name: str, guid: str) -> TablePlan:
    part = PartitionPlan(1, "root", 1 << 20, 1 << 20, guid, "", "83", 0, "ext4", NEW_ROOT, "/")
    return TablePlan(name, 512, (part,), kind)


def test_a_gpts_names_are_those_of_disk_partitions_and_file_systems() -> None:
    disk, new_disk = PART.replace("3", "4"), PART.replace("3", "5")
    names = new_names(_table("gpt", disk, ROOT, guid=PART), _planned("gpt", new_disk, NEW_PART))
    assert names == {disk: new_disk, PART: NEW_PART, ROOT: NEW_ROOT}


def test_an_msdos_tables_signature_alone_is_no_name() -> None:
    names = new_names(_table("msdos", "00000000", ROOT, guid=""), _planned("msdos", "1234abcd", "1234abcd-01"))
    assert names == {"00000000-01": "1234abcd-01", ROOT: NEW_ROOT}


def test_doing_it_twice_changes_nothing(guest: HostGuest) -> None:
    guest.write("/etc/fstab", f"UUID={ROOT} / ext4 defaults 0 1\n")
    assert rewrite(guest, NAMES) == 1
    assert rewrite(guest, NAMES) == 0


def test_names_that_two_exchange_are_exchanged_once(guest: HostGuest) -> None:
    guest.write("/etc/fstab", f"UUID={ROOT} /\nUUID={PART} /srv\n")
    rewrite(guest, {ROOT: PART, PART: ROOT})
    assert guest.read_text("/etc/fstab") == f"UUID={PART} /\nUUID={ROOT} /srv\n"


@pytest.mark.parametrize("text", [f"UUID={ROOT}0 /\n", f"UUID=f{ROOT} /\n", "# nothing to see\n", f"UUID={ESP}EF /x\n"])
def test_what_only_looks_like_a_name_stays(text: str, guest: HostGuest) -> None:
    guest.write("/etc/fstab", text)
    assert rewrite(guest, NAMES) == 0
    assert guest.read_text("/etc/fstab") == text


def test_a_files_mode_stays_and_bytes_that_are_no_utf8_too(guest: HostGuest, tmp_path: Path) -> None:
    guest.write("/etc/kernel/cmdline", b"name=\xe9 root=UUID=" + ROOT.encode(), mode=0o640)
    rewrite(guest, NAMES)
    assert guest.read("/etc/kernel/cmdline") == b"name=\xe9 root=UUID=" + NEW_ROOT.encode()
    assert (tmp_path / "etc/kernel/cmdline").stat().st_mode & 0o777 == 0o640


def test_a_file_that_cannot_be_read_is_kept_and_told_of(
    guest: HostGuest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "boot/grub").mkdir(parents=True)
    with (tmp_path / "boot/grub/grub.cfg").open("wb") as file:
        file.truncate(17 << 20)
    guest.write("/etc/fstab", f"UUID={ROOT} /\n")
    assert rewrite(guest, NAMES) == 1
    assert "/boot/grub/grub.cfg" in capsys.readouterr().err


def test_other_files_are_not_touched(guest: HostGuest) -> None:
    guest.write("/home/user/notes", f"UUID={ROOT}\n")
    assert rewrite(guest, NAMES) == 0
