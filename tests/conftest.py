"""What all tests share: the run that they belong to."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from osprovider import linux
from tests.support.runs import die_with_parent, enter

_DIRECTORY = pytest.StashKey[Path]()
# First what makes a thing of its own that others wait for, or that takes as long: the matrix' template, the nodes' tree
# with the template of debian-12, Ubuntu's two. Then what takes long, so that no process does it alone in the end.
_EARLY = (
    "tests/system/boot/test_gpt.py",
    "tests/e2e/test_burnin.py",
    "tests/system/boot/test_jammy.py",
    "tests/system/boot/test_noble.py",
    "tests/system/boot/",
    "tests/e2e/",
    "tests/unit/test_style.py",
)


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
    """Have the files of `_EARLY` go out first."""
    items.sort(key=_rank)


def _rank(item: pytest.Item) -> int:
    """Where in `_EARLY` a test's file is."""
    return next((rank for rank, start in enumerate(_EARLY) if item.nodeid.startswith(start)), len(_EARLY))


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
