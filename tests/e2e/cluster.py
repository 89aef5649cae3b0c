"""A real Ganeti cluster on one machine: every node a container, all of them on one switch.

The network is 198.51.100.0/25 behind the gateway .126, which the switch itself is; .254, outside of it, is the switch
as well, so that a guest that reaches it has a default route. Nodes are .11, .12, …, and the name vmN.gnt.test has the
address .N for N from 21 to 60.

Not for: what is tested on a cluster.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.tree import NodeTree
from tests.support.containers import Container, Overlay, Switch, container, switch
from tests.support.runs import own_part
from tests.support.ssh import SshTarget

__all__ = ["GATEWAY", "NETWORK", "OUTSIDE", "Cluster", "Node", "cluster", "instance_name"]

NETWORK = "198.51.100.0/25"
GATEWAY = "198.51.100.126"
OUTSIDE = "198.51.100.254"

_DOMAIN = "gnt.test"
_CLUSTER = f"cluster.{_DOMAIN}"
_BRIDGE = "gnt-br0"

# `kvm_flag=disabled` has QEMU emulate; no kernel path has it boot from the disk.
_KVM = {
    "kernel_path": "",
    "initrd_path": "",
    "kvm_flag": "disabled",
    "kvm_path": "/usr/bin/qemu-system-x86_64",
    "serial_console": "true",
    "vnc_bind_address": "",
}


def instance_name(number: int) -> str:
    """Return the name that every node knows to be 198.51.100.`number`, from 21 to 60."""
    return f"vm{number}.{_DOMAIN}"


@dataclass(frozen=True, slots=True)
class Node:
    """A node of a cluster.

    Attributes:
        name: fully qualified.
        address: IPv4.
        container: what it runs in.
    """

    name: str
    address: str
    container: Container

    def run(
        self, argv: Sequence[str], *, timeout: float = 1200, check: bool = True, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run `argv` on the node; see `Container.run`."""
        return self.container.run(argv, timeout=timeout, check=check, stdin=stdin)

    def write(self, path: str, text: str) -> None:
        """Write a file of the node's, and the directories above it where they are missing."""
        self.run(["sh", "-c", 'mkdir -p "${1%/*}" && cat > "$1"', "sh", path], stdin=text)


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster that runs.

    Attributes:
        nodes: the first is the master.
        network: the switch.
        key: the private key that logs in to guests.
    """

    nodes: tuple[Node, ...]
    network: Switch
    key: Path

    @property
    def master(self) -> Node:
        """The node that the commands of Ganeti's run on."""
        return self.nodes[0]

    def run(
        self, argv: Sequence[str], *, timeout: float = 1800, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run `argv` on the master."""
        return self.master.run(argv, timeout=timeout, check=check)

    def enter_network(
        self, argv: Sequence[str], *, timeout: float = 300, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of the machine's in the switch's network, where it is the instances' gateway."""
        return self.network.run(argv, timeout=timeout, check=check)

    def guest(self, address: str, key: Path | None = None) -> SshTarget:
        """Return the way into the guest at `address`, from the switch, with `key` or else the cluster's."""
        return SshTarget(address, key or self.key, prefix=self.network.enter)


@contextmanager
def cluster(
    tree: NodeTree, directory: Path, *, nodes: int = 2, hypervisors: Sequence[str] = ("kvm", "fake")
) -> Iterator[Cluster]:
    """Run a cluster.

    Must be called from a thread that lives as long as the cluster, for the nodes die with the thread that started them.

    Args:
        tree: what nodes run on.
        directory: an existing directory, where the nodes' changes are put; not on an overlay itself.
        nodes: how many.
        hypervisors: those that are enabled, the first the default.
    """
    hosts = _hosts(nodes)
    with ExitStack() as stack:
        network = stack.enter_context(switch([f"{GATEWAY}/25", f"{OUTSIDE}/32"]))
        made = tuple(
            stack.enter_context(_node(tree, directory, network, number, hosts)) for number in range(1, nodes + 1)
        )
        running = Cluster(made, network, tree.key)
        _initialise(running, hypervisors)
        for node in made[1:]:
            running.run(["gnt-node", "add", "--no-ssh-key-check", node.name])
        yield running


def _hosts(nodes: int) -> str:
    """Return the nodes' ``/etc/hosts``."""
    numbers = {9: _CLUSTER, **{10 + n: f"node{n}.{_DOMAIN}" for n in range(1, nodes + 1)}}
    numbers |= {number: instance_name(number) for number in range(21, 61)}
    return "127.0.0.1 localhost\n" + "".join(f"198.51.100.{number} {name}\n" for number, name in numbers.items())


@contextmanager
def _node(tree: NodeTree, directory: Path, network: Switch, number: int, hosts: str) -> Iterator[Node]:
    """Run node `number`: its network, its files, and an ssh server."""
    name = f"node{number}.{_DOMAIN}"
    address = f"198.51.100.{10 + number}"
    own = directory / f"node{number}"
    own.mkdir()
    with container(Overlay(tree.root, own), name) as inside:
        network.plug(inside.pid, "eth0", f"node{number}")
        node = Node(name, address, inside)
        node.write("/etc/hosts", hosts)
        node.write("/etc/hostname", f"{name}\n")
        node.run(["ip", "link", "add", _BRIDGE, "type", "bridge"])
        node.run(["ip", "link", "set", "eth0", "master", _BRIDGE, "up"])
        node.run(["ip", "address", "add", f"{address}/25", "dev", _BRIDGE])
        node.run(["ip", "link", "set", _BRIDGE, "up"])
        node.write("/etc/ganeti/file-storage-paths", f"{_storage()}\n")
        node.run(["mkdir", "-p", f"{_storage()}/file", f"{_storage()}/shared"])
        node.run(["/usr/sbin/sshd"])
        # It goes into the background before it binds its port.
        node.run(["bash", "-c", "until exec 3<>/dev/tcp/127.0.0.1/22; do sleep 0.05; done 2>/dev/null"])
        yield node


def _storage() -> str:
    """Return where nodes keep file disks: a path by which a loop device on one is known to be ours."""
    return f"/srv/{own_part()}"


def _initialise(running: Cluster, hypervisors: Sequence[str]) -> None:
    """Make a cluster of the master alone."""
    kvm = ",".join(f"{name}={value}" for name, value in _KVM.items())
    running.run(
        [
            *["gnt-cluster", "init", f"--enabled-hypervisors={','.join(hypervisors)}"],
            *["--enabled-disk-templates=file,sharedfile,diskless", f"--file-storage-dir={_storage()}/file"],
            *[f"--shared-file-storage-dir={_storage()}/shared", "--no-etc-hosts", "--no-ssh-init"],
            *[f"--master-netdev={_BRIDGE}", f"--nic-parameters=mode=bridged,link={_BRIDGE}"],
            *["--prealloc-wipe-disks=no", *(["-H", f"kvm:{kvm}"] if "kvm" in hypervisors else []), _CLUSTER],
        ]
    )
