"""File systems from template to instance, judged by e2fsprogs themselves."""

from __future__ import annotations

import os
import re
import subprocess
import uuid
from pathlib import Path

import pytest

from osprovider.descriptors import opened
from osprovider.disk import filesystem
from osprovider.disk.loop import loop_device
from osprovider.disk.scan import scan_extents
from osprovider.errors import DeviceError, ToolError
from tests.system.create.cloud import install_filesystem
from tests.system.disk.support import MIB, copied, used_disk

UUID = "9f2bd3ca-6b6a-4c12-9b2c-0f6f5b0a7c11"
TYPES = ["ext4", "ext3", "ext2"]


def header(path: Path) -> dict[str, str]:
    """What dumpe2fs(8) says of a file system as a whole."""
    said = subprocess.run(["dumpe2fs", "-h", str(path)], check=True, capture_output=True, text=True).stdout
    return {key: value.strip() for key, _, value in (line.partition(":") for line in said.splitlines())}


def debugfs(path: Path, *requests: str) -> None:
    script = "\n".join(requests)
    subprocess.run(["debugfs", "-w", "-f", "-", str(path)], input=script, text=True, check=True, capture_output=True)


def assert_sound(path: Path) -> None:
    subprocess.run(["e2fsck", "-f", "-n", str(path)], check=True, capture_output=True)


@pytest.fixture(params=TYPES)
def type_(request: pytest.FixtureRequest) -> str:
    """A type of the family."""
    return str(request.param)


@pytest.fixture
def made(type_: str, shared: Path, scratch: Path) -> Path:
    """A file system of 1 GiB, to be shrunk, that holds 40 MiB of data, and has held 200 MiB more."""
    original, kept = shared / f"{type_}.img", shared / f"{type_}.kept"
    if not original.exists():
        without = filesystem.WITHOUT_JOURNAL
        filesystem.make(original, type_, uuid=UUID, label="root", size_bytes=1024 * MIB, without=without)
        kept.write_bytes(os.urandom(40 * MIB))
        (dropped := scratch / "dropped").write_bytes(os.urandom(200 * MIB))
        debugfs(original, f"write {dropped} dropped", f"write {kept} kept", "mkdir etc", "rm dropped")
    copied(kept, scratch / "kept")
    return copied(original, scratch / "root.img")


def contents(path: Path, scratch: Path) -> bytes:
    out = scratch / "out"
    debugfs(path, f"dump kept {out}")
    return out.read_bytes()


def test_a_new_one_is_what_was_asked_for(type_: str, scratch: Path) -> None:
    path = scratch / "root.img"
    filesystem.make(path, type_, uuid=UUID, label="root", size_bytes=512 * MIB)
    assert_sound(path)
    superblock = filesystem.read_superblock(path)
    assert (superblock.type, superblock.uuid, superblock.label) == (type_, UUID, "root")
    assert (superblock.block_size, superblock.size_bytes) == (4096, 512 * MIB)
    assert filesystem.type_of(path) == type_
    blkid = ["blkid", "--probe", "--output", "value", "--match-tag", "TYPE", str(path)]
    assert subprocess.run(blkid, check=True, capture_output=True, text=True).stdout.strip() == type_


def test_root_has_a_hundredth_in_reserve_however_large_it_grows(type_: str, scratch: Path) -> None:
    path = scratch / "root.img"
    filesystem.make(path, type_, uuid=UUID, label="", size_bytes=512 * MIB, without=filesystem.WITHOUT_JOURNAL)
    filesystem.shrink(path, type_)
    os.truncate(path, 8192 * MIB)
    filesystem.grow(path)
    said = header(path)
    assert 0.009 <= int(said["Reserved block count"]) / int(said["Block count"]) <= 0.01


def test_nothing_is_reserved_where_nobody_needs_it(scratch: Path) -> None:
    path = scratch / "data.img"
    filesystem.make(path, "ext4", uuid=UUID, label="", size_bytes=512 * MIB, reserved_percent=0)
    assert header(path)["Reserved block count"] == "0"


def test_features_are_those_that_old_guests_and_their_boot_loaders_know(scratch: Path) -> None:
    path = scratch / "root.img"
    filesystem.make(path, "ext4", uuid=UUID, label="", size_bytes=512 * MIB)
    assert set(header(path)["Filesystem features"].split()) == {
        *("has_journal", "ext_attr", "resize_inode", "dir_index", "filetype", "extent", "64bit", "flex_bg"),
        *("sparse_super", "large_file", "huge_file", "dir_nlink", "extra_isize", "metadata_csum"),
    }


@pytest.mark.parametrize("blocks", [(1 << 32) - 1, 1 << 32])
def test_an_ext4_may_have_more_blocks_than_any_resize_inode_foresees(blocks: int) -> None:
    with opened(os.memfd_create("disk")) as fd:  # the file systems of this machine may have no file as large as that
        os.truncate(fd, blocks * 4096)
        path = Path(f"/proc/{os.getpid()}/fd/{fd}")
        filesystem.make(path, "ext4", uuid=UUID, label="", size_bytes=blocks * 4096)
        assert filesystem.read_superblock(path).size_bytes == blocks * 4096


@pytest.mark.parametrize("without", [{"metadata_csum"}, {"metadata_csum", "64bit"}], ids=["2016", "2012"])
def test_what_an_old_guest_does_not_know_is_left_out_of_a_new_one_and_taken_out_of_a_template(
    without: set[str], scratch: Path
) -> None:
    new, template, tree = scratch / "new.img", scratch / "template.img", scratch / "tree"
    tree.mkdir()
    (tree / "kept").write_bytes(os.urandom(4 * MIB))
    for index in range(2000):
        (tree / f"file{index}").write_text(str(index))
    filesystem.make(new, "ext4", uuid=UUID, label="", size_bytes=512 * MIB, tree=tree, without=without)
    journal = filesystem.WITHOUT_JOURNAL
    filesystem.make(template, "ext4", uuid=UUID, label="", size_bytes=512 * MIB, tree=tree, epoch=1, without=journal)
    (place := scratch / "mounted").mkdir()
    with loop_device(template) as loop:  # written to by a kernel since, as where an archive is unpacked
        words = ["unshare", "--mount", "sh", "-ec", 'mount "$1" "$2"; touch "$2/touched"', "sh", str(loop), str(place)]
        subprocess.run(words, check=True)
    full = set(header(template)["Filesystem features"].split())
    filesystem.shrink(template, "ext4", without=without, is_new=True)
    filesystem.set_uuid(template, str(uuid.uuid4()))
    os.truncate(template, 3 << 30)
    filesystem.grow(template)
    for path in (new, template):
        assert_sound(path)
        assert set(header(path)["Filesystem features"].split()) == (full - without) | {"has_journal", "uninit_bg"}
        assert contents(path, scratch) == (tree / "kept").read_bytes()


def test_the_nodes_own_mke2fs_configuration_changes_nothing(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = scratch / "root.img"
    configuration = scratch / "mke2fs.conf"
    configuration.write_text(
        "[defaults]\nbase_features = sparse_super,metadata_csum_seed\n"
        "[fs_types]\next4 = {\n features = orphan_file,metadata_csum_seed\n inode_size = 128\n}\n"
    )
    monkeypatch.setattr(
        "osprovider.run.BASE_ENVIRONMENT", {"PATH": os.environ["PATH"], "MKE2FS_CONFIG": str(configuration)}
    )
    filesystem.make(path, "ext4", uuid=UUID, label="", size_bytes=512 * MIB)
    said = header(path)
    assert not {"metadata_csum_seed", "orphan_file"} & set(said["Filesystem features"].split())
    assert said["Inode size"] == "256"


@pytest.mark.parametrize("is_new", [False, True])
def test_a_shrunk_one_is_small_sound_and_has_no_memory_of_deleted_files(
    is_new: bool, type_: str, made: Path, scratch: Path
) -> None:
    kept = (scratch / "kept").read_bytes()
    size = filesystem.shrink(made, type_, is_new=is_new)
    assert size == made.stat().st_size == filesystem.read_superblock(made).size_bytes
    assert size < 600 * MIB
    assert size % 4096 == 0
    assert_sound(made)
    assert filesystem.type_of(made) == type_
    assert contents(made, scratch) == kept
    with made.open("rb") as file:
        data = sum(extent.length for extent in scan_extents(file.fileno(), size))
    assert data < 60 * MIB
    free = int(header(made)["Free blocks"]) * 4096
    assert free >= 32 * MIB


def test_an_instances_copy_gets_its_uuid_and_size_without_a_check(type_: str, made: Path, scratch: Path) -> None:
    kept = (scratch / "kept").read_bytes()
    filesystem.shrink(made, type_)
    disk = used_disk(scratch / "disk", 1)
    os.truncate(disk, 3072 * MIB)
    with disk.open("r+b") as target:
        target.seek(MIB)
        target.write(made.read_bytes())
    identity = str(uuid.uuid4())
    with loop_device(disk, offset_bytes=MIB, size_bytes=3000 * MIB) as loop:
        filesystem.set_uuid(loop, identity)
        filesystem.grow(loop)
        superblock = filesystem.read_superblock(loop)
        assert (superblock.uuid, superblock.size_bytes) == (identity, 3000 * MIB)
        assert filesystem.check(loop) is True
        assert contents(loop, scratch) == kept


def test_it_grows_beyond_what_the_resize_inode_foresees(scratch: Path) -> None:
    path = scratch / "root.img"
    filesystem.make(path, "ext4", uuid=UUID, label="", size_bytes=512 * MIB)
    filesystem.check(path)
    os.truncate(path, 10 << 40)
    filesystem.grow(path)
    assert filesystem.read_superblock(path).size_bytes == 10 << 40
    assert "meta_bg" not in header(path)["Filesystem features"]


def test_used_bytes_count_files_and_metadata(made: Path) -> None:
    said = header(made)
    assert filesystem.used_bytes(made) == (int(said["Block count"]) - int(said["Free blocks"])) * 4096
    assert 40 * MIB < filesystem.used_bytes(made) < 200 * MIB


def test_a_check_repairs_and_says_so(made: Path) -> None:
    debugfs(made, "clri etc")
    assert filesystem.check(made) is False
    assert filesystem.check(made) is True


def test_one_that_was_taken_while_in_use_has_its_journal_replayed_for_a_new_uuid(scratch: Path) -> None:
    path, taken = scratch / "root.img", scratch / "taken.img"
    filesystem.make(path, "ext4", uuid=UUID, label="root", size_bytes=512 * MIB)
    write = "echo hello > root/written; xfs_io -c fsync root/written"
    install_filesystem(path, f"{write}; cp --sparse=always {path} {taken}")
    assert "needs_recovery" in header(taken)["Filesystem features"]
    identity = str(uuid.uuid4())
    filesystem.set_uuid(taken, identity)
    filesystem.grow(taken)
    assert header(taken)["Filesystem UUID"] == identity
    assert_sound(taken)
    assert install_filesystem(taken, "cat root/written") == "hello\n"


def test_what_is_no_file_system_is_told(scratch: Path) -> None:
    path = used_disk(scratch / "disk", MIB)
    for function in (filesystem.type_of, filesystem.used_bytes):
        with pytest.raises(DeviceError, match=re.escape(f"{path}: holds no ext2, ext3 or ext4 file system")):
            function(path)
    with pytest.raises(DeviceError, match="its file system could not be repaired: e2fsck ended with 8"):
        filesystem.check(path)
    with pytest.raises(DeviceError, match="could not be repaired"):
        filesystem.shrink(path, "ext4")
    with pytest.raises(DeviceError, match="could not be repaired"):
        filesystem.set_uuid(path, UUID)
    with pytest.raises(ToolError, match="resize2fs"):
        filesystem.grow(path)
