"""An image of an instance's disk, which a real Ganeti activates and deactivates; and an instance of that image.

The instance lies on a node that is not the master. Nothing is booted: what the hypervisor calls running is enough.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster, Node, cluster, instance_name
from tests.e2e.tree import NodeTree

_CONFIG = "/etc/ganeti/osprovider"
_OLD, _NEW = instance_name(21), instance_name(22)
# Arguments: a signal; then a command, which gets the signal as soon as it says that it boots an appliance.
_END_IT_THEN = """
sign=$1
shift
said=$(mktemp)
"$@" 2>"$said" &
until grep -q "start the libguestfs appliance" "$said"; do
    kill -0 $! || break
    sleep 0.05
done
kill -s "$sign" $!
wait $!
cat "$said" >&2
"""
_IDENTITY = ("/etc/machine-id", "/etc/hostname", "/etc/ssh/ssh_host_ed25519_key.pub")


@pytest.fixture(scope="module")
def running(own_directory: Path, node_tree: NodeTree) -> Iterator[Cluster]:
    """A cluster with an instance on the second node."""
    with cluster(node_tree, own_directory, hypervisors=("fake",)) as made:
        for node in made.nodes:
            node.write(f"{_CONFIG}/variants/golden.yaml", "image: golden\n")
            node.write(f"{_CONFIG}/variants.list", "debian-12\ngolden\n")
        _add(made, _OLD, "debian-12")
        yield made


def _add(running: Cluster, name: str, variant: str) -> None:
    words = ["-t", "file", "-s", "2G", "-o", f"osprovider+{variant}", "-n", _second(running).name]
    running.run(["gnt-instance", "add", *words, "--no-start", "--no-ip-check", "--no-name-check", name])


def _second(running: Cluster) -> Node:
    return running.nodes[1]


def _capture(node: Node, instance: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = ["osprovider", "image", "capture", "--instance", instance, "--name", "golden", *words]
    return node.run(command, check=False, timeout=1800)


def _are_active(running: Cluster) -> bool:
    words = ["gnt-instance", "list", "--no-headers", "-o", "disks_active", _OLD]
    return running.run(words).stdout.strip() == "Y"


def _refused(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode in (1, 2), done.stderr
    return done.stderr.strip().splitlines()[-1]


def test_its_disks_are_activated_captured_and_deactivated(running: Cluster) -> None:
    assert not _are_active(running)
    done = _capture(_second(running), _OLD)
    assert done.returncode == 0, done.stderr
    assert f"deactivate the disks of {_OLD}" in done.stderr
    assert not _are_active(running)
    definition = _second(running).run(["cat", f"{_CONFIG}/images/golden.yaml"]).stdout
    assert f"captured from {_OLD} on " in definition


def test_an_instance_of_it_has_another_identity(running: Cluster) -> None:
    _add(running, _NEW, "golden")
    old, new = (_content(running, name) for name in (_OLD, _NEW))
    assert all(old)
    assert all(new)
    assert not set(old) & set(new)
    assert new[1] == f"{_NEW}\n"


def _content(running: Cluster, instance: str) -> list[str]:
    """What is in the files that make an instance this one."""
    node = _second(running)
    answer = running.run(["gnt-instance", "activate-disks", instance]).stdout
    path = answer.strip().rpartition(":")[2]
    start = node.run(["partx", "--show", "--noheadings", "--output=START", "--nr=3", path]).stdout.strip()
    found = [
        node.run(["debugfs", "-R", f"cat {file}", f"{path}?offset={int(start) * 512}"]).stdout for file in _IDENTITY
    ]
    running.run(["gnt-instance", "deactivate-disks", instance])
    return found


def test_disks_that_were_active_stay_active(running: Cluster) -> None:
    running.run(["gnt-instance", "activate-disks", _OLD])
    try:
        done = _capture(_second(running), _OLD, "--force", "--format", "qcow2")
        assert done.returncode == 0, done.stderr
        assert _are_active(running)
    finally:
        running.run(["gnt-instance", "deactivate-disks", _OLD])


@pytest.mark.parametrize("sign", ["TERM", "KILL"])
def test_ended_before_its_time_the_disks_do_not_stay_active(running: Cluster, sign: str) -> None:
    node = _second(running)
    command = ["osprovider", "image", "capture", "--instance", _OLD, "--name", "golden", "--force"]
    done = node.run(["sh", "-c", _END_IT_THEN, "sh", sign, *command])
    assert "start the libguestfs appliance" in done.stderr
    assert _are_active(running) == (sign == "KILL")
    if sign == "KILL":  # the next one knows whose they are
        assert "cannot be written" in _refused(_capture(node, _OLD, "--force", "--output", "/nonexistent/image"))
        assert not _are_active(running)


def test_on_another_node_the_right_one_is_named(running: Cluster) -> None:
    line = _refused(_capture(running.master, _OLD))
    assert f"its disks are on {_second(running).name}, and this is {running.master.name}" in line


def test_a_running_instance_is_refused(running: Cluster) -> None:
    running.run(["gnt-instance", "start", _OLD])
    try:
        line = _refused(_capture(_second(running), _OLD, "--force"))
    finally:
        running.run(["gnt-instance", "shutdown", _OLD])
    assert f"instance {_OLD} is running: shut it down first" in line


def test_an_instance_that_does_not_exist_is_refused(running: Cluster) -> None:
    line = _refused(_capture(_second(running), "vm60.gnt.test", "--force"))
    assert "vm60.gnt.test" in line
    assert "not found" in line
