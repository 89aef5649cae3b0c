"""The hook hostname: the guest's name at a create, and a rename that leaves the administrator's lines alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from osprovider.nics import ResolvedNic
from tests.support.boot_context import run_hook
from tests.unit.hooks.trees import changes, check_golden, context, snapshot, write_tree

STATIC = (ResolvedNic(0, "aa:00:00:11:22:33", "nic0", ("198.51.100.21/24", "2001:db8:1::21/64")),)
STATIC6 = (ResolvedNic(0, "aa:00:00:11:22:33", "nic0", ("2001:db8:1::21/64",)),)
DHCP = (ResolvedNic(0, "aa:00:00:11:22:33", "nic0", dhcp4=True),)
DEBIAN = """\
127.0.0.1	localhost
127.0.1.1	template.example.com template

# The following lines are desirable for IPv6 capable hosts
::1     localhost ip6-localhost ip6-loopback
192.0.2.9	backup.example.org backup"""

CREATES = {
    "static": (STATIC, None, {"/etc/hostname": "template\n"}),
    "dhcp": (DHCP, None, {"/etc/hosts": DEBIAN, "/etc/mailname": "template.example.com\n"}),
    "static-ipv6-short": (STATIC6, "web1", {"/etc/hosts": DEBIAN}),
    "no-nic-own-name": ((), "front", {"/etc/hosts": "127.0.0.1 localhost\n"}),
}


@pytest.mark.parametrize("case", CREATES)
def test_create_names_the_guest_and_a_second_run_changes_nothing(tmp_path: Path, case: str) -> None:
    nics, hostname, files = CREATES[case]
    write_tree(tmp_path, {"/etc": None, **files})
    before = snapshot(tmp_path)
    told = context(nics=nics, hostname=hostname)
    run_hook("hostname", tmp_path, told)
    after = snapshot(tmp_path)
    check_golden(f"hostname-{case}", changes(before, after))
    run_hook("hostname", tmp_path, told)
    assert snapshot(tmp_path) == after


def rename(root: Path, old: str, new: str, hostname: str | None = None) -> None:
    made = context()
    told = dataclasses.replace(
        made,
        event="rename",
        instance=dataclasses.replace(made.instance, name=new),
        hostname=hostname or new,
        old_name=old,
        manifest=None,
        templates=(),
    )
    run_hook("hostname", root, told)


def test_what_create_wrote_is_renamed_as_a_create_of_the_new_name_would_have_written_it(tmp_path: Path) -> None:
    write_tree(tmp_path, {"/etc/hosts": DEBIAN, "/etc/mailname": "x\n"})
    run_hook("hostname", tmp_path, context(nics=STATIC))
    rename(tmp_path, "web1.example.org", "db7.example.net")
    renamed = snapshot(tmp_path)
    made = context(nics=STATIC, hostname="db7.example.net")
    run_hook(
        "hostname",
        tmp_path,
        dataclasses.replace(made, instance=dataclasses.replace(made.instance, name="db7.example.net")),
    )
    assert snapshot(tmp_path) == renamed


@pytest.mark.parametrize(
    ("line", "renamed"),
    [
        ("198.51.100.21 web1.example.org web1", "198.51.100.21 db7.example.net db7"),
        ("127.0.1.1\tweb1", "127.0.1.1\tdb7"),
        ("127.0.1.1 WEB1.Example.ORG. # was web1", "127.0.1.1 db7.example.net. # was db7"),
        ("192.0.2.1 web1.example.com web1", "192.0.2.1 web1.example.com web1"),
        (
            "192.0.2.2 web1-old web10 myweb1 www.web1.example.org",
            "192.0.2.2 web1-old web10 myweb1 www.web1.example.org",
        ),
        ("192.0.2.3 web1.example.org.uk", "192.0.2.3 web1.example.org.uk"),
    ],
)
def test_only_whole_names_of_this_host_are_renamed(tmp_path: Path, line: str, renamed: str) -> None:
    write_tree(tmp_path, {"/etc/hostname": "web1.example.org\n", "/etc/hosts": f"127.0.0.1 localhost\n{line}\n"})
    rename(tmp_path, "web1.example.org", "db7.example.net")
    assert (tmp_path / "etc/hosts").read_text() == f"127.0.0.1 localhost\n{renamed}\n"


@pytest.mark.parametrize(
    ("found", "left"),
    [
        ("web1.example.org\n", "db7.example.net\n"),
        ("web1\n", "db7\n"),
        ("web1", "db7\n"),
        ("\n", "db7.example.net\n"),
        ("front\n", "front\n"),
    ],
)
def test_the_hostname_keeps_the_form_that_it_had(tmp_path: Path, found: str, left: str) -> None:
    write_tree(tmp_path, {"/etc/hostname": found})
    rename(tmp_path, "web1.example.org", "db7.example.net")
    assert (tmp_path / "etc/hostname").read_text() == left


def test_a_hostname_of_the_administrators_own_is_mentioned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tree(tmp_path, {"/etc/hostname": "front\n"})
    rename(tmp_path, "web1.example.org", "db7.example.net")
    assert "/etc/hostname says front" in capsys.readouterr().err


def test_a_name_that_the_configuration_gives_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tree(tmp_path, {"/etc/hostname": "front\n"})
    rename(tmp_path, "web1.example.org", "db7.example.net", hostname="front")
    assert (tmp_path / "etc/hostname").read_text() == "front\n"
    assert "warning" not in capsys.readouterr().err


def test_a_rename_to_the_same_name_as_after_an_import_changes_nothing(tmp_path: Path) -> None:
    write_tree(tmp_path, {"/etc/hostname": "web1.example.org\n", "/etc/hosts": DEBIAN})
    before = snapshot(tmp_path)
    rename(tmp_path, "web1.example.org", "web1.example.org")
    assert snapshot(tmp_path) == before
