"""The hook fstab."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from osprovider.config.model import Hooks, Layout, Swap, Variant
from osprovider.customize.context import Context, ContextDisk, ContextPartition
from osprovider.errors import HookError
from osprovider.manifest import ImageTable
from tests.support.boot_context import ROOT_UUID, run_hook
from tests.unit.hooks.trees import context, snapshot, write_tree

HEAD = f"""\
# /etc/fstab: static file system information; see fstab(5).
# <file system> <mount point> <type> <options> <dump> <pass>
UUID={ROOT_UUID} / ext4 errors=remount-ro 0 1
UUID=5D0C-9B5E /boot/efi vfat umask=0077,nofail 0 2
"""


@pytest.mark.parametrize(
    ("old", "kept"),
    [
        (None, ""),
        ("# UNCONFIGURED FSTAB FOR BASE SYSTEM\n", ""),
        ("UUID=1111 / ext4 defaults 0 1\nLABEL=UEFI /boot/efi/ vfat defaults 0 1\n", ""),
        ("/dev/vda1\t/\text4\tdefaults 0 1\n\ntmpfs /tmp tmpfs size=1g 0 0\n", "tmpfs /tmp tmpfs size=1g 0 0\n"),
        ("LABEL=swap none swap sw 0 0\n# mine\nnas:/home /home nfs _netdev 0 0\n", None),
    ],
)
def test_root_and_esp_are_mounted_by_uuid_and_other_lines_stay(
    tmp_path: Path, old: str | None, kept: str | None
) -> None:
    write_tree(tmp_path, {"/boot": None, **({"/etc/fstab": old} if old else {})})
    for _ in range(2):
        run_hook("fstab", tmp_path, context())
        assert (tmp_path / "etc/fstab").read_text() == HEAD + (kept if kept is not None else old or "")


def test_the_mount_point_of_the_esp_is_made(tmp_path: Path) -> None:
    write_tree(tmp_path, {"/boot": None, "/etc": None})
    run_hook("fstab", tmp_path, context())
    assert (tmp_path / "boot/efi").is_dir()


def test_without_an_esp_there_is_no_line_for_it(tmp_path: Path) -> None:
    write_tree(tmp_path, {"/boot": None, "/etc": None})
    made = context()
    disk = dataclasses.replace(made.disks[0], partitions=made.disks[0].partitions[1:])
    run_hook("fstab", tmp_path, dataclasses.replace(made, disks=(disk,)))
    assert "vfat" not in (tmp_path / "etc/fstab").read_text()
    assert "/boot/efi" not in snapshot(tmp_path)


def test_without_a_root_that_can_be_named_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HookError, match="no root file system with a UUID"):
        run_hook("fstab", tmp_path, dataclasses.replace(context(), disks=()))


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_what_cannot_be_checked_at_boot_is_not(tmp_path: Path, kind: str) -> None:
    write_tree(tmp_path, {"/boot": None, "/etc": None})
    made = context()
    (esp, root) = made.disks[0].partitions
    partitions = (esp, dataclasses.replace(root, filesystem=kind))
    disk = dataclasses.replace(made.disks[0], partitions=partitions)
    run_hook("fstab", tmp_path, dataclasses.replace(made, disks=(disk,)))
    assert f"\nUUID={ROOT_UUID} / {kind} defaults 0 0\nUUID=" in (tmp_path / "etc/fstab").read_text()


def test_a_root_in_a_subvolume_is_mounted_from_there(tmp_path: Path) -> None:
    write_tree(tmp_path, {"/boot": None, "/etc": None})
    made = context()
    (esp, root) = made.disks[0].partitions
    root = dataclasses.replace(root, filesystem="btrfs", subvolume="@")
    disk = dataclasses.replace(made.disks[0], partitions=(esp, root))
    run_hook("fstab", tmp_path, dataclasses.replace(made, disks=(disk,)))
    assert f"\nUUID={ROOT_UUID} / btrfs subvol=@ 0 0\nUUID=" in (tmp_path / "etc/fstab").read_text()


@pytest.mark.parametrize(
    ("filesystem", "subvolume", "options"),
    [
        ("ext4", "", "errors=remount-ro,noatime,commit=30 0 1"),
        ("xfs", "", "noatime,commit=30 0 0"),
        ("btrfs", "@", "noatime,commit=30,subvol=@ 0 0"),
    ],
)
def test_a_root_is_mounted_with_the_variants_options(
    tmp_path: Path, filesystem: str, subvolume: str, options: str
) -> None:
    write_tree(tmp_path, {"/boot": None, "/etc": None})
    made = context(variant=Variant(layout=Layout(mount_options=("noatime", "commit=30"))))
    (esp, root) = made.disks[0].partitions
    root = dataclasses.replace(root, filesystem=filesystem, subvolume=subvolume)
    disk = dataclasses.replace(made.disks[0], partitions=(esp, root))
    run_hook("fstab", tmp_path, dataclasses.replace(made, disks=(disk,)))
    assert f"\nUUID={ROOT_UUID} / {filesystem} {options}\nUUID=" in (tmp_path / "etc/fstab").read_text()


DATA_UUID, SWAP_UUID = "2c0c8a3e-5a43-4f0e-8b8a-5f2f6f6f3a10", "7d1f1b8e-0c53-4b57-9a3b-1f8d2d0e4c22"


def with_disks(made: Context) -> Context:
    """The same instance with a swap disk and two data disks, one of which is mounted nowhere."""
    data = ContextPartition(0, "data", 0, 1 << 30, "", "xfs", DATA_UUID, "/srv/data", ("noatime", "nofail"))
    outer = dataclasses.replace(data, filesystem="ext4", filesystem_uuid=ROOT_UUID, mount="/srv", options=())
    unmounted = dataclasses.replace(data, mount=None)
    swap = ContextPartition(0, "swap", 0, 1 << 30, "", "swap", SWAP_UUID)
    parts = enumerate((data, outer, unmounted, swap), 1)
    disks = (ContextDisk(index, None, 1 << 30, 512, None, (part,)) for index, part in parts)
    return dataclasses.replace(made, disks=(*made.disks, *disks))


DISKS = f"""\
UUID={SWAP_UUID} none swap sw 0 0
UUID={ROOT_UUID} /srv ext4 defaults 0 2
UUID={DATA_UUID} /srv/data xfs noatime,nofail 0 0
"""


def test_data_disks_are_mounted_from_the_outside_in_and_swap_disks_are_swapped_to(tmp_path: Path) -> None:
    write_tree(
        tmp_path, {"/boot": None, "/etc/fstab": "LABEL=old /srv ext3 defaults 0 2\nnas:/home /home nfs _netdev 0 0\n"}
    )
    for _ in range(2):
        run_hook("fstab", tmp_path, with_disks(context()))
        assert (tmp_path / "etc/fstab").read_text() == HEAD + DISKS + "nas:/home /home nfs _netdev 0 0\n"
    assert (tmp_path / "srv/data").is_dir()


def test_a_swap_file_has_its_line(tmp_path: Path) -> None:
    write_tree(tmp_path, {"/boot": None, "/etc": None})
    variant = Variant(layout=Layout(swap=Swap("file", size="1GiB")))
    run_hook("fstab", tmp_path, context(variant=variant))
    assert (tmp_path / "etc/fstab").read_text() == HEAD + "/swapfile none swap sw 0 0\n"


def test_a_swap_file_that_no_hook_makes_has_none(tmp_path: Path) -> None:
    write_tree(tmp_path, {"/boot": None, "/etc": None})
    variant = Variant(layout=Layout(swap=Swap("file", size="1GiB")), hooks=Hooks(disable=("swap",)))
    run_hook("fstab", tmp_path, context(variant=variant))
    assert (tmp_path / "etc/fstab").read_text() == HEAD


def test_a_disk_images_own_file_keeps_its_lines_and_gets_those_of_other_disks(tmp_path: Path) -> None:
    write_tree(tmp_path, {"/etc/fstab": "# theirs\nUUID=1111 / xfs defaults 0 0\nLABEL=x /srv ext4 defaults 0 0"})
    made = context()
    assert made.manifest is not None
    table = ImageTable("gpt", ROOT_UUID, 512, ())
    image = dataclasses.replace(made, manifest=dataclasses.replace(made.manifest, table=table))
    run_hook("fstab", tmp_path, image)
    assert (tmp_path / "etc/fstab").read_text().startswith("# theirs\n")
    for _ in range(2):
        run_hook("fstab", tmp_path, with_disks(image))
        assert (tmp_path / "etc/fstab").read_text() == "# theirs\nUUID=1111 / xfs defaults 0 0\n" + DISKS
