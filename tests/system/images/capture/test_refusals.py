"""Disks that are not captured: the reason is said, and nothing is left of the try."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.system.create.site import Site, attached
from tests.system.images.capture.capturing import GIB, KINDS, digest_of, in_mount, small_system, started


def _refused(site: Site, source: Path, *words: str) -> str:
    """The line that says why; nothing is there afterwards that was not before."""
    before = digest_of(source) if source.is_file() else ""
    outcome = site.command("image", "capture", str(source), "--name", "own", *words)
    assert outcome.status in (1, 2), outcome.said
    assert "Traceback" not in outcome.said
    assert list((site.config / "images").glob(".own*")) == []
    assert not (site.config / "images/own.yaml").exists()
    assert not source.is_file() or digest_of(source) == before
    return outcome.last_line


def test_a_disk_that_is_mounted(site: Site, tmp_path: Path) -> None:
    disk = site.directory / "disk"
    small_system(disk, ["mkfs.ext4", "-q", "-F"])
    with attached(disk) as device:
        subprocess.run(["mount", "-o", "ro,noload", device, tmp_path], check=True)
        try:
            lines = [_refused(site, device), _refused(site, disk)]
        finally:
            subprocess.run(["umount", tmp_path], check=True)
    for line in lines:
        assert f"mounted on {tmp_path}" in line


def test_a_disk_that_qemu_uses(site: Site) -> None:
    disk = site.disk(64 << 20)
    words = ["qemu-io", "-f", "raw", str(disk)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as qemu:
        try:
            assert qemu.stdout is not None
            qemu.stdout.read(1)  # its prompt
            assert f"qemu-io (process {qemu.pid})" in _refused(site, disk)
        finally:
            qemu.kill()


def test_a_disk_that_another_capture_reads(site: Site) -> None:
    disk = site.directory / "disk"
    small_system(disk, ["mkfs.ext4", "-q", "-F"])
    first = started(site, disk, "first", until="start the libguestfs appliance")
    first.send_signal(signal.SIGSTOP)
    try:
        line = _refused(site, disk)
    finally:
        first.terminate()
        first.send_signal(signal.SIGCONT)
        first.communicate()
    assert f"another osprovider (process {first.pid})" in line


@pytest.mark.parametrize(
    ("make", "use", "why"),
    [
        (["mkfs.ext4", "-q", "-F"], "sync root/etc/os-release", "journal is not empty"),
        (["mkfs.xfs", "-q"], "sync", "log is not empty"),
        (["mkfs.ext2", "-q", "-F"], "sync", "not marked clean"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_a_file_system_that_was_not_unmounted(site: Site, make: list[str], use: str, why: str) -> None:
    disk, pulled = site.directory / "disk", site.directory / "pulled"
    small_system(disk, make)
    # The power fails: what is on the disk at that moment is all that there is.
    in_mount(disk, f"echo y >root/etc/y; {use}; cp --sparse=always {disk} {pulled}")
    line = _refused(site, pulled)
    assert str(pulled) in line
    assert why in line
    assert "have it shut down by itself" in line


def test_what_is_no_disk(site: Site) -> None:
    disk = site.disk(64 << 20, name="empty")
    assert "zeros" in _refused(site, disk)
    qcow2 = site.directory / "own.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", qcow2, "1G"], check=True)
    assert f"is qcow2, and no disk itself: osprovider image add {qcow2}" in _refused(site, qcow2)
    assert "neither a block device nor a plain file" in _refused(site, site.directory)
    assert "does not exist" in _refused(site, site.directory / "missing")


def _lvm_label() -> bytes:
    """As pvcreate(8) writes it; blkid believes it only with its checksum (lib/misc/crc.c of LVM2)."""
    label = bytearray(512)
    label[0:8], label[8:16], label[24:32] = b"LABELONE", (1).to_bytes(8, "little"), b"LVM2 001"
    label[20:24] = (32).to_bytes(4, "little")
    label[32:64] = b"abcdefghijklmnopqrstuvwxyzABCDEF"
    crc = 0xF597A6CF
    for byte in label[20:]:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xEDB88320 if crc & 1 else 0)
    label[16:20] = crc.to_bytes(4, "little")
    return bytes(label)


def _luks_header() -> bytes:
    return b"LUKS\xba\xbe\x00\x01aes".ljust(168, b"\0") + b"0b6c5a42-7f3e-5d4e-9a11-3c5d7e9f1b23"


@pytest.mark.parametrize(
    ("header", "offset", "name"), [(_lvm_label(), 512, "LVM"), (_luks_header(), 0, "LUKS")], ids=["LVM", "LUKS"]
)
def test_a_root_that_is_not_supported(site: Site, header: bytes, offset: int, name: str) -> None:
    disk = site.disk(GIB)
    subprocess.run(["sfdisk", "--quiet", disk], input="label: gpt\n2048,\n", text=True, check=True)
    fd = os.open(disk, os.O_WRONLY)
    os.pwrite(fd, header, 2048 * 512 + offset)
    os.close(fd)
    line = _refused(site, disk)
    assert str(disk) in line
    assert f"partition 1 is {name}" in line
    assert "not supported" in line


def test_a_name_or_a_file_that_is_taken(site: Site) -> None:
    disk = site.directory / "disk"
    small_system(disk, ["mkfs.ext4", "-q", "-F"])
    taken = site.command("image", "capture", str(disk), "--name", "debian-12")
    assert taken.status == 2
    assert "there is an image debian-12 already" in taken.last_line
    output = site.directory / "own.tar.zst"
    output.write_text("mine")
    assert f"{output}: is there already" in _refused(site, disk, "--output", str(output))
    assert output.read_text() == "mine"
    before = disk.read_bytes()
    assert f"{disk}: is the disk itself" in _refused(site, disk, "--output", str(disk), "--force")
    assert disk.read_bytes() == before


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "name either the disk, SOURCE, or an instance"),
        (["disk", "--instance", "web1"], "name either the disk, SOURCE, or an instance"),
        (["disk", "--disk", "1"], "--disk is for --instance"),
        (["disk", "--keep", "var/log"], "begin with /"),
        (["disk", "--description", "two\nlines"], "--description"),
        (["--instance", "web1.example.org"], "this is no node of a Ganeti cluster"),
        (["web1.example.org"], "there is no file web1.example.org; for an instance: --instance web1.example.org"),
    ],
)
def test_wrong_use(site: Site, words: list[str], why: str) -> None:
    outcome = site.command("image", "capture", *words, "--name", "own")
    assert outcome.status == 2, outcome.said
    assert why in outcome.last_line


@pytest.mark.parametrize("kind", KINDS)
def test_a_disk_that_fills(site: Site, kind: str) -> None:
    disk, small = site.directory / "disk", site.directory / "small"
    noise = "head -c 60M /dev/urandom >root/noise"
    small_system(disk, ["mkfs.ext4", "-q", "-F"], commands=noise)
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=30m", "tmpfs", small], check=True)
    try:
        line = _refused(site, disk, "--output", str(small / "own.image"), "--format", kind)
        assert line.endswith(f"{small / 'own.image'}: cannot be written: there is no space left")
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", small], check=True)
