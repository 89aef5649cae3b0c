"""``create`` in the appliance: the same system as by the host's kernel, or a refusal while the disk is untouched."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.system.create.site import Site, attached, sfdisk
from tests.system.create.trees import RANDOM, differences, tree_of

GIB = 1 << 30
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ8Jq1pPbG0dgDlqC0bS2NLfUe9UQHqkJxWTJq0fO0mB operator@example.org"


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


def test_the_appliance_and_the_host_leave_the_same_tree(site: Site) -> None:
    users = f"{{root: {{ssh_authorized_keys: ['{KEY}']}}, admin: {{groups: [adm]}}}}"
    site.write("defaults.yaml", f"users: {users}\n")
    trees = {}
    for isolation in ("host", "appliance"):
        disk = site.disk(3 * GIB, name=isolation)
        outcome = site.created(disk, parameters={"isolation": isolation})
        assert ("libguestfs" in outcome.said) is (isolation == "appliance")
        with _root(disk, site.directory / f"root-{isolation}") as root:
            trees[isolation] = tree_of(root)
    host, appliance = trees["host"], trees["appliance"]
    assert len(host) > 5000
    assert len(host.keys() & RANDOM) == len(RANDOM) - 1  # and no EFI system partition
    assert differences(host, appliance) == {}


def test_a_node_without_an_appliance_refuses_before_the_disk_is_touched(site: Site) -> None:
    disk = site.disk(3 * GIB)
    # As containers are, which have no kernel of their own.
    outcome = site.create_without("/boot", disk, parameters={"isolation": "appliance"})
    assert outcome.status == 1, outcome.said
    assert "a kernel in /boot" in outcome.last_line
    assert "isolation: host" in outcome.last_line
    assert disk.stat().st_blocks == 0
