"""Disks to test on. Each is full of old contents, lies in the run's directory, and is gone after its test."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.disk.support import attached, used_disk


@pytest.fixture
def scratch(run_directory: Path) -> Iterator[Path]:
    """A directory on a disk (holes and fallocate(2) work there) whose loop devices the next run sweeps away."""
    with tempfile.TemporaryDirectory(dir=run_directory, prefix="disk-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def shared(run_directory: Path) -> Iterator[Path]:
    """Likewise a directory of a test file's: for what is made once, and not to be changed."""
    with tempfile.TemporaryDirectory(dir=run_directory, prefix="disk-") as name:
        yield Path(name)


@pytest.fixture
def run_dir(scratch: Path) -> Path:
    """Where claims put their locks."""
    return scratch / "run"


@pytest.fixture(params=["file", "loop-512", "loop-4096"])
def disk(request: pytest.FixtureRequest, scratch: Path) -> Iterator[Path]:
    """A disk of 64 MiB full of 0xA5: a plain file, or a block device with sectors of 512 or 4096 bytes."""
    file = used_disk(scratch / "disk")
    if request.param == "file":
        yield file
    else:
        with attached(file, sector_size=int(request.param.removeprefix("loop-"))) as device:
            yield device
