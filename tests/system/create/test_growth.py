"""``create`` of disk images whose root is not the last partition: it grows, and what was behind it lies at the end.

The disks are full of old contents, which are not wiped: what shows through has been forgotten.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.system.create.cloud import (
    BIOS_BOOT,
    BOOT,
    BOOT_CODE,
    ESP,
    LINUX,
    MIB,
    ROOT,
    SWAP,
    Part,
    read_partition,
    system,
)
from tests.system.create.published import FIRST, Installed, Published, verify_gpt
from tests.system.create.site import attached, sfdisk

OLD = b"\xa5" * 4096
VARIANT = "variants/published.yaml"


def in_mib(installed: Installed) -> dict[int, tuple[int, int]]:
    """Where partitions begin and how large they are, by number."""
    found = installed.partitions.items()
    return {number: (part["start"] * 512 // MIB, part["size"] * 512 // MIB) for number, part in found}


def assert_nothing_old(disk: Path, start_mib: int, size_mib: int) -> None:
    """A part of the disk holds what the image has there, and zeros."""
    with disk.open("rb") as file:
        file.seek(start_mib * MIB)
        assert OLD not in file.read(size_mib * MIB)


def hidden_sectors(installed: Installed, number: int) -> int:
    """How many sectors a FAT says are in front of it (Microsoft's FAT specification 1.03)."""
    with installed.disk.open("rb") as file:
        file.seek(installed.partitions[number]["start"] * 512 + 28)
        return int.from_bytes(file.read(4), "little")


def test_an_xfs_in_the_middle_grows_and_its_esp_swap_and_boot_move(publish: Callable[..., Published]) -> None:
    """Nothing but fstab says which partition is the root."""
    esp, swap, boot = Part(3, ESP, 40, "vfat", label="ESP"), Part(4, SWAP, 8, "swap"), Part(5, BOOT, 32, "ext4")
    root = Part(2, LINUX, 320, "xfs")
    fstab = "UUID={} / xfs defaults 0 0\nUUID={} /boot/efi vfat umask=0077 0 1\nUUID={} none swap sw 0 0\n"
    root.files = system(fstab.format(root.uuid, esp.uuid, swap.uuid), kernel=False, boot__empty="")
    boot.files = {"/vmlinuz-6.1.0-9-amd64": "a kernel\n", "/grub/grub.cfg": f"root=UUID={root.uuid}\n", "/efi/.x": ""}
    esp.files = {"/EFI/debian/grub.cfg": f"search.fs_uuid {boot.uuid} root\n", "/EFI/BOOT/BOOTX64.EFI": "a loader\n"}
    old = publish(Part(1, BIOS_BOOT, 1, content=BOOT_CODE * 100), root, esp, swap, boot)
    with old.image.open("r+b") as file:  # as where it was made on the disk itself
        file.seek(322 * MIB + 28)
        file.write((322 * MIB // 512).to_bytes(4, "little"))
    old.site.write(VARIANT, "image: published\nwipe: none\nverify_copy: true\n")
    installed = old.install(1024, used=True)
    assert f"verify {installed.disk}" in installed.outcome.said
    verify_gpt(installed.disk)
    assert in_mib(installed) == {1: (1, 1), 2: (2, 941), 3: (943, 40), 4: (983, 8), 5: (991, 32)}
    assert "stays at" not in installed.outcome.said
    root_now, esp_now, swap_now, boot_now = (installed.partition(number) for number in (2, 3, 4, 5))
    assert root_now.size_bytes > 850 * MIB
    assert root_now.text("/etc/fstab") == fstab.format(root_now.uuid, esp_now.uuid, swap_now.uuid)
    assert boot_now.text("/grub/grub.cfg") == f"root=UUID={root_now.uuid}\n"
    assert esp_now.text("/EFI/debian/grub.cfg") == f"search.fs_uuid {boot_now.uuid} root\n"
    assert esp_now.text("/EFI/BOOT/BOOTX64.EFI") == "a loader\n"
    assert esp_now.label == "ESP"
    assert not installed.identity(2, 3, 4, 5) & old.old_names()
    assert hidden_sectors(installed, 3) == 943 * MIB // 512
    check_fat(installed, 3)
    assert_nothing_old(installed.disk, 0, 322)
    assert_nothing_old(installed.disk, 943, 80)
    plan = old.plan(installed.disk)
    planned = {part["number"]: (part["source_bytes"] // MIB, part["start_bytes"] // MIB) for part in planned_in(plan)}
    assert planned == {1: (1, 1), 2: (2, 2), 3: (322, 943), 4: (362, 983), 5: (370, 991)}
    said = old.site.command("plan", "--environment", str(old.site.directory / "environment")).said
    assert "3  esp        40 MiB from 943 MiB, in the image from 322 MiB, vfat at /boot/efi\n" in said
    assert_limited(old, installed)


def planned_in(plan: dict[str, dict[str, list[dict[str, int]]]]) -> list[dict[str, int]]:
    """The partitions of a plan."""
    return plan["table"]["partitions"]


def assert_limited(old: Published, installed: Installed) -> None:
    """A limit is kept to, or refused where the image has more."""
    old.site.write(VARIANT, "image: published\nlayout: {root_size: 400MiB}\n")
    plan = old.plan(installed.disk)
    assert {part["number"]: part["size_bytes"] // MIB for part in planned_in(plan)}[2] == 400
    old.site.write(VARIANT, "image: published\nlayout: {root_size: 319MiB}\n")
    disk = old.site.disk(1024 * MIB, name="limited.raw")
    outcome = old.create(disk, FIRST)
    assert outcome.status != 0
    assert "layout.root_size is 319MiB, and the image needs 320 MiB for its root: make it larger" in outcome.last_line
    assert disk.stat().st_blocks == 0


def check_fat(installed: Installed, number: int) -> None:
    """fsck.vfat(8), which takes no offset."""
    part, copy = installed.partitions[number], installed.scratch / "fat"
    with installed.disk.open("rb") as file:
        file.seek(part["start"] * 512)
        copy.write_bytes(file.read(part["size"] * 512))
    subprocess.run(["fsck.vfat", "-n", copy], check=True, capture_output=True)


def test_a_logical_root_grows_between_others_to_its_limit(publish: Callable[..., Published]) -> None:
    """In front of it a /boot, behind it swap in the same extended partition, and a primary partition behind that."""
    boot, swap, data = Part(1, "83", 16, "ext2"), Part(6, "82", 8, "swap"), Part(3, "83", 24, "ext4")
    root = Part(5, "83", 32, "ext4")
    boot.files = {"/vmlinuz-6.1.0-9-amd64": "a kernel\n", "/grub/grub.cfg": f"root=UUID={root.uuid}\n"}
    data.files = {"/kept": "data\n"}
    fstab = "UUID={} / ext4 defaults 0 1\n{} /boot ext2 defaults 0 2\n{} /srv ext4 defaults 0 2\n"
    root.files = system(fstab.format(root.uuid, "/dev/sda1", "/dev/sda3"), kernel=False, boot__empty="", srv__empty="")
    old = publish(boot, Part(2, "f", 0), root, swap, data, label="dos")
    old.site.write(VARIANT, "image: published\nwipe: none\nlayout: {root_size: 72MiB}\n")
    installed = old.install(160, used=True)
    checked = subprocess.run(["sfdisk", "--verify", installed.disk], capture_output=True, text=True, check=True)
    assert "No errors detected" in checked.stdout
    assert in_mib(installed) == {1: (1, 16), 2: (17, 82), 3: (99, 24), 5: (18, 72), 6: (91, 8)}
    root_now = installed.partition(5)
    assert 60 * MIB < root_now.size_bytes < 72 * MIB
    others = (f"UUID={installed.partition(number).uuid}" for number in (1, 3))
    assert root_now.text("/etc/fstab") == fstab.format(root_now.uuid, *others)
    assert installed.partition(3).text("/kept") == "data\n"
    assert installed.partition(1).text("/grub/grub.cfg") == f"root=UUID={root_now.uuid}\n"
    assert not installed.identity(1, 3, 5, 6) & old.old_names()
    assert_nothing_old(installed.disk, 0, 50)
    assert_nothing_old(installed.disk, 90, 33)


def test_a_primary_root_grows_and_the_extended_partition_with_its_swap_moves(publish: Callable[..., Published]) -> None:
    """As Debian's installer divides a disk; GRUB is in the boot sector and behind it."""
    root, swap = Part(1, "83, bootable", 32, "ext4"), Part(5, "82", 8, "swap")
    fstab = "UUID={} / ext4 errors=remount-ro 0 1\nUUID={} none swap sw 0 0\n"
    root.files = system(fstab.format(root.uuid, swap.uuid))
    old = publish(root, Part(2, "f", 0), swap, label="dos")
    installed = old.install(128)
    checked = subprocess.run(["sfdisk", "--verify", installed.disk], capture_output=True, text=True, check=True)
    assert "No errors detected" in checked.stdout
    assert in_mib(installed) == {1: (1, 118), 2: (119, 9), 5: (120, 8)}
    root_now = installed.partition(1)
    assert root_now.size_bytes > 100 * MIB
    assert root_now.text("/etc/fstab") == fstab.format(root_now.uuid, installed.partition(5).uuid)
    with installed.disk.open("rb") as file:
        assert file.read(440) == BOOT_CODE
        file.seek(512)
        assert file.read(440) == BOOT_CODE


def test_on_sectors_of_4096_bytes_as_well(publish: Callable[..., Published]) -> None:
    root, swap, boot = Part(1, ROOT, 32, "ext4"), Part(2, SWAP, 8, "swap"), Part(3, BOOT, 16, "ext4")
    root.files = system(f"UUID={root.uuid} / ext4 defaults 0 1\n", kernel=False, boot__empty="")
    boot.files = {"/vmlinuz-6.1.0-9-amd64": "a kernel\n", "/grub/grub.cfg": f"root=UUID={root.uuid}\n"}
    old = publish(root, swap, boot, sector=4096)
    old.site.write(VARIANT, "image: published\nwipe: none\nverify_copy: true\n")
    disk = old.site.disk(128 * MIB)
    disk.write_bytes(b"\xa5" * 128 * MIB)
    with attached(disk, 4096) as device:
        outcome = old.create(device, FIRST, hypervisor="xen-hvm")
        assert outcome.status == 0, outcome.said
        assert f"verify {device}" in outcome.said
        verify_gpt(device)
        places = [(part["start"] * 4096 // MIB, part["size"] * 4096 // MIB) for part in sfdisk(device)["partitions"]]
    assert places == [(1, 102), (103, 8), (111, 16)]
    found = [
        read_partition(disk, start * MIB, size * MIB, old.site.directory / f"found{start}") for start, size in places
    ]
    assert found[0].size_bytes > 85 * MIB
    assert found[0].text("/etc/fstab") == f"UUID={found[0].uuid} / ext4 defaults 0 1\n"
    assert found[2].text("/grub/grub.cfg") == f"root=UUID={found[0].uuid}\n"
    assert_nothing_old(disk, 0, 33)
    assert_nothing_old(disk, 103, 24)


def test_a_boot_partition_of_grub_does_not_move_which_is_said(publish: Callable[..., Published]) -> None:
    root, core = Part(1, ROOT, 32, "ext4"), Part(14, BIOS_BOOT, 1, content=BOOT_CODE * 100)
    root.files = system(f"UUID={root.uuid} / ext4 defaults 0 1\n")
    installed = publish(root, core).install(128)
    verify_gpt(installed.disk)
    assert in_mib(installed) == {1: (1, 32), 14: (33, 1)}
    why = "partition 14 (bios_boot) lies behind it and cannot move, because boot code names its sectors"
    assert f"the root stays at 32 MiB: {why}; 94 MiB of the disk stay unused" in installed.outcome.said
    with installed.disk.open("rb") as file:
        file.seek(33 * MIB)
        assert file.read(MIB) == (BOOT_CODE * 100).ljust(MIB, b"\0")
