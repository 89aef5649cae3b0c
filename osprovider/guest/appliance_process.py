"""The process around a libguestfs appliance: it boots it, mounts the guest in it, and lends the root directory out.

Started by :mod:`osprovider.guest.appliance` alone, in mount, PID, network and IPC namespaces of its own: as their first
process it takes QEMU and everything else with it when it ends, and nobody else sees what it mounts. It speaks over one
``SOCK_SEQPACKET`` socket, whose number is its argument:

1. it gets an :class:`Order` as JSON;
2. it says ``{"stage": "launched"}`` when the appliance runs, and ``{"stage": "mounted"}`` when the guest can be used,
   with a descriptor of the root directory as FUSE shows it;
3. it gets ``finish`` when all descriptors below that one are closed, stores everything, and says ``{"stage": "done"}``;
4. at any time it says ``{"error": …}`` and ends; and where the socket is closed at the other end, it ends at once.

Not for: the guest protocol; the kernel, through FUSE, asks libguestfs for every file, so that the one implementation on
descriptors serves both backends, and the same rules hold however a path, a name or a link in it is spelt.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from osprovider import linux
from osprovider.linux import MountFlag

if TYPE_CHECKING:
    import guestfs

__all__ = ["Order", "main"]

# libguestfs puts root's sockets into /tmp, always (its lib/tmpdirs.c), so this process has a /tmp of its own, where
# what it is to use has short names that QEMU's options cannot misread.
_TMP = Path("/tmp")  # noqa: S108
_DRIVE = _TMP / "drive"
_CACHE = _TMP / "cache"
_GUEST = _TMP / "guest"
_MEMORY_MIB = 512
_BUSY_SECONDS = 3.0
# Nobody else changes the file system, so that names may be kept for ever. Attributes may not: FUSE takes the names of a
# hard link for files of their own. libguestfs' cache of attributes is off, too (its -1 would mean 60 s).
_FUSE_OPTIONS = "big_writes,entry_timeout=86400,attr_timeout=0,nosuid,nodev,noexec"
_NO_CACHE = -2
# A guest that has taken over its QEMU starts no program and gains no privilege; and a write error is the guest's to
# hear of: it would be a stopped machine else, and we would wait for it.
_QEMU_OPTIONS = {
    "-sandbox": "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    "-global": "scsi-hd.werror=report",
}


@dataclass(frozen=True, slots=True)
class Order:
    """What to serve.

    Attributes:
        device: the file or block device that the file system fills.
        driver: of the appliance's kernel, that mounts it.
        options: mount options, comma-separated.
        cache: where libguestfs keeps the appliance that it builds once.
        accelerated: with KVM; else emulated.
        read_only: nothing is written to the device.
    """

    device: str
    driver: str
    options: str
    cache: str
    accelerated: bool
    read_only: bool

    def to_json(self) -> bytes:
        """As it goes over the socket."""
        return json.dumps(asdict(self)).encode()


def main() -> int:
    """Serve one order; returns the exit status."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    channel.set_inheritable(False)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # whoever started us decides
    try:
        _serve(channel, Order(**json.loads(channel.recv(1 << 16))))
    except Exception as error:
        channel.send(json.dumps({"error": _one_line(error)}).encode())
        return 1
    channel.send(b'{"stage": "done"}')
    return 0


def _serve(channel: socket.socket, order: Order) -> None:
    import guestfs

    _make_private_tmp(order)
    handle = guestfs.GuestFS(python_return_dict=True)
    listener = threading.Thread(target=_obey, args=(channel,), daemon=True)
    listener.start()
    _launch(handle, order)
    handle.set_event_callback(lambda *_: _fail(channel, "QEMU ended unexpectedly"), guestfs.EVENT_SUBPROCESS_QUIT)
    channel.send(b'{"stage": "launched"}')
    handle.mount_vfs(order.options, order.driver, "/dev/sda", "/")
    handle.mount_local(str(_GUEST), readonly=order.read_only, options=_FUSE_OPTIONS, cachetimeout=_NO_CACHE)
    root = os.open(_GUEST, os.O_PATH | os.O_DIRECTORY)
    socket.send_fds(channel, [b'{"stage": "mounted"}'], [root])
    os.close(root)
    handle.mount_local_run()  # until it is unmounted
    listener.join()
    if not order.read_only:
        _store(handle)
    handle.umount("/")
    handle.shutdown()
    handle.close()


def _make_private_tmp(order: Order) -> None:
    """Mount a file system of this namespace's own on ``/tmp``, with the drive and the cache in it."""
    device = os.open(order.device, os.O_PATH)
    cache = os.open(order.cache, os.O_PATH | os.O_DIRECTORY)
    linux.mount("tmpfs", str(_TMP), "tmpfs", MountFlag.NOSUID | MountFlag.NODEV, "mode=0700")
    _DRIVE.touch()
    _CACHE.mkdir()
    _GUEST.mkdir()
    for fd, place in ((device, _DRIVE), (cache, _CACHE)):
        linux.mount(f"/proc/self/fd/{fd}", str(place), None, MountFlag.BIND)
        os.close(fd)


def _launch(handle: guestfs.GuestFS, order: Order) -> None:
    """Boot the appliance, without a network and with nothing but the one drive."""
    handle.set_backend("direct")
    handle.set_backend_settings([] if order.accelerated else ["force_tcg"])
    handle.set_tmpdir(str(_TMP))
    handle.set_cachedir(str(_CACHE))
    handle.set_network(False)
    handle.set_memsize(_MEMORY_MIB)
    handle.set_recovery_proc(False)  # the PID namespace ends QEMU more surely
    for option, value in _QEMU_OPTIONS.items():
        handle.config(option, value)
    handle.add_drive_opts(str(_DRIVE), format="raw", readonly=order.read_only)
    try:
        handle.launch()
    except RuntimeError as error:
        raise RuntimeError("QEMU does not start it; libguestfs-test-tool may say why") from error


def _store(handle: guestfs.GuestFS) -> None:
    """Store all that was written to the file system; guestfs_sync would not say whether any of it was lost."""
    try:
        handle.debug("sh", ["sync --file-system /sysroot"])  # syncfs(2)
    except RuntimeError as error:
        raise RuntimeError(f"it lost what was written to the guest ({_one_line(error)})") from error


def _obey(channel: socket.socket) -> None:
    """Wait for the word to finish, and unmount FUSE's view; end everything where whoever started us is gone."""
    if channel.recv(16) != b"finish":
        os._exit(1)
    end = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            linux.umount(str(_GUEST))
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > end:
                _fail(channel, f"a file of the guest is still open: {_one_line(error)}")
            time.sleep(0.02)
        else:
            return


def _fail(channel: socket.socket, what: str) -> NoReturn:
    """Say what went wrong, and end at once, in whatever thread and wherever libguestfs is."""
    channel.send(json.dumps({"error": what}).encode())
    os._exit(1)


def _one_line(error: Exception) -> str:
    """What an exception says, its first line: libguestfs goes on with advice for its developers."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'the socket'}: {error.strerror.lower()}"
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


if __name__ == "__main__":
    sys.exit(main())
