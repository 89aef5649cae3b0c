"""``create`` with a root of xfs or btrfs: from the template that ext4 has, at the disk's size.

That they boot is shown in tests/system/boot.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import subprocess
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from osprovider.layout import derived_uuid
from tests.support.runs import loop_devices
from tests.support.served_disks import device_on
from tests.system.create.site import Site, attached, read_until, root_of

GIB = 1 << 30
MIB = 1 << 20
KINDS = ["xfs", "btrfs"]
CHECKS = {"xfs": ["xfs_repair", "-n"], "btrfs": ["btrfs", "check", "--readonly"]}


def variant_of(site: Site, kind: str, **changes: str) -> str:
    """A variant with such a root."""
    further = "".join(f"{key}: {value}\n" for key, value in changes.items())
    site.write(f"variants/{kind}.yaml", f"image: debian-12\nlayout: {{filesystem: {kind}}}\n{further}")
    return kind


def tags(device: Path) -> dict[str, str]:
    """What blkid(8) finds on a device."""
    words = ["blkid", "-p", "-o", "export", str(device)]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return dict(line.split("=", 1) for line in said.splitlines())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("hypervisor", "sector_size", "seen"),
    [("kvm", None, 512), ("kvm", 512, 512), ("kvm", 4096, 512), ("xen-hvm", 4096, 4096)],
)
def test_the_root_is_what_the_plan_says(
    site: Site, kind: str, hypervisor: str, sector_size: int | None, seen: int
) -> None:
    variant = variant_of(site, kind, boot="{loader: none}") if seen != 512 else variant_of(site, kind)
    file = site.disk(3 * GIB)
    with attached(file, sector_size) if sector_size else nullcontext(file) as disk:
        environment = site.environment(disk, variant=variant, hypervisor=hypervisor)
        variables = site.directory / "environment"
        variables.write_text("".join(f"{name}={value}\n" for name, value in environment.items()))
        plan = json.loads(site.command("plan", "--json", "--environment", str(variables)).said)
        templates = list(site.cache.glob("templates/*"))
        outcome = site.call("create", environment)
    assert outcome.status == 0, outcome.said
    assert (plan["filled"], plan["template_ready"]) == (True, True)
    assert list(site.cache.glob("templates/*")) == templates
    with attached(file, seen) as disk, root_of(disk) as root:
        found = tags(root)
        subprocess.run([*CHECKS[kind], root], check=True, capture_output=True)
    planned = plan["table"]["partitions"][-1]
    assert found["TYPE"] == kind == planned["filesystem"]
    assert found["UUID"] == planned["filesystem_uuid"]
    assert found["UUID"] == derived_uuid(environment["INSTANCE_UUID"], "disk 0 root file system")


def test_the_plan_says_how_the_root_is_made(site: Site) -> None:
    said = site.command("plan", "web1.example.org", "-v", variant_of(site, "xfs"), "-d", "3G").said
    assert "made at its size and filled" in said
    assert "made at its size and filled" not in site.command("plan", "web1.example.org", "-v", "debian-12").said


@pytest.mark.parametrize("kind", KINDS)
def test_a_disk_too_small_for_it_is_told_both_sizes_and_one_that_is_not_is_filled(site: Site, kind: str) -> None:
    variant = variant_of(site, kind)
    disk = site.disk(GIB)
    outcome = site.create(disk, variant=variant)
    assert outcome.status == 1
    sizes = re.search(r"it has 1024 MiB and the image needs (\d+) MiB", outcome.last_line)
    assert sizes is not None, outcome.said
    assert disk.stat().st_blocks == 0
    disk = site.disk((int(sizes[1])) * MIB, name="enough.raw")
    site.created(disk, variant=variant)
    with root_of(disk) as root:
        subprocess.run([*CHECKS[kind], root], check=True, capture_output=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL])
def test_killed_while_it_fills_nothing_is_left_and_the_next_run_succeeds(
    site: Site, kind: str, sign: signal.Signals
) -> None:
    disk, variant = site.disk(3 * GIB), variant_of(site, kind)
    site.created(disk, variant=variant)
    with site.waiting():
        process = site.start("create", site.environment(disk, variant=variant, reinstall=True))
        read_until(process, f"fill {kind}")
        time.sleep(random.Random(f"{sign} {kind}").uniform(0.1, 0.6))
        process.send_signal(sign)
        said, _ = process.communicate()
    assert process.returncode in {1, -sign}, said
    assert subprocess.run(["sfdisk", "--json", disk], capture_output=True, check=False).returncode != 0
    if sign is signal.SIGTERM:
        assert str(disk) not in loop_devices().values()
    site.created(disk, variant=variant, reinstall=True)
    assert str(disk) not in loop_devices().values()


def test_a_damaged_template_is_noticed_before_the_disk_is_touched(site: Site, tmp_path: Path) -> None:
    template = site.damaged_template(tmp_path / "cache")
    disk = site.disk(3 * GIB)
    process = site.start("create", site.environment(disk, variant=variant_of(site, "xfs")))
    assert process.stdout is not None
    while "preparing image debian-12 again" not in (line := process.stdout.readline()):
        assert line, "create ended by itself"
    process.terminate()  # that it is made again indeed is tested with ext4
    process.communicate()
    assert f"template {template} is damaged: the checksum of" in line
    assert disk.stat().st_blocks == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("as_device", [False, True], ids=["file", "device"])
@pytest.mark.parametrize("room", [3, 200, 385])
def test_a_disk_that_stops_taking_writes_is_named_and_has_no_table(
    site: Site, kind: str, as_device: bool, room: int
) -> None:
    """A file on a file system that fills up: while it is made, filled, or all that was written is stored."""
    variant = variant_of(site, kind)
    (place := site.directory / "small").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={room}m", "tmpfs", place], check=True)
    try:
        file = site.disk(3 * GIB, name="small/disk")
        subprocess.run(["sfdisk", "--quiet", file], input=b"label: gpt\nsize=64MiB\n", check=True)
        with device_on(file) if as_device else nullcontext(file) as disk:
            outcome = site.create(disk, variant=variant)
            installed = subprocess.run(["sfdisk", "--json", disk], capture_output=True, check=False).returncode == 0
    finally:
        subprocess.run(["umount", place], check=True)
    assert outcome.status == 1, outcome.said
    assert str(disk) in outcome.last_line
    assert "bug" not in outcome.last_line
    assert not installed


def test_a_disk_that_fails_between_two_files_is_named(site: Site) -> None:
    """Xfs takes nothing more from then on, and says so to whoever comes next."""
    disk, variant, copy = site.disk(3 * GIB), variant_of(site, "xfs"), site.directory / "cp"
    shutil.copy("/bin/cp", real := site.directory / "cp.real")
    copy.write_text(f'#!/bin/bash\n{real} "$@" && exec xfs_io -x -c shutdown "${{@: -1}}"\n')
    copy.chmod(0o755)
    outcome = site.create_mounting(f"--bind {copy} /bin/cp", disk, variant=variant)
    assert outcome.status == 1
    assert outcome.last_line == f"osprovider: {disk}: input/output error; see the kernel's log (dmesg)"


def test_a_large_disk_takes_as_little_memory(site: Site) -> None:
    environment = site.environment(site.disk(5 << 40), variant=variant_of(site, "xfs"))
    assert site.peak_kib("create", environment) < 100 * 1024


@pytest.mark.parametrize(
    ("kind", "isolation"), [("xfs", "appliance"), ("btrfs", "auto"), ("xfs", "host"), ("btrfs", "host")]
)
def test_it_is_renamed_wherever_it_is_opened(site: Site, kind: str, isolation: str) -> None:
    """``appliance``: the hooks of the create run there as well; ``auto``: only those of the rename."""
    disk, variant = site.disk(3 * GIB), variant_of(site, kind, isolation=isolation)
    site.created(disk, variant=variant)
    outcome = site.renamed(disk, "web1.example.org", "shop.example.org", variant=variant)
    assert outcome.status == 0, outcome.said
    with root_of(disk) as root:
        assert _hostname(root, kind, site.directory / "mounted") == "shop.example.org\n"


def _hostname(root: Path, kind: str, place: Path) -> str:
    place.mkdir()
    read = 'mount --read-only --types "$1" "$2" "$3" && cat "$3/etc/hostname"'
    words = ["unshare", "--mount", "sh", "-c", read, "sh", kind, str(root), str(place)]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout
