"""Files as people get them wrong: each complaint at its place, and what JSON Schema says of the same text.

The table is the specification of the messages. ``seen`` says whether JSON Schema can see the mistake too; whatever it
refuses, binding refuses, and whatever binding takes, it takes.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest

from osprovider.config.model import Cache, Image, InstanceFile, Subnet, Variant
from tests.unit.config.binding import bound, plain, validator


class Bad(NamedTuple):
    """A text, what is said of it (the beginning of each line), and whether JSON Schema refuses it."""

    cls: type
    text: str
    expected: tuple[str, ...]
    seen: bool = True


TABLE = [
    # keys
    Bad(Variant, "imgae: x", ('1:1: there is no key "imgae" here; did you mean image?',)),
    Bad(Variant, "Image: x", ('1:1: there is no key "Image" here; did you mean image?',)),
    Bad(
        Variant,
        "filesystem: ext4",
        ('1:1: there is no key "filesystem" here; did you mean layout.filesystem or layout.boot.filesystem?',),
    ),
    Bad(Variant, "servers: []", ('1:1: there is no key "servers" here; did you mean network.dns.servers?',)),
    Bad(
        Variant,
        "layout:\n  volume: ext4",
        ('2:3: layout: there is no key "volume" here; there is boot, filesystem, firmware',),
    ),
    Bad(Variant, "nics: []", ('1:1: there is no key "nics" here; ',)),
    Bad(
        Variant,
        "users:\n  root:\n    shel: /bin/sh",
        ('3:5: users.root: there is no key "shel" here; did you mean shell?',),
    ),
    Bad(Variant, "<<: {image: x}", ('1:1: there is no key "<<" here; there is boot, ',)),
    Bad(Variant, '"a\\nb": 1', ('1:1: there is no key "a\\nb" here; ',)),
    # types
    Bad(Variant, "- image", ("1:1: must be a map, not a list; write 'key: value' lines",)),
    Bad(Variant, "image", ("1:1: must be a map, not text; write 'key: value' lines",)),
    Bad(Variant, "layout: gpt", ("1:9: layout: must be a map, not text; write 'key: value' lines",)),
    Bad(
        Variant, "layout:\nboot:", ("1:8: layout: must be a map, not nothing; write {}, or", "2:6: boot: must be a map")
    ),
    Bad(Variant, "users: [root]", ("1:8: users: must be a map, not a list",)),
    Bad(
        Variant,
        "boot: {kernel_args: quiet}",
        ("1:21: boot.kernel_args: must be a list, not text; write [quiet], or []",),
    ),
    Bad(Variant, "packages:", ("1:10: packages: must be a list, not nothing; write [...], or [] for none",)),
    Bad(Variant, "packages: {a: b}", ("1:11: packages: must be a list, not a map",)),
    Bad(Variant, "packages: [[vim]]", ("1:12: packages[0]: must be text, not a list; write",)),
    Bad(Variant, "image: [debian-12]", ("1:8: image: must be text, not a list",)),
    Bad(
        Variant, "description:", ("1:13: description: must be text, not nothing; write a line of it, or leave the key",)
    ),
    # what YAML makes of plain words
    Bad(
        Variant,
        "layout: {grow: yes}",
        ("1:16: layout.grow: must be true or false, not text; write true without quotes",),
    ),
    Bad(Variant, "layout: {grow: Off}", ("1:16: layout.grow: must be true or false, not text; write false without",)),
    Bad(Variant, 'layout: {grow: "true"}', ("1:16: layout.grow: must be true or false, not text; write true without",)),
    Bad(Variant, "layout: {grow: 1}", ("1:16: layout.grow: must be true or false, not a number; write true without",)),
    Bad(Variant, "layout: {grow: maybe}", ("1:16: layout.grow: must be true or false, not text; write true or false",)),
    Bad(Variant, "wipe: ~", ("1:7: wipe: must be a word, not nothing; write auto, zero, discard or none",)),
    Bad(Variant, "wipe: false", ("1:7: wipe: must be a word, not true or false; write auto, zero",)),
    Bad(Variant, "image: true", ('1:8: image: must be text, not true or false; write "true", with the quotes',)),
    Bad(Variant, "image: 12", ('1:8: image: must be text, not a number; write "12", with the quotes',)),
    Bad(Image, "build: {suite: 12.10}", ('1:16: build.suite: must be text, not a number; write "12.10", with',)),
    Bad(Variant, "image: null", ("1:8: image: must be text, not nothing",)),
    Bad(
        Variant, "boot: {timeout: 010}", ("1:17: boot.timeout: must be a whole number, not 010; write one",), seen=False
    ),
    Bad(Variant, "boot: {timeout: 1.5}", ("1:17: boot.timeout: must be a whole number, not 1.5; write one",)),
    Bad(Variant, "boot: {timeout: '5'}", ("1:17: boot.timeout: must be a whole number, not text; write one without",)),
    Bad(Variant, "boot: {timeout: 5s}", ("1:17: boot.timeout: must be a whole number, not text",)),
    Bad(Variant, "boot: {timeout: true}", ("1:17: boot.timeout: must be a whole number, not true or false",)),
    Bad(Variant, "boot: {timeout: -1}", ("1:17: boot.timeout: -1 does not fit; write a number of seconds from 0",)),
    # words
    Bad(
        Variant, "layout: {filesystem: ext5}", ('1:22: layout.filesystem: "ext5" is not known here; write ext4, ext3',)
    ),
    Bad(Variant, "layout: {filesystem: none}", ('1:22: layout.filesystem: "none" is not known here; write ext4',)),
    Bad(Variant, "layout: {table: mbr}", ('1:17: layout.table: "mbr" is not known here; write gpt, msdos or none',)),
    Bad(
        Variant,
        "layout: {firmware: uefi}",
        ("1:20: layout.firmware: must be a list, not text; write [uefi], or [] for",),
    ),
    Bad(
        Variant,
        "layout: {firmware: [efi]}",
        ('1:21: layout.firmware[0]: "efi" is not known here; write bios or uefi; did',),
    ),
    Bad(Variant, "layout: {firmware: [bios, bios]}", ('1:27: layout.firmware[1]: "bios" is there twice; keep one',)),
    Bad(
        Variant,
        "wipe: Zero",
        ('1:7: wipe: "Zero" is not known here; write auto, zero, discard or none; did you mean zero?',),
    ),
    Bad(Variant, "network: {default: static}", ('1:20: network.default: "static" is not known here; write dhcp',)),
    # values
    Bad(Variant, "image: ../../etc/shadow", ('1:8: image: "../../etc/shadow" does not fit; write a name',)),
    Bad(Variant, "image: |\n  debian\n", ('1:8: image: "debian\\n" does not fit; write a name',), seen=False),
    Bad(Variant, "boot: {kernel_args: [quiet splash]}", ('1:22: boot.kernel_args[0]: "quiet splash" does not fit',)),
    Bad(Variant, "boot: {kernel_args: [root=/dev/sda1]}", ("1:22: boot.kernel_args[0]: ",), seen=False),
    Bad(Variant, "boot: {serial: COM1}", ('1:16: boot.serial: "COM1" does not fit; write auto, none, or DEVICE',)),
    Bad(
        Variant,
        "system: {hostname: 198.51.100.1}",
        ('1:20: system.hostname: "198.51.100.1" looks like an',),
        seen=False,
    ),
    Bad(Variant, "system: {timezone: Berlin time}", ('1:20: system.timezone: "Berlin time" does not fit; write',)),
    Bad(Variant, "system: {locale: German}", ('1:18: system.locale: "German" does not fit; write a locale',)),
    Bad(
        Variant,
        "network: {dns: {servers: [198.51.100]}}",
        ('1:27: network.dns.servers[0]: "198.51.100" is not',),
        seen=False,
    ),
    Bad(
        Variant, "network: {dns: {servers: [ns.example.org]}}", ('1:27: network.dns.servers[0]: "ns.example.org" does',)
    ),
    Bad(Variant, "network: {dns: {search: [a b]}}", ('1:26: network.dns.search[0]: "a b" does not fit',)),
    Bad(Variant, "users: {Root: {}}", ('1:9: users: "Root" does not fit; write a name as useradd takes it',)),
    Bad(
        Variant, "users: {'a:b': {comment: 'a:b'}}", ('1:9: users: "a:b" does', '1:26: users."a:b".comment: "a:b" does')
    ),
    Bad(
        Variant,
        "users: {root: {password_hash: secret}}",
        ("1:31: users.root.password_hash: this does not fit; write the",),
    ),
    Bad(
        Variant,
        "users: {root: {password_hash: 12345}}",
        ("1:31: users.root.password_hash: must be text, not a number; w",),
    ),
    Bad(
        Variant,
        "users: {a: {ssh_authorized_keys: [key]}}",
        ("1:35: users.a.ssh_authorized_keys[0]: this does not fit; wr",),
    ),
    Bad(Variant, "users: {a: {shell: bash}}", ('1:20: users.a.shell: "bash" does not fit; write an absolute path',)),
    Bad(
        Variant, "users: {a: {sudo: yes}}", ('1:19: users.a.sudo: "yes" is not known here; write none, password or no',)
    ),
    Bad(
        Variant, "hooks: {order: {a: network}}", ("1:20: hooks.order.a: \"network\" does not fit; write 'after HOOK'",)
    ),
    Bad(Variant, "hooks: {disable: [a/b]}", ('1:19: hooks.disable[0]: "a/b" does not fit; write a name',)),
    Bad(Variant, 'description: "a\\nb"', ('1:14: description: "a\\nb" does not fit; write one line of text',)),
    # images
    Bad(
        Image,
        "source: /a b",
        ('1:9: source: "/a b" does not fit; write an absolute path without spaces and letters beyond ASCII, or a URL',),
    ),
    Bad(Image, "source: 'ftp://h/f'", ('1:9: source: "ftp://h/f" cannot be fetched; write an http',), seen=False),
    Bad(Image, "source: 'https://u:p@h/f'", ("1:9: source: this URL holds a password, which",), seen=False),
    Bad(Image, "checksums: md5:00", ('1:12: checksums: "md5:00" is MD5',), seen=False),
    Bad(Image, "checksums: sha256:00", ('1:12: checksums: "sha256:00" does not fit; write sha256:DIGITS',)),
    Bad(Image, "keyring: a/b", ('1:10: keyring: "a/b" does not fit; write a file\'s name in keys/',)),
    Bad(Image, "max_size: 20G", ('1:11: max_size: "20G" does not fit; write a number of bytes with its unit',)),
    Bad(Image, "format: vhd", ('1:9: format: "vhd" is not known here',)),
    Bad(Cache, "max_size: 50", ("1:11: max_size: must be text, not a number",)),
    Bad(Cache, "proxy: proxy.example.org:3128", ("1:8: proxy: this does not fit; write a URL",)),
    Bad(Image, "build: {}", ('1:8: build: the key "suite" is missing (the release\'s code name (bookworm)); add it',)),
    Bad(
        Image,
        "build: {suite: bookworm, tool: deboostrap}",
        ('1:32: build.tool: "deboostrap" is not known here; write mmd',),
    ),
    Bad(
        Image, "build: {suite: bookworm, arch: x86_64}", ('1:32: build.arch: "x86_64" is not known here; write amd64',)
    ),
    Bad(Image, "build: {suite: x, mirror: 'http://u:p@h/'}", ("1:27: build.mirror: this does not fit; write a URL",)),
    Bad(
        Image,
        "build: {suite: x, repositories: {a: {url: 'https://h/', suite: ./}}}",
        ('1:37: build.repositories.a: the key "keyring" is missing',),
    ),
    Bad(
        Image,
        "build: {suite: x, repositories: {'a b': {url: 'https://h/', suite: ./, keyring: a.gpg}}}",
        ('1:34: build.repositories: "a b" does not fit; write a name',),
    ),
    Bad(
        Image,
        "build: {suite: x, repositories: {a: {url: 'https://h/', suite: 'x [trusted=yes]', keyring: a.gpg}}}",
        ('1:64: build.repositories.a.suite: "x [trusted=yes]" does not fit; write a suite',),
    ),
    Bad(Image, "build: {suite: x, debs: [debs/a.deb]}", ('1:26: build.debs[0]: "debs/a.deb" does not fit; write a',)),
    Bad(Image, "build: {suite: x, scripts: [../a]}", ('1:29: build.scripts[0]: "../a" does not fit; write a',)),
    Bad(Image, "build: {suite: x, variant: buildd}", ('1:28: build.variant: "buildd" is not known here',)),
    Bad(Image, "build: {suite: x, packages: ['vim,nano']}", ('1:30: build.packages[0]: "vim,nano" does not fit',)),
    # subnets and instance files
    Bad(
        Subnet, "networks: 198.51.100.0/24", ("1:11: networks: must be a list, not text; write [198.51.100.0/24], or",)
    ),
    Bad(
        Subnet,
        "networks: [198.51.100.1/24]",
        ('1:12: networks[0]: "198.51.100.1/24" has host bits set; write',),
        seen=False,
    ),
    Bad(Subnet, "gateways: [198.51.100.1/24]", ('1:12: gateways[0]: "198.51.100.1/24" does not fit',)),
    Bad(Subnet, "mtu: 10", ("1:6: mtu: 10 does not fit; write a number of bytes from 68 to 65535",)),
    Bad(Subnet, "match: br0", ("1:8: match: must be a map, not text",)),
    Bad(Subnet, "match: {bridge: br0}", ('1:9: match: there is no key "bridge" here; there is link and network',)),
    Bad(InstanceFile, "nics: {dhcp: true}", ("1:7: nics: must be a list, not a map",)),
    Bad(InstanceFile, "nics:\n  - dhcp: yes", ("2:11: nics[0].dhcp: must be true or false, not text; write true",)),
    Bad(InstanceFile, "nics: [~]", ("1:8: nics[0]: must be a map, not nothing; write {}",)),
    Bad(InstanceFile, "nics:\n  - addresses: [198.51.100.255/24]", ("2:17: nics[0].addresses[0]: ",), seen=False),
    Bad(InstanceFile, "nics: [{adresses: []}]", ('1:9: nics[0]: there is no key "adresses" here; did you mean',)),
    # a scalar or a map
    Bad(
        Variant, "layout: {boot: 1GiB}", ('1:16: layout.boot: "1GiB" does not fit; write none, or a map such as {size',)
    ),
    Bad(
        Variant, "layout: {boot: {filesystem: xfs}}", ('1:29: layout.boot.filesystem: "xfs" is not known here; write',)
    ),
    Bad(Variant, "layout: {boot: ~}", ("1:16: layout.boot: must not be nothing; write none, or a map such as",)),
    Bad(Variant, "layout: {swap: 2G}", ('1:16: layout.swap: "2G" does not fit; write none, memory, a size such as',)),
    Bad(Variant, "layout: {swap: 2048}", ("1:16: layout.swap: must not be a number; write none, memory, a size",)),
    Bad(Variant, "layout: {swap: [none]}", ("1:16: layout.swap: must not be a list; write none, memory, a size",)),
    Bad(Variant, "layout: {swap: {partition: 1}}", ('1:17: layout.swap: there is no key "partition" here; there is',)),
    Bad(
        Variant,
        "layout: {swap: {disk: 1, file: 1GiB}}",
        ("1:16: layout.swap: disk and file are both there; write one of them",),
        seen=False,
    ),
    Bad(Variant, "layout: {swap: {}}", ("1:16: layout.swap: neither disk nor file is there; write one",), seen=False),
    Bad(
        Variant,
        "layout: {swap: {disk: 0}}",
        ('1:23: layout.swap.disk: "0" is the disk of the system; write',),
        seen=False,
    ),
    Bad(Variant, "layout: {swap: {disk: -1}}", ('1:23: layout.swap.disk: "-1" does not fit; write a disk',)),
    Bad(Variant, "disks: {'a b': {}}", ('1:9: disks: "a b" does not fit; write a disk',)),
    Bad(Variant, "disks: {data: {mount: srv}}", ('1:23: disks.data.mount: "srv" does not fit; write an absolute',)),
    Bad(Variant, "disks: {data: {options: ['a,b']}}", ('1:26: disks.data.options[0]: "a,b" does not fit; write one',)),
    # all at once
    Bad(
        InstanceFile,
        "image: a/b\nlayout:\n  grow: no\n  tabel: gpt\nnics:\n  - {mtu: x, slaac: on}\nboot: {serial: 1}\n",
        (
            '1:8: image: "a/b" does not fit',
            "3:9: layout.grow: must be",
            '4:3: layout: there is no key "tabel" here; did you mean table?',
            "6:11: nics[0].mtu: must be",
            "6:21: nics[0].slaac: must be",
            "7:16: boot.serial: must be",
        ),
    ),
]

GOOD = [
    (Variant, ""),
    (Variant, "description: no\nimage: none\nwipe: none\n"),
    (Variant, "layout: {firmware: [], filesystem: ext3, grow: false}"),
    (Variant, "layout: {table: msdos, boot: none, swap: memory}"),
    (Variant, "layout: {table: none, boot: {}, swap: 2GiB}"),
    (Variant, "layout: {boot: {size: 512MiB, filesystem: ext2}, swap: {disk: 1}}"),
    (Variant, "layout: {swap: {disk: swap}}"),
    (Variant, "layout: {swap: {file: 1GiB, disk: ~}}"),
    (
        Variant,
        "disks: {'1': {}, data: {filesystem: xfs, mount: /srv, label: /srv, options: [noatime, compress=zstd:1]}}",
    ),
    (Variant, "boot: {loader: none, serial: 'ttyS0,115200', kernel_args: [], timeout: 0}"),
    (Variant, "users: {root: {password_hash: ~}, admin: {groups: [sudo], sudo: nopasswd, comment: Jürgen}}"),
    (Variant, "hooks: {disable: [timezone], order: {my-hook: after network}}"),
    (Variant, "network: {dns: {servers: [198.51.100.53, '2001:db8::53'], search: [example.org]}}"),
    (Image, "build: {suite: bookworm, mirror: 'http://mirror.example.org/debian', components: [main, contrib]}"),
    (Image, "build: {suite: bookworm, mirror: ~}"),
    (Image, "build: {suite: noble, distribution: ubuntu, variant: standard, recommends: true, exclude: [snapd]}"),
    (Image, "build: {suite: x, repositories: {a: {url: 'https://h/', suite: ./, components: [], keyring: a.gpg}}}"),
    (Subnet, "networks: [198.51.100.0/24, 2001:db8:1::/64]\ngateways: [203.0.113.1, fe80::1]\nmtu: 9000\n"),
    (Subnet, "match: {link: gnt-br0, network: ~}"),
    (
        InstanceFile,
        "nics:\n  - {subnet: prod, addresses: [198.51.100.21, '2001:db8:1::21']}\n  - {dhcp: true}\n  - {}\n",
    ),
    (InstanceFile, "image: debian-12\nsystem: {timezone: Europe/Berlin}\nnics: [{gateways: ~, mtu: ~, dns: {}}]\n"),
]


@pytest.mark.parametrize("bad", TABLE, ids=lambda bad: f"{bad.cls.__name__}: {bad.text[:40]}")
def test_a_mistake_is_named_at_its_place_with_what_to_write_instead(bad: Bad) -> None:
    _, value, problems = bound(bad.cls, bad.text)
    assert value is None
    assert len(problems) == len(bad.expected), problems
    for problem, expected in zip(problems, bad.expected, strict=True):
        assert problem.startswith(f"f.yaml:{expected}"), problem
        assert problem.isprintable()


@pytest.mark.parametrize("bad", TABLE, ids=lambda bad: f"{bad.cls.__name__}: {bad.text[:40]}")
def test_json_schema_refuses_what_it_can_see(bad: Bad) -> None:
    node, _, _ = bound(bad.cls, bad.text)
    assert validator(bad.cls).is_valid(plain(node)) is not bad.seen


@pytest.mark.parametrize(("cls", "text"), GOOD)
def test_what_is_right_passes_both(cls: type, text: str) -> None:
    node, value, problems = bound(cls, text)
    assert problems == []
    assert isinstance(value, cls)
    validator(cls).validate(plain(node))
