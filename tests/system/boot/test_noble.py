"""Ubuntu 24.04 as it is shipped, by mmdebstrap, under UEFI."""

from __future__ import annotations

from pathlib import Path

from tests.support.ubuntu import ubuntu_keys
from tests.system.boot.matrix import Cell, show
from tests.system.boot.ubuntu import NETWORK, answers, shipped


def test_it_is_built_and_boots(scratch: Path, run_directory: Path) -> None:
    seen = answers("noble", r"6\.8\.0-\d+-generic")
    with ubuntu_keys(run_directory):
        show(
            Cell("gpt", "ext4", "uefi", "noble", network=NETWORK, answers=seen),
            scratch,
            run_directory,
            shipped("ubuntu-24.04", "mmdebstrap"),
        )
