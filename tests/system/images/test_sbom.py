"""The packages of a prepared image, as the command shows them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import small_system
from tests.support.leftovers import no_leftovers
from tests.support.template import CHECKOUT
from tests.system.create.site import Site

COMMAND = "from osprovider.cli import main; main()"
"""The command in the tests' own Python, which has the library that Debian 12 has not."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A site with an image that can be prepared."""
    with no_leftovers([tmp_path]):
        site = Site(tmp_path, tmp_path / "cache")
        location, _ = small_system.make_image("tar.gz", tmp_path)
        site.write("images/small.yaml", f"source: {location}\n")
        yield site


def sbom(site: Site) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", COMMAND, "image", "sbom", "small"],
        env={**os.environ, **site.directories()},
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_bill_of_materials_lists_what_is_installed(site: Site) -> None:
    assert site.command("image", "build", "small").status == 0
    done = sbom(site)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    assert [each["purl"] for each in document["components"]] == ["pkg:deb/small/small@1.0?arch=amd64&distro=small-1"]
    assert document["metadata"]["component"]["name"] == "small"
    assert sbom(site).stdout == done.stdout


def test_an_image_that_is_not_prepared_has_none(site: Site) -> None:
    done = sbom(site)
    assert done.returncode == 1
    assert (
        done.stderr == "osprovider: image small is not prepared on this node; `osprovider image list` shows what is\n"
    )


def test_packages_are_shown_on_demand(site: Site) -> None:
    assert site.command("image", "build", "small").status == 0
    assert "small 1.0 amd64" not in site.command("image", "show", "small").said
    said = site.command("image", "show", "small", "--packages").said
    assert "1 packages, " in said
    assert "\n  small 1.0 amd64\n" in said
    shown = json.loads(site.command("image", "show", "small", "--packages", "--json").said)
    assert shown["templates"][0]["package_list"] == [
        {"type": "deb", "name": "small", "version": "1.0", "architecture": "amd64", "source": "small", "license": ""}
    ]


def test_a_flipped_bit_of_the_list_is_not_believed(site: Site) -> None:
    assert site.command("image", "build", "small").status == 0
    (listed,) = site.cache.glob("templates/*/packages.json")
    listed.write_text(listed.read_text().replace('"version": "1.0"', '"version": "1.1"'))
    way_out = f"{listed.parent}: the checksum of packages.json is wrong; osprovider image verify small removes it"
    assert way_out in sbom(site).stderr
    outcome = site.command("image", "show", "small", "--packages")
    assert (outcome.status, way_out in outcome.last_line) == (1, True)
    assert site.command("image", "show", "small").status == 0
    assert site.command("image", "verify", "small").status == 1
    assert site.command("image", "build", "small").status == 0
    assert sbom(site).returncode == 0
