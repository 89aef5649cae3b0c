"""The hook fstab."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from osprovider.errors import HookError
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
