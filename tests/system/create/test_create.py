"""``create`` as Ganeti calls it: what lies on the disk afterwards."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from pathlib import Path

import pytest

from osprovider.layout import derived_uuid
from tests.support import loops
from tests.system.create.site import Site, attached, debugfs, sfdisk

GIB = 1 << 30
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ8Jq1pPbG0dgDlqC0bS2NLfUe9UQHqkJxWTJq0fO0mB operator@example.org"


def _identity(disk: Path) -> dict[str, str]:
    """Everything that must differ between two instances."""
    table = sfdisk(disk)
    identity = {"disk": table["id"], **{f"partition {part['node'][-1]}": part["uuid"] for part in table["partitions"]}}
    identity["root"] = re.findall(r"Filesystem UUID:\s+(\S+)", debugfs(disk, "stats -h"))[0]
    for path in ("/etc/machine-id", *(f"/etc/ssh/ssh_host_{kind}_key.pub" for kind in ("rsa", "ecdsa", "ed25519"))):
        identity[path] = debugfs(disk, f"cat {path}")
    assert all(identity.values())
    return identity


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_a_plain_file_gets_table_system_and_boot_code(site: Site) -> None:
    disk = site.disk(3 * GIB)
    site.write("defaults.yaml", f"users: {{root: {{ssh_authorized_keys: ['{KEY}']}}}}\n")
    site.created(disk)
    table = sfdisk(disk)
    assert table["label"] == "gpt"
    assert [part["type"].upper() for part in table["partitions"]] == [
        "21686148-6449-6E6F-744E-656564454649",
        "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
        "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709",
    ]
    assert debugfs(disk, "cat /etc/hostname") == "web1.example.org\n"
    assert KEY in debugfs(disk, "cat /root/.ssh/authorized_keys")
    assert "198.51.100.21" in debugfs(disk, "cat /etc/network/interfaces")
    assert "console=ttyS0" in debugfs(disk, "cat /boot/grub/grub.cfg")
    root = table["partitions"][-1]
    blocks = int(re.findall(r"Block count:\s+(\d+)", debugfs(disk, "stats -h"))[0])
    assert root["size"] * 512 - 4096 * 8 <= blocks * 4096 <= root["size"] * 512
    with attached(disk) as device, loops.attached(device, "--offset", str(root["start"] * 512)) as partition:
        subprocess.run(["e2fsck", "-fn", partition], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("hypervisor", "sector_size", "seen"), [("kvm", 512, 512), ("kvm", 4096, 512), ("xen-hvm", 4096, 4096)]
)
def test_a_block_device_gets_a_table_in_the_sectors_that_the_guest_sees(
    site: Site, hypervisor: str, sector_size: int, seen: int
) -> None:
    image = site.disk(3 * GIB)
    site.write("variants/debian-12-uefi.yaml", "image: debian-12\nlayout: {firmware: [uefi]}\n")
    with attached(image, sector_size) as device:
        site.created(device, variant="debian-12-uefi", hypervisor=hypervisor)
    with attached(image, seen) as device:
        table = sfdisk(device)
        assert table["label"] == "gpt"
        assert table.get("sectorsize", 512) == seen
        assert len(table["partitions"]) == 2
        assert debugfs(device, "cat /etc/hostname") == "web1.example.org\n"
        verified = subprocess.run(["sfdisk", "--verify", device], capture_output=True, text=True, check=True)
        assert "No errors detected" in verified.stdout


def test_a_bios_cannot_boot_large_sectors_which_is_said_before_the_disk_is_touched(site: Site) -> None:
    image = site.disk(3 * GIB)
    with attached(image, 4096) as device:
        outcome = site.create(device, hypervisor="xen-hvm")
    assert outcome.status == 1
    assert "layout.firmware" in outcome.last_line
    assert image.stat().st_blocks == 0


def test_nothing_of_what_was_on_the_disk_shows_through(site: Site) -> None:
    disk = site.disk(3 * GIB)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-L", "old", disk], check=True)
    site.created(disk)
    signatures = subprocess.run(["wipefs", "--json", disk], capture_output=True, text=True, check=True).stdout
    assert {found["type"] for found in json.loads(signatures)["signatures"]} == {"gpt", "PMBR"}


def test_instances_share_no_identity_and_a_reinstall_keeps_its_own(site: Site) -> None:
    first, second, again = (site.disk(3 * GIB, name=name) for name in ("first.raw", "second.raw", "again.raw"))
    site.created(first)
    site.created(second, name="web2.example.org", nics=[{"ip": "198.51.100.22", "link": "lab0"}])
    site.created(again, reinstall=True)
    one, other, once_more = _identity(first), _identity(second), _identity(again)
    assert not [what for what in one if one[what] == other[what]]
    assert {what for what in one if one[what] != once_more[what]} <= {what for what in one if "ssh_host" in what}


def test_the_plan_says_what_create_does(site: Site) -> None:
    disk = site.disk(3 * GIB)
    environment = site.environment(disk)
    variables = site.directory / "environment"
    variables.write_text("".join(f"{name}={value}\n" for name, value in environment.items()))
    before = disk.stat().st_blocks
    outcome = site.command("plan", "--json", "--environment", str(variables))
    assert outcome.status == 0, outcome.said
    plan = json.loads(outcome.said)
    assert disk.stat().st_blocks == before
    site.created(disk)
    table = sfdisk(disk)
    assert plan["table"]["guid"] == table["id"].lower() == derived_uuid(environment["INSTANCE_UUID"], "disk 0")
    made = [(part["start"] * 512, part["size"] * 512, part["uuid"].lower()) for part in table["partitions"]]
    assert made == [(part["start_bytes"], part["size_bytes"], part["guid"]) for part in plan["table"]["partitions"]]
    (root,) = (part for part in plan["table"]["partitions"] if part["role"] == "root")
    assert root["filesystem_uuid"] == _identity(disk)["root"]


def test_a_disk_of_five_tebibytes_takes_as_little_memory(site: Site) -> None:
    environment = site.environment(site.disk(5 << 40))
    assert site.peak_kib("create", environment) < 100 * 1024


def test_a_data_disk_is_left_alone(site: Site) -> None:
    disk, data = site.disk(3 * GIB), site.disk(GIB, name="data.raw")
    subprocess.run(["mkfs.ext4", "-q", "-F", data], check=True)
    before = _digest(data)
    site.created(disk, disks=[{"path": str(disk)}, {"path": str(data), "name": "data"}])
    assert _digest(data) == before


def test_installation_from_cd_leaves_the_disk_alone(site: Site) -> None:
    disk = site.disk(GIB)
    site.write("variants/cd.yaml", "description: installed by hand\nimage: none\n")
    outcome = site.created(disk, variant="cd")
    assert "left alone" in outcome.said
    assert disk.stat().st_blocks == 0


def test_one_timed_line_a_step(site: Site) -> None:
    outcome = site.created(site.disk(3 * GIB))
    steps = [line for line in outcome.said.splitlines() if re.search(r" \d+\.\d\d s$", line)]
    assert len(steps) >= 10
    assert len(outcome.said.splitlines()) - len(steps) <= 2


@pytest.mark.parametrize("api_version", [10, 15, 20])
def test_every_version_of_the_os_interface_is_served(site: Site, api_version: int) -> None:
    if api_version == 10:
        site.write("defaults.yaml", "image: debian-12\n")
    outcome = site.create(site.disk(3 * GIB), api_version=api_version)
    assert outcome.status == 0, outcome.said
