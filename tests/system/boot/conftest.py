"""What the tests that boot share."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def scratch(run_directory: Path) -> Iterator[Path]:
    """A directory whose loop devices the next run sweeps away, should this one be killed."""
    with tempfile.TemporaryDirectory(dir=run_directory, prefix="boot-") as name:
        yield Path(name)
