"""A site of each test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.leftovers import no_leftovers
from tests.system.create.site import Site
from tests.system.images.capture.capturing import own_site


@pytest.fixture
def site(run_directory: Path) -> Iterator[Site]:
    with own_site(run_directory) as made, no_leftovers([made.directory]):
        yield made
