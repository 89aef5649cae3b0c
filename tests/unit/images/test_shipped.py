"""What a shipped definition of a publisher's image has to say; that it works is tested beside a server."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import pytest
import yaml

IMAGES, VARIANTS = (Path(__file__).resolve().parents[3] / name for name in ("images", "variants"))
FETCHED = sorted(path for path in IMAGES.glob("*.yaml") if "source:" in path.read_text())


def test_all_publishers_are_there() -> None:
    families = {re.sub(r"-[\d.]+(-cloud)?$", "", path.stem) for path in FETCHED}
    wanted = {"debian", "ubuntu", "fedora", "centos-stream", "almalinux", "rocky", "opensuse-leap", "arch", "alpine"}
    assert families == wanted


@pytest.mark.parametrize("path", FETCHED, ids=lambda path: path.stem)
def test_nothing_comes_unverified(path: Path) -> None:
    image = yaml.safe_load(path.read_text())
    for url in (image["source"], urljoin(image["source"], image["checksums"])):
        parts = urlsplit(url)
        assert parts.scheme == "https"
        assert not parts.query
    assert ("signature" in image) == ("keyring" in image)


@pytest.mark.parametrize("path", FETCHED, ids=lambda path: path.stem)
def test_a_comment_says_where_the_publisher_describes_it(path: Path) -> None:
    comment = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    assert re.search(r"https://\S+", comment)


@pytest.mark.parametrize("path", sorted(IMAGES.glob("*.yaml")), ids=lambda path: path.stem)
def test_an_image_has_a_variant_of_its_name(path: Path) -> None:
    assert yaml.safe_load((VARIANTS / path.name).read_text())["image"] == path.stem


@pytest.mark.parametrize("path", sorted(VARIANTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_variants_image_is_shipped(path: Path) -> None:
    assert (IMAGES / f"{yaml.safe_load(path.read_text())['image']}.yaml").exists()
