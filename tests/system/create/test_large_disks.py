"""``create`` on sparse files of 5 TiB: sound, and as cheap as on a small disk."""

from __future__ import annotations

import subprocess

import pytest

from osprovider.disk.loop import loop_device
from tests.system.create.published import verify_gpt
from tests.system.create.site import Site

MIB = 1 << 20
TIB = 1 << 40
CHECKS = {"ext4": ["e2fsck", "-fn"], "xfs": ["xfs_repair", "-n"], "btrfs": ["btrfs", "check", "--readonly"]}
# What is allocated beside the template's files; an xfs of this size has a log of 512 MiB.
BESIDE = {"ext4": 256 * MIB, "xfs": (512 + 256) * MIB, "btrfs": 256 * MIB}


@pytest.mark.parametrize(("table", "filesystem"), [("gpt", "ext4"), ("gpt", "xfs"), ("none", "btrfs")])
def test_the_root_fills_a_sparse_file_of_5_tib(site: Site, table: str, filesystem: str) -> None:
    site.write("variants/large.yaml", f"image: debian-12\nlayout: {{table: {table}, filesystem: {filesystem}}}\n")
    disk = site.disk(5 * TIB)
    hypervisor = "kvm" if table == "gpt" else "lxc"
    environment = site.environment(disk, variant="large", hypervisor=hypervisor)
    plan = site.plan(environment)
    (root,) = (part for part in plan["table"]["partitions"] if part["role"] == "root")
    outcome = site.call("create", environment)
    assert outcome.status == 0, outcome.said
    if table == "gpt":
        verify_gpt(disk)
    assert root["start_bytes"] + root["size_bytes"] > 5 * TIB - 3 * MIB
    assert disk.stat().st_blocks * 512 < plan["copy_bytes"] + BESIDE[filesystem]
    with loop_device(disk, offset_bytes=root["start_bytes"], size_bytes=root["size_bytes"], read_only=True) as device:
        checked = subprocess.run([*CHECKS[filesystem], device], check=False, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
