"""Disks of other kinds than those that are installed here, captured."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from tests.support.sparse import sparse_file
from tests.system.create.site import Site, attached, sfdisk
from tests.system.images.capture.capturing import GIB, SECRET, digest_of, in_mount, small_system


def _names(image: Path) -> set[str]:
    packed = subprocess.run(["zstd", "--decompress", "--stdout", image], capture_output=True, check=True).stdout
    listed = subprocess.run(["tar", "--list", "--file=-"], input=packed, capture_output=True, check=True).stdout
    return {name.strip("./") for name in listed.decode().splitlines()}


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(["mkfs.xfs", "-q"], id="xfs"),
        pytest.param(["mkfs.btrfs", "-q"], id="btrfs"),
    ],
)
def test_a_file_system_by_itself_on_a_block_device(site: Site, make: list[str]) -> None:
    disk = site.directory / "disk"
    small_system(disk, make)
    before = digest_of(disk)
    output = site.directory / "own.tar.zst"
    with attached(disk) as device:
        outcome = site.command("image", "capture", str(device), "--name", "own", "--output", str(output))
    assert outcome.status == 0, outcome.said
    assert digest_of(disk) == before
    assert {"etc/os-release", "usr/bin", "etc/machine-id"} <= _names(output)
    assert "var/log/x.1" not in _names(output)
    assert yaml.safe_load((site.config / "images/own.yaml").read_text())["source"] == str(output)


def test_patterns_say_what_stays_and_what_goes_and_force_takes_the_place_of_an_image(site: Site) -> None:
    site.write("images/own.yaml", "source: /nonexistent\n")
    (site.config / "images/own.tar.zst").write_text("of before")
    disk = site.directory / "disk"
    small_system(disk, ["mkfs.ext4", "-q", "-F"], commands="mkdir root/srv; echo x | tee root/srv/a >root/srv/b")
    words = ["--keep", "/var/log/*", "--remove", "/srv/a", "--force"]
    outcome = site.command("image", "capture", str(disk), "--name", "own", *words)
    assert outcome.status == 0, outcome.said
    names = _names(site.config / "images/own.tar.zst")
    assert {"var/log/x.1", "srv/b"} <= names
    assert "srv/a" not in names


def test_the_file_systems_of_a_disk_are_one_tree_and_swap_is_left_out(site: Site) -> None:
    """A disk with an msdos table, a /boot of its own, and swap in a logical partition."""
    disk, root, boot = (site.directory / name for name in ("disk", "root", "boot"))
    small_system(
        root,
        ["mkfs.ext4", "-q", "-F", "-U", "0b6c5a42-7f3e-5d4e-9a11-3c5d7e9f1b23"],
        commands="mkdir root/boot; printf '%s\n' 'UUID=0b6c5a42-7f3e-5d4e-9a11-3c5d7e9f1b23 / ext4 defaults 0 1' "
        "'UUID=1b6c5a42-7f3e-5d4e-9a11-3c5d7e9f1b23 /boot ext4 defaults 0 2' >root/etc/fstab",
    )
    sparse_file(boot, 64 << 20)
    words = ["mkfs.ext4", "-q", "-F", "-U", "1b6c5a42-7f3e-5d4e-9a11-3c5d7e9f1b23", str(boot)]
    subprocess.run(words, check=True)
    in_mount(boot, "echo kernel >root/vmlinuz-1")
    swap = sparse_file(site.directory / "swap", 128 << 20)
    subprocess.run(["mkswap", "--quiet", swap], check=True)
    with swap.open("r+b") as file:
        file.seek(1 << 20)
        file.write(SECRET.encode())
    sparse_file(disk, GIB)
    table = "label: dos\n2048,131072,83\n133120,819200,83,*\n952320,524288,5\n954368,262144,82\n"
    subprocess.run(["sfdisk", "--quiet", disk], input=table, text=True, check=True)
    for part, sector in ((boot, 2048), (root, 133120), (swap, 954368)):
        place = [f"of={disk}", f"seek={sector * 512}", "oflag=seek_bytes", "conv=notrunc,sparse", "bs=1M"]
        subprocess.run(["dd", f"if={part}", *place, "status=none"], check=True)
    with disk.open("r+b") as file:  # of whoever had the disk before
        file.seek(2000000 * 512)
        file.write(SECRET.encode())

    outcome = site.command("image", "capture", str(disk), "--name", "tree")
    assert outcome.status == 0, outcome.said
    assert {"boot/vmlinuz-1", "etc/os-release"} <= _names(site.config / "images/tree.tar.zst")

    outcome = site.command("image", "capture", str(disk), "--name", "disk", "--format", "qcow2")
    assert outcome.status == 0, outcome.said
    raw = site.directory / "raw"
    words = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(site.config / "images/disk.qcow2"), str(raw)]
    subprocess.run(words, check=True)
    assert sfdisk(raw)["partitions"][-1]["type"] == "82"
    assert [part["start"] for part in sfdisk(raw)["partitions"]] == [
        part["start"] for part in sfdisk(disk)["partitions"]
    ]
    assert subprocess.run(["grep", "--text", "--quiet", SECRET, raw], check=False).returncode == 1
    assert subprocess.run(["grep", "--text", "--quiet", "SWAPSPACE2", raw], check=False).returncode == 0
