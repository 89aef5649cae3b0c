"""Disks that QEMU's block layer makes up: ones that fail where they are told to, are short, or forget.

A disk is a file that qemu-storage-daemon serves through FUSE; a loop device on it is a block device like it. So a
device that fails on command needs neither device-mapper nor a kernel module.

A write that the file beneath a loop device takes only the beginning of counts as done for some kernels (Linux 6.18's
drivers/block/loop.c, lo_complete_rq), and whether a write of several MiB ends so depends on where the buffer's pages
lie. A single page is taken whole or not at all, so that where it matters no request is larger.

Not for: disks that osprovider itself has QEMU serve.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.loops import attached

__all__ = ["device_on", "failing", "forgetful", "served"]

_SECONDS_TO_START = 60


@contextmanager
def served(place: Path, node: Mapping[str, Any]) -> Iterator[Path]:
    """A disk for as long as the context lasts.

    Args:
        place: a path that is free; the disk will be there.
        node: QEMU's description of a block node (qemu-storage-daemon(1), ``--blockdev``).
    """
    place.touch()
    pid_file = place.with_name(f"{place.name}.pid")
    words = [
        *("setpriv", "--pdeathsig", "KILL", "--"),
        *("qemu-storage-daemon", "--blockdev", json.dumps({**node, "node-name": "disk"})),
        *("--export", f"type=fuse,id=disk,node-name=disk,mountpoint={place},writable=on"),
        *("--pidfile", str(pid_file)),  # written once all of the above is done
    ]
    with subprocess.Popen(words, stdin=subprocess.DEVNULL) as daemon:
        try:
            end = time.monotonic() + _SECONDS_TO_START
            while not pid_file.exists():
                assert daemon.poll() is None
                assert time.monotonic() < end
                time.sleep(0.01)
            _one_at_a_time(place)
            yield place
        finally:
            # Not by SIGTERM: QEMU 7.2's only notes it, and where that is between looking at the note and poll(2), waits
            # for the next request. Whatever was answered is in the backing file's page cache.
            daemon.kill()
            daemon.wait()
            # What it served stays.
            subprocess.run(["umount", "--lazy", place], check=False, stderr=subprocess.DEVNULL)
            pid_file.unlink(missing_ok=True)
            place.unlink()


def _one_at_a_time(disk: Path) -> None:
    """Have the kernel send a large direct write's parts one after the other.

    QEMU 7.2's export takes a request in while it works on another, into the same buffer, and so writes what belongs
    elsewhere.
    """
    control = disk.with_name(f"{disk.name}.control")
    control.mkdir()
    subprocess.run(["mount", "-t", "fusectl", "none", control], check=True)
    try:
        (control / str(os.minor(disk.stat().st_dev)) / "max_background").write_text("1")
    finally:
        subprocess.run(["umount", control], check=True)
        control.rmdir()


@contextmanager
def failing(
    backing: Path, place: Path, *, at: int | None = None, on: Sequence[str] = ("write",), error: int = 5
) -> Iterator[Path]:
    """A disk that holds what the file ``backing`` holds, but fails.

    Args:
        backing: the file.
        place: as for :func:`served`.
        at: the byte that no request may touch, a multiple of 512; None for any.
        on: what fails: ``read``, ``write``, ``write-zeroes``, ``discard``, ``flush``.
        error: the errno that it fails with.
    """
    place_of_error = {} if at is None else {"sector": at // 512}
    rules = [{"event": "none", "iotype": kind, "errno": error, **place_of_error} for kind in on]
    injected = {"inject-error": rules} if rules else {}
    image = {"driver": "file", "filename": str(backing), "discard": "unmap"}
    with served(place, {"driver": "blkdebug", "discard": "unmap", "image": image, **injected}) as disk:
        yield disk


@contextmanager
def forgetful(place: Path, size: int) -> Iterator[Path]:
    """A disk of ``size`` bytes that takes everything and keeps nothing: it reads as zeros."""
    with served(place, {"driver": "null-co", "size": size, "read-zeroes": True}) as disk:
        yield disk


@contextmanager
def device_on(disk: Path) -> Iterator[Path]:
    """A block device on a file that cannot take every write: it fails exactly where that does.

    Args:
        disk: the file: a served disk, or one whose file system fills up.
    """
    with attached(disk) as device:
        largest = Path("/sys/block", device.name, "queue/max_sectors_kb")
        before = largest.read_text()
        try:
            largest.write_text(str(os.sysconf("SC_PAGE_SIZE") // 1024))
            yield device
        finally:
            largest.write_text(before)  # it outlives the attachment
