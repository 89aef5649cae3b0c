"""What Ganeti is asked for an instance's disks, and that they are as they were afterwards.

A program in the place of `gnt-instance` keeps the state of one instance in a directory, and writes down what it is
called with; a real cluster is in the end-to-end tests.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from osprovider import run as run_module
from osprovider.errors import DeviceError, UsageError
from osprovider.ganeti import activation
from osprovider.ganeti.activation import ActiveDisk, active_disk

NAME = "web1.example.org"
HERE = socket.getfqdn().lower()

GNT_INSTANCE = """\
#!/bin/bash
cd {directory}
echo "$*" >>calls
case $1 in
list)
    [ "${{@: -1}}" = web1 ] || [ "${{@: -1}}" = {name} ] || {{ echo "Failure: prerequisites not met for this operation:
error type: unknown_entity, error details:
Instance '${{@: -1}}' not known" >&2; exit 1; }}
    cat instance ;;
activate-disks)
    [ ! -e broken ] || {{
    echo "Sun Nov 22 00:53:47 2026  - WARNING: Could not prepare block device disk/0 on node {here}: no such file"
    echo "Failure: command execution error:
Cannot activate block devices" >&2; exit 1; }}
    sed -i 's/|N|{here}$/|Y|{here}/' instance
    echo "Sat Nov 21 07:12:12 2026  - WARNING: disk/0:/nonsense"
    cat disks ;;
deactivate-disks)
    [ ! -e started ] || {{ echo "Failure: prerequisites not met for this operation:
Instance {name} is marked to be up, cannot shutdown disks" >&2; exit 1; }}
    sed -i 's/|Y|{here}$/|N|{here}/' instance ;;
esac
"""

HOLD = """\
import sys, time
from pathlib import Path
from osprovider import run, signals
from osprovider.ganeti import activation
run.BASE_ENVIRONMENT = {**run.BASE_ENVIRONMENT, "PATH": sys.argv[1]}
activation._DATA = Path(sys.argv[2])
with activation.active_disk("web1", Path(sys.argv[3])):
    print("active", flush=True)
    time.sleep(60)
"""


@dataclass(frozen=True, slots=True)
class Ganeti:
    """A node with one instance, as far as its commands tell."""

    directory: Path

    def say(self, *, running: str = "N", status: str = "ADMIN_down", active: str = "N", node: str = HERE) -> None:
        """What there is of the instance."""
        (self.directory / "instance").write_text(f"{NAME}|{running}|{status}|{active}|{node}\n")

    def is_active(self) -> bool:
        """Are its disks active."""
        return (self.directory / "instance").read_text().split("|")[3] == "Y"

    @property
    def actions(self) -> list[str]:
        """What was called, without what only looks."""
        calls = self.directory / "calls"
        words = [line.split()[0] for line in calls.read_text().splitlines()] if calls.exists() else []
        return [word for word in words if word != "list"]

    @property
    def run_dir(self) -> Path:
        """Of osprovider's."""
        return self.directory / "run"


@pytest.fixture
def ganeti(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ganeti:
    made = Ganeti(tmp_path)
    program = tmp_path / "bin/gnt-instance"
    program.parent.mkdir()
    program.write_text(GNT_INSTANCE.format(directory=tmp_path, name=NAME, here=HERE))
    program.chmod(0o755)
    made.say()
    (tmp_path / "disks").write_text(f"{HERE}:disk/0:/dev/xenvg/0.disk0\n{HERE}:disk/1:/dev/drbd1\n")
    (tmp_path / "ssconf_master_node").write_text(f"{HERE}\n")
    (tmp_path / "ssconf_cluster_name").write_text("cluster.example.org\n")
    path = f"{program.parent}:{run_module.BASE_ENVIRONMENT['PATH']}"
    monkeypatch.setattr(run_module, "BASE_ENVIRONMENT", {**run_module.BASE_ENVIRONMENT, "PATH": path})
    monkeypatch.setattr(activation, "_DATA", tmp_path)
    return made


def refusal(ganeti: Ganeti, instance: str = "web1", index: int = 0) -> str:
    with pytest.raises((DeviceError, UsageError)) as caught, active_disk(instance, ganeti.run_dir, index):
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("index", "path"), [(0, "/dev/xenvg/0.disk0"), (1, "/dev/drbd1")])
def test_disks_are_active_as_long_as_they_are_used(ganeti: Ganeti, index: int, path: str) -> None:
    with active_disk("web1", ganeti.run_dir, index) as disk:
        assert disk == ActiveDisk(NAME, Path(path))
        assert ganeti.is_active()
    assert not ganeti.is_active()
    assert ganeti.actions == ["activate-disks", "deactivate-disks"]


def test_disks_that_were_active_stay_so(ganeti: Ganeti) -> None:
    ganeti.say(active="Y")
    with active_disk("web1", ganeti.run_dir) as disk:
        assert disk.path == Path("/dev/xenvg/0.disk0")
    assert ganeti.is_active()
    assert ganeti.actions == ["activate-disks"]


def test_disks_are_given_back_when_their_use_fails(ganeti: Ganeti) -> None:
    with pytest.raises(RuntimeError, match="in use"), active_disk("web1", ganeti.run_dir):
        raise RuntimeError("in use")
    assert not ganeti.is_active()


def test_disks_that_a_killed_one_of_us_has_left_active_are_given_back_by_the_next(ganeti: Ganeti) -> None:
    words = [
        sys.executable,
        "-c",
        HOLD,
        run_module.BASE_ENVIRONMENT["PATH"],
        str(ganeti.directory),
        str(ganeti.run_dir),
    ]
    checkout = Path(activation.__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "active\n"
        assert f"instance {NAME}: another osprovider uses its disks" in refusal(ganeti)
        process.send_signal(signal.SIGKILL)
    assert ganeti.is_active()
    with active_disk("web1", ganeti.run_dir):
        pass
    assert not ganeti.is_active()


def test_a_running_instance_is_refused(ganeti: Ganeti) -> None:
    ganeti.say(running="Y", status="running", active="Y")
    assert refusal(ganeti).startswith(f"instance {NAME} is running: shut it down first (gnt-instance shutdown {NAME})")
    assert ganeti.actions == []


@pytest.mark.parametrize("running", ["?", "-", "*", "(nodata)", "(offline)"])
def test_an_instance_of_which_nobody_knows_is_refused(ganeti: Ganeti, running: str) -> None:
    ganeti.say(running=running, status="ERROR_nodedown")
    assert "cannot tell whether it is running (ERROR_nodedown)" in refusal(ganeti)
    assert ganeti.actions == []


def test_an_instance_of_another_node_is_refused_with_the_nodes_name(ganeti: Ganeti) -> None:
    ganeti.say(node="node2.example.org")
    line = refusal(ganeti)
    assert "its disks are on node2.example.org" in line
    assert "run the same command there" in line
    assert ganeti.actions == []


def test_an_instance_that_does_not_exist_is_refused_in_ganetis_words(ganeti: Ganeti) -> None:
    assert refusal(ganeti, "web2") == "instance web2: Instance 'web2' not known"


@pytest.mark.parametrize("name", ["", "-x", "a b", "$(reboot)", "a\nb"])
def test_a_name_that_is_none_does_not_reach_ganeti(ganeti: Ganeti, name: str) -> None:
    assert "is no instance's name" in refusal(ganeti, name)
    assert not (ganeti.directory / "calls").exists()


def test_disks_that_cannot_be_activated_are_deactivated(ganeti: Ganeti) -> None:
    (ganeti.directory / "broken").touch()
    why = f"Could not prepare block device disk/0 on node {HERE}: no such file; Cannot activate block devices"
    assert refusal(ganeti) == f"instance {NAME}: its disks cannot be activated: {why}"
    assert ganeti.actions == ["activate-disks", "deactivate-disks"]


def test_a_disk_that_it_has_not_is_refused(ganeti: Ganeti) -> None:
    assert f"instance {NAME} has no disk 2; it has 2 disks" in refusal(ganeti, index=2)
    assert not ganeti.is_active()


def test_a_disk_that_only_qemu_reaches_is_refused(ganeti: Ganeti) -> None:
    (ganeti.directory / "disks").write_text(f"{HERE}:disk/0:rbd:rbd/0.disk0\n")
    assert "disk 0 is rbd:rbd/0.disk0, which is no path on this node" in refusal(ganeti)
    assert not ganeti.is_active()


def test_an_instance_that_was_started_meanwhile_is_left_alone(ganeti: Ganeti) -> None:
    with pytest.raises(DeviceError, match="marked to be up"), active_disk("web1", ganeti.run_dir):
        (ganeti.directory / "started").touch()
    assert ganeti.is_active()


def test_on_a_machine_without_ganeti_the_way_out_is_said(ganeti: Ganeti) -> None:
    (ganeti.directory / "ssconf_master_node").unlink()
    assert "this is no node of a Ganeti cluster" in refusal(ganeti)


def test_on_another_node_the_master_is_asked_by_ssh_as_ganeti_does(ganeti: Ganeti) -> None:
    (ganeti.directory / "ssconf_master_node").write_text("node9.example.org\n")
    ssh = ganeti.directory / "bin/ssh"
    ssh.write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" >{ganeti.directory}/ssh\nexec bash -c "${{@: -1}}"\n')
    ssh.chmod(0o755)
    with active_disk("web1", ganeti.run_dir):
        assert ganeti.is_active()
    assert not ganeti.is_active()
    words = (ganeti.directory / "ssh").read_text().splitlines()
    assert words[-2:] == ["root@node9.example.org", f"gnt-instance deactivate-disks {NAME}"]
    assert "-oHostKeyAlias=cluster.example.org" in words
    assert "-oStrictHostKeyChecking=yes" in words
    assert f"-oGlobalKnownHostsFile={ganeti.directory}/known_hosts" in words
