"""The boot matrix's disks with a GPT."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.boot.matrix import Cell, show

CELLS = [
    Cell("gpt", "ext4", "bios", updates=True),
    Cell("gpt", "ext4", "uefi", "4096", sector_size=4096),
    Cell(
        *("gpt", "ext4", "kernel"),
        layout={"swap": {"file": "64MiB"}},
        answers=(("swapon --noheadings --raw --show=NAME,TYPE", "/swapfile file"),),
    ),
    Cell(
        *("gpt", "ext4", "bios", "extlinux"),
        variant={"boot": {"loader": "extlinux"}},
        answers=(("cat /proc/cmdline", "BOOT_IMAGE=/vmlinuz .*"),),
    ),
    Cell(
        *("gpt", "xfs", "bios", "boot-swap"),
        layout={"mount_options": ["noatime"], "boot": {"size": "256MiB", "filesystem": "ext2"}, "swap": "64MiB"},
        answers=(("findmnt --noheadings --raw --output OPTIONS /", "(.*,)?noatime,.*"),),
    ),
    Cell("gpt", "xfs", "uefi"),
    Cell("gpt", "xfs", "kernel", root_path="UUID"),
    Cell(
        *("gpt", "btrfs", "bios", "disks"),
        disks=(320, 64),
        layout={"swap": {"disk": 2}},
        variant={"disks": {"1": {"filesystem": "xfs", "mount": "/srv", "label": "data", "options": ["noatime"]}}},
        answers=(
            ("findmnt --noheadings --raw --output SOURCE,FSTYPE,LABEL /srv", "/dev/vdb xfs data"),
            ("swapon --noheadings --raw --show=NAME", "/dev/vdc"),
        ),
    ),
    Cell(
        *("gpt", "btrfs", "uefi", "boot"),
        layout={"boot": {"size": "128MiB", "filesystem": "ext4"}, "swap": {"file": "64MiB"}},
        answers=(("swapon --noheadings --raw --show=NAME,TYPE", "/swapfile file"),),
        updates=True,
    ),
    Cell("gpt", "btrfs", "kernel", root_path="PARTUUID"),
]


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_it_boots_with_its_root_grown(cell: Cell, scratch: Path, run_directory: Path) -> None:
    show(cell, scratch, run_directory)
