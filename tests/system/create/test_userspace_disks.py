"""``create`` on a disk that has a URI for QEMU and no path: the same system, sent by QEMU's tools."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.served_disks import failing, forgetful
from tests.system.create.cloud import BOOT, ROOT, SWAP, Part, system
from tests.system.create.published import FIRST, Installed, Published, verify_gpt
from tests.system.create.site import Outcome, Site, attached, debugfs, read_until, sfdisk

GIB = 1 << 30
MIB = 1 << 20


@contextmanager
def _network_storage(file: Path, *options: str) -> Iterator[str]:
    """The URI of a file that an NBD server serves on a unix socket."""
    socket = file.with_name("nbd.sock")
    words = ["qemu-nbd", "--format=raw", "--persistent", f"--socket={socket}", *options, str(file)]
    with subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "--", *words]) as server:
        try:
            uri = f"nbd+unix:///?socket={socket}"
            probe = ["qemu-img", "info", "-f", "raw", uri]
            end = time.monotonic() + 60
            while subprocess.run(probe, capture_output=True, check=False).returncode != 0:
                assert server.poll() is None
                assert time.monotonic() < end
                time.sleep(0.02)
            yield uri
        finally:
            server.terminate()
            server.wait()
            socket.unlink(missing_ok=True)


@contextmanager
def _used_by_a_guest(disk: Path) -> Iterator[None]:
    """QEMU has the disk as it has a running guest's, which is halted."""
    drive = f"file={disk},format=raw,if=virtio"
    words = ["qemu-system-x86_64", "-S", "-display", "none", "-nodefaults", "-accel", "tcg", "-drive", drive]
    with subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "--", *words]) as qemu:
        try:
            inode = f":{disk.stat().st_ino} "
            end = time.monotonic() + 60
            while not any("OFDLCK" in line and inode in line for line in Path("/proc/locks").read_text().splitlines()):
                assert qemu.poll() is None
                assert time.monotonic() < end
                time.sleep(0.02)
            yield
        finally:
            qemu.kill()


def _create(site: Site, uri: str) -> Outcome:
    return site.create(None, disks=[{"uri": uri}])


def _used(site: Site) -> Path:
    """A disk of 1 GiB that another instance has had."""
    disk = site.disk(GIB)
    with disk.open("r+b") as file:
        for _ in range(GIB // MIB):
            file.write(b"\xa5" * MIB)
    return disk


def _assert_installed(disk: Path) -> None:
    root = sfdisk(disk)["partitions"][-1]
    with attached(disk) as device:
        subprocess.run(["e2fsck", "-fn", f"{device}?offset={root['start'] * 512}"], check=True, capture_output=True)
    assert debugfs(disk, "cat /etc/hostname") == "web1.example.org\n"
    check = subprocess.run(["sgdisk", "--verify", disk], capture_output=True, text=True, check=True).stdout
    assert "No problems found" in check


def test_an_instance_is_installed_and_nothing_old_is_left(site: Site) -> None:
    disk = _used(site)
    before = set(site.cache.rglob("*"))
    with _network_storage(disk) as uri:
        outcome = _create(site, uri)
    assert outcome.status == 0, outcome.said
    assert f"send to {uri}" in outcome.said
    _assert_installed(disk)
    with disk.open("rb") as file:
        while data := file.read(64 * MIB):
            assert b"\xa5" * 512 not in data
    assert set(site.cache.rglob("*")) == before


def test_what_was_sent_is_read_back_where_the_variant_asks(site: Site) -> None:
    site.write("defaults.yaml", "verify_copy: true\n")
    disk = site.disk(2 * GIB)
    with _network_storage(disk) as uri:
        outcome = _create(site, uri)
    assert f"verify {uri}" in outcome.said
    _assert_installed(disk)
    with forgetful(site.directory / "forgetful", 2 * GIB) as served:
        outcome = _create(site, f"file:{served}")
    assert outcome.status == 1
    assert f"file:{served}: is not read back as it was written: Content mismatch at offset " in outcome.last_line


def test_a_disk_image_whose_root_is_in_the_middle_grows_there_as_well(publish: Callable[..., Published]) -> None:
    root, swap, boot = Part(1, ROOT, 32, "ext4"), Part(2, SWAP, 8, "swap"), Part(3, BOOT, 16, "ext4")
    root.files = system(f"UUID={root.uuid} / ext4 defaults 0 1\n", kernel=False, boot__empty="")
    boot.files = {"/vmlinuz-6.1.0-9-amd64": "a kernel\n", "/grub/grub.cfg": f"root=UUID={root.uuid}\n"}
    old = publish(root, swap, boot)
    old.site.write("variants/published.yaml", "image: published\nverify_copy: true\n")
    disk = old.site.disk(128 * MIB)
    disk.write_bytes(b"\xa5" * 128 * MIB)
    with _network_storage(disk) as uri:
        outcome = old.create(None, FIRST, disks=[{"uri": uri}])
    assert outcome.status == 0, outcome.said
    assert f"verify {uri}" in outcome.said
    verify_gpt(disk)
    installed = Installed(disk, outcome, sfdisk(disk), old.site.directory)
    places = {number: part["start"] * 512 // MIB for number, part in installed.partitions.items()}
    assert places == {1: 1, 2: 103, 3: 111}
    root_now = installed.partition(1)
    assert root_now.size_bytes > 85 * MIB
    assert root_now.text("/etc/fstab") == f"UUID={root_now.uuid} / ext4 defaults 0 1\n"
    assert installed.partition(3).text("/grub/grub.cfg") == f"root=UUID={root_now.uuid}\n"
    assert b"\xa5" * 512 not in disk.read_bytes()


def test_storage_that_fails_while_it_is_sent_to_has_no_table_and_the_next_run_works(site: Site) -> None:
    backing = site.disk(2 * GIB)
    subprocess.run(["sfdisk", "--quiet", backing], input=b"label: gpt\nsize=64MiB\n", check=True)
    with failing(backing, site.directory / "disk", at=200 * MIB) as disk:
        outcome = _create(site, f"file:{disk}")
    assert outcome.status == 1
    assert f"file:{disk}: cannot be written: " in outcome.last_line
    assert "Input/output error" in outcome.last_line
    assert subprocess.run(["sfdisk", "--json", backing], capture_output=True, check=False).returncode != 0
    site.created(backing)


def test_nothing_is_left_of_a_run_that_is_killed_and_the_next_one_works(site: Site) -> None:
    disk = site.disk(2 * GIB)
    before = set(site.cache.rglob("*"))
    with _network_storage(disk) as uri:
        with site.start("create", site.environment(None, disks=[{"uri": uri}])) as process:
            read_until(process, "then sent")
            process.kill()
        assert set(site.cache.rglob("*")) == before
        outcome = _create(site, uri)
    assert outcome.status == 0, outcome.said
    _assert_installed(disk)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("nbd+unix:///?socket=/nonexistent", "cannot be opened by QEMU's tools: "),
        ("nonsense:x", "Unknown protocol 'nonsense'; install its driver (qemu-block-extra)"),
    ],
)
def test_storage_that_cannot_be_reached_is_refused(site: Site, uri: str, said: str) -> None:
    outcome = _create(site, uri)
    assert outcome.status == 1
    assert f"{uri}: " in outcome.last_line
    assert said in outcome.last_line


def test_storage_that_cannot_be_written_or_is_in_use_is_refused_untouched(site: Site) -> None:
    disk = site.disk(2 * GIB)
    with _network_storage(disk, "--read-only") as uri:
        outcome = _create(site, uri)
        assert outcome.status == 1
        assert f"{uri}: cannot be opened by QEMU's tools: " in outcome.last_line
    with _used_by_a_guest(disk):
        outcome = _create(site, f"file:{disk}")
        assert outcome.status == 1
        assert f"file:{disk}: cannot be opened by QEMU's tools: " in outcome.last_line
        assert "another process using" in outcome.last_line
    assert disk.stat().st_blocks == 0


def test_a_disk_too_small_is_refused_by_its_uri_untouched(site: Site) -> None:
    disk = site.disk(100 * MIB)
    with _network_storage(disk) as uri:
        outcome = _create(site, uri)
    assert outcome.status == 1
    assert uri in outcome.last_line
    assert "too small" in outcome.last_line
    assert disk.stat().st_blocks == 0


def test_a_rename_says_what_to_change(site: Site) -> None:
    outcome = site.renamed(None, "web1.example.org", "shop.example.org", disks=[{"uri": "rbd:rbd/x"}])
    assert outcome.status == 2
    assert "DISK_0_PATH is not set: disk 0 is reached by userspace only (rbd:rbd/x)" in outcome.last_line
