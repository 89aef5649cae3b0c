"""``create`` with a file to swap to, which the kernel takes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from osprovider.disk.loop import loop_device
from tests.system.create.site import Site, sfdisk

GIB = 1 << 30
MIB = 1 << 20
# What is there is looked at by blkid(8), and taken by the kernel for a moment: it refuses files with holes.
_IN_THE_GUEST = """set -e
mount "$1" "$2"
stat --format '%a %u %g %s' "$2/swapfile"
blkid -p -o value -s TYPE "$2/swapfile"
grep swap "$2/etc/fstab"
swapon "$2/swapfile"
swapoff "$2/swapfile"
"""


@pytest.mark.parametrize("filesystem", ["ext4", "xfs", "btrfs"])
def test_the_guest_can_swap_to_it(site: Site, tmp_path: Path, filesystem: str) -> None:
    disk, size = site.disk(3 * GIB), 256 * MIB
    layout = f"{{filesystem: {filesystem}, swap: {{file: 256MiB}}}}"
    site.write("variants/swapping.yaml", f"image: debian-12\nlayout: {layout}\n")
    site.created(disk, variant="swapping")
    (place := tmp_path / "root").mkdir()
    root = sfdisk(disk)["partitions"][-1]
    with loop_device(disk, offset_bytes=root["start"] * 512, size_bytes=root["size"] * 512) as loop:
        words = ["unshare", "--mount", "sh", "-c", _IN_THE_GUEST, "sh", str(loop), str(place)]
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines() == [f"600 0 0 {size}", "swap", "/swapfile none swap sw 0 0"]


def test_a_root_without_room_for_it_is_refused_before_the_first_write(site: Site) -> None:
    site.write("variants/swapping.yaml", "image: debian-12\nlayout: {swap: {file: 4GiB}}\n")
    disk = site.disk(3 * GIB)
    outcome = site.create(disk, variant="swapping")
    assert outcome.status == 1
    assert "is too small: it has 3072 MiB and the image needs" in outcome.last_line
    assert disk.stat().st_blocks == 0
