"""The last step before a program of a build starts:
``python -m osprovider.images.builder.inside ROOT DIRECTORY PROXY PROGRAM ARGUMENT...``.

It is the first process of namespaces that :func:`osprovider.images.builder.isolation.run_isolated` made, so everything
that it mounts is gone with the program. What packages' scripts see is the same on every node: another host name, their
own processes, a network that leads nowhere, an empty ``/sys``, a ``/dev`` of the few devices that every system has.
Not for: use by anything else; it replaces itself by the program.
"""  # noqa: D205 - the command is one line

from __future__ import annotations

import os
import shlex
import socket
import stat
import sys
from pathlib import Path

from osprovider.linux import MountFlag, mount, private_network_namespace

__all__ = ["main"]

_QUIET = MountFlag.NOSUID | MountFlag.NODEV | MountFlag.NOEXEC

_DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
_LINKS = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2", "ptmx": "pts/ptmx"}

_FETCHERS = (Path("/usr/lib/apt/methods/http"), Path("/usr/bin/wget"))
_OTHER_NAMES = {"https": "http"}  # apt's method tells by its name what it is

# Here "$0" is what was called, and so the name.
_STAND_IN = """\
#!/bin/sh
exec {environment} nsenter --net={directory}/network -- {directory}/"${{0##*/}}" "$@"
"""


def main(argv: list[str]) -> None:
    """Prepare, then become the program.

    Args:
        argv: the tree that the program enters by chroot, or ``-`` where the program itself mounts what its tree needs;
            an empty directory for what fetches packages to get out, or ``-`` where nothing does; its proxy, or ``-``;
            the program; its arguments.
    """
    root, directory, proxy, *command = argv
    socket.sethostname("localhost")
    mount("proc", "/proc", "proc", _QUIET)
    mount("tmpfs", "/dev/shm", "tmpfs", _QUIET)  # noqa: S108 - hides the node's, which mmdebstrap would show to the tree
    if directory != "-":
        _keep_a_way_out(Path(directory), proxy if proxy != "-" else None)
    private_network_namespace()
    if root != "-":
        _furnish(Path(root))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    os.execvpe(command[0], command, environment)  # noqa: S606 - there is no shell


def _keep_a_way_out(directory: Path, proxy: str | None) -> None:
    """Put programs that enter this network in the place of those that fetch packages. Nothing else finds the way."""
    mount("tmpfs", str(directory), "tmpfs", MountFlag.NOSUID | MountFlag.NODEV, "mode=0755")
    network, stand_in = directory / "network", directory / "stand-in"
    network.touch()
    _bind(Path("/proc/self/ns/net"), network)
    environment = shlex.join(["env", *(f"{name}_proxy={proxy}" for name in ("http", "https") if proxy)])
    stand_in.write_text(_STAND_IN.format(environment=environment, directory=shlex.quote(str(directory))))
    stand_in.chmod(0o755)
    for program in _FETCHERS:
        if program.exists():
            (directory / program.name).touch()
            _bind(program, directory / program.name)
            _bind(stand_in, program)
    for name, target in _OTHER_NAMES.items():
        (directory / name).symlink_to(target)


def _bind(source: Path, target: Path) -> None:
    mount(str(source), str(target), None, MountFlag.BIND)


def _furnish(root: Path) -> None:
    """Mount what programs in a tree expect. Nothing in it lets them change a setting of the node's kernel."""
    mount("proc", str(root / "proc"), "proc", _QUIET | MountFlag.RDONLY)
    mount("tmpfs", str(root / "sys"), "tmpfs", _QUIET | MountFlag.RDONLY)
    dev = root / "dev"
    mount("tmpfs", str(dev), "tmpfs", MountFlag.NOSUID | MountFlag.NOEXEC, "mode=0755")
    for name, (major, minor) in _DEVICES.items():
        os.mknod(dev / name, stat.S_IFCHR, os.makedev(major, minor))
        (dev / name).chmod(0o666)
    for name, target in _LINKS.items():
        (dev / name).symlink_to(target)
    for name in ("pts", "shm"):
        (dev / name).mkdir()
    mount("devpts", str(dev / "pts"), "devpts", MountFlag.NOSUID | MountFlag.NOEXEC, "gid=5,mode=620,ptmxmode=666")
    mount("tmpfs", str(dev / "shm"), "tmpfs", _QUIET)


if __name__ == "__main__":
    main(sys.argv[1:])
