"""Releases beside the one that the other tests build, by the command and from the real archive.

Both tools, and both ways that /usr is merged: by who installs Debian 11, by a package in Debian 13.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.leftovers import no_leftovers
from tests.support.mounts import mounted
from tests.system.create.site import Site

_MERGED = ("bin", "lib", "lib64", "sbin")


@pytest.fixture
def site(tmp_path: Path, run_directory: Path) -> Iterator[Site]:
    """A site with an empty cache."""
    with tempfile.TemporaryDirectory(dir=run_directory) as directory, no_leftovers([tmp_path, Path(directory)]):
        yield Site(tmp_path, Path(directory) / "cache")


@pytest.mark.parametrize(
    ("suite", "version", "tool"), [("bullseye", "11", "mmdebstrap"), ("trixie", "13", "debootstrap")]
)
def test_another_release_is_built(suite: str, version: str, tool: str, site: Site, tmp_path: Path) -> None:
    site.write(
        f"images/{suite}.yaml",
        f"build:\n  tool: {tool}\n  suite: {suite}\n  components: [main]\n  packages: [e2fsprogs]\n",
    )
    outcome = site.command("image", "build", suite, "--json")
    assert outcome.status == 0, outcome.said
    (made,) = json.loads(outcome.said[outcome.said.index("[\n") :])
    template = Path(made["directory"])
    manifest = json.loads((template / "manifest.json").read_bytes())
    assert manifest["distribution"] == {
        "id": "debian",
        "version_id": version,
        "codename": suite,
        "pretty_name": f"Debian GNU/Linux {version} ({suite})",
    }
    assert set(manifest["tools"]) == {tool, "osprovider"}
    packages = {each["name"] for each in json.loads((template / "packages.json").read_bytes())["packages"]}
    assert len(packages) == manifest["packages"]
    assert {"apt", "base-files", "e2fsprogs"} <= packages
    with mounted(template / "template.img", tmp_path / "tree") as tree:
        assert {name: (tree / name).readlink() for name in _MERGED} == {name: Path("usr", name) for name in _MERGED}
        assert suite in (tree / "etc/apt/sources.list").read_text()
        assert installed_badly(tree) == ""
        assert (tree / "etc/machine-id").read_text() == ""


def test_a_release_that_is_named_by_its_age_is_merged_as_well(site: Site, tmp_path: Path) -> None:
    build = "{suite: oldstable, updates: false, security: false}"
    site.write("images/old.yaml", f"build: {build}\n")
    outcome = site.command("image", "build", "old", "--json")
    assert outcome.status == 0, outcome.said
    (made,) = json.loads(outcome.said[outcome.said.index("[\n") :])
    with mounted(Path(made["directory"]) / "template.img", tmp_path / "tree") as tree:
        assert {name: (tree / name).readlink() for name in _MERGED} == {name: Path("usr", name) for name in _MERGED}
        assert installed_badly(tree) == ""


def installed_badly(tree: Path) -> str:
    """What dpkg says of packages that are not, or not wholly, installed."""
    audit = ["dpkg", f"--root={tree}", "--audit"]
    return subprocess.run(audit, check=True, capture_output=True, text=True).stdout
