"""A server with a file, and where to fetch that to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.http_server import Page, Server, serving
from tests.unit.images.fetch.fetching import CONTENT


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        server.pages["/image"] = Page(CONTENT)
        yield server


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache" / "part"
