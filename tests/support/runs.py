"""A run of the tests: its name, its directory, and the clearing away of runs that were killed.

A run is the process that the operator started (``pytest``; with xdist its controller) and everything beneath it. Its
name holds that process' id and start time, so that anyone can tell for certain whether it still lives, and whatever
the run makes that outlives a process (directories, loop devices by their backing file) bears the name. A run that
begins removes what dead runs left, and never anything of one that lives: two check-outs may be tested on one machine
at once.

Not for: finding out whether a test left something behind; that is `tests.support.leftovers`.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support import processes

__all__ = [
    "MARKER",
    "backing_file",
    "die_with_parent",
    "enter",
    "locked",
    "loop_devices",
    "mounts",
    "own_part",
    "run_name",
    "start_time",
]

#: The variable that tells the processes of a run apart from everybody else's. Its value is the run's name.
MARKER = "OSPROVIDER_TEST_RUN"

#: Runs keep disks and trees of gigabytes, which /tmp, often in memory, should not hold.
PARENT = Path("/var/tmp")  # noqa: S108 - the name is checked to be ours before anything is put there

_NAME = re.compile(r"osprovider-test-(?P<pid>\d+)-(?P<start>\d+)")
_PR_SET_PDEATHSIG = 1
_LOOP_CLR_FD = 0x4C01  # loop(4)


def start_time(pid: int) -> int | None:
    """Return when process `pid` started, in clock ticks after boot (proc(5), field 22), or None where it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The second field is the name in parentheses and may hold blanks and parentheses itself; the third is the state.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def run_name() -> str:
    """Return the name of the run that this process belongs to, ``osprovider-test-PID-START``."""
    inherited = os.environ.get(MARKER)
    if inherited is not None and _is_alive(inherited):
        return inherited
    # An xdist worker is the controller's own child, and all of them have to come to one name.
    pid = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
    return f"osprovider-test-{pid}-{start_time(pid)}"


def own_part() -> str:
    """Return ``RUN/PID``: a relative path for what this process makes, apart from the run's other processes."""
    return f"{run_name()}/{os.getpid()}"


def _is_alive(name: str) -> bool:
    """Tell whether the process that the name `name` speaks of lives. A name of another form counts as alive."""
    match = _NAME.search(name)
    return match is None or start_time(int(match["pid"])) == int(match["start"])


@contextmanager
def enter() -> Iterator[Path]:
    """Take part in the run, and give its directory.

    Every process that takes part holds the directory's lock shared, and the last to leave removes it. What dead runs
    left is cleared away first.
    """
    _sweep()
    name = run_name()
    os.environ[MARKER] = name
    directory = PARENT / name
    handle = _share(directory)
    try:
        yield directory
    finally:
        with suppress(BlockingIOError):  # somebody else is still here, and removes it
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(directory)
        os.close(handle)


def _share(directory: Path) -> int:
    """Make `directory` where it is missing, lock it shared, and return the file descriptor that holds the lock."""
    while True:
        directory.mkdir(mode=0o700, exist_ok=True)
        if directory.stat().st_uid != os.geteuid() or directory.is_symlink():
            message = f"{directory} belongs to somebody else; remove it"
            raise RuntimeError(message)
        handle = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(handle, fcntl.LOCK_SH)
        # The last one of the run may have removed it while we waited for the lock.
        with suppress(FileNotFoundError):
            if directory.stat().st_ino == os.fstat(handle).st_ino:
                return handle
        os.close(handle)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on the file `path`, which is made where it is missing."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies; an xdist worker would else finish its test first."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")


def loop_devices() -> dict[str, str]:
    """Return the loop devices in use, as kernel name (``loop3``) and backing file as the kernel knows it.

    The file of a mount namespace that is gone is named from its mount's root: the path is for recognising, not for
    opening.
    """
    devices = (path.name for path in Path("/sys/block").glob("loop*"))
    return {device: file for device in devices if (file := backing_file(device))}


def backing_file(device: str) -> str:
    """Return the backing file of a loop device as `loop_devices` does; "" where the device is not in use."""
    with suppress(OSError):  # detached since it was listed
        return Path(f"/sys/block/{device}/loop/backing_file").read_text(errors="surrogateescape").strip()
    return ""


def mounts() -> list[tuple[str, str]]:
    """Return the place and the type of every mount that this process sees, as they were made (proc(5), mountinfo)."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        place = before.split(" ")[4].encode().decode("unicode_escape")
        found.append((place, after.split(" ")[0]))
    return found


def _remove(directory: Path) -> None:
    """Remove `directory` and all that is in it, but nothing that is mounted there."""
    subprocess.run(["rm", "--recursive", "--force", "--one-file-system", directory], check=False, capture_output=True)


def _detach_dead(device: str) -> None:
    """Detach a loop device, unless it has become somebody else's: as long as it is open here, it cannot."""
    with suppress(OSError):
        handle = os.open(f"/dev/{device}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if not _is_alive(backing_file(device)):
                fcntl.ioctl(handle, _LOOP_CLR_FD)
        finally:
            os.close(handle)


def _sweep() -> None:
    """End the processes, unmount, detach and remove what runs made whose owner is dead."""
    for directory in processes.directories():
        with suppress(OSError):  # ended since it was listed
            environment = (directory / "environ").read_bytes().split(b"\0")
            values = [entry for entry in environment if entry.startswith(MARKER.encode() + b"=")]
            if values and not _is_alive(values[0].decode()):
                os.kill(int(directory.name), signal.SIGKILL)
    for place, _ in reversed(mounts()):
        if _NAME.search(place) and not _is_alive(place):
            subprocess.run(["umount", "--lazy", place], check=False, capture_output=True)
    for device, backing in loop_devices().items():
        if not _is_alive(backing):
            queue = Path("/sys/block", device, "queue")
            with suppress(OSError):  # what served_disks.device_on has made small; it outlives the attachment
                (queue / "max_sectors_kb").write_text((queue / "max_hw_sectors_kb").read_text())
            _detach_dead(device)
    for directory in PARENT.glob("osprovider-test-*"):
        if not _is_alive(directory.name) and not directory.is_symlink():
            _remove(directory)
