"""``create`` on a disk that stops taking writes: it never says that it is done, and never leaves a table.

There is no device that fails on command; a file on a file system that fills up is one, by itself and beneath a loop
device, which hears of it only when the kernel writes its cache back.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.system.create.site import Outcome, Site, attached, debugfs, sfdisk

GIB = 1 << 30
MIB = 1 << 20
KIB = 1 << 10


@contextmanager
def _tmpfs(place: Path, size: int) -> Iterator[None]:
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


def _create_with_room(site: Site, size: int, *, as_device: bool) -> tuple[Outcome, str, int]:
    """Create on a disk that can store ``size`` bytes, and had a table. Returns how, the disk's name, what it stores."""
    place = site.directory / "small"
    with _tmpfs(place, size), ExitStack() as stack:
        file = place / "disk"
        with file.open("wb") as opened:
            opened.truncate(3 * GIB)
        subprocess.run(["sfdisk", "--quiet", file], input=b"label: gpt\nsize=64MiB\n", check=True)
        disk = stack.enter_context(attached(file)) if as_device else file
        outcome = site.create(disk)
        looks_installed = subprocess.run(["sfdisk", "--json", disk], capture_output=True, check=False).returncode == 0
        assert looks_installed is (outcome.status == 0), outcome.said
        if looks_installed:
            root = sfdisk(disk)["partitions"][-1]["start"] * 512
            with _range(disk, root) as device:
                subprocess.run(["e2fsck", "-fn", device], check=True, capture_output=True)
            assert debugfs(disk, "cat /etc/hostname") == "web1.example.org\n"
        return outcome, str(disk), file.stat().st_blocks * 512


@contextmanager
def _range(disk: Path, offset: int) -> Iterator[str]:
    """A loop device from ``offset`` of a disk on."""
    words = ["losetup", "--show", "--find", "--read-only", "--offset", str(offset), str(disk)]
    device = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


@pytest.mark.parametrize("as_device", [False, True], ids=["file", "device"])
def test_wherever_the_disk_fails_it_is_named_and_has_no_table(site: Site, as_device: bool) -> None:
    _, _, needed = _create_with_room(site, 2 * GIB, as_device=as_device)
    # From the first write over the copy to the last steps, which take little: what they lack is counted from the end.
    lacking = [128 * KIB, MIB, 2 * MIB, 3 * MIB, 5 * MIB, 8 * MIB, needed // 2, needed - 3 * MIB]
    failures = 0
    for less in lacking:
        outcome, disk, _ = _create_with_room(site, needed - less, as_device=as_device)
        if outcome.status:
            failures += 1
            assert outcome.status == 1, outcome.said
            assert disk in outcome.last_line
            assert "bug" not in outcome.last_line
    assert failures >= 5
