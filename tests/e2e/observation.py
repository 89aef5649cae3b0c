"""What a booted guest is like, all of it asked for at once: an emulated guest takes seconds for each login.

Not for: judging; that is what tests do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e.cluster import OUTSIDE, Cluster
from tests.support.console import ConsoleLog
from tests.support.ssh import SshTarget

__all__ = ["Observation", "Volume", "observe_in_cluster", "observe_inside"]

_BOOT_SECONDS = 1800

_COMMANDS = {
    "hostname": "hostname",
    "fqdn": "hostname --fqdn",
    "machine_id": "cat /etc/machine-id",
    "addresses": "ip -json address",
    "routes": "ip -json route",
    "devices": "lsblk --json --bytes --output TYPE,SIZE,UUID,PARTUUID,PTUUID,MOUNTPOINT",
    "root_size": "df --output=size --block-size=1 / | tail -n 1",
    "fstab": "cat /etc/fstab",
    "host_keys": "cat /etc/ssh/ssh_host_*_key.pub",
    "authorized_keys": "cat /root/.ssh/authorized_keys",
    "state": "systemctl is-system-running --wait",
    "failed_units": "systemctl list-units --failed --plain --no-legend",
    "firmware": "if [ -d /sys/firmware/efi ]; then echo uefi; else echo bios; fi",
    "note": "cat /etc/osprovider.json",
    "marker": "cat /root/marker",
}
_MARK = "=== "


@dataclass(frozen=True, slots=True)
class Volume:
    """A disk or a partition of the guest's.

    Attributes:
        kind: ``disk`` or ``part``.
        size: bytes.
        uuid: the file system's.
        partition_uuid: the partition's own.
        table_uuid: the partition table's.
        mounted: where.
    """

    kind: str
    size: int
    uuid: str | None
    partition_uuid: str | None
    table_uuid: str | None
    mounted: str | None


@dataclass(frozen=True, slots=True)
class Observation:
    """A guest, seen once after it had booted.

    Attributes:
        hostname: as the kernel has it.
        fqdn: as the guest resolves it.
        machine_id: of systemd's.
        addresses: with their prefix lengths, the loopback's and link-local ones left out.
        routes: destination to gateway; None where it is on the link.
        volumes: disks and partitions.
        root_size: of the root file system, in bytes.
        fstab: its text.
        host_keys: key type to public key, as their files say.
        authorized_keys: of root's.
        state: ``running`` where no unit failed.
        failed_units: their lines.
        firmware: ``bios`` or ``uefi``.
        note: where the installation came from.
        marker: what `leave_marker` left.
        console: the serial console's text.
    """

    hostname: str
    fqdn: str
    machine_id: str
    addresses: frozenset[str]
    routes: Mapping[str, str | None]
    volumes: tuple[Volume, ...] = field(repr=False)
    root_size: int
    fstab: str = field(repr=False)
    host_keys: Mapping[str, str] = field(repr=False)
    authorized_keys: str = field(repr=False)
    state: str
    failed_units: str
    firmware: str
    note: Mapping[str, Any]
    marker: str
    console: str = field(repr=False)

    @property
    def root(self) -> Volume:
        """The partition that is the root."""
        return next(volume for volume in self.volumes if volume.mounted == "/")

    @property
    def identity(self) -> frozenset[str]:
        """Everything that no two guests may share."""
        uuids = {each for volume in self.volumes for each in (volume.uuid, volume.partition_uuid, volume.table_uuid)}
        return frozenset({*filter(None, uuids), *self.host_keys.values(), self.machine_id})


def observe_in_cluster(
    cluster: Cluster, instance: str, address: str, console: ConsoleLog, *, key: Path | None = None, after: int = 0
) -> Observation:
    """Wait until `instance` has booted, reach it from the switch, and look at it.

    Args:
        cluster: where it runs.
        instance: its name.
        address: where it has to answer.
        console: its console's log.
        key: the private key to log in with; the cluster's where not given.
        after: how much of the log belongs to an earlier boot.

    Raises:
        TimeoutError, subprocess.CalledProcessError: it does not answer.
    """
    host = instance.partition(".")[0]
    console.wait_for(rf"^{re.escape(host)} login:", _BOOT_SECONDS, after=after)
    target = cluster.guest(address, key)
    try:
        target.wait(_BOOT_SECONDS)
    except TimeoutError as error:
        error.add_note(f"the console ends with:\n{console.tail()}")
        raise
    # From its own network, and from an address that it only reaches by its default route.
    cluster.enter_network(["ping", "-c", "3", address])
    cluster.enter_network(["ping", "-c", "3", "-I", OUTSIDE, address])
    return observe_inside(target, console.text()[after:])


def observe_inside(target: SshTarget, console: str) -> Observation:
    """Look at the guest that `target` leads into."""
    script = "\n".join(f"echo '{_MARK}{name}'\n{command} 2>&1" for name, command in _COMMANDS.items())
    output = target.run(["sh", "-c", script], timeout=1800, check=False).stdout
    parts = [part.partition("\n") for part in f"\n{output}".split(f"\n{_MARK}")[1:]]
    said = {name: text.strip() for name, _, text in parts}
    assert said.keys() == _COMMANDS.keys(), output
    links = json.loads(said["addresses"])
    keys = [line.split() for line in said["host_keys"].splitlines()]
    return Observation(
        addresses=frozenset(
            f"{each['local']}/{each['prefixlen']}"
            for link in links
            for each in link["addr_info"]
            if each["scope"] == "global"
        ),
        routes={route["dst"]: route.get("gateway") for route in json.loads(said["routes"])},
        volumes=tuple(_volumes(json.loads(said["devices"])["blockdevices"])),
        root_size=int(said["root_size"]),
        host_keys={words[0]: words[1] for words in keys},
        note=json.loads(said["note"]),
        console=console,
        **{
            name: said[name]
            for name in (
                *("hostname", "fqdn", "machine_id", "fstab", "authorized_keys"),
                *("state", "failed_units", "firmware", "marker"),
            )
        },
    )


def _volumes(devices: list[dict[str, Any]]) -> list[Volume]:
    """Flatten what lsblk says."""
    found = []
    for device in devices:
        names = ("type", "size", "uuid", "partuuid", "ptuuid", "mountpoint")
        found.append(Volume(*(device[name] for name in names)))
        found += _volumes(device.get("children", []))
    return found
