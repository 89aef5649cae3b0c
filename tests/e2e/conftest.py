"""What the end-to-end tests share: the run, the nodes' tree, and the watch for leftovers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.tree import NodeTree, shared_node_tree
from tests.support.leftovers import no_leftovers
from tests.support.runs import die_with_parent, enter

_ROOT = Path(__file__).resolve().parents[2]
_DIRECTORY = pytest.StashKey[Path]()


def pytest_configure(config: pytest.Config) -> None:
    """Take part in the run from here on, so that no process removes what another one is still going to use."""
    if hasattr(config, "workerinput"):
        die_with_parent()
    stack = ExitStack()
    config.stash[_DIRECTORY] = stack.enter_context(enter())
    config.add_cleanup(stack.close)


@pytest.fixture(scope="session")
def run_directory(pytestconfig: pytest.Config) -> Path:
    """The directory of the run, removed at its end."""
    return pytestconfig.stash[_DIRECTORY]


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_left(run_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with no_leftovers([run_directory, tmp_path_factory.getbasetemp()]):
        yield


@pytest.fixture(scope="session")
def package() -> Path:
    """Osprovider's Debian package, as `make deb` builds it."""
    packages = list((_ROOT / "dist").glob("osprovider_*.deb"))
    assert len(packages) == 1, f"{packages}: `make deb` makes the one package that is tested"
    return packages[0]


@pytest.fixture(scope="session")
def node_tree(run_directory: Path, package: Path) -> NodeTree:
    """A node's tree with osprovider and the template of debian-12."""
    return shared_node_tree(run_directory, package, "debian-12")
