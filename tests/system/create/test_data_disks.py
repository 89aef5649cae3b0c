"""``create`` with disks beside disk 0: made at first, kept at a reinstall, and never half made."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from osprovider.layout import derived_uuid
from tests.system.create.site import Outcome, Site, attached, debugfs, sfdisk

GIB = 1 << 30
MIB = 1 << 20
VARIANT = """\
image: debian-12
layout: {swap: {disk: swap}}
disks:
  "1": {filesystem: ext4, mount: /srv, label: files}
  db: {filesystem: xfs, mount: /srv/db, label: base, options: [noatime, nofail]}
  "3": {filesystem: btrfs}
"""
CHECKS = {
    "ext4": ["e2fsck", "-f", "-n"],
    "xfs": ["xfs_repair", "-n"],
    "btrfs": ["btrfs", "check", "--readonly"],
}


def tags(disk: Path) -> dict[str, str]:
    """What blkid(8) finds on a disk as a whole; nothing where it is ambiguous."""
    words = ["blkid", "-p", "-o", "export", str(disk)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return dict(line.split("=", 1) for line in done.stdout.splitlines())


def disks_of(site: Site, *, fill: bytes = b"") -> list[Path]:
    """Disk 0, three for data and one for swap."""
    disks = [site.disk(size, name=f"disk{index}.raw") for index, size in enumerate([3 * GIB, *[GIB] * 3, 64 * MIB])]
    for disk in disks[1:]:
        with disk.open("r+b") as file:
            file.write(fill * (disk.stat().st_size if fill else 0))
    return disks


def called(site: Site, disks: list[Path], variant: str = VARIANT, **changes: Any) -> Outcome:
    """Run ``create`` with these disks, the third called db and the fifth swap."""
    site.write("variants/disks.yaml", variant)
    names = {2: "db", 4: "swap"}
    listed = [{"path": str(disk), "name": names.get(index)} for index, disk in enumerate(disks)]
    return site.create(None, **{"variant": "disks", "disks": listed, **changes})


def created(site: Site, disks: list[Path], variant: str = VARIANT, **changes: Any) -> Outcome:
    outcome = called(site, disks, variant, **changes)
    assert outcome.status == 0, outcome.said
    return outcome


def uuids(site: Site, name: str = "web1.example.org") -> list[str]:
    instance = site.environment(None, name=name)["INSTANCE_UUID"]
    return [derived_uuid(instance, f"disk {index} file system") for index in range(5)]


def is_installed(disk: Path) -> bool:
    return subprocess.run(["sfdisk", "--json", disk], capture_output=True, check=False).returncode == 0


@contextmanager
def mounted(disk: Path, place: Path) -> Iterator[Path]:
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", disk, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


@contextmanager
def root_of(disk: Path) -> Iterator[Path]:
    """A loop device on the root partition, the last one."""
    start = sfdisk(disk)["partitions"][-1]["start"] * 512
    words = ["losetup", "--show", "--find", "--offset", str(start), str(disk)]
    device = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    try:
        yield Path(device)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


@pytest.mark.parametrize("kind", ["files", "loop-512", "loop-4096"])
def test_each_is_made_as_the_variant_says_over_whatever_was_there(site: Site, kind: str) -> None:
    files = disks_of(site, fill=b"\xa5")
    subprocess.run(["mkfs.ext4", "-q", "-F", files[2]], check=True)
    subprocess.run(["sfdisk", "--quiet", files[3]], input=b"label: gpt\nsize=64MiB\n", check=True)
    with ExitStack() as stack:
        sector = int(kind.partition("-")[2] or 0)
        disks = [stack.enter_context(attached(file, sector) if sector else nullcontext(file)) for file in files]
        hypervisor = {"hypervisor": "xen-pvm"} if sector == 4096 else {}
        variant = VARIANT + ("boot: {loader: none}\n" if sector == 4096 else "")
        created(site, disks, variant, **hypervisor)
        found = [tags(disk) for disk in disks]
        for number, filesystem in enumerate(("ext4", "xfs", "btrfs"), 1):
            subprocess.run([*CHECKS[filesystem], disks[number]], check=True, capture_output=True)
    assert [each.get("TYPE") for each in found[1:]] == ["ext4", "xfs", "btrfs", "swap"]
    assert [each.get("UUID") for each in found[1:]] == uuids(site)[1:]
    assert [each.get("LABEL") for each in found[1:]] == ["files", "base", None, None]


_IN_THE_GUEST = """set -e
mount "$1" "$2"
mount --rbind /dev "$2/dev"
mount --types proc proc "$2/proc"
mount --types sysfs sysfs "$2/sys"
chroot "$2" sh -ec 'mount /srv && mount /srv/db && findmnt --noheadings --list --output TARGET,FSTYPE,LABEL /srv
findmnt --noheadings --list --output TARGET,FSTYPE,LABEL,OPTIONS /srv/db'
"""


def test_the_guests_own_mount_finds_them_by_its_fstab(site: Site, tmp_path: Path) -> None:
    name = f"{uuid.uuid4()}.example.org"  # what has its UUIDs is looked for on all of this machine's disks
    disks = disks_of(site)
    created(site, disks, name=name)
    fstab = debugfs(disks[0], "cat /etc/fstab")
    _, ext4, xfs, btrfs, swap = uuids(site, name)
    lines = [line.split() for line in fstab.splitlines() if not line.startswith("#")]
    assert [f"UUID={swap}", "none", "swap", "sw", "0", "0"] in lines
    assert [f"UUID={ext4}", "/srv", "ext4", "defaults", "0", "2"] in lines
    assert [f"UUID={xfs}", "/srv/db", "xfs", "noatime,nofail", "0", "0"] in lines
    assert btrfs not in fstab
    with mounted(disks[1], tmp_path / "outer") as outer:
        (outer / "db").mkdir()
    with ExitStack() as stack:
        for disk in disks[1:3]:
            stack.enter_context(attached(disk))
        root = stack.enter_context(root_of(disks[0]))
        words = ["unshare", "--mount", "sh", "-c", _IN_THE_GUEST, "sh", str(root), str(tmp_path / "outer")]
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout
    outside, inside = (line.split() for line in done.stdout.splitlines())
    assert outside == ["/srv", "ext4", "files"]
    assert inside[:3] == ["/srv/db", "xfs", "base"]
    assert "noatime" in inside[3].split(",")
