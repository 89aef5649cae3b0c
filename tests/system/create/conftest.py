"""What the tests of the scripts share: a site of their own with the run's template, and the watch for leftovers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.leftovers import no_leftovers
from tests.support.template import shared_cache
from tests.system.create.site import Site


@pytest.fixture(scope="session")
def cache(run_directory: Path) -> Path:
    """A cache with the template of debian-12; not to be changed."""
    return shared_cache(run_directory)


@pytest.fixture
def site(tmp_path: Path, cache: Path) -> Iterator[Site]:
    """A site of the test's own, at which nothing may be left."""
    with no_leftovers([tmp_path]):
        yield Site(tmp_path, cache)
