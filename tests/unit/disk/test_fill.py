"""How mkfs.xfs is called; what comes of it is tested with the real one, which on a machine has one version."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from osprovider.disk import fill
from osprovider.errors import DeviceError

UUID = "9f2bd3ca-6b6a-4c12-9b2c-0f6f5b0a7c11"


@pytest.fixture
def mkfs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An mkfs.xfs that notes how it is called; its version is in the file `version`."""
    program = tmp_path / "mkfs.xfs"
    program.write_text(
        f'#!/bin/sh\nif [ "$1" = -V ]; then cat {tmp_path}/version; else echo "$@" > {tmp_path}/called; fi\n'
    )
    program.chmod(0o755)
    (tmp_path / "version").write_text("mkfs.xfs version 6.1.0\n")
    (tmp_path / "disk").touch()
    monkeypatch.setattr("osprovider.run.BASE_ENVIRONMENT", {"PATH": f"{tmp_path}:/usr/bin:/bin"})
    return tmp_path


@pytest.mark.parametrize(
    ("version", "knows"), [("6.1.0", False), ("6.9.2", False), ("6.10.0", True), ("6.13.0", True), ("7.0", True)]
)
def test_what_a_newer_one_may_add_is_turned_off(mkfs: Path, version: str, knows: bool) -> None:
    (mkfs / "version").write_text(f"mkfs.xfs version {version}\n")
    fill.make(mkfs / "disk", "xfs", UUID)
    called = (mkfs / "called").read_text()
    assert ("-i exchange=0 -n parent=0" in called) is knows
    assert f"uuid={UUID}" in called
    assert called.endswith(f" {mkfs}/disk\n")


@pytest.mark.parametrize(("size", "is_limited"), [(1 << 40, False), ((1 << 40) + 4096, True), (5 << 40, True)])
def test_a_large_one_has_no_log_that_takes_long_to_write(mkfs: Path, size: int, is_limited: bool) -> None:
    os.truncate(mkfs / "disk", size)
    fill.make(mkfs / "disk", "xfs", UUID)
    assert ("-l size=512m" in (mkfs / "called").read_text()) is is_limited


def test_one_that_says_no_version_is_named(mkfs: Path) -> None:
    (mkfs / "version").write_text("mkfs.xfs\n")
    with pytest.raises(DeviceError, match=r"mkfs\.xfs does not say its version"):
        fill.make(mkfs / "disk", "xfs", UUID)
