"""``create`` in the appliance: the same system as by the host's kernel, or a refusal while the disk is untouched."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.system.create.site import Site, attached, sfdisk

GIB = 1 << 30
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ8Jq1pPbG0dgDlqC0bS2NLfUe9UQHqkJxWTJq0fO0mB operator@example.org"

# New with every installation, or told the time of it.
RANDOM = {
    *(f"etc/ssh/ssh_host_{kind}_key{suffix}" for kind in ("rsa", "ecdsa", "ed25519") for suffix in ("", ".pub")),
    "var/lib/systemd/random-seed",
    "etc/osprovider.json",
}


@contextmanager
def _root(disk: Path, mountpoint: Path) -> Iterator[Path]:
    mountpoint.mkdir()
    offset = sfdisk(disk)["partitions"][-1]["start"] * 512
    with attached(disk) as device:
        options = f"ro,noload,loop,offset={offset}"
        subprocess.run(["mount", "-t", "ext4", "-o", options, device, mountpoint], check=True)
        try:
            yield mountpoint
        finally:
            subprocess.run(["umount", mountpoint], check=True)


def _tree(root: Path) -> dict[str, object]:
    """Everything that a program could see of every file but times, by path."""
    found: dict[str, object] = {}
    for directory, names, files in os.walk(root):
        for name in (*names, *files):
            path = Path(directory, name)
            status = path.lstat()
            content = ""
            if stat.S_ISLNK(status.st_mode):
                content = str(path.readlink())
            elif stat.S_ISREG(status.st_mode):
                content = hashlib.sha256(path.read_bytes()).hexdigest()
            shown = str(path.relative_to(root))
            attributes = {key: os.getxattr(path, key, follow_symlinks=False) for key in _attributes(path)}
            links = status.st_nlink
            facts = (status.st_mode, status.st_uid, status.st_gid, status.st_rdev, links, attributes)
            found[shown] = (*facts, "" if shown in RANDOM else content)
    return found


def _attributes(path: Path) -> list[str]:
    return os.listxattr(path, follow_symlinks=False)


def test_the_appliance_and_the_host_leave_the_same_tree(site: Site) -> None:
    users = f"{{root: {{ssh_authorized_keys: ['{KEY}']}}, admin: {{groups: [adm]}}}}"
    site.write("defaults.yaml", f"users: {users}\n")
    trees = {}
    for isolation in ("host", "appliance"):
        disk = site.disk(3 * GIB, name=isolation)
        outcome = site.created(disk, parameters={"isolation": isolation})
        assert ("libguestfs" in outcome.said) is (isolation == "appliance")
        with _root(disk, site.directory / f"root-{isolation}") as root:
            trees[isolation] = _tree(root)
    host, appliance = trees["host"], trees["appliance"]
    assert len(host) > 5000
    assert host.keys() >= RANDOM
    differences = {path: (host.get(path), appliance.get(path)) for path in host.keys() | appliance.keys()}
    assert {path: both for path, both in differences.items() if both[0] != both[1]} == {}


def test_a_node_without_an_appliance_refuses_before_the_disk_is_touched(site: Site) -> None:
    disk = site.disk(3 * GIB)
    # As containers are, which have no kernel of their own.
    outcome = site.create_without("/boot", disk, parameters={"isolation": "appliance"})
    assert outcome.status == 1, outcome.said
    assert "a kernel in /boot" in outcome.last_line
    assert "isolation: host" in outcome.last_line
    assert disk.stat().st_blocks == 0
