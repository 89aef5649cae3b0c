"""The published JSON Schema: it describes every key, and refuses nothing that binding takes."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from osprovider.config.document import Node
from osprovider.config.model import Cache, Image, InstanceFile, Subnet, Variant
from osprovider.config.schema import bind, json_schema
from osprovider.errors import Problem
from tests.unit.config.binding import CLASSES, ED25519, YESCRYPT, bound, plain, validator

SHIPPED = Path(__file__).parents[3]

FULL = {
    Variant: f"""
        description: x
        image: debian-12
        layout:
          {{table: gpt, firmware: [bios], filesystem: ext4, boot: {{size: 1GiB, filesystem: ext4}}, swap: {{disk: 1}},
           grow: true, root_size: 20GiB}}
        disks: {{data: {{filesystem: xfs, mount: /srv, label: data, options: [noatime]}}}}
        boot: {{loader: grub, serial: auto, kernel_args: [quiet], timeout: 1}}
        network: {{renderer: auto, default: dhcp, dns: {{servers: [198.51.100.53], search: [example.org]}}}}
        system: {{hostname: fqdn, timezone: Etc/UTC, locale: C.UTF-8}}
        users:
          admin:
            {{password_hash: ~, groups: [sudo], shell: /bin/sh, comment: x, sudo: none,
             ssh_authorized_keys: [{ED25519}]}}
        packages: [vim]
        hooks: {{disable: [grub], order: {{grub: after fstab}}}}
        isolation: auto
        wipe: auto
        data_disks: keep
        verify_copy: false
        """,
    Image: """
        description: x
        build: {tool: mmdebstrap, suite: x, mirror: ~, components: [main], packages: [vim], arch: amd64}
        source: https://images.example.org/x.qcow2
        checksums: SHA512SUMS
        signature: SHA512SUMS.sign
        keyring: x.gpg
        format: auto
        arch: amd64
        max_size: 64GiB
        """,
    Cache: """
        max_size: 50GiB
        proxy: http://proxy.example.org:3128
        """,
    Subnet: """
        networks: [198.51.100.0/24]
        gateways: [198.51.100.1]
        dns: {servers: [198.51.100.53], search: [example.org]}
        mtu: 1500
        match: {link: br0, network: prod}
        """,
    InstanceFile: """
        nics:
          - {subnet: prod, addresses: [198.51.100.1], gateways: [198.51.100.1], dhcp: true, slaac: true, dns: {},
             mtu: 1500}
        """,
}

SUBSTITUTES = [
    *(
        "~",
        "true",
        "0",
        "1",
        "-1",
        "70000",
        "1.5",
        "{}",
        "[]",
        "[[]]",
        "[~]",
        "''",
        "' '",
        "x",
        "none",
        "auto",
        "yes",
        "a b",
    ),
    *(
        "fqdn",
        "a.b",
        "A",
        "a:b",
        "a/b",
        "../x",
        "/bin/sh",
        "/..",
        "ext3",
        "bios",
        "dhcp",
        "after x",
        "C",
        "Etc/GMT+1",
        "root=x",
    ),
    *(
        "198.51.100.9",
        "198.51.100.0/24",
        "198.51.100.9/24",
        "'::'",
        "'2001:db8::1/64'",
        "ttyS0,9600",
        "http://h/",
        "file:///x",
    ),
    *('"a\\nb"', '"a\\n"', '"\\e[0m"', '"\\u2028"', "ä", "🙂", "'" + "x" * 300 + "'"),
    f"'{ED25519} a@b'",
    f"'{YESCRYPT}'",
]


def _places(node: Node, *path: str | int) -> Iterator[tuple[str | int, ...]]:
    yield path
    if isinstance(node.value, dict):
        for key, item in node.value.items():
            yield from _places(item, *path, key)
    if isinstance(node.value, tuple):
        for index, item in enumerate(node.value):
            yield from _places(item, *path, index)


@pytest.mark.parametrize("cls", CLASSES)
def test_whatever_binding_takes_in_any_place_the_schema_takes_too(cls: type) -> None:
    text = textwrap.dedent(FULL[cls])
    accepted = 0
    for path in _places(bound(cls, text)[0]):
        for substitute in SUBSTITUTES:
            node = bound(cls, text)[0]
            other = bound(cls, f"x: {substitute}")[0].at("x")
            place = node.at(*path)
            place.value, place.text, place.keys = other.value, other.text, other.keys
            problems: list[Problem] = []
            if bind(cls, node, problems) is not None:
                accepted += 1
                validator(cls).validate(plain(node))
            else:
                assert problems
    assert accepted >= 5


def test_the_full_files_have_every_key() -> None:
    inherited = json_schema(Variant)["properties"].keys()
    for cls, text in FULL.items():
        node, _, problems = bound(cls, textwrap.dedent(text))
        assert problems == []
        assert node.keys.keys() == json_schema(cls)["properties"].keys() - (inherited if cls is InstanceFile else set())


@pytest.mark.parametrize("cls", CLASSES)
def test_the_published_schema_is_valid_and_describes_every_key(cls: type) -> None:
    schema = json_schema(cls)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert json.loads(json.dumps(schema)) == schema
    for place in (schema, *schema["$defs"].values()):
        assert place["description"].endswith(".")
        for name, entry in place["properties"].items():
            assert entry.get("description") or "$ref" in entry, name


@pytest.mark.parametrize(
    ("cls", "path"),
    [(Variant, path) for path in sorted((SHIPPED / "variants").glob("*.yaml"))]
    + [(Image, path) for path in sorted((SHIPPED / "images").glob("*.yaml"))],
)
def test_the_shipped_files_pass_both(cls: type, path: Path) -> None:
    node, _, problems = bound(cls, path.read_text())
    assert problems == []
    validator(cls).validate(plain(node))


@pytest.mark.parametrize("cls", [Variant, Subnet, InstanceFile])
def test_the_built_in_defaults_pass_their_own_schema(cls: type) -> None:
    def defaults(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
        result = {}
        for name, entry in schema["properties"].items():
            if "$ref" in entry:
                result[name] = defaults(definitions[entry["$ref"].rpartition("/")[2]], definitions)
            elif "default" in entry:
                result[name] = entry["default"]
        return result

    schema = json_schema(cls)
    validator(cls).validate(defaults(schema, schema["$defs"]))
