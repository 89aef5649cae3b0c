"""How much memory an appliance gets, and what its emulator may keep."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from osprovider.guest import appliance_memory, appliance_process
from osprovider.guest.appliance_memory import memory_mib, swap_file
from osprovider.guest.appliance_process import _memory
from osprovider.guest.mounting import Volume
from tests.support.sparse import sparse_file


@pytest.mark.parametrize(("sizes_gib", "expected_mib"), [([1], 88), ([1, 20], 88), ([1024, 1], 90), ([9 << 10], 106)])
def test_memory_hardly_depends_on_the_largest_file_system(
    sizes_gib: list[int], expected_mib: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appliance_memory, "_KERNELS", tmp_path)
    volumes = [Volume(tmp_path / str(number), "ext4") for number in range(len(sizes_gib))]
    for volume, size in zip(volumes, sizes_gib, strict=True):
        sparse_file(volume.device, size << 30)
    assert memory_mib(volumes) == expected_mib


@pytest.mark.parametrize(
    ("kernels", "expected_mib"),
    [
        (["6.1.0-56-cloud-amd64"], 88),
        (["6.12.117+deb13-amd64"], 96),
        (["6.12.117+deb13-amd64", "6.1.0-56-amd64", "lts"], 96),
        (["lts"], 88),
    ],
)
def test_newer_kernels_get_more_memory(
    kernels: list[str], expected_mib: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The appliance's is the node's newest."""
    monkeypatch.setattr(appliance_memory, "_KERNELS", tmp_path)
    for name in kernels:
        (tmp_path / f"vmlinuz-{name}").touch()
    sparse_file(volume := tmp_path / "volume", 1 << 30)
    assert memory_mib([Volume(volume, "ext4")]) == expected_mib


@pytest.fixture
def emulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The emulator around a program that prints its arguments."""
    monkeypatch.setattr(appliance_process, "_TMP", tmp_path)
    qemu = tmp_path / "qemu-system"
    qemu.write_text("#!/bin/sh\nprintf '<%s>' \"$@\"\n")
    qemu.chmod(0o700)
    os.utime(qemu, ns=(0, 1_700_000_000_123_456_789))
    return appliance_process._emulator(qemu, "-m 88")


@pytest.mark.parametrize(
    ("words", "passed"),
    [
        (["-machine", "accel=tcg", "-m", "256"], "<-accel><tcg,tb-size=32><-m><88>"),
        (["-machine", "q35,accel=tcg", "-m", "256"], "<-machine><q35><-accel><tcg,tb-size=32><-m><88>"),
        (["-machine", "accel=tcg", "-cpu", "max,a=b"], "<-accel><tcg,tb-size=32><-cpu><max,a=b,-erms,-fsrm>"),
        (["-machine", "accel=kvm:tcg", "-device", "?"], "<-machine><accel=kvm:tcg><-device><?>"),
        (["-machine", "q35,accel=kvm:tcg", "-cpu", "max"], "<-machine><q35,accel=kvm:tcg><-cpu><max>"),
        (["-append", "a  b $c 'd'", "", "accel=tcg"], "<-append><a  b $c 'd'><><accel=tcg>"),
    ],
)
def test_the_emulator_keeps_little_and_passes_on_all_else(words: list[str], passed: str, emulator: Path) -> None:
    done = subprocess.run([emulator, *words], check=True, capture_output=True, text=True)
    assert done.stdout == passed


def test_only_a_large_machine_has_its_memory_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(appliance_process, "_CACHE", tmp_path)
    assert _memory(92) == "-m 92"
    found = re.fullmatch(r"-m 93 -object \S+,mem-path=/proc/\d+/fd/(\d+) -machine memory-backend=memory", _memory(93))
    assert found
    file = int(found[1])
    try:
        status = os.fstat(file)
    finally:
        os.close(file)
    assert (status.st_nlink, status.st_size) == (0, 93 << 20)
    assert status.st_blocks * 512 >= 93 << 20


def test_the_emulator_is_as_old_as_qemu(emulator: Path) -> None:
    """Libguestfs asks what QEMU can do once, and again when it has changed."""
    assert emulator.stat().st_mtime_ns == 1_700_000_000_123_456_789


def test_the_file_to_swap_to_has_no_name_and_no_blocks(tmp_path: Path) -> None:
    with swap_file(tmp_path) as (fd, uuid):
        assert list(tmp_path.iterdir()) == []
        assert os.fstat(fd).st_blocks * 512 <= 64 << 10
        assert uuid.replace("-", "") == os.pread(fd, 16, 1024 + 12).hex()
