"""What is made of an image that was obtained, before anything is unpacked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from osprovider.config.model import Image, Variant
from osprovider.images import foreign
from osprovider.images.prepare import Job
from osprovider.images.recipe import Recipe
from osprovider.images.sources.obtain import Sources
from osprovider.paths import Directories
from tests.support.tar_members import END, member

GIB = 1 << 30


@pytest.mark.parametrize(("max_size", "free", "size"), [("64GiB", 200, 64), ("300GiB", 200, 200), ("1GiB", 200, 1)])
def test_an_archive_may_unpack_to_all_that_its_definition_and_the_cache_allow(
    max_size: str, free: int, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # what is packed well is many times as large
    (tmp_path / "image.tar").write_bytes(member("etc/", kind=b"5") + END)
    image = Image(source=str(tmp_path / "image.tar"), max_size=max_size)
    directories = Directories(tmp_path / "etc", tmp_path / "cache", tmp_path / "run", tmp_path / "share")
    made: list[int] = []

    class EnoughError(Exception):
        pass

    def make(job: Job, size_bytes: int, *_: Any) -> None:
        made.append(size_bytes)
        raise EnoughError

    monkeypatch.setattr(foreign, "make_tree", make)
    with Sources(directories).obtain("web", image) as obtained:
        recipe = Recipe.of("web", image, Variant(image="web"), obtained.pin.digest, site=directories.config)
        job = Job(recipe, "key", tmp_path / "image", tmp_path, directories, free * GIB)
        with pytest.raises(EnoughError):
            foreign.take(job, obtained)
    assert made == [size * GIB]
