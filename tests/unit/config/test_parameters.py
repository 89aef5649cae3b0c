"""OS parameters, from the text that Ganeti hands on to values of the variant."""

from __future__ import annotations

import re

import pytest

from osprovider.config.model import Swap, Variant
from osprovider.config.parameters import PARAMETERS, parameter_tree, parameters_list, variable
from osprovider.config.schema import bind
from osprovider.errors import Problem

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJL+jXQD5j1m+rJrMItbsnP/UKz9kzfaHoA9E9Umewmg"
HASH = "$y$j9T$F5Jx5fExrKuPp53xLKQ..1$GmcwIgvdUC9qLWcKCi6gklUa1dM3ziD43YxYNURLKy0"


def _variant(**parameters: str) -> Variant:
    problems: list[Problem] = []
    variant = bind(Variant, parameter_tree(parameters, problems), problems)
    assert problems == []
    assert variant is not None
    return variant


def _problems(**parameters: str) -> list[Problem]:
    problems: list[Problem] = []
    bind(Variant, parameter_tree(parameters, problems), problems)
    return sorted(problems)


def test_the_list_is_what_ganeti_can_read() -> None:
    text = parameters_list()
    assert text.endswith("\n")
    # As _TryOSFromDisk does it: splitlines(), then split(None, 1), and two parts are needed of every line.
    pairs = [line.split(None, 1) for line in text.splitlines()]
    assert [name for name, _ in pairs] == list(PARAMETERS)
    for name, description in pairs:
        assert re.fullmatch(r"[a-z_]+|os-image", name)
        assert description.strip() == description


def test_variables_are_called_as_ganeti_calls_them() -> None:
    assert variable("dns_servers") == "OSP_DNS_SERVERS"
    assert variable("os-image") == "OSP_OS_IMAGE"


def test_every_parameter_but_ganetis_own_sets_a_key_of_the_variant() -> None:
    variant = _variant(
        image="other",
        filesystem="ext3",
        layout="msdos",
        swap="2GiB",
        kernel_args="quiet  isolcpus=1,2",
        hostname="short",
        timezone="Europe/Berlin",
        ssh_authorized_keys=KEY,
        root_password_hash=HASH,
        dns_servers="198.51.100.53,2001:db8::53",
        dns_search="example.org example.com",
        hooks_disable="timezone",
        isolation="host",
        wipe="zero",
        data_disks="renew",
    )
    assert variant.image == "other"
    assert variant.layout.filesystem == "ext3"
    assert variant.layout.table == "msdos"
    assert variant.layout.swap == Swap("partition", size="2GiB")
    assert variant.boot.kernel_args == ("quiet", "isolcpus=1,2")
    assert variant.system.hostname == "short"
    assert variant.system.timezone == "Europe/Berlin"
    assert variant.users["root"].ssh_authorized_keys == (KEY,)
    assert variant.users["root"].password_hash == HASH
    assert variant.network.dns.servers == ("198.51.100.53", "2001:db8::53")
    assert variant.network.dns.search == ("example.org", "example.com")
    assert variant.hooks.disable == ("timezone",)
    assert variant.isolation == "host"
    assert variant.wipe == "zero"
    assert variant.data_disks == "renew"
    assert len(PARAMETERS) == 15 + 1


@pytest.mark.parametrize("value", ["a,b", "a b", "a, b", " a\tb\n", ",a,,b,"])
def test_lists_are_words_between_commas_or_white_space(value: str) -> None:
    assert _variant(hooks_disable=value).hooks.disable == ("a", "b")


def test_an_empty_list_empties_what_the_variant_says() -> None:
    assert _variant(kernel_args="").boot.kernel_args == ()


def test_authorised_keys_are_lines_so_that_a_whole_file_will_do() -> None:
    options = f'from="198.51.100.0/24,203.0.113.7" {KEY} b@example.org'
    value = f"# mine\n{KEY} a@example.org\r\n\n  {options}\n"
    assert _variant(ssh_authorized_keys=value).users["root"].ssh_authorized_keys == (f"{KEY} a@example.org", options)


def test_ganetis_own_parameter_sets_nothing() -> None:
    assert _variant(**{"os-image": "http://example.org/x.raw"}) == Variant()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("wipe", "fast", 'OSP_WIPE: wipe: "fast" is not known here; write auto, zero, discard or none'),
        ("wipe", "", 'OSP_WIPE: wipe: "" is not known here; write auto'),
        ("image", "../x", 'OSP_IMAGE: image: "../x" does not fit; write a name'),
        (
            "filesystem",
            "ext5",
            'OSP_FILESYSTEM: layout.filesystem: "ext5" is not known here; write ext4, ext3, ext2, xfs or btrfs',
        ),
        ("layout", "image", 'OSP_LAYOUT: layout.table: "image" is not known here; write gpt, msdos or none'),
        (
            "swap",
            "2G",
            'OSP_SWAP: layout.swap: "2G" does not fit; write none, memory, a size such as 2GiB, or a map, in',
        ),
        ("kernel_args", 'quiet "x', "OSP_KERNEL_ARGS: boot.kernel_args[1]: "),
        ("hostname", "a_b", 'OSP_HOSTNAME: system.hostname: "a_b" does not fit; write fqdn, short, or'),
        ("timezone", "/etc/passwd", "OSP_TIMEZONE: system.timezone: "),
        ("ssh_authorized_keys", "ssh-ed25519 AAAA", "OSP_SSH_AUTHORIZED_KEYS: users.root.ssh_authorized_keys[0]: "),
        ("root_password_hash", "secret", "OSP_ROOT_PASSWORD_HASH: users.root.password_hash: this does not fit; write"),
        ("dns_servers", "198.51.100.53 ns1", "OSP_DNS_SERVERS: network.dns.servers[1]: "),
        ("dns_search", "a..b", "OSP_DNS_SEARCH: network.dns.search[0]: "),
        ("hooks_disable", "a/b", "OSP_HOOKS_DISABLE: hooks.disable[0]: "),
        ("isolation", "none", 'OSP_ISOLATION: isolation: "none" is not known here; write auto, host or appliance'),
        ("dns_server", "x", 'OSP_DNS_SERVER: there is no OS parameter "dns_server"; did you mean dns_servers?'),
    ],
)
def test_verify_names_the_variable(name: str, value: str, expected: str) -> None:
    (problem,) = _problems(**{name: value})
    assert str(problem).startswith(expected)


def test_verify_says_all_at_once_and_nothing_of_what_is_right() -> None:
    problems = _problems(**{"wipe": "x", "isolation": "y", "hostname": "fqdn", "os-image": "/srv/x"})
    assert [problem.file for problem in problems] == ["OSP_ISOLATION", "OSP_WIPE"]


def test_verify_does_not_repeat_secrets() -> None:
    (problem,) = _problems(root_password_hash="hunter2")
    assert "hunter2" not in str(problem)
