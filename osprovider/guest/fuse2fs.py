"""An ext file system for which the node's kernel asks fuse2fs, confined, in place of parsing it itself.

The kernel takes nothing for granted of a program that answers for a file system (FUSE), and the program has nothing
but the device, which it cannot write. It cannot mount anything either, so the connection is made here: libfuse asks
``fusermount`` for that, and in the sandbox that is a program of ours, which hands over what it was passed.
Sources: fuse2fs(1), fuse(4), fusermount3(1); ``fuse_mount_fusermount`` in libfuse's lib/mount.c, for ``_FUSE_COMMFD``.
Not for: changing one. Nor file systems that were not unmounted: it does not replay a journal here.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import FileIO
from pathlib import Path
from typing import IO

from osprovider import programs
from osprovider.descriptors import in_memory
from osprovider.errors import GuestError
from osprovider.guest.answering import answering
from osprovider.guest.host import is_gone
from osprovider.guest.unclean import why_unclean
from osprovider.manifest import EXT
from osprovider.run import BASE_ENVIRONMENT, running
from osprovider.sandbox import confine

__all__ = ["CONNECTION", "options", "serving", "why_not"]

CONNECTION = Path("/dev/fuse")
"""Opened, it is one end of a connection, whose other end is what is mounted with its :func:`options`."""

_PROGRAM = "fuse2fs"
# In the sandbox: an empty directory, which nothing is really mounted on; and one for programs of ours.
_MOUNT_POINT = "/tmp"  # noqa: S108 - its own
_OWN = "/own"
# What libfuse asks to mount it.
_NAMES = ("fusermount", "fusermount3")
_FUSERMOUNT = """\
#!/usr/bin/python3 -IS
import os, socket
if channel := os.environ.get("_FUSE_COMMFD"):
    socket.send_fds(socket.socket(fileno=int(channel)), [b"\\0"], [{}])
"""
_MOST_MEMORY = 256 << 20
# An overlay's kernel keeps all that it is told of a directory, as long as it is told more.
_MOST_CPU_SECONDS = 120
# Where a guest is changed, hooks may take their time: as long as in an appliance.
_MOST_SECONDS, _MOST_SECONDS_OF_HOOKS = 300.0, 900.0
_MOST_WORDS = 1 << 10  # bytes
_MOST_WRITTEN = 1 << 20  # bytes, of what it says


def why_not(path: Path, filesystem: str, start_bytes: int = 0) -> str | None:
    """Tell why a file system cannot be read so on this node.

    Args:
        path: the file or block device that it lies on.
        filesystem: its type, as blkid(8) has it.
        start_bytes: where on it.

    Returns:
        words for people; None where it can.

    Raises:
        GuestError: it cannot be read at all.
    """
    if filesystem not in EXT:
        return f"{filesystem} is not read by {_PROGRAM}"
    if not programs.is_installed(_PROGRAM):
        return f"{_PROGRAM} is missing"
    if not CONNECTION.exists():
        return f"there is no {CONNECTION}"
    return why_unclean(path, filesystem, start_bytes)


def options(connection: FileIO) -> str:
    """With what a file system of the kernel's type ``fuse`` is mounted, for which the other end answers."""
    return f"fd={connection.fileno()},rootmode=40000,user_id=0,group_id=0,default_permissions"


@contextmanager
def serving(device: Path, connection: FileIO, *, for_hooks: bool = False) -> Iterator[None]:
    """Have fuse2fs answer for an ext file system, as long as the body runs.

    Args:
        device: a read-only block device that it fills.
        connection: what is mounted by it; it is closed here, so that the mount ends with fuse2fs. The body asks it
            something in the end: whoever looked before may have taken one that ended for one that lacks a file.
        for_hooks: the body takes as long as they do.

    Raises:
        GuestError: fuse2fs ended, or took too long: in place of the error that the body had of that.
    """
    with ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile())
        nothing = stack.enter_context(in_memory("nothing"))
        script = _FUSERMOUNT.format(connection.fileno()).encode()
        scripts = {place: stack.enter_context(in_memory("fusermount", script)) for place in _places()}
        boxed = confine(
            ["env", f"PATH={_OWN}:{BASE_ENVIRONMENT['PATH']}", _PROGRAM, "-f", "-s", "-o", "ro", device, _MOUNT_POINT],
            scripts=scripts,
            devices=[device, CONNECTION],
            memory_bytes=_MOST_MEMORY,
            cpu_seconds=_MOST_CPU_SECONDS,
            file_bytes=_MOST_WRITTEN,
        )
        fds = [connection.fileno(), *scripts.values()]
        program = running(boxed, stdin=nothing, stdout=log.fileno(), stderr=log.fileno(), pass_fds=fds)
        stack.enter_context(answering(program, _MOST_SECONDS_OF_HOOKS if for_hooks else _MOST_SECONDS))
        connection.close()
        try:
            yield
        except (GuestError, OSError) as error:
            if not is_gone(error):
                raise
            raise GuestError(f"{_PROGRAM} with {device} ended: {_last_words(log)}") from error


def _places() -> set[str]:
    """Where libfuse finds its program in the sandbox: the node's, where it has it, or else in the PATH."""
    found = {name: shutil.which(name, path=BASE_ENVIRONMENT["PATH"]) for name in _NAMES}
    return {str(Path(path).resolve()) if path else f"{_OWN}/{name}" for name, path in found.items()}


def _last_words(log: IO[bytes]) -> str:
    log.seek(max(log.seek(0, os.SEEK_END) - _MOST_WORDS, 0))
    said = log.read().decode(errors="replace").split()
    return " ".join(said) or "it said nothing"
