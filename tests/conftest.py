"""What all tests share: the run that they belong to."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from osprovider import linux
from tests.support.runs import die_with_parent, enter

_DIRECTORY = pytest.StashKey[Path]()


def pytest_configure(config: pytest.Config) -> None:
    """Take part in the run from here on, so that no process removes what another one is still going to use."""
    if hasattr(config, "workerinput"):
        die_with_parent()
    if os.geteuid() == 0:
        # What another process mounts at the same time is not copied into the namespaces that tests and programs make,
        # where it would keep its loop device busy after its own end.
        linux.private_mount_namespace()
    stack = ExitStack()
    config.stash[_DIRECTORY] = stack.enter_context(enter())
    config.add_cleanup(stack.close)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the boot matrix, and go on with e2e: files that take long go out first.

    The other way round all processes would begin by waiting for the nodes' tree, which one of them builds.
    """
    items.sort(key=lambda item: "boot" not in item.path.parts)


@pytest.fixture(scope="session")
def run_directory(pytestconfig: pytest.Config) -> Path:
    """The directory of the run, removed at its end."""
    return pytestconfig.stash[_DIRECTORY]


@pytest.fixture(scope="session")
def package() -> Path:
    """Osprovider's Debian package, as `make deb` builds it."""
    packages = list((Path(__file__).resolve().parents[1] / "dist").glob("osprovider_*.deb"))
    assert len(packages) == 1, f"{packages}: `make deb` makes the one package that is tested"
    return packages[0]
