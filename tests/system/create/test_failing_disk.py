"""``create`` on a disk that fails: it never says that it is done, never leaves a table, and works once the disk does.

A file on a file system that fills up is a disk that stops taking writes, by itself and beneath a loop device, which
hears of it only when the kernel writes its cache back; QEMU's block layer serves disks that fail at a certain byte.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support import loops
from tests.support.served_disks import device_on, failing, forgetful
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
        disk = stack.enter_context(device_on(file)) if as_device else file
        outcome = site.create(disk)
        looks_installed = subprocess.run(["sfdisk", "--json", disk], capture_output=True, check=False).returncode == 0
        assert looks_installed is (outcome.status == 0), outcome.said
        if looks_installed:
            root = sfdisk(disk)["partitions"][-1]["start"] * 512
            with loops.attached(disk, "--read-only", "--offset", str(root)) as device:
                subprocess.run(["e2fsck", "-fn", device], check=True, capture_output=True)
            assert debugfs(disk, "cat /etc/hostname") == "web1.example.org\n"
        return outcome, str(disk), file.stat().st_blocks * 512


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


@pytest.mark.parametrize("as_device", [False, True], ids=["file", "device"])
@pytest.mark.parametrize("at", [200 * MIB, 3 * GIB - 4096], ids=["in the middle", "at the end"])
def test_an_io_error_is_told_with_its_byte_and_the_next_run_works(site: Site, at: int, as_device: bool) -> None:
    backing = site.disk(3 * GIB, name="backing")
    subprocess.run(["sfdisk", "--quiet", backing], input=b"label: gpt\nsize=64MiB\n", check=True)
    with ExitStack() as stack:
        disk = stack.enter_context(failing(backing, site.directory / "disk", at=at))
        target = stack.enter_context(device_on(disk)) if as_device else disk
        outcome = site.create(target)
    assert outcome.status == 1
    assert str(target) in outcome.last_line
    assert "input/output error" in outcome.last_line
    assert "dmesg" in outcome.last_line
    if at < GIB:
        assert f"cannot be written at byte {at}: " in outcome.last_line
        assert subprocess.run(["sfdisk", "--json", backing], capture_output=True, check=False).returncode != 0
    site.created(backing)


@pytest.mark.parametrize("is_short", [False, True], ids=["in the middle", "shorter than it says"])
@pytest.mark.parametrize(
    ("layout", "hypervisor", "middle"),
    [
        # What is written there: the root's data; the second superblock; data; the second allocation group's header.
        ("{table: msdos, firmware: [bios], boot: {size: 256MiB}, swap: 64MiB}", "kvm", (1 + 256 + 64 + 70) * MIB),
        ("{table: gpt, filesystem: btrfs}", "kvm", (1 + 1 + 128 + 64) * MIB),
        ("{table: none}", "lxc", 70 * MIB),
        ("{table: none, filesystem: xfs}", "lxc", 3 * GIB // 4),
    ],
)
def test_on_any_layout_a_disk_that_fails_holds_nothing_afterwards(
    site: Site, layout: str, hypervisor: str, middle: int, is_short: bool
) -> None:
    backing = site.disk(3 * GIB, name="backing")
    subprocess.run(["mkfs.ext4", "-q", backing], check=True)
    site.write("variants/laid-out.yaml", f"image: debian-12\nlayout: {layout}\n")
    changes = {"variant": "laid-out", "hypervisor": hypervisor}
    with failing(backing, site.directory / "disk", at=3 * GIB - 4096 if is_short else middle) as disk:
        outcome = site.create(disk, **changes)
    assert outcome.status == 1, outcome.said
    assert str(disk) in outcome.last_line
    assert "bug" not in outcome.last_line
    assert subprocess.run(["blkid", "--probe", backing], check=False).returncode == 2  # nothing is found
    site.created(backing, **changes)


def test_a_copy_that_the_disk_did_not_keep_is_found_out_where_the_variant_asks(site: Site) -> None:
    site.write("defaults.yaml", "verify_copy: true\n")
    with forgetful(site.directory / "disk", 3 * GIB) as disk:
        outcome = site.create(disk)
        assert outcome.status == 1
        assert f"{disk}: byte " in outcome.last_line
        assert " is not read back as it was written" in outcome.last_line
    good = site.disk(3 * GIB)
    assert f"verify {good}" in site.created(good).said
    with attached(good) as device:
        assert f"verify {device}" in site.created(device).said


def test_nothing_is_read_back_where_nobody_asks(site: Site) -> None:
    assert "verify " not in site.created(site.disk(3 * GIB)).said


def test_a_device_that_is_read_only_is_refused(site: Site) -> None:
    file = site.disk(3 * GIB)
    with loops.attached(file, "--read-only") as device:
        outcome = site.create(device)
    assert outcome.status == 1
    assert outcome.last_line.endswith(f"{device}: is read-only: make it writable (blockdev --setrw {device})")
    site.created(file)


def test_a_device_that_is_in_use_is_refused_with_who_uses_it(site: Site) -> None:
    file = site.disk(3 * GIB)
    with attached(file) as above:
        outcome = site.create(file)
        assert outcome.status == 1
        assert f"{file}: is in use: {above}; end that first" in outcome.last_line
    site.created(file)
