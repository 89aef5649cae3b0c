"""What named the image's file systems and partitions names the instance's afterwards."""

from __future__ import annotations

import dataclasses
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from osprovider.disk.reidentify import renaming, rewrite
from osprovider.disk.renaming import NewNames, Renaming
from osprovider.errors import GuestError
from osprovider.guest.host import HostGuest
from osprovider.layout import PartitionPlan, TablePlan, TableType
from osprovider.manifest import Filesystem, ImagePartition, ImageTable, Kernel, Manifest
from tests.support.guests import directory_guest
from tests.support.manifests import manifest
from tests.support.sparse import sparse_file

ROOT, NEW_ROOT = "11111111-aaaa-4aaa-8aaa-111111111111", "99999999-bbbb-4bbb-8bbb-999999999999"
ESP, NEW_ESP = "1234-ABCD", "FEDC-9876"
PART, NEW_PART = "33333333-cccc-4ccc-8ccc-333333333333", "77777777-dddd-4ddd-8ddd-777777777777"
WORDS = {ROOT: NEW_ROOT, ESP: NEW_ESP, PART: NEW_PART}
NAMES = Renaming(WORDS, {1: NewNames(NEW_ROOT, NEW_PART)}, has_initrd=True)
ESCAPED, NEW_ESCAPED = (name.replace("-", r"\x2d") for name in (ROOT, NEW_ROOT))
UNITS = "/etc/systemd/system"


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[HostGuest]:
    """An empty tree at ``tmp_path``."""
    with directory_guest(tmp_path) as guest:
        yield guest


@pytest.mark.parametrize("place", ["etc/grub.d", "etc/systemd/system/x.wants"])
def test_so_many_files_that_nobody_would_wait_for_them_are_refused(
    guest: HostGuest, tmp_path: Path, place: str
) -> None:
    (tmp_path / place).mkdir(parents=True)
    for number in range(1000):
        (tmp_path / place / f"{number}.swap").touch()
    rewrite(guest, NAMES)
    (tmp_path / place / "1000.swap").touch()
    with pytest.raises(
        GuestError, match=rf"/{place[:5]}.* of the guest: more than 1000 files .*; remove from the image"
    ):
        rewrite(guest, NAMES)


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
        ("/boot/grub2/bootuuid.cfg", f'set BOOT_UUID="{ROOT}"\n', f'set BOOT_UUID="{NEW_ROOT}"\n'),
        ("/boot/grub2/grub.cfg", f"root=UUID={ROOT} ro\n", f"root=UUID={NEW_ROOT} ro\n"),
        ("/boot/efi/EFI/debian/grub.cfg", f"search.fs_uuid {ROOT} root\n", f"search.fs_uuid {NEW_ROOT} root\n"),
        ("/efi/efi/alpine/grub.cfg", f"search.fs_uuid {ROOT} root\n", f"search.fs_uuid {NEW_ROOT} root\n"),
        ("/boot/loader/entries/a.conf", f"options root=PARTUUID={PART}\n", f"options root=PARTUUID={NEW_PART}\n"),
        ("/etc/kernel/cmdline", f"root=UUID={ROOT}", f"root=UUID={NEW_ROOT}"),
        ("/etc/grub.d/40_custom", f"search --fs-uuid {ROOT}\n", f"search --fs-uuid {NEW_ROOT}\n"),
        ("/etc/systemd/system/srv.mount", f"What=/dev/disk/by-uuid/{ROOT}\n", f"What=/dev/disk/by-uuid/{NEW_ROOT}\n"),
        ("/boot/grub2/i386-pc/load.cfg", f"search.fs_uuid {ROOT} root\n", f"search.fs_uuid {NEW_ROOT} root\n"),
        ("/efi/loader/entries/a.conf", f"options root=UUID={ROOT}\n", f"options root=UUID={NEW_ROOT}\n"),
        ("/etc/initramfs-tools/conf.d/resume", f"RESUME=UUID={ROOT}\n", f"RESUME=UUID={NEW_ROOT}\n"),
        ("/etc/fstab", "/dev/sda1 / ext4\n", f"UUID={NEW_ROOT} / ext4\n"),
        ("/boot/grub/menu.lst", "kernel /vmlinuz root=/dev/xvda1\n", f"kernel /vmlinuz root=UUID={NEW_ROOT}\n"),
        ("/efi/loader/loader.conf", f"# {ROOT}\n", f"# {NEW_ROOT}\n"),
        (f"{UNITS}/a.service.d/b.conf", f"After=dev-disk-{ESCAPED}.device\n", f"After=dev-disk-{NEW_ESCAPED}.device\n"),
    ],
)
def test_names_follow_in_any_spelling(path: str, old: str, new: str, guest: HostGuest) -> None:
    guest.write(path, old)
    assert rewrite(guest, NAMES) == 1
    assert guest.read_text(path) == new


def _manifest(table: ImageTable | None, *, initrd: str | None = "/initrd") -> Manifest:
    root = Filesystem("ext4", ROOT, "", 4096, 1 << 20, 1 << 20)
    return manifest(kernels=(Kernel("6", "/vmlinuz", initrd),), table=table, filesystem=root)


def _table(kind: str, name: str, filesystem: str, *, guid: str) -> ImageTable:
    held = Filesystem("ext4", filesystem, "", 4096, 1 << 20, 1 << 20)
    part = ImagePartition(1, "root", 1 << 20, 1 << 20, "83", guid, "", 0, held, "/")
    return ImageTable(kind, name, 512, (part,))


def _planned(kind: TableType, name: str, guid: str) -> TablePlan:
    part = PartitionPlan(1, "root", 1 << 20, 1 << 20, guid, "", "83", 0, "ext4", NEW_ROOT, "/")
    return TablePlan(name, 512, (part,), kind)


def test_a_gpts_names_are_those_of_disk_partitions_and_file_systems() -> None:
    disk, new_disk = PART.replace("3", "4"), PART.replace("3", "5")
    names = renaming(_manifest(_table("gpt", disk, ROOT, guid=PART)), _planned("gpt", new_disk, NEW_PART))
    assert (
        names.text(f"{disk} {PART} {ROOT} root=/dev/vda1") == f"{new_disk} {NEW_PART} {NEW_ROOT} root=UUID={NEW_ROOT}"
    )


def test_an_msdos_tables_signature_alone_is_no_name() -> None:
    manifest = _manifest(_table("msdos", "00000000", ROOT, guid=""), initrd=None)
    names = renaming(manifest, _planned("msdos", "1234abcd", "1234abcd-01"))
    text = f"00000000 00000000-01 {ROOT} root=/dev/sda1"
    assert names.text(text) == f"00000000 1234abcd-01 {NEW_ROOT} root=PARTUUID=1234abcd-01"


def test_a_file_system_without_a_table_has_one_name() -> None:
    names = renaming(_manifest(None), _planned("gpt", PART, NEW_PART))
    assert names.text(f"{ROOT} root=/dev/sda1") == f"{NEW_ROOT} root=/dev/sda1"


def test_what_keeps_its_uuid_is_known() -> None:
    image, planned = _table("msdos", "00000000", ROOT, guid=""), _planned("msdos", "1234abcd", "1234abcd-01")
    data = dataclasses.replace(image.partitions[0], number=2, role="other")
    kept = dataclasses.replace(planned.partitions[0], number=2, filesystem_uuid=None)
    image = dataclasses.replace(image, partitions=(data,))
    names = renaming(_manifest(image), dataclasses.replace(planned, partitions=(kept,)))
    assert names.fstab(f"UUID={ROOT} /data ntfs\n") == (f"UUID={ROOT} /data ntfs\n", [])


def test_doing_it_twice_changes_nothing(guest: HostGuest) -> None:
    guest.write("/etc/fstab", f"UUID={ROOT} / ext4 defaults 0 1\n")
    assert rewrite(guest, NAMES) == 1
    assert rewrite(guest, NAMES) == 0


def test_a_files_mode_stays_and_bytes_that_are_no_utf8_too(guest: HostGuest, tmp_path: Path) -> None:
    guest.write("/etc/kernel/cmdline", b"name=\xe9 root=UUID=" + ROOT.encode(), mode=0o640)
    rewrite(guest, NAMES)
    assert guest.read("/etc/kernel/cmdline") == b"name=\xe9 root=UUID=" + NEW_ROOT.encode()
    assert (tmp_path / "etc/kernel/cmdline").stat().st_mode & 0o777 == 0o640


def test_a_file_that_cannot_be_read_is_kept_and_told_of(
    guest: HostGuest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "boot/grub").mkdir(parents=True)
    sparse_file(tmp_path / "boot/grub/grub.cfg", 17 << 20)
    guest.write("/etc/fstab", f"UUID={ROOT} / ext4\n")
    assert rewrite(guest, NAMES) == 1
    assert "/boot/grub/grub.cfg" in capsys.readouterr().err


def test_other_files_are_not_touched(guest: HostGuest) -> None:
    guest.write("/home/user/notes", f"UUID={ROOT}\n")
    assert rewrite(guest, NAMES) == 0


def test_what_is_no_fstab_is_kept_and_told_of(
    guest: HostGuest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    guest.write("/etc/fstab", f"nonsense\n/dev/vda1 / ext4\n/dev/sdb1 /data ext4\nUUID=\x1b[2J /x ext4\n# {ESP}")
    assert rewrite(guest, NAMES) == 1
    assert (
        guest.read_text("/etc/fstab")
        == f"nonsense\nUUID={NEW_ROOT} / ext4\n/dev/sdb1 /data ext4\nUUID=\x1b[2J /x ext4\n# {NEW_ESP}"
    )
    said = capsys.readouterr().err
    assert "/etc/fstab of the guest: line 1 has less than three fields; it is kept" in said
    assert "/etc/fstab of the guest: line 3 names /dev/sdb1, which the image does not have; it is kept" in said
    assert "line 4 names UUID=?[2J, which" in said
    guest.write("/etc/fstab", "nonsense\n" * 100_000)
    assert rewrite(guest, NAMES) == 0
    said = capsys.readouterr().err
    assert said.count("has less than three fields") == 5
    assert "/etc/fstab of the guest: so it is with 99995 more lines" in said
    guest.remove("/etc/fstab")
    os.mkfifo(tmp_path / "etc/fstab")
    assert rewrite(guest, NAMES) == 0
    assert "cannot read /etc/fstab in the guest" in capsys.readouterr().err


def test_links_lead_to_what_is_changed_and_may_dangle(guest: HostGuest) -> None:
    guest.write("/nix/fstab", f"UUID={ROOT} / ext4\n")
    guest.symlink("../nix/fstab", "/etc/fstab")
    guest.symlink("../efi/EFI/x/grubenv", "/boot/grub2/grubenv")
    assert rewrite(guest, NAMES) == 1
    assert guest.is_symlink("/etc/fstab")
    assert guest.read_text("/nix/fstab") == f"UUID={NEW_ROOT} / ext4\n"


def test_grubs_environment_keeps_its_size_or_all_it_has(guest: HostGuest, capsys: pytest.CaptureFixture[str]) -> None:
    block, full = (
        f"# GRUB Environment Block\n{text}\n".encode().ljust(1024, b"#")
        for text in ("kernelopts=root=/dev/vda1", f"x={'y' * 970}\nroot=/dev/vda1")
    )
    guest.write("/boot/efi/EFI/fedora/grubenv", block)
    guest.symlink("../efi/EFI/fedora/grubenv", "/boot/grub2/grubenv")
    guest.write("/boot/grub/grubenv", full)
    assert rewrite(guest, NAMES) == 1
    changed = guest.read("/boot/grub2/grubenv")
    assert len(changed) == 1024
    assert changed.rstrip(b"#").endswith(f"kernelopts=root=UUID={NEW_ROOT}\n".encode())
    assert guest.read("/boot/grub/grubenv") == full
    assert "/boot/grub/grubenv of the guest is kept, and names the image's disk" in capsys.readouterr().err


def _grub(directory: Path) -> bytes:
    """A GRUB that looks for its file system's UUID, as grub-install has it made."""
    settings, made = directory / "load.cfg", directory / "grubx64.efi"
    settings.write_text(f"search.fs_uuid {ROOT} root hd0,gpt1\nset prefix=($root)/boot/grub\n")
    words: list[str | Path] = ["grub-mkimage", "-O", "x86_64-efi", "-c", settings, "-p", "/boot/grub", "-o", made]
    subprocess.run([*words, "part_gpt", "ext2", "search_fs_uuid", "normal"], check=True)
    return made.read_bytes()


def _loader(certificates: int) -> bytes:
    """A program for UEFI, with so many bytes of a signature."""
    header = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x80)
    optional = struct.pack("<H", 0x20B).ljust(144, b"\0") + struct.pack("<II", 0x9000, certificates)
    return header.ljust(0x98, b"\0") + optional + f"search.fs_uuid {ROOT} root hd0,gpt1\n".encode()


def test_a_loader_with_a_uuid_built_in_has_the_new_one_unless_it_is_signed(
    guest: HostGuest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loader, signed = _grub(tmp_path), _loader(1234)
    assert ROOT.encode() in loader
    guest.write("/boot/efi/EFI/BOOT/BOOTX64.EFI", loader)
    guest.write("/boot/efi/EFI/debian/grubx64.efi", signed)
    guest.write("/boot/grub/x86_64-efi/core.efi", loader)
    assert rewrite(guest, NAMES) == 2
    for path in ("/boot/efi/EFI/BOOT/BOOTX64.EFI", "/boot/grub/x86_64-efi/core.efi"):
        assert guest.read(path) == loader.replace(ROOT.encode(), NEW_ROOT.encode())
    assert guest.read("/boot/efi/EFI/debian/grubx64.efi") == signed
    said = capsys.readouterr().err
    assert "/boot/efi/EFI/debian/grubx64.efi of the guest is kept, and names the image's disk: it is signed" in said


def test_what_lies_beside_a_shim_is_signed_and_not_even_read(guest: HostGuest, tmp_path: Path) -> None:
    for path in ("EFI/debian/shimx64.efi", "EFI/debian/grubx64.efi", "EFI/BOOT/BOOTX64.EFI", "EFI/BOOT/MMX64.EFI"):
        guest.write(f"/efi/{path}", _loader(0))
    assert rewrite(guest, NAMES) == 0
    (tmp_path / "efi/EFI/BOOT/MMX64.EFI").unlink()
    assert rewrite(guest, NAMES) == 1


def test_units_that_are_called_like_a_device_move_with_their_drop_ins_and_links(guest: HostGuest) -> None:
    old, new = f"dev-disk-by\\x2duuid-{ESCAPED}", f"dev-disk-by\\x2duuid-{NEW_ESCAPED}"
    guest.write(f"{UNITS}/{old}.swap", f"[Swap]\nWhat=/dev/disk/by-uuid/{ROOT}\n")
    guest.write(f"{UNITS}/dev-vda1.device.d/timeout.conf", "[Unit]\nJobRunningTimeoutSec=5\n")
    guest.symlink(f"{UNITS}/{old}.swap", f"{UNITS}/swap.target.wants/{old}.swap")
    guest.symlink("/usr/lib/systemd/system/ssh.service", f"{UNITS}/multi-user.target.wants/ssh.service")
    assert rewrite(guest, NAMES) == 4
    assert guest.glob(f"{UNITS}/*") == [
        f"{UNITS}/{new}.device.d",
        f"{UNITS}/{new}.swap",
        f"{UNITS}/multi-user.target.wants",
        f"{UNITS}/swap.target.wants",
    ]
    assert guest.read_text(f"{UNITS}/{new}.swap") == f"[Swap]\nWhat=/dev/disk/by-uuid/{NEW_ROOT}\n"
    assert guest.exists(f"{UNITS}/{new}.device.d/timeout.conf")
    assert guest.glob(f"{UNITS}/swap.target.wants/*") == [f"{UNITS}/swap.target.wants/{new}.swap"]
    assert guest.read_text(f"{UNITS}/swap.target.wants/{new}.swap").startswith("[Swap]")
    assert guest.is_symlink(f"{UNITS}/multi-user.target.wants/ssh.service")
    assert rewrite(guest, NAMES) == 0


def test_the_seed_on_an_efi_system_partition_is_another_at_each_time(guest: HostGuest) -> None:
    guest.write("/efi/loader/random-seed", bytes(32))
    seeds = set()
    for _ in range(2):
        rewrite(guest, NAMES)
        seeds.add(guest.read("/efi/loader/random-seed"))
    assert len(seeds) == 2
    assert {len(seed) for seed in seeds} == {512}
    assert not guest.exists("/boot/efi/loader")


def test_an_initramfs_that_resumes_from_the_images_swap_is_told_of(
    guest: HostGuest, capsys: pytest.CaptureFixture[str]
) -> None:
    guest.write("/etc/initramfs-tools/conf.d/resume", "RESUME=none\n")
    assert rewrite(guest, NAMES) == 0
    assert "initramfs" not in capsys.readouterr().err
    guest.write("/etc/initramfs-tools/conf.d/resume", "RESUME=/dev/vda1\n")
    assert rewrite(guest, NAMES) == 1
    assert "set boot.kernel_args: [noresume]" in capsys.readouterr().err
