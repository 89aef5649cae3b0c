"""What the end-to-end tests share: the nodes' tree, and the watch for leftovers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.tree import NodeTree, shared_node_tree
from tests.support.leftovers import no_leftovers


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_left(run_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with no_leftovers([tmp_path_factory.getbasetemp()]):
        yield


@pytest.fixture(scope="module")
def own_directory(run_directory: Path, request: pytest.FixtureRequest) -> Path:
    """A directory of the test file's, of the disk's size, removed with the run's.

    It is made once: a file's tests share their cluster, and therefore have to run in one process.
    """
    marker = run_directory / f"{request.path.stem}.process"
    assert not marker.exists(), f"{request.path.name} runs in several processes: give pytest --dist=loadfile"
    marker.touch()
    directory = run_directory / str(os.getpid()) / request.path.stem
    directory.mkdir(parents=True)
    return directory


@pytest.fixture(scope="session")
def node_tree(run_directory: Path, package: Path) -> NodeTree:
    """A node's tree with osprovider and the template of debian-12."""
    return shared_node_tree(run_directory, package)
