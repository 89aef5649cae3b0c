"""What a program can do in the sandbox, tried by programs in it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from osprovider import linux, sandbox
from osprovider.errors import NodeError, ToolError
from osprovider.run import run, running
from osprovider.sandbox import UNPACK_PRIVILEGES, confine
from tests.support import processes
from tests.support.leftovers import no_leftovers
from tests.system.guest.namespace import in_namespace


def test_a_program_runs_and_its_output_comes_back() -> None:
    assert run(confine(["echo", "hello"])).text == "hello"


def test_a_node_on_which_nothing_can_be_confined_is_told() -> None:
    """A process in a chroot may make no user namespace (user_namespaces(7))."""

    def in_a_chroot() -> None:
        linux.mount("/", "/mnt", None, linux.MountFlag.BIND | linux.MountFlag.REC)
        os.chroot("/mnt")
        confine(["true"])

    sandbox._require_sandbox.cache_clear()
    with pytest.raises(
        NodeError, match=r"cannot be confined on this node \(bwrap: .*namespace.*\): let bubblewrap make"
    ):
        in_namespace(in_a_chroot)


@pytest.mark.parametrize("privileges", [(), UNPACK_PRIVILEGES])
@pytest.mark.parametrize("path", ["/etc/shadow", "/root", "/home", "/var", "/sys/class", "/dev/vda", "/run"])
def test_the_node_is_not_there(path: str, privileges: tuple[str, ...]) -> None:
    with pytest.raises(ToolError):
        run(confine(["ls", path], privileges=privileges))


def test_there_is_no_network_but_an_own_loopback() -> None:
    devices = run(confine(["cat", "/proc/net/dev"])).text.splitlines()[2:]
    assert [line.partition(":")[0].strip() for line in devices] == ["lo"]


def test_there_are_no_other_processes() -> None:
    seen = run(confine(["sh", "-c", "echo /proc/[0-9]*"])).text.split()
    assert len(seen) <= 3


@pytest.mark.parametrize("privileges", [(), UNPACK_PRIVILEGES])
def test_only_what_was_passed_for_writing_is_written(tmp_path: Path, privileges: tuple[str, ...]) -> None:
    shown, given = tmp_path / "shown", tmp_path / "given"
    shown.mkdir()
    given.mkdir()

    def touch(place: str) -> None:
        run(confine(["touch", place], read={shown: "/shown"}, write={given: "/given"}, privileges=privileges))

    touch("/given/file")
    assert (given / "file").exists()
    for place in ("/shown/file", "/usr/file", "/usr/bin/file"):
        with pytest.raises(ToolError, match=r"Read-only file system|Permission denied"):
            touch(place)


def test_privileges_are_those_named_and_no_others() -> None:
    # by a shell that starts another program, which could get more
    status = run(confine(["sh", "-c", "sh -c 'cat /proc/self/status; true'; true"], privileges=["CAP_CHOWN"])).text
    lines = dict(line.split(":\t") for line in status.splitlines())
    assert (lines["CapPrm"], lines["CapEff"]) == ("0000000000000001", "0000000000000001")
    assert lines["NoNewPrivs"] == "1"


def test_without_privileges_there_are_none() -> None:
    status = run(confine(["cat", "/proc/self/status"])).text
    sets = [line.split()[1] for line in status.splitlines() if line.startswith(("CapPrm", "CapEff", "CapBnd"))]
    assert sets == ["0000000000000000"] * 3


def test_unpacking_privileges_give_owners_devices_and_capabilities(tmp_path: Path) -> None:
    script = "touch f && chown 1234:5678 f && mknod null c 1 3 && setcap cap_net_raw+ep f && getcap f"
    said = run(
        confine(["sh", "-ec", script], write={tmp_path: "/root"}, privileges=UNPACK_PRIVILEGES, cwd="/root")
    ).text
    assert said == "f cap_net_raw=ep"
    found = (tmp_path / "f").stat()
    assert (found.st_uid, found.st_gid) == (1234, 5678)
    assert (tmp_path / "null").stat().st_rdev == os.makedev(1, 3)


@pytest.mark.parametrize("limit", [None, 400 << 20])
def test_memory_is_there_up_to_the_limit(limit: int | None) -> None:
    run(confine(["/usr/bin/python3", "-I", "-c", "bytes(300 << 20)"], memory_bytes=limit))


def test_memory_is_limited() -> None:
    with pytest.raises(ToolError, match="MemoryError"):
        run(confine(["/usr/bin/python3", "-I", "-c", "bytes(300 << 20)"], memory_bytes=200 << 20))


def test_computing_is_limited() -> None:
    with pytest.raises(ToolError, match=rf"status ({128 + signal.SIGXCPU}|{128 + signal.SIGKILL})"):
        run(confine(["sh", "-c", "while :; do :; done"], cpu_seconds=1))


@pytest.mark.parametrize("privileges", [(), UNPACK_PRIVILEGES])
def test_nothing_is_left_of_what_is_ended_at_once(privileges: tuple[str, ...], tmp_path: Path) -> None:
    # bubblewrap's first child is not tied to it before it is set up
    with Path(os.devnull).open("r+b") as null, no_leftovers([tmp_path]):
        for turn in range(40):
            words = confine(["sleep", "600"], write={tmp_path: "/given"}, privileges=privileges)
            with running(words, stdin=null.fileno(), stderr=null.fileno()):
                time.sleep(turn / 4000)


def test_a_sandbox_that_fails_is_no_answer_of_the_program(tmp_path: Path) -> None:
    """e2fsck ends with 1, as bubblewrap does, where it has repaired something."""
    with pytest.raises(ToolError, match=r"bwrap: .*No such file or directory"):
        run(confine(["true"], read={tmp_path / "away": "/given"}), check=False)
    with pytest.raises(ToolError, match="bwrap: execvp no-such-program: No such file or directory"):
        run(confine(["no-such-program"]), check=False)
    assert run(confine(["sh", "-c", "exit 1"]), check=False).status == 1


def test_descriptors_are_passed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    with (tmp_path / "file").open() as file:
        fd = file.fileno()
        assert run(confine(["cat", f"/proc/self/fd/{fd}"]), pass_fds=(fd,)).text == "content"


def test_it_ends_with_its_parent() -> None:
    seconds = f"987.{os.getpid()}"  # others may run this test at the same time
    program = "import sys\nfrom osprovider.run import run\nfrom osprovider.sandbox import confine\n"
    parent = subprocess.Popen([sys.executable, "-c", f"{program}run(confine(['sleep', sys.argv[1]]))", seconds])
    try:
        pattern = f"sleep\0{seconds}\0".encode()
        deadline = time.monotonic() + 60
        while not (found := _running(pattern)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert found
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    deadline = time.monotonic() + 60
    while _running(pattern) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _running(pattern)


def _running(command_line: bytes) -> list[str]:
    found = []
    for directory in processes.directories():
        with suppress(OSError):  # ended since it was listed
            if (directory / "cmdline").read_bytes().startswith(command_line):
                found.append(directory.name)
    return found
