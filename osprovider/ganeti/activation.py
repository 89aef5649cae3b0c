"""The disks of an instance that is shut down, which Ganeti activates for us and deactivates again.

Ganeti's command line has no JSON, and its remote API needs an account. So: `gnt-instance list` with the names of the
fields and a separator, which is there for scripts, and the lines ``NODE:disk/N:PATH`` of `gnt-instance activate-disks`.
These commands work on the master node only, so that on another node they are called there, by ssh, as Ganeti itself
calls programs of its other nodes.
Sources: gnt-instance(8), LIST and ACTIVATE-DISKS; ``lib/query.py`` (``_BuildInstanceFields``), ``lib/ssh.py``
(``SshRunner``), ``lib/ssconf.py``, ``lib/client/gnt_instance.py`` (``ActivateDisks``).
Not for: the requests that Ganeti makes (:mod:`osprovider.ganeti.request`).
"""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from osprovider.errors import DeviceError, OsproviderError, ToolError, UsageError, reason_of
from osprovider.log import reporter
from osprovider.run import run

__all__ = ["ActiveDisk", "active_disk"]

_DATA = Path("/var/lib/ganeti")
_FIELDS = ("name", "oper_state", "status", "disks_active", "pnode")
_SEPARATOR = "|"
_DISK = re.compile(r"(?m)^(?P<node>[^\s:]+):disk/(?P<index>\d+):(?P<path>.*)$")
_WARNING = re.compile(r"(?m)^.* - WARNING: (.*\S)")  # in a job's log (Ganeti's lib/mcpu.py)
_NAME = re.compile(r"[\w][\w.-]*", re.ASCII)

# As SshRunner has it: the cluster's host key, whatever the node's name, and never a question.
_SSH = (
    *("ssh", "-q", "-oEscapeChar=none", "-oHashKnownHosts=no", "-oUserKnownHostsFile=/dev/null", "-oCheckHostIp=no"),
    *("-oConnectTimeout=10", "-oBatchMode=yes", "-oStrictHostKeyChecking=yes"),
)


@dataclass(frozen=True, slots=True)
class ActiveDisk:
    """A disk of an instance that is not running.

    Attributes:
        instance: its whole name.
        path: the block device, or the file, on this node.
    """

    instance: str
    path: Path


@dataclass(frozen=True, slots=True)
class _Instance:
    """What Ganeti says of an instance."""

    name: str
    running: str
    status: str
    disks_active: str
    node: str


@contextmanager
def active_disk(instance: str, run_directory: Path, index: int = 0) -> Iterator[ActiveDisk]:
    """Have Ganeti activate an instance's disks, and deactivate them again unless they were active before.

    Args:
        instance: its name, as `gnt-instance` takes it.
        run_directory: where is noted that they are active for us, so that the next one of us knows it after a crash.
        index: of the disk that is wanted.

    Raises:
        UsageError: this is no node of a cluster, or there is no such instance.
        DeviceError: the instance is running, or may be; its disks are on another node, which is named; or they cannot
            be activated.
    """
    found = _look_up(instance)
    _refuse(found)
    with _noted(found.name, run_directory) as (note, was_ours):
        if found.disks_active == "Y" and not was_ours:
            yield _activate(found, index)
            return
        os.write(note, b"active\n")
        try:
            disk = _activate(found, index)
            yield disk
        except BaseException:
            try:
                _deactivate(found, note)
            except OsproviderError as error:  # the first error is the one that counts
                reporter.warning(str(error))
            raise
        _deactivate(found, note)


def _look_up(instance: str) -> _Instance:
    if not _NAME.fullmatch(instance):
        raise UsageError(f"{instance!a} is no instance's name: give it as gnt-instance list shows it")
    words = ["list", "--no-headers", f"--separator={_SEPARATOR}", f"--output={','.join(_FIELDS)}", instance]
    try:
        line = _gnt_instance(words)
    except ToolError as error:
        raise UsageError(f"instance {instance}: {error.last_line or error}") from error
    values = line.split(_SEPARATOR)
    if len(values) != len(_FIELDS):
        raise DeviceError(f"instance {instance}: Ganeti answers {line!a}, which is not understood")
    return _Instance(*values)


def _refuse(found: _Instance) -> None:
    """Refuse what is running, or is not here."""
    here = _own_name()
    if found.node != here:
        raise DeviceError(
            f"instance {found.name}: its disks are on {found.node}, and this is {here}: run the same command there"
        )
    if found.running == "Y":
        raise DeviceError(
            f"instance {found.name} is running: shut it down first (gnt-instance shutdown {found.name}), so that its "
            "file systems are whole"
        )
    if found.running != "N":
        raise DeviceError(
            f"instance {found.name}: Ganeti cannot tell whether it is running ({found.status}): see gnt-cluster verify"
        )


@contextmanager
def _noted(name: str, run_directory: Path) -> Iterator[tuple[int, bool]]:
    """A note that an instance's disks are active because of us, locked; and whether one of us has left it."""
    path = run_directory / "activated" / name
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise DeviceError(f"{path}: cannot be written: {reason_of(error)}") from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DeviceError(f"instance {name}: another osprovider uses its disks: wait for its end") from error
        yield fd, os.fstat(fd).st_size > 0
    finally:
        os.close(fd)


def _activate(found: _Instance, index: int) -> ActiveDisk:
    with reporter.step(f"activate the disks of {found.name}"):
        try:
            said = _gnt_instance(["activate-disks", found.name])
        except ToolError as error:
            raise DeviceError(f"instance {found.name}: its disks cannot be activated: {_said_in(error)}") from error
    disks = {int(match["index"]): match["path"] for match in _DISK.finditer(said)}
    if index not in disks:
        raise DeviceError(f"instance {found.name} has no disk {index}; it has {len(disks)} disks, from 0 on")
    if not disks[index].startswith("/"):
        raise DeviceError(
            f"instance {found.name}: disk {index} is {disks[index]}, which is no path on this node: disks that only "
            "QEMU reaches are not supported"
        )
    return ActiveDisk(found.name, Path(disks[index]))


def _deactivate(found: _Instance, note: int) -> None:
    """Give the disks back; Ganeti itself refuses where the instance has been started meanwhile."""
    with reporter.step(f"deactivate the disks of {found.name}"):
        try:
            _gnt_instance(["deactivate-disks", found.name])
        except ToolError as error:
            raise DeviceError(
                f"instance {found.name}: its disks are still active: {_said_in(error)}; "
                f"gnt-instance deactivate-disks {found.name}"
            ) from error
    os.ftruncate(note, 0)


def _gnt_instance(words: Sequence[str]) -> str:
    """What `gnt-instance` prints, on whatever node it works.

    Raises:
        ToolError: it failed.
        UsageError: this is no node of a cluster.
    """
    command = ["gnt-instance", *words]
    master = _ssconf("master_node")
    if master != _own_name():
        known_hosts = f"-oGlobalKnownHostsFile={_DATA / 'known_hosts'}"
        cluster = f"-oHostKeyAlias={_ssconf('cluster_name')}"
        command = [*_SSH, known_hosts, cluster, f"root@{master}", shlex.join(command)]
    done = run(command, check=False)
    if done.status != 0:
        said = done.stdout + b"\n" + done.stderr  # a job's log goes to the former, what became of it to the latter
        raise ToolError(command, done.status, said.decode(errors="replace"))
    return done.text


def _said_in(error: ToolError) -> str:
    """What Ganeti says of a failed job, in one line: the cause stands in its warnings, on whatever node it was."""
    return "; ".join([*_WARNING.findall(error.tail), error.last_line or str(error)])


def _ssconf(key: str) -> str:
    """What Ganeti tells every node of its cluster."""
    try:
        return (_DATA / f"ssconf_{key}").read_text().strip()
    except OSError as error:
        raise UsageError(
            f"this is no node of a Ganeti cluster ({_DATA}/ssconf_{key}: {reason_of(error)}): name the disk by its path"
        ) from error


def _own_name() -> str:
    """What Ganeti calls this node (``lib/netutils.py``, ``Hostname.GetFqdn``)."""
    return socket.getfqdn().lower()
