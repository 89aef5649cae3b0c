"""How much memory an appliance gets, and what its emulator may keep."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from osprovider.guest import appliance_process


@pytest.mark.parametrize(
    ("sizes_gib", "memory_mib"), [([1], 256), ([20], 261), ([1, 20], 261), ([1024], 512), ([9 << 10], 2048)]
)
def test_memory_follows_the_largest_file_system(sizes_gib: list[int], memory_mib: int, tmp_path: Path) -> None:
    drives = [tmp_path / str(number) for number in range(len(sizes_gib))]
    for path, size in zip(drives, sizes_gib, strict=True):
        path.touch()
        os.truncate(path, size << 30)
    assert appliance_process._memory_mib(drives) == memory_mib


@pytest.fixture
def emulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The emulator around a program that prints its arguments."""
    monkeypatch.setattr(appliance_process, "_TMP", tmp_path)
    qemu = tmp_path / "qemu-system"
    qemu.write_text("#!/bin/sh\nprintf '<%s>' \"$@\"\n")
    qemu.chmod(0o700)
    os.utime(qemu, ns=(0, 1_700_000_000_123_456_789))
    return appliance_process._emulator(qemu)


@pytest.mark.parametrize(
    ("words", "passed"),
    [
        (["-machine", "accel=tcg", "-m", "256"], "<-accel><tcg,tb-size=32><-m><256>"),
        (["-machine", "accel=kvm:tcg", "-device", "?"], "<-machine><accel=kvm:tcg><-device><?>"),
        (["-append", "a  b $c 'd'", "", "accel=tcg"], "<-append><a  b $c 'd'><><accel=tcg>"),
    ],
)
def test_the_emulator_keeps_little_and_passes_on_all_else(words: list[str], passed: str, emulator: Path) -> None:
    done = subprocess.run([emulator, *words], check=True, capture_output=True, text=True)
    assert done.stdout == passed


def test_the_emulator_is_as_old_as_qemu(emulator: Path) -> None:
    """Libguestfs asks what QEMU can do once, and again when it has changed."""
    assert emulator.stat().st_mtime_ns == 1_700_000_000_123_456_789
