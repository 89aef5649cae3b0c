"""An installed instance that was in use, captured: what instances of the image have of it, and what they do not."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.support.leftovers import no_leftovers
from tests.system.create.site import Outcome, Site, debugfs, sfdisk
from tests.system.images.capture.capturing import GIB, KINDS, LESS, SECRET, digest_of, in_mount, own_site

NAMES = {"golden": "web1.example.org", "tar": "web2.example.org", "qcow2": "web3.example.org"}

# What an administrator and the running system leave, in a file system that is mounted at ``root``.
_USED = f"""
mkdir -p root/root/.ssh root/home/ada/.ssh root/var/log/journal/0123 root/var/lib/cloud/instances/i-1 root/var/lib/dhcp
echo 'ssh-ed25519 AAAA ada' | tee root/root/.ssh/authorized_keys >root/home/ada/.ssh/authorized_keys
echo 'ada:x:1000:1000::/home/ada:/bin/bash' >>root/etc/passwd
echo work >root/home/ada/work
echo '{SECRET}' | tee root/root/.bash_history root/var/log/syslog root/var/log/syslog.1 root/var/lib/dhcp/x.leases \\
    root/var/log/journal/0123/system.journal root/var/lib/cloud/instances/i-1/user-data.txt root/tmp/x >root/swapfile
echo '/swapfile none swap sw 0 0' >>root/etc/fstab
cp root/usr/bin/true root/usr/local/bin/capable
setcap cap_net_raw+ep root/usr/local/bin/capable
setfacl -m u:33:rx root/usr/local/bin/capable
ln root/usr/local/bin/capable root/usr/local/bin/linked
echo 'kept by the site' >root/srv/kept
{LESS}
"""


@dataclass(frozen=True, slots=True)
class Lab:
    """A site with an instance that was in use, what capturing it said, and the instances made of that.

    Attributes:
        disks: by what they are of: ``golden``, which was captured, ``tar`` and ``qcow2``.
        outcomes: of the captures.
        digest: of the captured disk before.
    """

    site: Site
    disks: dict[str, Path]
    outcomes: dict[str, Outcome]
    digest: str


@pytest.fixture(scope="module")
def lab(run_directory: Path) -> Iterator[Lab]:
    with own_site(run_directory) as site, no_leftovers([site.directory]):
        golden = _installed(site)
        digest = digest_of(golden)
        outcomes, disks = {}, {"golden": golden}
        for kind in KINDS:
            outcomes[kind] = site.command("image", "capture", str(golden), "--name", kind, "--format", kind, "--json")
            assert outcomes[kind].status == 0, outcomes[kind].said
            site.write(f"variants/{kind}.yaml", f"image: {kind}\n")
            disks[kind] = site.disk(2 * GIB, name=f"{kind}.raw")
            nic = {"ip": f"198.51.100.{22 + len(disks)}", "link": "lab0"}
            site.created(disks[kind], variant=kind, name=NAMES[kind], nics=[nic])
        yield Lab(site, disks, outcomes, digest)


def _installed(site: Site, commands: str = _USED) -> Path:
    """The disk of an instance that was installed, and used."""
    disk = site.disk(GIB)
    site.created(disk)
    root = sfdisk(disk)["partitions"][-1]
    in_mount(disk, commands, f"loop,offset={root['start'] * 512},sizelimit={root['size'] * 512}")
    return disk


def _content(disk: Path, path: str) -> bytes:
    """What is in a file of the root's; empty where there is none."""
    root = sfdisk(disk)["partitions"][-1]
    words = ["debugfs", "-R", f"cat {path}", f"{disk}?offset={root['start'] * 512}"]
    return subprocess.run(words, capture_output=True, check=True).stdout


def _identity(disk: Path) -> dict[str, str]:
    """What no two instances may share."""
    table = sfdisk(disk)
    superblock = debugfs(disk, "show_super_stats -h")
    found = {
        "disk": table["id"],
        **{f"partition {number}": part["uuid"] for number, part in enumerate(table["partitions"])},
        "root": re.findall(r"Filesystem UUID:\s+(\S+)", superblock)[0],
        "hash seed": re.findall(r"Directory Hash Seed:\s+(\S+)", superblock)[0],
        "machine ID": debugfs(disk, "cat /etc/machine-id").strip(),
        "host name": debugfs(disk, "cat /etc/hostname").strip(),
        "hosts": debugfs(disk, "cat /etc/hosts"),
        "random seed": _content(disk, "/var/lib/systemd/random-seed").hex(),
    }
    for kind in ("rsa", "ecdsa", "ed25519"):
        found[kind] = debugfs(disk, f"cat /etc/ssh/ssh_host_{kind}_key.pub").split()[1]
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_the_disk_is_not_written(lab: Lab, kind: str) -> None:
    assert lab.outcomes[kind].status == 0
    assert digest_of(lab.disks["golden"]) == lab.digest


@pytest.mark.parametrize("kind", KINDS)
def test_an_instance_of_the_image_shares_no_identity_with_the_one_it_was_made_of(lab: Lab, kind: str) -> None:
    old, new = _identity(lab.disks["golden"]), _identity(lab.disks[kind])
    assert set(old) == set(new)
    shared = {what for what in old if old[what] == new[what]}
    # A file system that comes along keeps its seed of directory hashes, as it does whenever its UUID is changed.
    assert shared <= {"hash seed"}
    assert new["host name"] == NAMES[kind]
    assert all(new.values())


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_installed_and_made_is_the_same(lab: Lab, kind: str) -> None:
    for path in ("/var/lib/dpkg/status", "/home/ada/work", "/srv/kept", "/usr/local/bin/linked"):
        assert _content(lab.disks[kind], path) == _content(lab.disks["golden"], path) != b""
    stat = debugfs(lab.disks[kind], "stat /usr/local/bin/capable")
    assert "Links: 2" in stat
    assert "security.capability" in stat
    assert "system.posix_acl_access" in debugfs(lab.disks[kind], "ea_list /usr/local/bin/capable")


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_what_it_wrote_or_was_told_is_left(lab: Lab, kind: str) -> None:
    disk = lab.disks[kind]
    for path in ("/root/.ssh/authorized_keys", "/home/ada/.ssh/authorized_keys", "/root/.bash_history", "/swapfile"):
        assert "File not found" in _debugfs_errors(disk, f"stat {path}")
    assert debugfs(disk, "cat /var/log/syslog") == ""
    assert "swapfile" not in debugfs(disk, "cat /etc/fstab")
    assert NAMES["golden"] not in debugfs(disk, "cat /etc/hosts")


def _debugfs_errors(disk: Path, command: str) -> str:
    root = sfdisk(disk)["partitions"][-1]
    words = ["debugfs", "-R", command, f"{disk}?offset={root['start'] * 512}"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stderr


@pytest.mark.parametrize("kind", KINDS)
def test_not_even_in_free_space(lab: Lab, kind: str) -> None:
    """The image has no block that anybody has deleted."""
    (image,) = (lab.site.config / "images").glob(f"{kind}.*[!l]")
    if kind == "tar":
        words = ["zstd", "--decompress", "--stdout", str(image)]
    else:
        subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, f"{image}.raw"], check=True)
        words = ["cat", f"{image}.raw"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        grep = ["grep", "--text", "--count", SECRET]
        found = subprocess.run(grep, stdin=process.stdout, capture_output=True, check=False)
    Path(f"{image}.raw").unlink(missing_ok=True)
    assert found.stdout == b"0\n"


@pytest.mark.parametrize("kind", KINDS)
def test_the_definition_names_the_file_its_sum_and_where_it_came_from(lab: Lab, kind: str) -> None:
    said = lab.outcomes[kind].said
    answer = json.loads(said[said.index("{\n") :])
    definition = yaml.safe_load((lab.site.config / f"images/{kind}.yaml").read_text())
    assert answer["definition"] == definition
    image = Path(definition["source"])
    assert image.parent == lab.site.config / "images"
    assert definition["checksums"] == f"sha256:{digest_of(image)}"
    assert image.stat().st_size == answer["size_bytes"]
    assert image.stat().st_mode & 0o777 == 0o600
    assert re.fullmatch(
        rf"Debian GNU/Linux 12 \(bookworm\), captured from {lab.disks['golden']} on [\d-]+", definition["description"]
    )


def test_both_are_small(lab: Lab) -> None:
    used = lab.disks["golden"].stat().st_blocks * 512
    for kind in KINDS:
        assert Path(yaml.safe_load((lab.site.config / f"images/{kind}.yaml").read_text())["source"]).stat().st_size < (
            used // 2
        )
