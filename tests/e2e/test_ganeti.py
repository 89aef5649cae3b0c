"""Instances of osprovider+debian-12 on a real cluster: added, reinstalled, renamed, each booted and looked at.

An emulated guest takes a minute to boot, so there are two, and they boot side by side; the tests look at what was seen.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.cluster import GATEWAY, NETWORK, Cluster, Node, cluster, instance_name
from tests.e2e.console import recorded
from tests.e2e.observation import Observation, observe_in_cluster
from tests.e2e.tree import NodeTree
from tests.support.qemu import EMULATED_ARGS
from tests.support.runs import loop_devices, own_part
from tests.support.ssh import make_key

_GIB = 1 << 30
_DISK_SIZE = 3 * _GIB
_ISSUED_KEY_TYPES = {"ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256"}
_FIRST, _SECOND, _RENAMED = instance_name(21), instance_name(22), instance_name(23)
_FIRST_ADDRESS, _SECOND_ADDRESS = "198.51.100.21", "198.51.100.22"


@dataclass(frozen=True, slots=True)
class Lab:
    """A cluster and what belongs to it.

    Attributes:
        cluster: as the nodes were before any instance.
        directory: for files of the tests'.
        mounts: each node's mounts before any instance.
        second_key: the private key that the second instance is given by an OS parameter.
    """

    cluster: Cluster
    directory: Path
    mounts: tuple[str, ...]
    second_key: Path


@dataclass(frozen=True, slots=True)
class Pair:
    """The two instances, seen in one state."""

    first: Observation
    second: Observation


@pytest.fixture(scope="module")
def lab(own_directory: Path, node_tree: NodeTree) -> Iterator[Lab]:
    directory = own_directory
    make_key(directory / "second-key")
    with cluster(node_tree, directory) as running:
        for node in running.nodes:
            _configure(node, node_tree.public_key)
        yield Lab(running, directory, tuple(_mounts(node) for node in running.nodes), directory / "second-key")


@pytest.fixture(scope="module")
def added(lab: Lab) -> Pair:
    """Both instances, newly added, one on each node."""
    second_key = lab.second_key.with_name("second-key.pub").read_text().strip()
    with ExitStack() as stack:
        consoles = [
            stack.enter_context(recorded(node.container, name, lab.directory / f"{name}.log"))
            for node, name in zip(lab.cluster.nodes, (_FIRST, _SECOND), strict=True)
        ]
        _add(lab.cluster, lab.cluster.nodes[0], _FIRST, _FIRST_ADDRESS)
        _add(lab.cluster, lab.cluster.nodes[1], _SECOND, _SECOND_ADDRESS, f"ssh_authorized_keys={second_key}")
        first = observe_in_cluster(lab.cluster, _FIRST, _FIRST_ADDRESS, consoles[0])
        second = observe_in_cluster(lab.cluster, _SECOND, _SECOND_ADDRESS, consoles[1], key=lab.second_key)
        return Pair(first, second)


@pytest.fixture(scope="module")
def changed(lab: Lab, added: Pair) -> Pair:
    """The first instance reinstalled and the second one renamed, after both were written to."""
    for address, key in ((_FIRST_ADDRESS, None), (_SECOND_ADDRESS, lab.second_key)):
        lab.cluster.guest(address, key).run(["sh", "-c", "echo here >/root/marker; sync"])
    for name in (_FIRST, _SECOND):
        lab.cluster.run(["gnt-instance", "shutdown", "--timeout=120", name])
    nodes = lab.cluster.nodes
    with (
        recorded(nodes[0].container, _FIRST, lab.directory / "reinstalled.log") as first_console,
        recorded(nodes[1].container, _RENAMED, lab.directory / "renamed.log") as second_console,
    ):
        once = "--os-parameters-secret=timezone=Europe/Berlin"
        lab.cluster.run(["gnt-instance", "reinstall", "--force", once, _FIRST])
        lab.cluster.run(["gnt-instance", "start", _FIRST])
        # Without the check of the name it would ask at a terminal whether the name is meant.
        lab.cluster.run(["gnt-instance", "rename", _SECOND, _RENAMED])
        lab.cluster.run(["gnt-instance", "start", _RENAMED])
        first = observe_in_cluster(lab.cluster, _FIRST, _FIRST_ADDRESS, first_console)
        second = observe_in_cluster(lab.cluster, _RENAMED, _SECOND_ADDRESS, second_console, key=lab.second_key)
        return Pair(first, second)


def test_a_secret_parameter_is_for_one_reinstall(lab: Lab, changed: Pair) -> None:
    """So the documentation has data disks renewed; what is given with -O comes with the next reinstall as well."""
    link = lab.cluster.guest(_FIRST_ADDRESS).run(["readlink", "/etc/localtime"]).stdout
    assert link == "/usr/share/zoneinfo/Europe/Berlin\n"
    assert "Europe/Berlin" not in lab.cluster.run(["gnt-instance", "info", "--static", _FIRST]).stdout


def test_every_node_finds_the_os_valid(lab: Lab) -> None:
    said = lab.cluster.run(["gnt-os", "diagnose"]).stdout
    block = re.search(r"^OS: osprovider \[global status: valid\]\n((?:  .*\n)+)", said, re.MULTILINE)
    assert block, said
    assert re.search(r"Variants: \[.*debian-12.*\]", block[1])
    assert len(re.findall(r"status: valid .*\[API versions: 10, 15, 20\].*\[trusted\]", block[1])) == 2, said


def test_the_cluster_lists_the_variant(lab: Lab) -> None:
    assert "osprovider+debian-12" in lab.cluster.run(["gnt-os", "list", "--no-headers"]).stdout.split()


def test_a_bad_parameter_is_refused_before_anything_is_made(lab: Lab) -> None:
    command = _add_command(lab.cluster.master, instance_name(60), "198.51.100.60", "wipe=mop")
    done = lab.cluster.run(command, check=False)
    assert done.returncode != 0
    assert "OS validation script failed" in done.stderr
    assert re.search(r"wipe.*mop", done.stderr, re.IGNORECASE)
    assert instance_name(60) not in lab.cluster.run(["gnt-instance", "list", "--no-headers", "-o", "name"]).stdout


def test_it_answers_at_the_address_that_ganeti_gave_it(added: Pair) -> None:
    assert added.first.addresses == {f"{_FIRST_ADDRESS}/25"}
    assert added.second.addresses == {f"{_SECOND_ADDRESS}/25"}


def test_it_has_the_gateway_of_its_subnet_as_default_route(added: Pair) -> None:
    for guest in (added.first, added.second):
        assert guest.routes == {"default": GATEWAY, NETWORK: None}


def test_it_is_called_what_ganeti_calls_it(added: Pair) -> None:
    for guest, name in ((added.first, _FIRST), (added.second, _SECOND)):
        assert guest.hostname in {name, name.partition(".")[0]}
        assert guest.fqdn == name


def test_its_root_fills_the_disk(added: Pair) -> None:
    for guest in (added.first, added.second):
        disks = [volume for volume in guest.volumes if volume.kind == "disk" and volume.table_uuid]
        assert [disk.size for disk in disks] == [_DISK_SIZE]
        # What is left are the boot partitions; of the file system, its tables.
        assert guest.root.size > _DISK_SIZE - _GIB // 2
        assert guest.root_size > 0.9 * guest.root.size


def test_its_fstab_names_the_file_systems_that_it_has(added: Pair) -> None:
    for guest in (added.first, added.second):
        named = set(re.findall(r"^(?:/dev/disk/by-uuid/|UUID=)(\S+)", guest.fstab, re.MULTILINE))
        assert guest.root.uuid in named
        assert named <= {volume.uuid for volume in guest.volumes}


def test_its_console_shows_the_login_prompt(added: Pair) -> None:
    for guest, name in ((added.first, _FIRST), (added.second, _SECOND)):
        assert re.search(rf"^{name.partition('.')[0]} login:", guest.console, re.MULTILINE)


def test_no_unit_of_it_failed(added: Pair) -> None:
    for guest in (added.first, added.second):
        assert guest.failed_units == ""
        assert guest.state == "running"


def test_it_has_a_machine_id_and_host_keys_of_every_type(added: Pair) -> None:
    for guest in (added.first, added.second):
        assert re.fullmatch(r"[0-9a-f]{32}", guest.machine_id)
        assert set(guest.host_keys) == _ISSUED_KEY_TYPES


def test_it_notes_where_it_came_from(added: Pair) -> None:
    assert "debian-12" in added.first.note.values()


def test_an_os_parameter_takes_the_place_of_the_sites_default(lab: Lab, added: Pair) -> None:
    given = lab.second_key.with_name("second-key.pub").read_text().strip()
    assert given in added.second.authorized_keys
    assert given not in added.first.authorized_keys
    assert len(added.second.authorized_keys.splitlines()) == 1


def test_two_instances_share_nothing_of_their_identity(added: Pair) -> None:
    assert len(added.first.identity) >= 8
    assert not added.first.identity & added.second.identity


def test_a_reinstalled_instance_is_a_new_one_in_the_same_place(added: Pair, changed: Pair) -> None:
    assert changed.first.marker != "here"
    assert changed.first.addresses == added.first.addresses
    assert changed.first.fqdn == _FIRST
    # Derived from the instance's UUID, so that a reinstall is reproducible.
    assert changed.first.volumes == added.first.volumes
    # Secrets are not.
    assert not set(changed.first.host_keys.values()) & set(added.first.host_keys.values())


def test_a_renamed_instance_keeps_everything_but_its_name(added: Pair, changed: Pair) -> None:
    assert changed.second.fqdn == _RENAMED
    assert changed.second.hostname in {_RENAMED, _RENAMED.partition(".")[0]}
    assert re.search(rf"^{_RENAMED.partition('.')[0]} login:", changed.second.console, re.MULTILINE)
    assert changed.second.marker == "here"
    assert changed.second.addresses == added.second.addresses
    assert changed.second.volumes == added.second.volumes
    assert changed.second.machine_id == added.second.machine_id
    assert _SECOND not in changed.second.fstab


def test_cluster_verify_has_nothing_to_say_about_the_os(lab: Lab, changed: Pair) -> None:
    said = lab.cluster.run(["gnt-cluster", "verify", "--error-codes"], check=False).stdout
    assert "Verifying node status" in said
    assert not re.search(r"ENODEOS|osprovider", said), said


def test_the_nodes_are_as_they_were(lab: Lab, changed: Pair) -> None:
    for node, before in zip(lab.cluster.nodes, lab.mounts, strict=True):
        assert _mounts(node) == before
        running = node.run(["ps", "-e", "-o", "args="]).stdout
        assert not re.search(r"ganeti/os/osprovider|guestfs|supermin", running), running
        assert not [backing for backing in loop_devices().values() if own_part() in backing]


def _configure(node: Node, public_key: str) -> None:
    """Write what a site writes: the network, and who may log in."""
    node.write(
        "/etc/ganeti/osprovider/subnets/lab.yaml",
        f"networks: [{NETWORK}]\ngateways: [{GATEWAY}]\nmatch: {{link: gnt-br0}}\n",
    )
    node.write(
        "/etc/ganeti/osprovider/defaults.yaml",
        f'users:\n  root:\n    ssh_authorized_keys: ["{public_key}"]\n'
        f"boot: {{kernel_args: [quiet, {', '.join(EMULATED_ARGS)}]}}\n",
    )


def _add_command(node: Node, name: str, address: str, parameters: str = "") -> list[str]:
    """Return the command that adds an instance."""
    return [
        *["gnt-instance", "add", "-t", "file", "-s", f"{_DISK_SIZE // _GIB}G", "-o", "osprovider+debian-12"],
        *["-n", node.name, "--no-ip-check", "--no-name-check", "--net", f"0:ip={address}", "-B", "memory=512M"],
        *(["-O", parameters] if parameters else []),
        name,
    ]


def _add(running: Cluster, node: Node, name: str, address: str, parameters: str = "") -> None:
    """Add an instance."""
    running.run(_add_command(node, name, address, parameters))


def _mounts(node: Node) -> str:
    """Return the node's mounts."""
    return node.run(["findmnt", "--list", "--noheadings", "--output", "TARGET,FSTYPE"]).stdout
