"""Disk images of every kind, made once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.disk_images import Images, make_raw, variants_of
from tests.support.leftovers import no_leftovers


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Images:
    """Give the image of a variant, made once; ``raw`` is the disk itself."""
    return variants_of(make_raw(tmp_path_factory.mktemp("originals") / "raw"))


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path: Path) -> Iterator[None]:
    with no_leftovers([tmp_path]):
        yield
