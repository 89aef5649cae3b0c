"""The guest protocol on a file system that the node's kernel must not parse: a virtual machine mounts it.

The node's kernel sees the guest through FUSE only, so that the very code that works on a mounted file system
(:class:`osprovider.guest.host.HostGuest`) works here, and leaves the same trees.
Not for: running libguestfs itself, which has a process of its own (:mod:`osprovider.guest.appliance_process`).
"""

from __future__ import annotations

import importlib.util
import json
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

import osprovider
from osprovider.descriptors import opened
from osprovider.errors import ApplianceError, GuestError
from osprovider.guest import mounting
from osprovider.guest.answering import answering
from osprovider.guest.appliance_memory import kernels, memory_mib, swap_file
from osprovider.guest.appliance_order import LIBGUESTFS_MIB, Drive, Order
from osprovider.guest.host import HostGuest, is_gone
from osprovider.guest.mounting import Volume
from osprovider.log import reporter
from osprovider.paths import Directories
from osprovider.run import BASE_ENVIRONMENT

__all__ = ["DRIVERS", "appliance", "pack", "require_appliance"]

DRIVERS = {
    **mounting.DRIVERS,
    "vfat": ("vfat", "utf8,quiet"),  # quiet: it keeps no owners and modes, and need not say so
    "swap": ("", ""),
}
"""What a guest's volumes may hold, and how each is mounted: by which driver, with which options."""

_KVM = Path("/dev/kvm")
_PROCESS = "osprovider.guest.appliance_process"
# The first launch on a node builds the appliance, too. Emulated, one in some hundred hangs on a busy node, sooner or
# later (seen with QEMU 7.2 and Linux 6.1): where nothing was written yet, it is started once more.
_KVM_SECONDS = 90.0
_EMULATED_SECONDS = (150.0, 300.0)
_MOUNT_SECONDS = 300.0
_FINISH_SECONDS = 300.0
_PACK_SECONDS = 12 * 3600.0  # of terabytes; or to trim them
_USE_SECONDS = 900.0
_END_SECONDS = 10.0
_LAST_WORDS_SECONDS = 1.0
# The first process in the PID namespace takes all others with it; it goes with unshare, and that with us.
_NAMESPACES = (
    *("setpriv", "--pdeathsig", "KILL", "--"),
    *("unshare", "--mount", "--propagation", "slave", "--net", "--ipc"),
    *("--pid", "--mount-proc", "--fork", "--kill-child", "--"),
)
# The process and its QEMU give back to the kernel what they freed (mallopt(3)).
_THRIFT = {"MALLOC_MMAP_THRESHOLD_": "32768", "MALLOC_TRIM_THRESHOLD_": "65536"}
_PYTHONPATH = str(Path(osprovider.__file__).parents[1])


def require_appliance() -> None:
    """Refuse, before anything is written, where this node cannot run the appliance.

    Raises:
        ApplianceError: says what to install.
    """
    missing = []
    if importlib.util.find_spec("guestfs") is None:
        missing.append("python3-guestfs")
    if not kernels():
        missing.append("a kernel in /boot (linux-image-cloud-amd64)")
    if missing:
        raise ApplianceError(
            f"the libguestfs appliance needs {' and '.join(missing)}: install it, or set isolation: host"
        )
    if not Path("/dev/fuse").exists():
        raise ApplianceError(
            "the libguestfs appliance needs /dev/fuse: load the kernel's module fuse, or set isolation: host"
        )


@contextmanager
def appliance(
    volumes: Sequence[Volume],
    directories: Directories,
    *,
    read_only: bool = False,
    overlay: bool = False,
    trim: bool = False,
    archive: int | None = None,
) -> Iterator[HostGuest]:
    """Boot an appliance with a guest's file systems, as long as the body runs.

    Before they are mounted they get their UUIDs, and grow, as their volumes say.

    Args:
        volumes: the root, which is mounted at ``/``, and what else belongs to the guest.
        directories: the cache keeps the appliance that libguestfs builds once, 250 MB; the run directory remembers,
            until the node boots again, that KVM does not work on it.
        read_only: the guest cannot be written.
        overlay: it can, but what is written is kept in memory and lost in the end: the devices are only read.
        trim: after the body the devices are told what the file systems do not use.
        archive: after the body the tree is packed to this descriptor, as :func:`pack` does it.

    Raises:
        ApplianceError: the appliance does not start, ended, or took too long.
        GuestError: it cannot change or mount a file system, or lost what was written.
        ImageError: an xfs cannot be read.
    """
    order = _order(volumes, directories, read_only=read_only)._replace(overlay=overlay, trim=trim)
    with ExitStack() as stack:
        with reporter.step("start the libguestfs appliance") as detail:
            server = _launched(stack, order, directories.run, detail, [] if archive is None else [archive])
            root = server.mounted_root()
        with opened(root), server.in_use():
            yield HostGuest(root)
        server.finish(_FINISH_SECONDS if archive is None and not trim else _PACK_SECONDS)


def pack(volumes: Sequence[Volume], directories: Directories, archive: int) -> None:
    """Write a guest's tree as a tar archive, by the tar of an appliance: it sees hard links, which FUSE does not show.

    Args:
        volumes: as for :func:`appliance`.
        directories: likewise.
        archive: a descriptor of a file or a pipe.

    Raises:
        GuestError: as for :func:`appliance`; or the archive cannot be written.
    """
    order = _order(volumes, directories, read_only=True)._replace(lend=False)
    with ExitStack() as stack:
        with reporter.step("start the libguestfs appliance") as detail:
            server = _launched(stack, order, directories.run, detail, [archive])
        server.packed()


def _order(volumes: Sequence[Volume], directories: Directories, *, read_only: bool) -> Order:
    """What the appliance's process is to do."""
    require_appliance()
    for volume in volumes:
        if volume.filesystem not in DRIVERS:
            known = ", ".join(DRIVERS)
            what = f"its file system, {volume.filesystem}, is none of {known}"
            raise GuestError(f"cannot mount {volume.device}: {what}")
        if not volume.device.exists():
            raise GuestError(f"cannot mount {volume.device}: there is no such file or device")
    cache = directories.cache / "appliance"
    cache.mkdir(mode=0o755, parents=True, exist_ok=True)
    mode = "ro" if read_only else "rw"
    return Order(
        drives=tuple(
            Drive(
                device=str(volume.device.absolute()),
                filesystem=volume.filesystem,
                driver=DRIVERS[volume.filesystem][0],
                options=",".join(filter(None, (DRIVERS[volume.filesystem][1], mode, "nosuid,nodev,noexec,noatime"))),
                mount=volume.mount,
                uuid=volume.uuid,
                grow=volume.grow,
                fill=volume.fill,
                subvolumes=volume.subvolumes,
            )
            for volume in volumes
        ),
        cache=str(cache.absolute()),
        accelerated=True,
        read_only=read_only,
        memory_mib=memory_mib(volumes),
    )


def _launched(
    stack: ExitStack, order: Order, run: Path, detail: Callable[[str], None], fds: Sequence[int] = ()
) -> _Server:
    """Start the appliance with KVM, or without where that fails; a node where it fails is remembered until it boots.

    KVM is tried rather than looked for: there are machines that offer it, and on which every guest hangs.
    """
    kvm_fails = run / "kvm-fails"
    failure = None
    if _KVM.exists() and not kvm_fails.exists():
        try:
            return _started(stack, order, _KVM_SECONDS, fds)
        except GuestError as error:
            failure = str(error)
            reporter.debug(f"KVM does not work: {failure}")
    order = order._replace(accelerated=False)
    *tries, last = _EMULATED_SECONDS
    for seconds in tries:
        with suppress(_LateError):
            server = _started(stack, order, seconds, fds)
            break
        reporter.warning(f"the libguestfs appliance is not launched after {seconds:.0f} s; trying once more")
    else:
        server = _started(stack, _roomy(order), last, fds)
    detail("emulated, without KVM")
    if failure is not None:
        run.mkdir(mode=0o755, parents=True, exist_ok=True)
        kvm_fails.write_text(f"{failure}\n")
    return server


def _started(stack: ExitStack, order: Order, seconds: float, fds: Sequence[int]) -> _Server:
    """Start the appliance, within that time; with more memory where it ends at once, as a larger kernel might want."""
    if order == _roomy(order):
        return _tried(stack, order, seconds, fds)
    try:
        return _tried(stack, order, seconds, fds)
    except _LateError:
        raise
    except ApplianceError as error:
        server = _tried(stack, _roomy(order), seconds, fds)  # else memory was not what it lacked
        reporter.warning(f"{error}; with {LIBGUESTFS_MIB} MiB of memory it was launched")
        return server


def _roomy(order: Order) -> Order:
    """An order with at least as much memory as libguestfs would take."""
    return order._replace(memory_mib=max(order.memory_mib, LIBGUESTFS_MIB))


def _tried(stack: ExitStack, order: Order, seconds: float, fds: Sequence[int]) -> _Server:
    """Start the appliance, within that time; where it does not, nothing of it is left."""
    with ExitStack() as attempt:
        server = attempt.enter_context(answering(_process(order)))
        server.launch(order, seconds, fds)
        stack.push(attempt.pop_all())
    return server


class _LateError(ApplianceError):
    """The appliance does not get on."""


class _Server:
    """The process around the appliance, from this side of its socket.

    Args:
        process: the program ``unshare``, which ends when the last process of its PID namespace has ended.
        channel: our end of the socket.
        log: where the process writes what it says.
        device: for messages.
    """

    def __init__(self, process: subprocess.Popen[bytes], channel: socket.socket, log: IO[bytes], device: str) -> None:
        self._process = process
        self._channel = channel
        self._log = log
        self._device = device
        self._is_late = False

    def launch(self, order: Order, seconds: float, fds: Sequence[int] = ()) -> None:
        """Boot the appliance within that time."""
        socket.send_fds(self._channel, [order.to_json()], fds)
        self._expect("launched", seconds)

    def mounted_root(self) -> int:
        """A descriptor of the guest's root directory, once it is mounted; the caller's to close."""
        (root,) = self._expect("mounted", _MOUNT_SECONDS)
        return root

    def packed(self) -> None:
        """Wait until the guest's tree is packed, and the appliance has ended."""
        self._expect("done", _PACK_SECONDS)

    def finish(self, seconds: float) -> None:
        """Store what was written, do what the order says for the end, and end the appliance, within that time."""
        self._channel.send(b"finish")
        self._expect("done", seconds)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """End the appliance where the body takes far too long; where it ended, that is why the body failed."""
        timer = threading.Timer(_USE_SECONDS, self._give_up)
        timer.daemon = True
        timer.start()
        try:
            yield
        except Exception as error:
            if is_gone(error):
                raise ApplianceError(self._said(self._last_words())) from error
            raise
        finally:
            timer.cancel()

    def end(self) -> None:
        """Have the process end at once, with the appliance and all else in its namespaces, and wait until it has."""
        self._channel.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _give_up(self) -> None:
        self._is_late = True
        self._channel.shutdown(socket.SHUT_RDWR)

    def _expect(self, stage: str, seconds: float) -> list[int]:
        """Wait for word that it got this far; returns the descriptors that came with it.

        No step on the way may take longer than ``seconds``.
        """
        step = None
        while True:
            self._channel.settimeout(seconds)
            try:
                data, fds, _, _ = socket.recv_fds(self._channel, 1 << 16, 1, socket.MSG_CMSG_CLOEXEC)
            except TimeoutError:
                where = f"; it stopped at: {step}" if step else ""
                raise _LateError(self._said(f"is not {stage} after {seconds:.0f} s{where}")) from None
            except ConnectionError:
                data, fds = b"", []
            answer = json.loads(data) if data else {"error": self._last_words()}
            if answer.get("stage") == stage:
                return fds
            if "error" in answer:
                # What goes wrong while it boots, or ends it, is not the guest's file systems' fault.
                fault = GuestError if data and stage != "launched" else ApplianceError
                raise fault(self._said(answer["error"]))
            step = answer["step"]

    def _last_words(self) -> str:
        """Why it ended, as far as it said."""
        if self._log.closed:
            return "was ended, as we are asked to stop"
        if self._is_late:
            return f"was not done with after {_USE_SECONDS:.0f} s"
        with suppress(OSError):
            self._channel.settimeout(_LAST_WORDS_SECONDS)
            if data := self._channel.recv(1 << 16):
                return str(json.loads(data)["error"])
        self._log.seek(0)
        said = self._log.read().decode(errors="replace").strip().splitlines()
        return f"ended: {said[-1].strip()}" if said else "ended, and said nothing"

    def _said(self, what: str) -> str:
        return f"the libguestfs appliance with {self._device}: {what}"


@contextmanager
def _process(order: Order) -> Iterator[_Server]:
    """A process for one appliance; afterwards nothing of it is left."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with tempfile.TemporaryFile() as log, swap_file(Path(order.cache)) as (swap, swap_uuid), ours:
        with theirs:
            process = subprocess.Popen(
                [*_NAMESPACES, sys.executable, "-P", "-m", _PROCESS, str(theirs.fileno()), str(swap), swap_uuid],
                env={**BASE_ENVIRONMENT, **_THRIFT, "TMPDIR": "/tmp", "PYTHONPATH": _PYTHONPATH},  # noqa: S108
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                pass_fds=[theirs.fileno(), swap],
                process_group=0,  # a terminal's Ctrl-C is ours to handle
            )
        server = _Server(process, ours, log, order.drives[0].device)
        try:
            yield server
        finally:
            server.end()
