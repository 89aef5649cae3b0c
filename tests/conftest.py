"""What all tests share: the run that they belong to."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.runs import die_with_parent, enter

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
