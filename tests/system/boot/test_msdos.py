"""The boot matrix's disks with an msdos table."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.boot.matrix import Cell, show

CELLS = [
    # instance-image's layouts with SWAP=yes, without and with kernel_path.
    Cell(
        *("msdos", "ext4", "bios", "boot-swap"),
        layout={"boot": {"size": "256MiB", "filesystem": "ext4"}, "swap": "64MiB"},
    ),
    Cell("msdos", "ext4", "kernel", "swap", layout={"swap": "memory"}, root_path="/dev/vda2"),
    Cell("msdos", "ext4", "uefi", "4096", sector_size=4096),
    Cell(
        *("msdos", "xfs", "bios", "boot-extlinux"),
        layout={"boot": {"size": "256MiB", "filesystem": "ext4"}},
        variant={"boot": {"loader": "extlinux"}},
    ),
    Cell("msdos", "xfs", "bios"),
    Cell(
        *("msdos", "xfs", "uefi"),
        layout={"swap": {"file": "64MiB"}},
        answers=(("swapon --noheadings --raw --show=NAME,TYPE", "/swapfile file"),),
    ),
    Cell("msdos", "xfs", "kernel", root_path="PARTUUID"),
    Cell("msdos", "btrfs", "bios", updates=True),
    Cell("msdos", "btrfs", "uefi"),
    Cell("msdos", "btrfs", "kernel", root_path="UUID"),
]


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_it_boots_with_its_root_grown(cell: Cell, scratch: Path, run_directory: Path) -> None:
    show(cell, scratch, run_directory)
