"""Texts of a guest's files with its disk's new names."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from osprovider.disk.renaming import NewNames, Renaming, is_signed

ROOT, NEW_ROOT = "11111111-aaaa-4aaa-8aaa-111111111111", "99999999-bbbb-4bbb-8bbb-999999999999"
SWAP, NEW_SWAP = "22222222-aaaa-4aaa-8aaa-222222222222", "88888888-bbbb-4bbb-8bbb-888888888888"
ESP, NEW_ESP = "1234-ABCD", "FEDC-9876"
GUID, NEW_GUID = "33333333-cccc-4ccc-8ccc-333333333333", "77777777-dddd-4ddd-8ddd-777777777777"
DATA_GUID = "66666666-dddd-4ddd-8ddd-666666666666"
WORDS = {ROOT: NEW_ROOT, SWAP: NEW_SWAP, ESP: NEW_ESP, GUID: NEW_GUID, "1234abcd-01": "9876fedc-01"}
PARTITIONS = {
    1: NewNames(NEW_ROOT, NEW_GUID),
    2: NewNames(NEW_SWAP, "55555555-dddd-4ddd-8ddd-555555555555"),
    3: NewNames(None, DATA_GUID),
    15: NewNames(NEW_ESP, "44444444-dddd-4ddd-8ddd-444444444444"),
}
NAMES = Renaming(WORDS, PARTITIONS, has_initrd=True)


def _escaped(name: str) -> str:
    return name.replace("-", r"\x2d")


# -- texts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (f"search --no-floppy --fs-uuid --set=root --hint-bios=hd0,gpt1 {ROOT}", None),
        (f"search.fs_uuid {ROOT} root hd0,gpt1", None),
        (f"search.fs_uuid {ESP.lower()} root", f"search.fs_uuid {NEW_ESP} root"),
        (f"options root=UUID={ROOT.upper()} ro", f"options root=UUID={NEW_ROOT} ro"),
        (f"root=PARTUUID={GUID} rootwait", None),
        ("root=PARTUUID=1234abcd-01", "root=PARTUUID=9876fedc-01"),
        ("root=/dev/vda1 ro", f"root=UUID={NEW_ROOT} ro"),
        ("linux /vmlinuz root=/dev/sda1\n", f"linux /vmlinuz root=UUID={NEW_ROOT}\n"),
        ("# kopt=root=/dev/xvda1 ro", f"# kopt=root=UUID={NEW_ROOT} ro"),
        ('GRUB_CMDLINE_LINUX="root=/dev/vda1"', f'GRUB_CMDLINE_LINUX="root=UUID={NEW_ROOT}"'),
        ("root='/dev/vda1'", f"root='UUID={NEW_ROOT}'"),
        ("resume=/dev/nvme0n1p2 quiet", f"resume=UUID={NEW_SWAP} quiet"),
        ("RESUME=/dev/disk/by-path/pci-0000:00:04.0-part2", f"RESUME=UUID={NEW_SWAP}"),
        (f"resume=/dev/disk/by-uuid/{SWAP}", None),
        ("root=/dev/vda3", f"root=PARTUUID={DATA_GUID}"),
    ],
)
def test_names_follow_in_texts(old: str, new: str | None) -> None:
    expected = new or old.replace(ROOT, NEW_ROOT).replace(GUID, NEW_GUID).replace(SWAP, NEW_SWAP)
    assert expected != old
    assert NAMES.text(old) == expected
    assert NAMES.text(expected) == expected


@pytest.mark.parametrize(
    "text",
    [
        "root=/dev/vdb1",
        "root=/dev/vda9",
        "root=/dev/vda10",
        "root=LABEL=cloudimg-rootfs",
        "noroot=/dev/vda1",
        "set root='(hd0,gpt1)'",
        f"{ROOT}0",
        f"a{ESP}",
        f"aaaaaaaa-{ESP.lower()}-4aaa-8aaa-111111111111",
        "# / was on /dev/vda1 during installation",
    ],
)
def test_what_is_no_name_of_the_images_stays(text: str) -> None:
    assert NAMES.text(text) == text


def test_a_kernel_without_an_initrd_gets_what_it_can_look_up_by_itself() -> None:
    names = Renaming(WORDS, PARTITIONS, has_initrd=False)
    assert names.text("root=/dev/vda1 ro") == f"root=PARTUUID={NEW_GUID} ro"


# -- fstab and crypttab -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (f"UUID={ROOT}\t/\text4", f"UUID={NEW_ROOT}\t/\text4"),
        (f'UUID="{ROOT}" / ext4', f'UUID="{NEW_ROOT}" / ext4'),
        (f"PARTUUID={GUID} / ext4", f"PARTUUID={NEW_GUID} / ext4"),
        (f"/dev/disk/by-uuid/{ESP} /boot/efi vfat", f"/dev/disk/by-uuid/{NEW_ESP} /boot/efi vfat"),
        (f"/dev/disk/by-partuuid/{GUID} / ext4", f"/dev/disk/by-partuuid/{NEW_GUID} / ext4"),
        ("  /dev/sda1   /   ext4   defaults 0 1", f"  UUID={NEW_ROOT}   /   ext4   defaults 0 1"),
        ("/dev/xvda15 /boot/efi vfat", f"UUID={NEW_ESP} /boot/efi vfat"),
        ("/dev/vda2 none swap sw 0 0\r", f"UUID={NEW_SWAP} none swap sw 0 0\r"),
        ("/dev/vda3 /data zfs", f"PARTUUID={DATA_GUID} /data zfs"),
        ("/dev/disk/by-path/pci-0:1-part1 / ext4", f"UUID={NEW_ROOT} / ext4"),
        ("/dev/disk/by-id/virtio-disk-part1 / ext4", f"UUID={NEW_ROOT} / ext4"),
        (f"# UUID={ROOT} was on /dev/vda1", f"# UUID={NEW_ROOT} was on /dev/vda1"),
        ("LABEL=root / ext4", "LABEL=root / ext4"),
        ("PARTLABEL=root / ext4", "PARTLABEL=root / ext4"),
        ("/dev/disk/by-label/root / ext4", "/dev/disk/by-label/root / ext4"),
        ("tmpfs /tmp tmpfs defaults 0 0", "tmpfs /tmp tmpfs defaults 0 0"),
        ("/dev/sr0 /media/cdrom0 udf,iso9660 user,noauto 0 0", "/dev/sr0 /media/cdrom0 udf,iso9660 user,noauto 0 0"),
        ("/dev/mapper/data /data ext4", "/dev/mapper/data /data ext4"),
        ("/dev/sdb1 /mnt auto nofail 0 2", "/dev/sdb1 /mnt auto nofail 0 2"),
        (f"/swapfile none swap x-systemd.requires=/dev/disk/by-uuid/{ROOT}", None),
    ],
)
def test_an_fstab_keeps_its_layout_and_names_no_disk_of_a_hypervisor(old: str, new: str | None) -> None:
    expected = old.replace(ROOT, NEW_ROOT) if new is None else new
    text, said = NAMES.fstab(f"# first\n\n{old}\n")
    assert text == f"# first\n\n{expected}\n"
    assert not said
    assert NAMES.fstab(text) == (text, [])


def test_what_an_fstab_has_that_cannot_be_rewritten_is_kept_and_told_of() -> None:
    text = (
        f"UUID={ROOT} / ext4\n"
        f"UUID={ROOT} /srv\n"
        "\udcff\x00\x01\n"
        "/dev/sdb1 /data ext4\n"
        "/dev/vda7 /more ext4\n"
        f"UUID={ROOT.replace('1', '0')} /other ext4 defaults 0 2\n"
    )
    new, said = NAMES.fstab(text)
    assert new == text.replace(ROOT, NEW_ROOT, 1)
    assert said == [
        "line 2 has less than three fields",
        "line 3 has less than three fields",
        "line 4 names /dev/sdb1, which the image does not have",
        "line 5 names /dev/vda7, which the image does not have",
        f"line 6 names UUID={ROOT.replace('1', '0')}, which the image does not have",
    ]


def test_the_root_of_a_file_system_without_a_table_is_named_by_a_hook() -> None:
    names = Renaming({ROOT: NEW_ROOT}, {}, has_initrd=True)
    assert names.fstab("/dev/xvda1 / ext3 defaults\n") == ("/dev/xvda1 / ext3 defaults\n", [])
    assert names.fstab("/dev/xvda2 none swap sw\n")[1]


def test_an_encrypted_partition_is_named_by_its_own_uuid() -> None:
    text = f"# data /dev/vda3 none\nold UUID={ROOT} none luks\nswap /dev/vda2 /dev/urandom swap\nfile /img none\n"
    assert NAMES.crypttab(text) == (
        f"# data /dev/vda3 none\nold UUID={NEW_ROOT} none luks\n"
        f"swap PARTUUID={PARTITIONS[2].guid} /dev/urandom swap\nfile /img none\n"
    )


# -- systemd's units --------------------------------------------------------------------------------------------------


def test_units_name_devices_by_path_and_by_their_escaped_names() -> None:
    old = (
        f"[Unit]\nRequires=dev-disk-by\\x2duuid-{_escaped(ROOT)}.device\nAfter=dev-vda2.device\n"
        f"[Swap]\nWhat=/dev/vda2\n[Mount]\nWhat = /dev/disk/by-uuid/{ROOT}\nWhat=UUID={ESP}\n"
    )
    assert NAMES.unit(old) == (
        f"[Unit]\nRequires=dev-disk-by\\x2duuid-{_escaped(NEW_ROOT)}.device\n"
        f"After=dev-disk-by\\x2duuid-{_escaped(NEW_SWAP)}.device\n"
        f"[Swap]\nWhat=/dev/disk/by-uuid/{NEW_SWAP}\n[Mount]\n"
        f"What = /dev/disk/by-uuid/{NEW_ROOT}\nWhat=UUID={NEW_ESP}\n"
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (f"dev-disk-by\\x2duuid-{_escaped(SWAP)}.swap", f"dev-disk-by\\x2duuid-{_escaped(NEW_SWAP)}.swap"),
        (f"dev-disk-by\\x2duuid-{_escaped(ESP)}.device.d", f"dev-disk-by\\x2duuid-{_escaped(NEW_ESP)}.device.d"),
        ("dev-disk-by\\x2dpartuuid-1234abcd\\x2d01.swap", "dev-disk-by\\x2dpartuuid-9876fedc\\x2d01.swap"),
        ("dev-vda2.swap", f"dev-disk-by\\x2duuid-{_escaped(NEW_SWAP)}.swap"),
        ("dev-vda3.device", f"dev-disk-by\\x2dpartuuid-{_escaped(DATA_GUID)}.device"),
        ("dev-vdb2.swap", "dev-vdb2.swap"),
        ("dev-vda9.swap", "dev-vda9.swap"),
        ("srv.mount", "srv.mount"),
    ],
)
def test_units_that_are_called_like_a_device_are_called_like_the_new_one(old: str, new: str) -> None:
    assert NAMES.unit_name(old) == new
    assert NAMES.unit_name(new) == new


# -- environments and programs of boot loaders ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (f"kernelopts=root=UUID={ROOT} ro\n", f"kernelopts=root=UUID={NEW_ROOT} ro\n"),
        ("kernelopts=root=/dev/vda1 ro\n", f"kernelopts=root=UUID={NEW_ROOT} ro\n"),
        ("boot_success=1\n", "boot_success=1\n"),
    ],
)
def test_grubs_environment_stays_as_long_as_it_is(old: str, new: str) -> None:
    header = "# GRUB Environment Block\n"
    block = NAMES.environment_block(f"{header}{old}".encode().ljust(1024, b"#"))
    assert block == f"{header}{new}".encode().ljust(1024, b"#")
    assert len(block) == 1024


def test_what_does_not_fit_into_grubs_environment_is_refused() -> None:
    block = f"# GRUB Environment Block\nx={'y' * 960}\nroot=/dev/vda1\n".encode().ljust(1024, b"#")
    with pytest.raises(ValueError, match=r"^10\d\d bytes do not fit into its 1024$"):
        NAMES.environment_block(block)


def test_a_program_has_its_built_in_uuids_replaced_and_nothing_else() -> None:
    program = b"MZ\0\xff root=/dev/vda1\0" + f"search.fs_uuid {ROOT} root hd0,gpt1\nset x={ESP.lower()}\0".encode()
    assert NAMES.program(program) == program.replace(ROOT.encode(), NEW_ROOT.encode()).replace(
        ESP.lower().encode(), NEW_ESP.encode()
    )


def _pe(magic: int, directories: int, certificates: int) -> bytes:
    header = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x80)
    optional = struct.pack("<H", magic).ljust(directories + 32, b"\0") + struct.pack("<II", 0x9000, certificates)
    return header.ljust(0x80, b"\0") + b"PE\0\0" + bytes(20) + optional


@pytest.mark.parametrize(
    ("program", "signed"),
    [
        (_pe(0x20B, 112, 1234), True),
        (_pe(0x10B, 96, 1234), True),
        (_pe(0x20B, 112, 0), False),
        (_pe(0x10B, 96, 0), False),
        (_pe(0x30B, 112, 1234), False),
        (b"MZ", False),
        (b"a loader\n", False),
        (b"\xff" * 100, False),
    ],
)
def test_a_signature_is_noticed(program: bytes, signed: bool) -> None:
    assert is_signed(program) is signed


@pytest.mark.parametrize("change", [NAMES.text, NAMES.unit, NAMES.crypttab, lambda text: NAMES.fstab(text)[0]])
def test_nothing_is_renamed_twice(change: Callable[[str], str]) -> None:
    exchanged = Renaming({ROOT: SWAP, SWAP: ROOT}, {}, has_initrd=True)
    assert exchanged.text(f"{ROOT} {SWAP}") == f"{SWAP} {ROOT}"
    text = f"UUID={ROOT} / ext4\n"
    assert change(text) == f"UUID={NEW_ROOT} / ext4\n"
