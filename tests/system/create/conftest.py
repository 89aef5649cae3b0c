"""What the tests of the scripts share: a site of their own with the run's template, and the watch for leftovers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.leftovers import no_leftovers
from tests.support.template import shared_cache, with_appliance
from tests.system.create.cloud import Part, make_disk, make_filesystem
from tests.system.create.published import Published
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


@pytest.fixture(scope="module")
def publish(run_directory: Path) -> Iterator[Callable[..., Published]]:
    """Make a site with an image of these partitions; nothing may be left of it afterwards."""

    def make(*parts: Part, label: str = "gpt", disk_id: str = "", **options: int) -> Published:
        directory = Path(tempfile.mkdtemp(dir=base))
        image = directory / "published.raw"
        if label == "none":
            make_filesystem(image, parts[0])
        disk_id = "" if label == "none" else make_disk(image, parts, label=label, disk_id=disk_id, **options)
        site = Site(directory, with_appliance(directory / "cache", run_directory))
        site.write("images/published.yaml", f"source: {image}\n")
        site.write("variants/published.yaml", "image: published\n")
        return Published(site, image, {part.number: part for part in parts}, disk_id)

    with tempfile.TemporaryDirectory(dir=run_directory, prefix="sites-") as name:
        base = Path(name)
        with no_leftovers([base]):
            yield make
