"""The serial console of an instance of Ganeti's, recorded from its first byte on.

Ganeti's KVM hypervisor puts the console on a unix socket that QEMU makes when the instance starts. QEMU keeps nothing
for those who come late, so a recorder waits for the socket, and for the next one when the instance starts again.

Not for: `gnt-instance console`, which finds the socket taken while a recorder runs.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.console import ConsoleLog
from tests.support.containers import Container

__all__ = ["recorded"]

_SECONDS_BETWEEN_LOOKS = 0.05


@contextmanager
def recorded(node: Container, instance: str, path: Path) -> Iterator[ConsoleLog]:
    """Record the console of `instance`, whenever it runs on `node`, to the file `path`."""
    stop = threading.Event()
    # Not by way of /var/run: that is an absolute link, which from outside leads to the machine's own /run.
    address = node.root / f"run/ganeti/kvm-hypervisor/ctrl/{instance}.serial"
    thread = threading.Thread(target=_record, args=(str(address), path, stop), daemon=True)
    thread.start()
    try:
        yield ConsoleLog(path)
    finally:
        stop.set()
        thread.join()


def _record(address: str, path: Path, stop: threading.Event) -> None:
    """Append what the socket at `address` gives to `path`, over and over, until `stop` is set."""
    with path.open("ab", buffering=0) as log:
        while not stop.wait(_SECONDS_BETWEEN_LOOKS):
            # Missing or refusing: the instance does not run. Reset: it was destroyed. Both are a reason to look again.
            with suppress(OSError), socket.socket(socket.AF_UNIX) as console:
                console.connect(address)
                console.settimeout(0.2)
                _copy(console, log.write, stop)


def _copy(console: socket.socket, write: Callable[[bytes], object], stop: threading.Event) -> None:
    """Hand on what `console` gives until it ends or `stop` is set."""
    while not stop.is_set():
        with suppress(TimeoutError):
            data = console.recv(65536)
            if not data:
                return
            write(data)
