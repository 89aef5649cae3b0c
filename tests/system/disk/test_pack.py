"""Trees packed into file systems: all of the tree is there, and the same tree makes the same file."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from osprovider.disk import filesystem
from osprovider.disk.pack import pack
from tests.support.mounts import mounted

UUID = "0f8fad5b-d9cb-469f-a165-70867728950e"
EPOCH = 1_700_000_000
KINDS = ("ext4", "ext3", "ext2")


def lay(root: Path, names: list[str]) -> None:
    """Lay a tree with all that there can be in one; its many files in this order."""
    (root / "many").mkdir(parents=True)
    for name in names:
        (root / "many" / name).write_text(name * 300)
    (root / "zzz").write_text("linked")
    (root / "aaa").hardlink_to(root / "zzz")
    (root / "link").symlink_to("zzz")
    os.mkfifo(root / "fifo")
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    with (root / "sparse").open("wb") as file:
        file.seek(300 << 20)
        file.write(b"end")
    (root / "owned").mkdir(mode=0o750)
    os.chown(root / "owned", 1000, 70000)
    (root / "suid").write_text("program")
    (root / "suid").chmod(0o4755)
    os.setxattr(root / "suid", "user.note", b"kept")
    os.setxattr(root / "suid", "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
    subprocess.run(["setfacl", "--modify", "group:adm:rx,default:group:adm:rx", root / "owned"], check=True)
    for path in (root / "zzz", *(root / "many").iterdir(), root / "many", root):
        os.utime(path, (1, EPOCH - 1000))


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_tree_makes_the_same_file(kind: str, tmp_path: Path) -> None:
    names = [f"file-{number}" for number in range(2000)]
    for tree, order in (("one", names), ("other", names[::-1])):
        lay(tmp_path / tree, order)
        if tree == "other":  # what a tree had, and has no more, is in its directories and inodes
            (tmp_path / tree / "many" / ("x" * 200)).write_text("gone")
            (tmp_path / tree / "many" / ("x" * 200)).unlink()
            for path in (tmp_path / tree / "many", *(tmp_path / tree).iterdir()):
                if not path.is_symlink():
                    os.utime(path, (2, EPOCH - 1000))
    for path in (tmp_path / "one").iterdir():
        if not path.is_symlink():
            os.utime(path, (1, EPOCH - 1000))
    os.utime(tmp_path / "other", (2, EPOCH - 1000))
    for tree in ("one", "other"):
        os.utime(tmp_path / tree / "link", (1, EPOCH), follow_symlinks=False)
        pack(tmp_path / tree, tmp_path / f"{tree}.img", kind, uuid=UUID, epoch=EPOCH)
    subprocess.run(["cmp", tmp_path / "one.img", tmp_path / "other.img"], check=True)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_sound_small_and_of_the_kind_and_identity_asked_for(kind: str, tmp_path: Path) -> None:
    lay(tmp_path / "tree", ["a"])
    image = tmp_path / "image"
    pack(tmp_path / "tree", image, kind, uuid=UUID, epoch=EPOCH)
    subprocess.run(["e2fsck", "-f", "-n", image], check=True, capture_output=True)
    found = filesystem.read_superblock(image)
    assert (found.type, found.uuid, found.size_bytes) == (kind, UUID, image.stat().st_size)
    assert image.stat().st_size < 256 << 20
    assert image.stat().st_blocks * 512 < 100 << 20


def test_all_of_the_tree_is_there(tmp_path: Path) -> None:
    lay(tmp_path / "tree", ["a", "b"])
    pack(tmp_path / "tree", tmp_path / "image", "ext4", uuid=UUID, epoch=EPOCH)
    with mounted(tmp_path / "image", tmp_path / "mounted") as root:
        assert sorted(path.name for path in root.iterdir()) == sorted(
            ["lost+found", *(path.name for path in (tmp_path / "tree").iterdir())]
        )
        assert (root / "many" / "b").read_text() == "b" * 300
        assert (root / "aaa").stat().st_ino == (root / "zzz").stat().st_ino
        assert (root / "link").readlink() == Path("zzz")
        assert (root / "fifo").is_fifo()
        assert (root / "null").stat().st_rdev == os.makedev(1, 3)
        sparse = (root / "sparse").stat()
        assert (sparse.st_size, sparse.st_blocks < 100) == ((300 << 20) + 3, True)
        owned = (root / "owned").stat()
        assert (owned.st_uid, owned.st_gid, stat.S_IMODE(owned.st_mode)) == (1000, 70000, 0o750)
        assert stat.S_IMODE((root / "suid").stat().st_mode) == 0o4755
        for name in ("user.note", "security.capability"):
            assert os.getxattr(root / "suid", name) == os.getxattr(tmp_path / "tree" / "suid", name)
        for name in ("system.posix_acl_access", "system.posix_acl_default"):
            assert os.getxattr(root / "owned", name) == os.getxattr(tmp_path / "tree" / "owned", name)
        found = (root / "many" / "a").stat()
        assert (found.st_mtime, found.st_atime, found.st_ctime) == (EPOCH - 1000, EPOCH, EPOCH)
