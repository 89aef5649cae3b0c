"""Where a disk image has its file systems, by its fstab and its partitions' types alone."""

from __future__ import annotations

import dataclasses

from osprovider.images.diskimage.mount_points import System, placed_in
from osprovider.layout import TYPES
from osprovider.manifest import Filesystem, ImagePartition

MIB = 1 << 20


def part(number: int, role: str, held: str, kind: str = "") -> ImagePartition:
    """A partition of an image, with a label that tells its number."""
    found = Filesystem(held, f"uuid-{number}", f"label{number}", 512, MIB, MIB)
    kind = kind or TYPES.get(role, "0fc63daf-8483-4772-8e79-3d69d8477de4")  # type: ignore[call-overload]
    return ImagePartition(number, role, number * MIB, MIB, kind, "", "", 0, found, None)


def places(fstab: str, *parts: ImagePartition) -> dict[int, tuple[str, str | None]]:
    """Role and place of each partition, where the last one holds the system."""
    return {each.number: (each.role, each.mount) for each in placed_in(parts, System(parts[-1], fstab=fstab), None)}


def test_of_several_efi_system_partitions_the_one_that_fstab_names_is_mounted() -> None:
    """The others are copies of it, or another system's."""
    parts = part(1, "esp", "vfat"), part(2, "esp", "vfat"), part(3, "esp", "vfat"), part(4, "root", "ext4")
    assert places("LABEL=label2 /boot/efi vfat defaults 0 1\n", *parts) == {
        1: ("esp", None),
        2: ("esp", "/boot/efi"),
        3: ("esp", None),
        4: ("root", "/"),
    }
    assert [mount for _, mount in places("", *parts).values()] == ["/boot/efi", None, None, "/"]


def test_what_fstab_has_in_a_place_keeps_another_by_its_type_out_of_it() -> None:
    other, boot = part(1, "other", "ext4"), part(2, "boot", "ext4")
    found = places("LABEL=label1 /boot ext4 defaults 0 1\n", other, boot, part(3, "root", "ext4"))
    assert found == {1: ("boot", "/boot"), 2: ("other", None), 3: ("root", "/")}


def test_an_efi_system_partition_may_be_boot() -> None:
    esp, root = part(1, "esp", "vfat"), part(2, "root", "btrfs")
    assert places("LABEL=label1 /boot vfat defaults 0 1\n", esp, root) == {1: ("boot", "/boot"), 2: ("root", "/")}


def test_without_an_fstab_the_efi_system_partition_is_where_there_is_a_directory_for_it() -> None:
    esp, root = part(1, "esp", "vfat"), part(2, "root", "ext4")
    (placed, _) = placed_in((esp, root), System(root, esp="/efi"), None)
    assert placed == dataclasses.replace(esp, mount="/efi")
