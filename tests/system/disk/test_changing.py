"""A copy's file systems get their names and sizes on this machine, by what blkid and the kernel then see."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from uuid import uuid4

import pytest

from osprovider import linux, programs
from osprovider.disk import changing
from osprovider.disk.loop import loop_device
from osprovider.errors import GuestError, NodeError
from osprovider.guest.mounting import Volume, mounted
from tests.support.sparse import sparse_file
from tests.system.guest.namespace import in_namespace

MIB = 1 << 20
MAKERS = {
    "ext2": ["mkfs.ext2", "-q", "-F"],
    "ext3": ["mkfs.ext3", "-q", "-F"],
    "ext4": ["mkfs.ext4", "-q", "-F"],
    "xfs": ["mkfs.xfs", "-q"],
    "btrfs": ["mkfs.btrfs", "-q"],
    "vfat": ["mkfs.vfat", "-F", "32"],
    "swap": ["mkswap", "-q"],
}


def make(directory: Path, kind: str) -> Path:
    """A file system that fills the first 320 MiB of a file of 512."""
    image = directory / kind
    sparse_file(image, 320 * MIB)
    subprocess.run([*MAKERS[kind], image], check=True, capture_output=True)
    os.truncate(image, 512 * MIB)
    return image


def tag(image: Path, name: str) -> str:
    words = ["blkid", "--probe", "--output", "value", "--match-tag", name, str(image)]
    return subprocess.check_output(words, text=True).strip()


def write_without_unmounting(image: Path, directory: Path) -> Path:
    """A copy of a file system as it was while it was mounted, what was written stored in its journal."""
    copy, root = directory / "copy", directory / "root"
    root.mkdir()
    with loop_device(image) as loop:
        linux.mount(str(loop), str(root), tag(image, "TYPE"), linux.MountFlag.NODEV, None)
        try:
            with (root / "file").open("w") as file:
                file.write("written\n")
                file.flush()
                os.fsync(file.fileno())
            subprocess.run(["cp", "--sparse=always", loop, copy], check=True)
        finally:
            linux.umount(str(root))
    return copy


@pytest.mark.parametrize("kind", MAKERS)
def test_it_gets_its_uuid_and_the_size_of_its_device(tmp_path: Path, kind: str) -> None:
    image = make(tmp_path, kind)
    uuid = "1234-ABCD" if kind == "vfat" else str(uuid4())

    def change() -> int:
        with loop_device(image) as loop:
            volume = Volume(loop, kind, uuid=uuid, grow=True)
            changing.change(volume, tmp_path / "run")
            if kind in ("vfat", "swap"):
                return 0
            with mounted(loop, kind, tmp_path / "run") as guest:
                assert guest.mountpoint is not None
                changing.grow_mounted(volume, guest.mountpoint)
                found = os.statvfs(guest.root_fd)
                return found.f_blocks * found.f_frsize

    size = in_namespace(change)
    assert tag(image, "UUID") == uuid
    if size:
        assert size > 400 * MIB
    if kind == "vfat":  # fsck.vfat compares FAT32's two boot sectors
        subprocess.run(["fsck.vfat", "-n", image], check=True, capture_output=True)


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_what_was_in_a_journal_is_there(tmp_path: Path, kind: str) -> None:
    image = make(tmp_path, kind)
    uuid = str(uuid4())

    def change() -> bytes:
        copy = write_without_unmounting(image, tmp_path)
        with loop_device(copy) as loop:
            changing.change(Volume(loop, kind, uuid=uuid, is_new=True), tmp_path / "run")
            with mounted(loop, kind, tmp_path / "run", is_new=True) as guest:
                return guest.read("/file")

    assert in_namespace(change) == b"written\n"
    assert tag(tmp_path / "copy", "UUID") == uuid


def test_a_log_tree_of_a_btrfs_is_left_to_the_appliance(tmp_path: Path) -> None:
    """To replay it is to mount it, while another one of its UUID may be mounted."""
    image = make(tmp_path, "btrfs")

    def change() -> None:
        copy = write_without_unmounting(image, tmp_path)
        with (
            loop_device(copy) as loop,
            pytest.raises(GuestError, match="its log tree is not empty, which only the appliance replays: set isol"),
        ):
            changing.change(Volume(loop, "btrfs", uuid=str(uuid4())), tmp_path / "run")

    in_namespace(change)


def test_a_fat_without_a_volume_id_is_refused(tmp_path: Path) -> None:
    image = make(tmp_path, "vfat")
    with image.open("r+b") as file:
        file.seek(66)
        file.write(b"\0")
    with loop_device(image) as loop, pytest.raises(GuestError, match=r"/dev/loop\d+: its vfat has no volume ID"):
        changing.change(Volume(loop, "vfat", "/boot/efi", uuid="1234-ABCD"), tmp_path / "run")


def test_a_node_without_the_tools_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    changing.require(MAKERS, "image x")
    monkeypatch.setattr(changing, "_MOUNTED", frozenset({"minix"}))
    with pytest.raises(NodeError, match=r"^image x: this node's kernel cannot mount minix: see modprobe minix$"):
        changing.require(["minix"], "image x")
    monkeypatch.setattr(programs, "is_installed", lambda program: program != "btrfstune")
    with pytest.raises(NodeError, match=r"^image x: btrfstune, .*; apt install btrfs-progs$"):
        changing.require(["vfat", "btrfs"], "image x")
