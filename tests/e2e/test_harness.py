"""What the other tests rely on: leftovers are noticed, and a run that is killed leaves nothing that lasts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.e2e.tree import NodeTree
from tests.support import processes, runs
from tests.support.containers import Overlay, container
from tests.support.leftovers import difference, snapshot

_ROOT = Path(__file__).resolve().parents[2]

# A run of its own: it starts a container and says where, then waits to be killed.
_KILLED_RUN = """
import sys, time
from contextlib import suppress
from pathlib import Path
from tests.support.containers import Overlay, container
from tests.support.runs import enter
with enter() as directory, container(Overlay(Path(sys.argv[1]), directory), "killed") as node:
    print(directory, node.pid, flush=True)
    node.run(["sleep", "600"], timeout=600)
"""


def test_what_is_left_behind_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "mounted").mkdir()
    image = tmp_path / "image"
    image.write_bytes(bytes(1 << 20))
    before = snapshot([tmp_path], contents=[tmp_path])
    loop = _output(["losetup", "--find", "--show", str(image)])
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(tmp_path / "mounted")], check=True)
    # The shell ends at once, and its child is an orphan.
    orphan = int(_output(["sh", "-c", "sleep 600 >/dev/null 2>&1 & echo $!"]))
    while processes.name(orphan) != "sleep":  # the shell says who it is before it is that
        time.sleep(0.01)
    (tmp_path / "file").touch()
    try:
        left = difference(before, snapshot([tmp_path], contents=[tmp_path]))
    finally:
        os.kill(orphan, signal.SIGKILL)
        subprocess.run(["umount", str(tmp_path / "mounted")], check=True)
        subprocess.run(["losetup", "--detach", loop], check=True)
    assert sorted(left) == [
        f"files: {tmp_path}/file",
        f"loop devices: {Path(loop).name} ({image})",
        f"mounts: {tmp_path}/mounted (tmpfs)",
        f"processes: {orphan} (sleep 600)",
    ]


def test_a_killed_run_leaves_nothing_that_the_next_does_not_clear_away(node_tree: NodeTree) -> None:
    environment = {
        name: value for name, value in os.environ.items() if name not in {runs.MARKER, "PYTEST_XDIST_WORKER"}
    }
    command = [sys.executable, "-c", _KILLED_RUN, str(node_tree.root)]
    with subprocess.Popen(command, cwd=_ROOT, env=environment, stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout is not None
        directory, _, pid = killed.stdout.readline().strip().partition(" ")
        started = runs.start_time(int(pid))
        assert started is not None
        assert Path(directory).is_dir()  # looked at before: any run that begins clears it away
        killed.kill()
    # This process adopts the dead run's children, and a PID namespace is not gone before its last process is reaped.
    while runs.start_time(int(pid)) == started:
        with suppress(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
        time.sleep(0.1)
    with runs.enter():
        assert not Path(directory).exists()


def test_what_a_killed_run_had_mounted_is_unmounted_and_not_emptied(tmp_path: Path) -> None:
    dead = runs.PARENT / f"osprovider-test-{os.getpid()}-1"  # no process of that id began then
    (dead / "tree/shared").mkdir(parents=True)
    (tmp_path / "kept").touch()
    subprocess.run(["mount", "--bind", str(tmp_path), str(dead / "tree/shared")], check=True)
    with runs.enter():
        assert not dead.exists()
    assert (tmp_path / "kept").exists()


def test_two_containers_know_nothing_of_each_other(
    node_tree: NodeTree, tmp_path_factory: pytest.TempPathFactory
) -> None:
    first, second = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")
    with container(Overlay(node_tree.root, first), "a") as a, container(Overlay(node_tree.root, second), "b") as b:
        a.run(["sh", "-c", "echo a >/root/file; sleep 600 >/dev/null 2>&1 &"])
        assert "file" not in b.run(["ls", "-A", "/root"]).stdout.split()
        assert "sleep 600" not in b.run(["ps", "-e", "-o", "args="]).stdout
        assert b.run(["hostname"]).stdout == "b\n"


def _output(argv: list[str]) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()
