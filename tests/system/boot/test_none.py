"""The boot matrix's disks without a table, which nothing but a kernel of the node's boots."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.boot.matrix import Cell, show

CELLS = [
    Cell("none", "ext4", "kernel", "4096", root_path="UUID", sector_size=4096),
    Cell("none", "xfs", "kernel", root_path="/dev/vda"),
    Cell("none", "btrfs", "kernel", root_path="UUID"),
]


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_it_boots_with_its_root_grown(cell: Cell, scratch: Path, run_directory: Path) -> None:
    show(cell, scratch, run_directory)
