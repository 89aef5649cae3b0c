"""Which sources a build has, and what stands of them in an image."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from osprovider.config.model import BootstrapBuild, Repository
from osprovider.errors import ImageError
from osprovider.images.builder.archives import Source, mirrors_of, one_line, sources, stanza
from osprovider.images.builder.distributions import distribution

MIRROR = "http://mirror.example.org/debian"
KEYS = Path("/keys")


def places(build: BootstrapBuild, mirror: str = MIRROR, security: str | None = None) -> list[tuple[str, str]]:
    return [(source.url, source.suite) for source in sources(build, mirror, security, KEYS)]


@pytest.mark.parametrize("suite", ["bullseye", "bookworm", "trixie", "forky"])
def test_debians_security_updates_are_beside_the_mirror(suite: str) -> None:
    assert places(BootstrapBuild(suite=suite), f"{MIRROR}/") == [
        (MIRROR, suite),
        (MIRROR, f"{suite}-updates"),
        (f"{MIRROR}-security", f"{suite}-security"),
    ]


@pytest.mark.parametrize("suite", ["jammy", "noble"])
def test_ubuntus_security_updates_are_in_the_mirror(suite: str) -> None:
    mirror = "http://mirror.example.org/ubuntu"
    assert [url for url, _ in places(BootstrapBuild(suite=suite), mirror)] == [mirror] * 3


def test_security_updates_are_where_the_site_says() -> None:
    security = "http://security.example.org/debian-security"
    assert places(BootstrapBuild(suite="bookworm"), security=f"{security}/")[2] == (security, "bookworm-security")


@pytest.mark.parametrize("suite", ["sid", "unstable", "testing", "experimental"])
def test_suites_that_move_have_no_updates(suite: str) -> None:
    assert places(BootstrapBuild(suite=suite)) == [(MIRROR, suite)]


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (BootstrapBuild(suite="bookworm", updates=False), ["bookworm", "bookworm-security"]),
        (BootstrapBuild(suite="bookworm", security=False), ["bookworm", "bookworm-updates"]),
        (BootstrapBuild(suite="bookworm", updates=False, security=False), ["bookworm"]),
    ],
)
def test_updates_can_be_left_out(build: BootstrapBuild, expected: list[str]) -> None:
    assert [suite for _, suite in places(build)] == expected


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (BootstrapBuild(suite="noble"), "ubuntu"),
        (BootstrapBuild(suite="bookworm"), "debian"),
        (BootstrapBuild(suite="yggdrasil"), "debian"),
        (BootstrapBuild(suite="yggdrasil", distribution="ubuntu"), "ubuntu"),
        (BootstrapBuild(suite="noble", distribution="debian"), "debian"),
    ],
)
def test_a_suites_distribution_is_known_or_said(build: BootstrapBuild, expected: str) -> None:
    assert distribution(build) == expected


def test_each_repository_has_its_own_keys() -> None:
    shop = Repository(url="https://shop.example.org/apt/", suite="./", components=(), keyring="shop.asc")
    depot = dataclasses.replace(shop, suite="stable", components=("main", "extra"))
    build = BootstrapBuild(suite="sid", components=("main", "contrib"), repositories={"shop": shop, "depot": depot})
    found = sources(build, MIRROR, None, KEYS)
    assert [one_line(source, signed_by=source.keyring) for source in found] == [
        f"deb [signed-by=/keys/archive.gpg] {MIRROR} sid main contrib",
        "deb [signed-by=/keys/depot.gpg] https://shop.example.org/apt stable main extra",
        "deb [signed-by=/keys/shop.gpg] https://shop.example.org/apt ./",
    ]
    assert stanza(found[2], signed_by=Path("/etc/apt/keyrings/shop.gpg")) == (
        "Types: deb\nURIs: https://shop.example.org/apt\nSuites: ./\nSigned-By: /etc/apt/keyrings/shop.gpg\n"
    )


def test_files_of_the_node_are_copied_into_the_tree_for_dpkg_to_find() -> None:
    source = Source("mirror", "file:///srv/mirror", "bookworm", ("main",), KEYS / "archive.gpg")
    assert one_line(source, signed_by=None, copying=True) == "deb copy:///srv/mirror bookworm main"
    assert one_line(source, signed_by=None) == "deb file:///srv/mirror bookworm main"


def test_a_tools_own_mirrors_are_read() -> None:
    text = f"deb {MIRROR} bookworm main\ndeb {MIRROR} bookworm-updates main\ndeb {MIRROR}-sec bookworm-security main\n"
    assert mirrors_of(text, "bookworm") == (MIRROR, f"{MIRROR}-sec")
    assert mirrors_of(f"deb {MIRROR} sid main\n", "sid") == (MIRROR, None)
    with pytest.raises(ImageError, match=r"no mirror of trixie is known: say which in build\.mirror"):
        mirrors_of(text, "trixie")
