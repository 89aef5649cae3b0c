"""Ubuntu 22.04 as it is shipped, but by debootstrap, under BIOS; its own update-grub makes a menu that boots."""

from __future__ import annotations

from pathlib import Path

from tests.support.ubuntu import ubuntu_keys
from tests.system.boot.matrix import Cell, show
from tests.system.boot.ubuntu import NETWORK, answers, shipped


def test_it_is_built_and_boots(scratch: Path, run_directory: Path) -> None:
    seen = answers("jammy", r"5\.15\.0-\d+-generic")
    with ubuntu_keys(run_directory):
        show(
            Cell("gpt", "ext4", "bios", "jammy", network=NETWORK, updates=True, answers=seen),
            scratch,
            run_directory,
            shipped("ubuntu-22.04", "debootstrap"),
        )
