"""Directory trees entered as machines of their own: namespaces around a chroot, and commands run in them.

A container lives exactly as long as its first process, which dies with the process that started it; mounts, network
interfaces and everything that runs in it go with it, so that nothing has to be cleared away however a test run ends.
No namespace has a name, so any number stand side by side.

Not for: what runs in a container; see `tests.e2e.cluster`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Container", "Overlay", "Switch", "container", "run_in_tree", "switch"]

# Killed with the thread that started it (util-linux, setpriv(1)).
_MORTAL = ("setpriv", "--pdeathsig", "KILL")

_ENVIRONMENT: Mapping[str, str] = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
}

# Run by bash in the new namespaces. Arguments: the directory that becomes the root; then what is run in it.
# `/proc` is still the machine's when the process id is read, so it is the id by which the machine knows us.
_BECOME_ROOT = """
set -o errexit
read -r pid _ < /proc/self/stat
root=$1
shift
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t sysfs sysfs "$root/sys"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mkdir "$root/run/lock" "$root/run/sshd"
cd "$root"
# The old root ends up on top of the new one, and is taken away from there (pivot_root(2)).
pivot_root . .
umount --lazy .
"""

# The first process: it says who it is, then collects whatever is orphaned until it is killed.
_IDLE = """
echo "$pid"
exec > /dev/null
sleep infinity &
wait
"""


@dataclass(frozen=True, slots=True)
class Overlay:
    """A tree that is not written to, and what is written instead.

    Attributes:
        lower: the tree.
        directory: an existing, empty directory beneath which the changes and the mount point lie.
    """

    lower: Path
    directory: Path


@dataclass(frozen=True, slots=True)
class Container:
    """A tree in namespaces of its own.

    Attributes:
        pid: its first process.
    """

    pid: int

    @property
    def root(self) -> Path:
        """The tree, as seen from outside. Absolute symbolic links in it lead to the machine's own files."""
        return Path(f"/proc/{self.pid}/root")

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float = 1200,
        check: bool = True,
        stdin: str = "",
        environment: Mapping[str, str] = _ENVIRONMENT,
        within: Sequence[str] = (),
    ) -> subprocess.CompletedProcess[str]:
        """Run `argv` in the container as root.

        Args:
            argv: program and arguments.
            timeout: seconds.
            check: raise where the exit code is not 0; the error's notes hold what the program said.
            stdin: what it reads.
            environment: all the variables that it sees.
            within: words before all others, which put it into a control group of this machine's.

        Raises:
            subprocess.CalledProcessError, subprocess.TimeoutExpired: it failed, or took too long.
        """
        enter = ["nsenter", f"--target={self.pid}", "--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd"]
        return _run([*within, *_MORTAL, *enter, *_MORTAL, *_with(environment), *argv], timeout, check, stdin)


@dataclass(frozen=True, slots=True)
class Switch:
    """A network namespace with a bridge that containers are plugged into.

    Attributes:
        pid: the process that holds the namespace.
    """

    pid: int

    @property
    def enter(self) -> tuple[str, ...]:
        """The argv that runs what follows it in the switch's network, with the machine's own files."""
        return ("nsenter", f"--target={self.pid}", "--net")

    def run(self, argv: Sequence[str], *, timeout: float = 300, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `argv` in the switch's network; as `Container.run`."""
        return _run([*_MORTAL, *self.enter, *argv], timeout, check, "")

    def plug(self, pid: int, interface: str, port: str) -> None:
        """Connect the network of process `pid` by a cable: `interface` on its side, `port` on the switch's."""
        cable = ["type", "veth", "peer", "name", port, "netns", str(self.pid)]
        _run(["ip", "link", "add", interface, "netns", str(pid), *cable], 30, check=True, stdin="")
        self.run(["ip", "link", "set", port, "master", "switch", "up"])


@contextmanager
def switch(addresses: Sequence[str]) -> Iterator[Switch]:
    """Run a switch that has `addresses` (CIDR form) itself, the first on the bridge and the others behind it."""
    argv = [*_MORTAL, "unshare", "--net", "sh", "-c", "echo ready; exec sleep infinity"]
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    with _killed_at_end(process):
        assert _await_line(process) == "ready"
        made = Switch(process.pid)
        made.run(["ip", "link", "set", "lo", "up"])
        made.run(["ip", "link", "add", "switch", "type", "bridge"])
        for index, address in enumerate(addresses):
            made.run(["ip", "address", "add", address, "dev", "lo" if index else "switch"])
        made.run(["ip", "link", "set", "switch", "up"])
        yield made


@contextmanager
def container(overlay: Overlay, hostname: str) -> Iterator[Container]:
    """Run a container on `overlay`, with a network namespace that holds nothing but an interface to itself."""
    for name in ("upper", "work", "root"):
        (overlay.directory / name).mkdir()
    layers = f"lowerdir={overlay.lower},upperdir={overlay.directory}/upper,workdir={overlay.directory}/work"
    root = f"{overlay.directory}/root"
    script = f'mount -t overlay -o "$1" overlay "$2"\nhostname "$3"\nip link set lo up\nshift 3\n{_BECOME_ROOT}{_IDLE}'
    namespaces = ["--mount", "--uts", "--ipc", "--net", "--pid"]
    command = ["unshare", *namespaces, "--fork", "--kill-child", "bash", "-c", script, "bash"]
    errors = overlay.directory / "errors"
    with errors.open("wb") as log:
        argv = [*_MORTAL, *command, layers, root, hostname, root]
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log)
    with _killed_at_end(process):
        line = _await_line(process)
        assert line, errors.read_text()
        first = int(line)
        try:
            yield Container(first)
        finally:
            # `unshare` waits for it, and it ends only when everything in its PID namespace has (pid_namespaces(7)).
            os.kill(first, signal.SIGKILL)
            process.wait()


def run_in_tree(tree: Path, argv: Sequence[str], *, timeout: float) -> subprocess.CompletedProcess[str]:
    """Run `argv` with `tree` as its root, in the machine's own network; what it writes stays in the tree.

    Raises:
        subprocess.CalledProcessError, subprocess.TimeoutExpired: it failed, or took too long.
    """
    script = f'mount --bind "$1" "$1"\n{_BECOME_ROOT}"$@"\nexit $?'
    namespaces = ["--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child"]
    command = ["unshare", *namespaces, "bash", "-c", script, "bash", str(tree)]
    return _run([*_MORTAL, *command, *_with(_ENVIRONMENT), *argv], timeout, check=True, stdin="")


def _with(environment: Mapping[str, str]) -> list[str]:
    """Return the argv that runs what follows it with `environment` and nothing else."""
    return ["env", "-i", *(f"{name}={value}" for name, value in environment.items())]


def _run(argv: Sequence[str], timeout: float, check: bool, stdin: str) -> subprocess.CompletedProcess[str]:
    """Run `argv`, its output taken by way of files: a daemon that it starts may keep a pipe open for ever."""
    with (
        tempfile.TemporaryFile("w+") as given,
        tempfile.TemporaryFile("w+") as out,
        tempfile.TemporaryFile("w+") as err,
    ):
        given.write(stdin)
        given.seek(0)
        process = subprocess.Popen(argv, stdin=given, stdout=out, stderr=err)
        try:
            process.wait(timeout)
            out.seek(0)
            err.seek(0)
            done = subprocess.CompletedProcess(list(argv), process.returncode, out.read(), err.read())
            if check:
                done.check_returncode()
        except BaseException as error:
            _kill(process)
            out.seek(0)
            err.seek(0)
            error.add_note(f"{out.read()}\n{err.read()}")
            raise
    return done


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill `process`, its children first: nsenter's is in the container, which cannot end before somebody reaps it."""
    if process.poll() is None:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for child in children:
            os.kill(int(child), signal.SIGKILL)
        if not children:
            process.kill()
        process.wait()


@contextmanager
def _killed_at_end(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def _await_line(process: subprocess.Popen[bytes]) -> str:
    """Return the line by which `process` says that it is ready; empty where it ended before."""
    assert process.stdout is not None
    return process.stdout.readline().decode().strip()
