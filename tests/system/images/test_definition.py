"""A build of a definition that says all that can be said: what comes of it, by either tool and at any time."""

from __future__ import annotations

import hashlib
import json
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from osprovider.manifest import Manifest
from tests.support.http_server import serve
from tests.support.mounts import mounted
from tests.support.openpgp import making_keys
from tests.support.packages import make_deb, make_repository
from tests.system.images.builder import Job, run_job

TRIES = 3  # builds that a mirror's update may come between

# Perl is there in every Debian (perl-base is essential). The port is the repository's, which answers apt.
PROBE = """\
#!/usr/bin/perl
use Socket;
open my $report, ">", "/usr/share/probed" or die;
sub attempt {
    my ($name, $family, $address) = @_;
    socket my $socket, $family, SOCK_STREAM, 0 or die;
    print $report "$name: ", (connect($socket, $address) ? "reached" : $!), "\\n";
}
attempt "server", PF_INET, pack_sockaddr_in(PORT, inet_aton("127.0.0.1"));
attempt "world", PF_INET, pack_sockaddr_in(80, inet_aton("198.51.100.1"));
attempt "abstract", PF_UNIX, pack("S a*", AF_UNIX, "\\0NAME");
attempt "own", PF_INET, pack_sockaddr_in(9, inet_aton("127.0.0.1"));
opendir my $interfaces, "/proc/self/net/dev_snmp6" or die;
print $report "interfaces: ", (join " ", grep { !/^\\./ } readdir $interfaces), "\\n";
print $report "variables: ", (join " ", sort grep { /APT|PROXY|proxy|PYTHON|LEAK/ } keys %ENV), "\\n";
"""

SCRIPT = """\
#!/bin/sh -e
echo "made on day $(($SOURCE_DATE_EPOCH / 86400)) by $(id -un) in $HOME" >/etc/motd
dpkg-query --show probe >>/etc/motd
if (exec 3<>/dev/tcp/127.0.0.1/PORT) 2>/dev/null; then echo "a network" >>/etc/motd; fi
"""


@dataclass(frozen=True, slots=True)
class Site:
    """A site with keys, packages and scripts of its own, and a definition that names them all.

    Attributes:
        base: as jobs take it.
        build: the definition.
        key: what the repository is signed by, in binary.
    """

    base: Path
    build: dict[str, Any]
    key: bytes


@pytest.fixture(scope="module")
def site(run_directory: Path) -> Iterator[Site]:
    """The site; its repository is served on the node's loopback interface."""
    base = run_directory / "definition"
    for name in ("keys", "debs", "scripts"):
        (base / "etc" / name).mkdir(parents=True)
    with serve(base / "www") as url, making_keys(base / "gpg") as keys:
        keys.make("shop")
        keys.make("depot")
        (base / "etc" / "keys" / "depot.gpg").write_bytes(keys.export("depot"))
        make_repository(base / "depot", "stable", [make_deb(base, "depot-tools")], keys, "depot")
        (base / "etc" / "keys" / "shop.asc").write_bytes(keys.export("shop", armour=True))
        wants = {"Recommends": "shop-extra", "Depends": "probe"}
        packages = [
            make_deb(base, "shop-tools", "2.0", fields=wants),
            make_deb(base, "shop-extra", fields={"Recommends": "shop-unwanted"}),
            make_deb(base, "shop-unwanted"),
            make_deb(base, "probe", "9.0"),  # the file's version is the one that is asked for
            make_deb(base, "probe", "1.0~rc1+b1"),  # and the file, though this has its version
        ]
        make_repository(base / "www", "stable", packages, keys, "shop")
        port = url.rpartition(":")[2]
        probe = PROBE.replace("PORT", port).replace("NAME", f"osprovider-{port}")
        make_deb(base / "etc" / "debs", "probe", "1.0~rc1+b1", postinst=probe)
        (base / "etc" / "scripts" / "motd").write_text(SCRIPT.replace("PORT", port))
        build = {
            "repositories": {
                "shop": {"url": url, "suite": "stable", "keyring": "shop.asc"},
                "depot": {"url": f"file://{base}/depot", "suite": "stable", "keyring": "depot.gpg"},
            },
            "packages": ["shop-tools", "depot-tools"],
            "exclude": ["shop-unwanted", "tzdata"],
            "recommends": True,
            "debs": ["probe_1.0~rc1+b1_all.deb"],
            "scripts": ["motd"],
        }
        yield Site(base, build, keys.export("shop"))
    shutil.rmtree(base)


@dataclass(frozen=True, slots=True)
class Built:
    """What came of it: the template, where it is mounted, and its manifest."""

    path: Path
    tree: Path
    manifest: Manifest


@pytest.fixture(scope="module")
def template_of(site: Site) -> Callable[[str], Path]:
    """The definition's template by a tool, built when it is first asked for."""
    found: dict[str, Path] = {}

    def get(tool: str) -> Path:
        if tool not in found:
            found[tool] = build(site, tool, "cache")
        return found[tool]

    return get


@pytest.fixture(params=["mmdebstrap", "debootstrap"])
def tree(request: pytest.FixtureRequest, template_of: Callable[[str], Path], tmp_path: Path) -> Iterator[Path]:
    """Where each tool's template is mounted."""
    with mounted(template_of(request.param), tmp_path / "tree") as root:
        yield root


def build(site: Site, tool: str, cache: str) -> Path:
    """Build the definition; returns the template."""
    job = Job(str(site.base), name=tool, build={**site.build, "tool": tool}, cache=str(site.base / cache), force=True)
    done = run_job(job)
    assert done.returncode == 0, done.stderr
    return Path(json.loads(done.stdout)[0])


def mirror_date(template: Path) -> int:
    """When the mirror that it was built from was last changed; its file system has that for the time of its making."""
    with template.open("rb") as file:
        file.seek(1024 + 0x108)  # the superblock's s_mkfs_time
        return int.from_bytes(file.read(4), "little")


def read(tree: Path, path: str) -> str:
    return (tree / path[1:]).read_text()


def versions(tree: Path) -> dict[str, str]:
    """The packages of a tree, with their versions."""
    paragraphs = (tree / "var/lib/dpkg/status").read_text().strip().split("\n\n")
    fields = [dict(line.split(": ", 1) for line in each.splitlines() if ": " in line) for each in paragraphs]
    return {each["Package"]: each["Version"] for each in fields}


def test_a_repositorys_packages_are_installed(tree: Path) -> None:
    assert versions(tree)["shop-tools"] == "2.0"
    assert versions(tree)["depot-tools"] == "1.0"


def test_a_file_is_installed_though_a_repository_has_a_newer_version(tree: Path) -> None:
    assert versions(tree)["probe"] == "1.0~rc1+b1"


def test_recommended_packages_are_installed_but_for_excluded_ones(tree: Path) -> None:
    found = versions(tree)
    assert "shop-extra" in found
    assert "ca-certificates" in found  # by apt, which either tool lays first
    assert "shop-unwanted" not in found
    assert "tzdata" not in found  # of priority required


def test_what_packages_run_has_no_network(tree: Path) -> None:
    said = dict(line.split(": ", 1) for line in read(tree, "/usr/share/probed").splitlines())
    assert said == {
        "server": "Connection refused",
        "world": "Network is unreachable",
        "abstract": "Connection refused",
        "own": "Connection refused",
        "interfaces": "lo",
        "variables": "",
    }


def test_scripts_run_in_the_finished_system_without_network(tree: Path) -> None:
    day = int((tree / "etc/motd").stat().st_mtime) // 86400
    assert read(tree, "/etc/motd") == f"made on day {day} by root in /root\nprobe\t1.0~rc1+b1\n"
    assert list((tree / "run").glob("osprovider*")) == []


def test_the_images_apt_knows_the_repository_and_its_key(tree: Path, site: Site) -> None:
    url = site.build["repositories"]["shop"]["url"]
    assert read(tree, "/etc/apt/sources.list.d/shop.sources") == (
        f"Types: deb\nURIs: {url}\nSuites: stable\nComponents: main\nSigned-By: /etc/apt/keyrings/shop.gpg\n"
    )
    key = tree / "etc/apt/keyrings/shop.gpg"
    assert key.read_bytes() == site.key
    assert stat.S_IMODE(key.stat().st_mode) == 0o644
    assert list((tree / "etc/apt/trusted.gpg.d").glob("*shop*")) == []


def test_the_images_apt_knows_the_archive_and_its_updates(tree: Path) -> None:
    lines = [line.split() for line in read(tree, "/etc/apt/sources.list").splitlines()]
    assert [(line[0], line[2], line[3:]) for line in lines] == [
        ("deb", "bookworm", ["main"]),
        ("deb", "bookworm-updates", ["main"]),
        ("deb", "bookworm-security", ["main"]),
    ]


def test_nothing_of_the_builds_own_files_is_named(tree: Path, site: Site) -> None:
    names = [b"/materials", b"trusted=yes", b"copy:"]
    places = [path for top in ("etc", "var/lib", "root") for path in (tree / top).rglob("*")]
    found = [path for path in places if path.is_file() and not path.is_symlink()]
    assert [path for path in found if any(name in path.read_bytes() for name in names)] == []


def test_both_tools_install_the_same(template_of: Callable[[str], Path], tmp_path: Path) -> None:
    found = []
    for tool in ("mmdebstrap", "debootstrap"):
        with mounted(template_of(tool), tmp_path / tool) as root:
            found.append(versions(root))
    assert found[0] == found[1]


def test_the_same_packages_make_the_same_template_to_the_last_byte(
    site: Site, template_of: Callable[[str], Path]
) -> None:
    one, other = template_of("mmdebstrap"), build(site, "mmdebstrap", "again")
    for _ in range(TRIES):
        if mirror_date(one) == mirror_date(other):
            break
        one, other = other, build(site, "mmdebstrap", "again")
    digests = {Manifest.from_json((path.parent / "manifest.json").read_bytes()).digest for path in (one, other)}
    assert digests == {f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}" for path in (one, other)}
    assert len(digests) == 1
