"""Programs that read what somebody else made, held where they can do no harm: bubblewrap around them.

Within it there is the node's ``/usr``, read-only, a few device nodes, the files that were passed, and nothing else: no
network, no configuration, no other process, no terminal. It ends with us.
Not for: programs of a guest (the libguestfs appliance).
Source: bwrap(1).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

from osprovider.errors import NodeError, ToolError
from osprovider.run import run

__all__ = ["UNPACK_PRIVILEGES", "confine", "signal_of"]

UNPACK_PRIVILEGES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_MKNOD",
    "CAP_SETFCAP",
)
"""What it takes to give unpacked files their owners, modes, devices and capabilities (capabilities(7))."""

_KILLED = 128  # and the signal's number: the status of bwrap where its program was killed
_TOP = ("bin", "lib", "lib32", "lib64", "libx32", "sbin")
_NAMESPACES = ("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try")


def confine(
    argv: Sequence[str | Path],
    *,
    read: Mapping[Path, str] | None = None,
    write: Mapping[Path, str] | None = None,
    devices: Sequence[Path] = (),
    scripts: Mapping[str, int] | None = None,
    privileges: Sequence[str] = (),
    cwd: str = "/",
    memory_bytes: int | None = None,
    cpu_seconds: int | None = None,
    file_bytes: int | None = None,
) -> list[str]:
    """The arguments that run a program so, for :mod:`osprovider.run`. Descriptors that are passed stay open in it.

    Args:
        argv: the program and its arguments, in terms of the paths inside.
        read: files and directories of the node that it may read, with their paths inside.
        write: likewise, that it may write.
        devices: nodes in ``/dev`` that it may write, which keep their paths; it has no others of the node's.
        scripts: paths inside of programs of ours that it may run, with descriptors of their texts, which are passed.
        privileges: capabilities that it keeps; without any it has no user ID of the node's but its caller's own.
        cwd: where it runs, inside.
        memory_bytes: the most that it may allocate; None for no limit of its own.
        cpu_seconds: the longest that it may compute; likewise.
        file_bytes: the largest that it may make a file, its output among them; likewise.

    Raises:
        NodeError: nothing can be confined on this node; whatever failed then would seem to be the file's fault.
    """
    _require_sandbox()
    limits = {"--data": memory_bytes, "--cpu": cpu_seconds, "--fsize": file_bytes}
    words = [f"{option}={limit}" for option, limit in limits.items() if limit is not None]
    return [
        *(["prlimit", *words, "--"] if words else []),
        *_empty_sandbox(privileges),
        *(word for host, inside in (read or {}).items() for word in ("--ro-bind", str(host.absolute()), inside)),
        *(word for host, inside in (write or {}).items() for word in ("--bind", str(host.absolute()), inside)),
        *(word for node in devices for word in ("--dev-bind", str(node), str(node))),
        *(
            word
            for inside, fd in (scripts or {}).items()
            for word in ("--perms", "0755", "--ro-bind-data", str(fd), inside)
        ),
        *("--cap-drop", "ALL"),
        *(word for name in privileges for word in ("--cap-add", name)),
        *("--chdir", cwd, "--"),
        *map(str, argv),
    ]


@functools.cache
def _require_sandbox() -> None:
    """Have a program that does nothing run in one, once for each process of ours."""
    try:
        run([*_empty_sandbox(()), "--", "true"])
    except ToolError as error:
        raise NodeError(
            f"programs that read what others made cannot be confined on this node ({error.last_line}): let bubblewrap "
            "make user namespaces (sysctl user.max_user_namespaces; a process in a chroot may make none)"
        ) from error


def _empty_sandbox(privileges: Sequence[str]) -> list[str]:
    """The arguments of bubblewrap for what every program has in it."""
    return [
        "bwrap",
        *_NAMESPACES,
        *([] if privileges else ["--unshare-user"]),
        "--die-with-parent",
        *("--ro-bind", "/usr", "/usr"),
        *(word for name in _TOP for word in _linked(name)),
        *("--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"),
        *("--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"),  # noqa: S108 - its own
    ]


def signal_of(status: int) -> int | None:
    """The signal that ended a program that was confined, or bubblewrap with it; None where it ended by itself.

    One that computed too long is ended by SIGKILL (setrlimit(2)).

    Args:
        status: the exit status, as :mod:`osprovider.run` has it.
    """
    if status < 0:
        return -status
    return status - _KILLED if status > _KILLED else None


def _linked(name: str) -> list[str]:
    """``/NAME`` as this node has it: a link into /usr, or a directory where /usr is not merged."""
    path = Path("/", name)
    if path.is_symlink():
        return ["--symlink", str(path.readlink()), str(path)]
    return ["--ro-bind", str(path), str(path)] if path.is_dir() else []
