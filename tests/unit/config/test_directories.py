"""A site's directories that are not what they should be: never taken for a site that says nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from osprovider.config.load import check_all, load
from osprovider.errors import ConfigurationError
from osprovider.paths import Directories


@pytest.fixture
def directories(tmp_path: Path) -> Directories:
    for name, text in {
        "variants/debian-12": "image: debian-12\n",
        "images/debian-12": "build: {suite: bookworm}\n",
    }.items():
        path = tmp_path / "share" / f"{name}.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    return Directories(tmp_path / "site", tmp_path / "cache", tmp_path / "run", tmp_path / "share")


def _refusal(directories: Directories) -> str:
    with pytest.raises(ConfigurationError) as refused:
        load(directories, "debian-12", instance="web1.example.org", parameters={})
    assert {*refused.value.problems} <= {*check_all(directories)[0]}
    return str(refused.value).replace(f"{directories.config.parent}/", "")


def test_a_site_without_files_is_one(directories: Directories) -> None:
    assert load(directories, "debian-12", instance=None, parameters={}).image_name == "debian-12"
    assert check_all(directories)[0] == []


def test_a_link_to_a_site_that_is_not_there_is_refused(directories: Directories) -> None:
    directories.config.symlink_to("not-mounted")
    assert _refusal(directories) == "site: is a link to nothing; remove it, or put the directory there"


@pytest.mark.parametrize("kind", ["variants", "images", "subnets"])
def test_a_file_in_place_of_a_directory_is_refused(directories: Directories, kind: str) -> None:
    directories.config.mkdir()
    (directories.config / kind).write_text("")
    assert _refusal(directories) == (
        f"site/{kind}: cannot be read: not a directory; make it a directory that root can read"
    )


def test_links_in_a_circle_are_refused(directories: Directories) -> None:
    directories.config.mkdir()
    (directories.config / "subnets").symlink_to("subnets")
    assert _refusal(directories).startswith("site/subnets: cannot be read: too many levels of symbolic links")


def test_a_link_to_subnets_that_are_not_there_is_refused(directories: Directories) -> None:
    directories.config.mkdir()
    (directories.config / "subnets").symlink_to("not-mounted")
    assert _refusal(directories) == "site/subnets: is a link to nothing; remove it, or put the directory there"


@pytest.mark.parametrize("name", ["default.yaml", "defaults.yml"])
def test_defaults_under_another_name_are_found_by_check(directories: Directories, name: str) -> None:
    directories.config.mkdir()
    (directories.config / name).write_text("wipe: zero\n")
    (problem,) = check_all(directories)[0]
    assert problem.file.endswith(name)
    assert problem.message == "is never read; the site's defaults are defaults.yaml, and cache.yaml is for the cache"
