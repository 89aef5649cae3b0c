"""Bills of materials, against the schema that CycloneDX publishes."""

from __future__ import annotations

import dataclasses
import json
import sys
from importlib.resources import files
from typing import Any

import jsonschema
import pytest

from osprovider.errors import ImageError
from osprovider.images.packages import Package
from osprovider.images.sbom import bill_of_materials
from osprovider.manifest import Distribution, Manifest, Origin
from tests.support.manifests import manifest

MANIFEST = manifest(
    image="fedora-43",
    distribution=Distribution("fedora", "43", "", "Fedora Linux 43 (Cloud Edition)"),
    packages=2,
    built_here=False,
    tools={"osprovider": "0.1.0"},
    origin=Origin("https://example.org/fedora.qcow2", f"sha256:{'1' * 64}", 12345, "qcow2", "CHECKSUM"),
)

PACKAGES = (
    Package("rpm", "bash", "5.3.0-2.fc43", "x86_64", "bash", "GPL-3.0-or-later"),
    Package("rpm", "dbus-libs", "1:1.16.0-4.fc43", "x86_64", "dbus", "GPLv2+ or AFL"),
)


def schema_errors(document: dict[str, Any]) -> list[str]:
    """What is wrong by the schema that comes with the library, as published at cyclonedx.org."""
    directory = files("cyclonedx.schema") / "_res"

    def schema(name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((directory / f"{name}.SNAPSHOT.schema.json").read_text())
        return found

    main = schema("bom-1.6")
    others = {f"http://cyclonedx.org/schema/{name}.SNAPSHOT.schema.json": schema(name) for name in ("spdx", "jsf-0.82")}
    resolver = jsonschema.RefResolver.from_schema(main, store=others)
    return [error.message for error in jsonschema.Draft7Validator(main, resolver=resolver).iter_errors(document)]


def made(manifest: Manifest = MANIFEST, packages: tuple[Package, ...] = PACKAGES) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(bill_of_materials(manifest, packages))
    assert schema_errors(document) == []
    return document


def test_the_schema_finds_errors() -> None:
    assert schema_errors({"bomFormat": "CycloneDX", "specVersion": "1.6", "components": [{"type": "nothing"}]})


def test_every_package_has_its_package_url() -> None:
    components = made()["components"]
    assert [(each["name"], each["version"], each["purl"]) for each in components] == [
        ("bash", "5.3.0-2.fc43", "pkg:rpm/fedora/bash@5.3.0-2.fc43?arch=x86_64&distro=fedora-43"),
        (
            "dbus-libs",
            "1:1.16.0-4.fc43",
            "pkg:rpm/fedora/dbus-libs@1.16.0-4.fc43?arch=x86_64&distro=fedora-43&epoch=1",
        ),
    ]


def test_licences_are_what_the_package_says() -> None:
    first, second = made()["components"]
    assert first["licenses"] == [{"license": {"id": "GPL-3.0-or-later"}}]
    assert second["licenses"] == [{"license": {"name": "GPLv2+ or AFL"}}]


@pytest.mark.parametrize(
    ("package", "distribution", "url"),
    [
        (
            Package("deb", "libstdc++6", "1:12.2.0-14", "amd64", "gcc-12"),
            Distribution("debian", "12", "bookworm", "Debian"),
            "pkg:deb/debian/libstdc%2B%2B6@1:12.2.0-14?arch=amd64&distro=debian-12",
        ),
        (
            Package("apk", "busybox", "1.37.0-r30", "x86_64", "busybox", "GPL-2.0-only"),
            Distribution("alpine", "3.23.4", "", "Alpine"),
            "pkg:apk/alpine/busybox@1.37.0-r30?arch=x86_64&distro=alpine-3.23.4",
        ),
        (
            Package("alpm", "bash", "5.3-1", "x86_64"),
            Distribution("arch", "", "", "Arch Linux"),
            "pkg:alpm/arch/bash@5.3-1?arch=x86_64&distro=arch",
        ),
        (
            Package("deb", "a", "1", "all"),
            Distribution("../x?y", "1 2", "", "\x1b[2J"),
            "pkg:deb/linux/a@1?arch=all&distro=linux-1%202",
        ),
    ],
)
def test_package_urls_of_each_kind(package: Package, distribution: Distribution, url: str) -> None:
    document = made(dataclasses.replace(MANIFEST, distribution=distribution), (package,))
    assert [each["purl"] for each in document["components"]] == [url]
    assert "\x1b" not in json.dumps(document)


def test_it_says_where_the_image_came_from() -> None:
    image = made()["metadata"]["component"]
    assert image["name"] == "fedora-43"
    assert image["externalReferences"] == [
        {
            "type": "distribution",
            "url": "https://example.org/fedora.qcow2",
            "hashes": [{"alg": "SHA-256", "content": "1" * 64}],
        }
    ]
    properties = {each["name"]: each["value"] for each in image["properties"]}
    assert properties["osprovider:template"] == "0" * 64
    assert properties["osprovider:verified"] == "CHECKSUM"


def test_everything_belongs_to_the_image() -> None:
    document = made()
    of = {each["ref"]: each.get("dependsOn", []) for each in document["dependencies"]}
    assert of[document["metadata"]["component"]["bom-ref"]] == [each["bom-ref"] for each in document["components"]]


def test_the_same_template_has_the_same_one_each_time() -> None:
    assert bill_of_materials(MANIFEST, PACKAGES) == bill_of_materials(MANIFEST, tuple(reversed(PACKAGES)))
    other = dataclasses.replace(MANIFEST, created="2026-11-22T00:30:00Z")
    assert made(other)["serialNumber"] != made()["serialNumber"]


def test_an_image_without_packages_or_source_has_one() -> None:
    assert "components" not in made(dataclasses.replace(MANIFEST, origin=None), ())


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cyclonedx.output", None)
    with pytest.raises(ImageError, match=r"not installed: apt install python3-cyclonedx-lib"):
        bill_of_materials(MANIFEST, PACKAGES)
