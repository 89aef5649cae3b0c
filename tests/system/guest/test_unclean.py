"""An xfs that was not unmounted: how much of its log is to be replayed, and the little memory that takes."""

from __future__ import annotations

import subprocess
from pathlib import Path
from uuid import uuid4

import pytest

from osprovider import linux
from osprovider.disk.loop import loop_device
from osprovider.errors import GuestError
from osprovider.guest.appliance import appliance
from osprovider.guest.appliance_memory import memory_mib
from osprovider.guest.mounting import Volume
from osprovider.guest.unclean import why_unclean, xfs_replay_bytes
from osprovider.linux import private_mount_namespace
from osprovider.paths import Directories
from tests.support.sparse import sparse_file

_MIB = 1 << 20


@pytest.fixture
def images(tmp_path: Path) -> tuple[Path, Path]:
    """An xfs with a log of a gigabyte, as it was while some files were made in it, and as it was put away."""
    private_mount_namespace()
    image, copy, root = tmp_path / "image", tmp_path / "copy", tmp_path / "root"
    root.mkdir()
    sparse_file(image, 8 << 30)
    subprocess.run(["mkfs.xfs", "-q", "-l", "size=1g", image], check=True)
    with loop_device(image) as loop:
        linux.mount(str(loop), str(root), "xfs", linux.MountFlag.NODEV, None)
        try:
            for number in range(2000):
                (root / f"file{number}").touch()
            subprocess.run(["sync", "--file-system", root], check=True)
            # Of the file, whose holes take no time: within 30 s xfs empties its log (fs.xfs.xfssyncd_centisecs).
            subprocess.run(["cp", "--sparse=always", image, copy], check=True)
        finally:
            linux.umount(str(root))
    return copy, image


def test_of_the_log_counts_what_is_to_be_replayed_and_not_its_size(images: tuple[Path, Path]) -> None:
    unclean, clean = images
    assert 256 << 10 < xfs_replay_bytes(unclean) < 8 * _MIB
    assert xfs_replay_bytes(clean) == 0
    assert why_unclean(unclean, "xfs") == "its log is not empty"
    assert why_unclean(clean, "xfs") is None
    more = memory_mib([Volume(unclean, "xfs")]) - memory_mib([Volume(clean, "xfs")])
    assert 0 < more <= 4


def test_what_is_no_xfs_has_no_log_to_be_read(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(16 * _MIB))
    with pytest.raises(GuestError, match="the log of its xfs cannot be read"):
        xfs_replay_bytes(image)


def test_such_an_xfs_is_mounted_with_that_memory(images: tuple[Path, Path], directories: Directories) -> None:
    unclean, _ = images
    with appliance([Volume(unclean, "xfs", uuid=str(uuid4()), grow=True)], directories) as guest:
        assert guest.exists("/file1999")
    assert xfs_replay_bytes(unclean) == 0
