"""What an image has in ``/boot``, as debugfs lists it, also where somebody made it to be endless."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from osprovider.disk import filesystem
from osprovider.disk.partitions import boot_bytes
from tests.system.disk.support import MIB

UUID = "9f2bd3ca-6b6a-4c12-9b2c-0f6f5b0a7c11"
BLOCK = 4096


def made(scratch: Path, *requests: str) -> Path:
    """An ext4 with these files in ``/boot``, and what debugfs(8) is asked for."""
    tree = scratch / "tree"
    (tree / "boot" / "grub").mkdir(parents=True)
    (tree / "boot" / "vmlinuz").write_bytes(bytes(5 * BLOCK + 1))
    (tree / "boot" / "grub" / "grub.cfg").write_bytes(b"menu")
    path = scratch / "template.img"
    filesystem.make(path, "ext4", uuid=UUID, label="", size_bytes=512 * MIB, tree=tree)
    subprocess.run(["debugfs", "-w", "-f", "-", path], input="\n".join(requests), text=True, check=True)
    return path


def test_all_that_is_there_counts_in_whole_blocks(scratch: Path) -> None:
    assert boot_bytes(made(scratch)) == (1 + 6 + 1) * BLOCK


def test_where_there_is_no_boot_nothing_counts(scratch: Path) -> None:
    assert boot_bytes(made(scratch, "unlink /boot")) == 0


@pytest.mark.parametrize(("links", "length"), [(40, 4), (300, 200)], ids=["many directories", "long lists"])
def test_directories_that_lead_back_to_themselves_are_not_followed_for_ever(
    links: int, length: int, scratch: Path
) -> None:
    path = made(scratch, *(f"ln /boot /boot/{number:0{length}}" for number in range(links)))
    assert 0 < boot_bytes(path) < 192 * MIB
