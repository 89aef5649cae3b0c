"""An image of a server, one of this node, and a cache of the test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from osprovider.config.model import Image
from osprovider.images.sources.fetch import Fetcher
from osprovider.images.sources.obtain import Sources
from osprovider.paths import Directories
from tests.support.http_server import Page, Server, serving
from tests.unit.images.sources.obtaining import CONTENT, QUICK


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        server.pages["/images/image.qcow2"] = Page(CONTENT)
        yield server


@pytest.fixture
def directories(tmp_path: Path) -> Directories:
    for name in ("etc", "cache"):
        (tmp_path / name).mkdir()
    return Directories(tmp_path / "etc", tmp_path / "cache", tmp_path / "run", tmp_path / "share")


@pytest.fixture
def sources(directories: Directories) -> Sources:
    return Sources(directories, fetcher=Fetcher(limits=QUICK))


@pytest.fixture
def image(server: Server) -> Image:
    return Image(source=f"{server.url}/images/image.qcow2")


@pytest.fixture
def local(tmp_path: Path) -> Image:
    path = tmp_path / "image.qcow2"
    path.write_bytes(CONTENT)
    return Image(source=str(path))
