"""Trees of others, unpacked: a tar by GNU tar, a dump by restore(8), in the sandbox.

Every header of a tar is read here before tar sees it, so that what would reach beyond the tree, or means two things, is
refused by its name and place. What the program writes it writes in a sandbox that holds nothing but the tree.
Sources: POSIX pax(1), "ustar Interchange Format" and "pax Interchange Format"; GNU tar's manual, "Basic Tar Format" and
"Storing Sparse Files"; protocols/dumprestore.h of dump(8).
Not for: decompressing (:mod:`osprovider.images.streams`).
"""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from osprovider.errors import ImageError
from osprovider.images.archive import Scanner
from osprovider.images.streams import Stream
from osprovider.run import running
from osprovider.sandbox import UNPACK_PRIVILEGES, confine

__all__ = ["unpack_dump", "unpack_tar"]

_INSIDE = "/root"
_CHUNK = 1 << 20

_TAR = (
    *("tar", "--extract", "--file=-", "--read-full-records", f"--directory={_INSIDE}"),
    *("--numeric-owner", "--same-owner", "--same-permissions", "--acls", "--xattrs", "--xattrs-include=*"),
    *("--no-overwrite-dir", "--warning=no-timestamp", "--warning=no-xattr-write"),
)

_ROOT_HAS = frozenset({"etc", "usr", "bin"})

_DUMP_RECORD = 1024
_TS_TAPE = 1
_DUMP_MAGIC = 60012  # NFS_MAGIC, what dump(8) of ext2/3/4 writes
_DUMP_CHECKSUM = 84446
_RESTORE = ("restore", "-r", "-y", "-f", "-")
_LEFT_BY_RESTORE = "restoresymtable"


def unpack_tar(stream: Stream, root: Path, *, name: str) -> None:
    """Unpack a tar of a root file system.

    Owners by number, modes, times, hard links, sparse files, devices, ACLs, capabilities and other extended attributes
    come through; what would take more than that (``trusted.*``, SELinux's labels) does not.

    Args:
        stream: the archive, not compressed.
        root: an empty directory.
        name: what messages call it.

    Raises:
        ImageError: the archive is damaged or cut off, reaches beyond the tree, holds something twice, or no root file
            system; names the member and its byte. ``root`` holds a part then.
    """
    scanner = Scanner(name)
    with _running(_TAR, root, name) as feed:
        for piece in scanner.scan(stream.fileno(), feed):
            _write(feed, piece)
    if not _ROOT_HAS & scanner.top:
        held = ", ".join(sorted(scanner.top)[:5]) or "nothing"
        raise ImageError(f"{name}: no root file system: its top holds {held}; make the tar of / itself (tar -C / .)")


def unpack_dump(stream: Stream, root: Path, *, name: str) -> None:
    """Restore a dump of an ext file system, which dump(8) itself may have compressed.

    Args:
        stream: the dump.
        root: an empty directory.
        name: what messages call it.

    Raises:
        ImageError: it is damaged or cut off, no dump of level 0, or one of several volumes.
    """
    first = _read(stream.fileno(), _DUMP_RECORD)
    _check_dump(first, name)
    with _running(_RESTORE, root, name) as feed:
        _write(feed, first)
        while os.splice(stream.fileno(), feed, _CHUNK):
            pass
    (root / _LEFT_BY_RESTORE).unlink(missing_ok=True)


def _check_dump(record: bytes, name: str) -> None:
    """Read a dump's first record, before restore does."""
    if len(record) < _DUMP_RECORD:
        raise ImageError(f"{name}: cut off at byte {len(record)}: no whole dump")
    for order in "<>":
        words = struct.unpack(f"{order}256i", record)
        if words[0] == _TS_TAPE and words[6] == _DUMP_MAGIC:
            break
    else:
        raise ImageError(f"{name}: no dump of ext2, ext3 or ext4: its magic (byte 24) is {record[24:28].hex()}")
    if sum(words) & 0xFFFFFFFF != _DUMP_CHECKSUM:
        raise ImageError(f"{name}: damaged: the checksum of the dump's first record is wrong")
    volume, level = words[3], words[173]
    if level != 0:
        raise ImageError(f"{name}: a dump of level {level}, which needs others below it: make one of level 0 (dump -0)")
    if volume != 1:
        raise ImageError(f"{name}: volume {volume} of a dump: an image is a dump in one piece")


@contextmanager
def _running(argv: Sequence[str], root: Path, name: str) -> Iterator[int]:
    """A program that unpacks into ``root``; yields the descriptor that it reads.

    Raises:
        ImageError: it failed; with what it said last.
    """
    boxed = confine(argv, write={root: _INSIDE}, privileges=UNPACK_PRIVILEGES, cwd=_INSIDE)
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
    with tempfile.TemporaryFile() as log, running(boxed, stdin=read_fd, stderr=log.fileno()) as process:
        os.close(read_fd)
        try:
            # Where it ends early, its status says why; the rest is read all the same, for the source's own verdict.
            with suppress(BrokenPipeError):
                yield write_fd
        finally:
            os.close(write_fd)
        if process.wait() != 0:
            raise ImageError(
                f"{name}: cannot be unpacked: {_said(log) or f'{argv[0]} ended with {process.returncode}'}"
            )


def _said(log: IO[bytes]) -> str:
    """The line that says most of what a program printed: the first error that is not about a member left out."""
    log.seek(0)
    lines = log.read(1 << 20).decode(errors="replace").splitlines()
    errors = [line for line in lines if line.strip() and "Exiting with failure" not in line]
    return errors[-1].strip() if errors else ""


def _read(fd: int, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := os.read(fd, size - len(data))):
        data += more
    return data


def _write(fd: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
