"""Wiping: what each policy leaves on a used disk, and whether it claims a proof."""

from __future__ import annotations

import subprocess
import uuid
from pathlib import Path
from typing import Literal

import pytest

from osprovider.disk.device import claim
from osprovider.disk.table import make_table, write_table
from osprovider.disk.wipe import clear_signatures, wipe
from osprovider.layout import TablePlan
from tests.support.sparse import sparse_file
from tests.system.disk.support import DISK_SIZE, MIB, in_mount_namespace, used_disk

OLD = b"\xa5" * DISK_SIZE
ZEROS = bytes(DISK_SIZE)


def test_signatures_are_gone_and_nothing_else(disk: Path, run_dir: Path) -> None:
    with claim(disk, run_dir) as device:
        clear_signatures(device)
    assert disk.read_bytes() == bytes(MIB) + OLD[2 * MIB :] + bytes(MIB)


def test_where_a_file_has_holes_nothing_is_written(tmp_path: Path, run_dir: Path) -> None:
    disk = sparse_file(tmp_path / "new", DISK_SIZE)
    with claim(disk, run_dir) as device:
        clear_signatures(device)
    assert disk.stat().st_blocks == 0


@pytest.mark.parametrize("place", [0, MIB - 1, DISK_SIZE - MIB, DISK_SIZE - 1])
def test_one_byte_at_either_end_is_cleared(tmp_path: Path, run_dir: Path, place: int) -> None:
    disk = tmp_path / "used"
    with disk.open("wb") as file:
        file.truncate(DISK_SIZE)
        file.seek(place)
        file.write(b"x")
    with claim(disk, run_dir) as device:
        clear_signatures(device)
    assert disk.read_bytes() == ZEROS


def test_a_table_is_not_found_any_more(disk: Path, run_dir: Path) -> None:
    with claim(disk, run_dir) as device:
        table = TablePlan(str(uuid.uuid4()), device.facts.sector_size, ())
        write_table(device, make_table(device, table))
    probe = ["blkid", "--probe", str(disk)]
    assert subprocess.run(probe, check=True, capture_output=True).stdout
    with claim(disk, run_dir) as device:
        clear_signatures(device)
    assert subprocess.run(probe, check=False, capture_output=True).stdout == b""


@pytest.mark.parametrize("policy", ["auto", "zero"])
def test_auto_and_zero_prove_that_all_is_zero(policy: Literal["auto", "zero"], disk: Path, run_dir: Path) -> None:
    # Loop devices on this file system, as thin volumes, make zeros by unmapping.
    with claim(disk, run_dir) as device:
        assert wipe(device, policy) is True
    assert disk.read_bytes() == ZEROS


def test_none_leaves_everything(disk: Path, run_dir: Path) -> None:
    with claim(disk, run_dir) as device:
        assert wipe(device, "none") is False
    assert disk.read_bytes() == OLD


def test_discarding_a_device_proves_nothing(disk: Path, run_dir: Path) -> None:
    with claim(disk, run_dir) as device:
        assert wipe(device, "discard") is not device.is_block


@pytest.mark.parametrize(
    ("policy", "proved", "said"),
    [
        ("auto", False, "cannot zero itself: old contents stay"),
        ("discard", False, "knows no discard: old contents stay"),
        ("zero", True, "zero /dev/loop"),
    ],
)
def test_a_device_that_cannot_is_left_alone_unless_zeros_are_wanted(
    policy: str, proved: bool, said: str, scratch: Path, run_dir: Path
) -> None:
    place = scratch / "ramfs"
    place.mkdir()
    code = """
from pathlib import Path
from osprovider.disk.device import claim
from osprovider.disk.table import make_table, write_table
from osprovider.disk.wipe import wipe
from tests.system.disk.support import MIB, attached, used_disk
sys.stderr = sys.stdout
with attached(used_disk(Path(sys.argv[1]) / "disk", 4 * MIB)) as disk:
    with claim(disk, Path(sys.argv[2])) as device:
        proved = wipe(device, sys.argv[3])
    assert disk.read_bytes() == (bytes(4 * MIB) if proved else b"\\xa5" * 4 * MIB)
    print("proved" if proved else "left")
"""
    out = in_mount_namespace('mount -t ramfs none "$1"', code, place, run_dir, policy)
    assert said in out
    assert out.endswith("proved\n" if proved else "left\n")


def test_a_file_keeps_its_blocks_which_a_file_system_may_be_slow_to_free(scratch: Path, run_dir: Path) -> None:
    disk = used_disk(scratch / "disk")
    blocks = disk.stat().st_blocks
    with claim(disk, run_dir) as device:
        assert wipe(device, "auto") is True
    assert disk.read_bytes() == ZEROS
    assert disk.stat().st_blocks >= blocks


def test_a_files_holes_stay_holes(scratch: Path, run_dir: Path) -> None:
    disk = scratch / "sparse"
    with disk.open("wb") as file:
        file.truncate(1 << 40)  # larger than what it lies on
        for offset in (0, 5 * MIB + 512, (1 << 40) - MIB):
            file.seek(offset)
            file.write(OLD[:MIB])
    with claim(disk, run_dir) as device:
        assert wipe(device, "auto") is True
    assert disk.stat().st_blocks * 512 < 8 * MIB
    with disk.open("rb") as file:
        for offset in (0, 4 * MIB, (1 << 40) - 4 * MIB):
            file.seek(offset)
            assert file.read(4 * MIB) == bytes(4 * MIB)
