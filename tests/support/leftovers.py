"""What a test process left behind: loop devices, mounts, processes and files.

A snapshot is taken before the tests and another one after them; what is in the second alone is a leftover. Other
runs, other processes of this run, and anything else may go on on the same machine at the same time, so a snapshot only
holds what is certainly this process': loop devices whose backing file, and mounts whose place, is beneath the
directories given or bears the name of its part of the run (`tests.support.runs.own_part`); this process' descendants.
Descendants stay descendants because the watching process adopts the orphans among them (prctl(2),
PR_SET_CHILD_SUBREAPER), so that a program cannot slip away by forking twice.

Not for: clearing away. A test that leaves something behind is to be repaired.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path

from tests.support import processes
from tests.support.runs import loop_devices, mounts, own_part

__all__ = ["Snapshot", "children", "difference", "no_leftovers", "snapshot"]

_PR_SET_CHILD_SUBREAPER = 36

# How long the kernel may take to detach what nobody holds any more; it does so after the last holder has ended.
_SECONDS_TO_SETTLE = 60


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What there is of a process' at one moment; every entry a line that a person understands.

    Attributes:
        loop_devices: ``loop3 (/backing/file)``.
        mounts: ``/mount/point (type)``, as this process' mount namespace has them.
        processes: ``1234 (command line)`` of this process' descendants, the finished ones left out.
        files: paths beneath the directories whose contents are watched.
    """

    loop_devices: frozenset[str]
    mounts: frozenset[str]
    processes: frozenset[str]
    files: frozenset[str]


def snapshot(directories: Sequence[Path], *, contents: Sequence[Path] = ()) -> Snapshot:
    """Return what there is of this process'.

    Args:
        directories: where it alone keeps its files: loop devices and mounts beneath are its own.
        contents: directories whose every file counts as well.
    """
    part = f"{own_part()}/"
    roots = [f"{directory.resolve()}/" for directory in directories]

    def is_ours(path: str) -> bool:
        return part in f"{path}/" or any(f"{path}/".startswith(root) for root in roots)

    return Snapshot(
        loop_devices=frozenset(f"{device} ({file})" for device, file in loop_devices().items() if is_ours(file)),
        mounts=frozenset(f"{place} ({kind})" for place, kind in mounts() if is_ours(place)),
        processes=frozenset(_descendants(os.getpid())),
        files=frozenset(str(path) for root in contents for path in root.rglob("*")),
    )


def difference(before: Snapshot, after: Snapshot) -> list[str]:
    """Return what `after` has and `before` has not, one line a thing with its kind in front."""
    return [
        f"{field.name.replace('_', ' ')}: {entry}"
        for field in fields(Snapshot)
        for entry in sorted(getattr(after, field.name) - getattr(before, field.name))
    ]


@contextmanager
def no_leftovers(directories: Sequence[Path], *, contents: Sequence[Path] = ()) -> Iterator[None]:
    """Watch the body, and fail where it leaves something behind.

    Args:
        directories: as `snapshot` takes them.
        contents: likewise.

    Raises:
        AssertionError: with every leftover on a line of its own.
    """
    _adopt_orphans()
    before = snapshot(directories, contents=contents)
    own = children()
    yield
    end = time.monotonic() + _SECONDS_TO_SETTLE
    while True:
        _reap(children() - own)
        left = difference(before, snapshot(directories, contents=contents))
        if not left or time.monotonic() > end:
            break
        time.sleep(0.2)
    assert not left, "left behind:\n" + "\n".join(left)


def children() -> set[int]:
    """Return this process' children, those of every thread of its and the adopted ones."""
    found: set[int] = set()
    for thread in processes.directories("/proc/self/task"):
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that ends leaves its children to another
            found.update(int(pid) for pid in (thread / "children").read_text().split())
    return found


def _adopt_orphans() -> None:
    """Make this process the new parent of its descendants' orphans."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def _reap(pids: set[int]) -> None:
    """Take away those of `pids` that have ended: until then, a PID namespace that they were in does not end."""
    for pid in pids:
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def _descendants(ancestor: int) -> Iterable[str]:
    """Yield the living descendants of process `ancestor`."""
    for pid in processes.family(ancestor) - {ancestor}:
        directory = Path(f"/proc/{pid}")
        with suppress(OSError):  # ended since it was listed
            command = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            if (directory / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
                yield f"{pid} ({command})"
