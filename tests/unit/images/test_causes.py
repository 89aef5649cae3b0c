"""Messages from what the build tools said."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from osprovider.config.model import BootstrapBuild, Image, Repository
from osprovider.images.builder.archives import sources
from osprovider.images.builder.causes import explain, is_out_of_space
from osprovider.images.recipe import Recipe

MIRROR = "http://mirror.example.org/debian"


BUILD = BootstrapBuild(
    suite="bookworm",
    mirror=MIRROR,
    keyring="/keys.gpg",
    exclude=("nano",),
    repositories={"shop": Repository(url="https://shop.example.org/apt", suite="stable", keyring="/shop.gpg")},
)


def cause(*lines: str, mirror: str | None = MIRROR) -> str:
    build = dataclasses.replace(BUILD, mirror=mirror)
    found = sources(build, mirror or "http://default.example.org/debian", None, Path("/keys"))
    return explain(lines, Recipe("web", Image(build=build), "ext4"), found, "the last line")


@pytest.mark.parametrize(
    "line",
    [
        "E: Unable to locate package nginxx",
        "E: Package 'nginxx' has no installation candidate",
        "E: Couldn't find any package by glob 'nginxx'",
    ],
)
def test_an_unknown_package_is_named(line: str) -> None:
    assert cause("Reading package lists...", line) == (
        f"{MIRROR} has no package nginxx in bookworm; correct build.packages of images/web.yaml, "
        "or packages of the variant"
    )


@pytest.mark.parametrize(
    "line",
    [
        f"E: The repository '{MIRROR} bookworm Release' does not have a Release file.",
        "E: No such script: /usr/share/debootstrap/scripts/bookworm",
        f"Err:2 {MIRROR} bookworm Release 404  Not Found [IP: 192.0.2.1 80]",
        "2026-11-21 01:01:00 ERROR 404: Not Found.",
    ],
)
def test_a_missing_suite_is_named(line: str) -> None:
    assert cause(line).startswith(f"{MIRROR} has no suite bookworm: it answers 404; check build.suite")


def test_a_name_that_cannot_be_resolved_counts_more_than_what_follows_from_it() -> None:
    message = cause(
        f"W: Failed to fetch {MIRROR}/dists/bookworm/InRelease  Temporary failure resolving 'mirror.example.org'",
        f"E: The repository '{MIRROR} bookworm Release' does not have a Release file.",
    )
    assert message.startswith(f"the name of {MIRROR} cannot be resolved (Failed to fetch")
    assert message.endswith("check the node's name servers, and build.mirror of images/web.yaml")


def test_a_refused_connection_is_told_without_the_tools_marks() -> None:
    line = "Err:1 http://127.0.0.1:9 bookworm InRelease Could not connect to 127.0.0.1:9 (127.0.0.1)."
    assert "(http://127.0.0.1:9 bookworm InRelease Could not connect" in cause(line)


def test_a_signature_by_an_unknown_key() -> None:
    message = cause("W: GPG error: The following signatures couldn't be verified: NO_PUBKEY 0123456789ABCDEF")
    assert message.startswith(f"what {MIRROR} offers is not signed by a key of /keys.gpg")


def test_the_source_that_a_line_names_is_the_one_to_correct() -> None:
    missing = "E: The repository '{}' does not have a Release file."
    assert cause(missing.format(f"{MIRROR}-security bookworm-security Release")) == (
        f"{MIRROR}-security has no suite bookworm-security: it answers 404; "
        "check build.mirror of images/web.yaml, or say build.security: false there"
    )
    assert cause(missing.format(f"{MIRROR} bookworm-updates Release")).endswith("or say build.updates: false there")
    assert cause(missing.format("https://shop.example.org/apt stable Release")) == (
        "https://shop.example.org/apt has no suite stable: it answers 404; "
        "check build.repositories.shop of images/web.yaml"
    )


def test_a_list_that_has_expired() -> None:
    message = cause(
        f"E: Release file for {MIRROR}/dists/bookworm-updates/InRelease is expired (invalid since 15d 10h)."
    )
    assert message.startswith(f"{MIRROR} offers a list of bookworm-updates that is out of date, or of the future (Rel")
    assert message.endswith("check the node's clock, or build.mirror of images/web.yaml")


def test_a_file_that_a_mirror_lists_and_has_no_more() -> None:
    name = "pool/updates/main/l/linux/linux-image-amd64_5.10_amd64.deb"
    assert cause(f"E: Failed to fetch {MIRROR}-security/{name}  404  Not Found [IP: 203.0.113.80 80]") == (
        f"{MIRROR}-security lists linux-image-amd64_5.10_amd64.deb and does not have it (404); try again later, or "
        "where it keeps the release no longer, check build.mirror of images/web.yaml, or say build.security: false "
        "there"
    )


def test_a_repository_is_not_signed_by_its_own_key() -> None:
    message = cause("W: GPG error: https://shop.example.org/apt stable InRelease: NO_PUBKEY 0123456789ABCDEF")
    assert message.startswith("what https://shop.example.org/apt offers is not signed by a key of /shop.gpg")
    assert message.endswith("or correct build.repositories.shop of images/web.yaml")


def test_an_excluded_package_that_is_needed() -> None:
    message = cause(" mc : Depends: nano (>= 2) but it is not installable", "E: Unable to correct problems")
    assert message == "mc needs nano, which is excluded; correct build.exclude of images/web.yaml"


def test_a_package_whose_script_fails() -> None:
    message = cause(
        "dpkg: error processing package broken (--configure):",
        " installed broken package post-installation script subprocess returned error exit status 1",
    )
    assert message.startswith("package broken cannot be installed: installed broken package post-installation script")


def test_what_a_packages_script_said_is_told() -> None:
    message = cause(
        "Setting up broken (1.0) ...",
        "cannot reach the licence server",
        "dpkg: error processing package broken (--configure):",
        " installed broken package post-installation script subprocess returned error exit status 1",
    )
    assert message.startswith("package broken cannot be installed: cannot reach the licence server: installed broken")


@pytest.mark.parametrize(
    "said",
    [
        "curl: (6) Could not resolve host: get.example.org",
        "wget: unable to resolve host address 'get.example.org'",
        "Failed to connect to get.example.org: Network is unreachable",
        "E: Unable to locate package more",
        "the module Depends: on more",
    ],
)
def test_a_package_that_wants_a_network_is_not_the_mirrors_fault(said: str) -> None:
    message = cause(
        "Setting up fonts (1.0) ...",
        said,
        "dpkg: error processing package fonts (--configure):",
        " installed fonts package post-installation script subprocess returned error exit status 1",
        "E: Sub-process env returned an error code (1)",
    )
    assert message.startswith(f"package fonts cannot be installed: {said}: installed fonts package post-installation")


def test_the_default_mirror_is_not_called_none() -> None:
    assert cause("Connection refused", mirror=None).startswith("the default mirror cannot be reached")


def test_an_unknown_cause_is_told_by_the_last_line() -> None:
    assert cause("something else") == "the last line; --debug shows what the build said"


def test_braces_in_what_a_tool_said_stay() -> None:
    assert "Depends: {curly}" in cause(" web : Depends: {curly}")


@pytest.mark.parametrize(
    ("line", "full"),
    [
        ("dpkg-deb: error: failed to write: No space left on device", True),
        ("E: You don't have enough free space in /var/cache/apt/archives/.", True),
        ("Setting up libc6", False),
    ],
)
def test_a_full_file_system_is_known(line: str, full: bool) -> None:
    assert is_out_of_space(["Unpacking perl", line]) is full
