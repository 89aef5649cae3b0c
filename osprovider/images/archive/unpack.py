"""Trees of others, unpacked: a tar by GNU tar, a dump by restore(8), in the sandbox.

Every header is read here before the program sees it, so that what would reach beyond the tree, means two things, or is
damaged, is refused by its name and place. What the program writes it writes in a sandbox that holds nothing but the
tree; whatever it complains of is an error, since both end well after they left files out.
Not for: decompressing (:mod:`osprovider.images.streams`), or what headers mean (:mod:`osprovider.images.archive.tar`,
:mod:`osprovider.images.archive.dump`).
"""

from __future__ import annotations

import fcntl
import functools
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from osprovider.errors import ImageError
from osprovider.images.archive import acl, dump, dump_inflate
from osprovider.images.archive.tar import Scanner
from osprovider.images.printable import printable
from osprovider.images.streams import Stream
from osprovider.log import human_bytes
from osprovider.run import run, running
from osprovider.sandbox import UNPACK_PRIVILEGES, confine, signal_of

__all__ = ["get_ready", "require_root", "unpack_dump", "unpack_tar"]

_INSIDE = "/root"
_INFLATE_INSIDE = "/inflate.py"
_PIPE_BYTES = 1 << 20

_TAR = (
    *("tar", "--extract", "--file=-", "--read-full-records", f"--directory={_INSIDE}"),
    "--blocking-factor=512",  # 256 KiB: reading 10 KiB at a time takes a fifth longer
    *("--numeric-owner", "--same-owner", "--same-permissions", "--xattrs"),
    *("--xattrs-include=user.*", "--xattrs-include=security.capability"),
    *("--delay-directory-restore", "--warning=none", "--warning=xattr-write"),
)
_RESTORE = ("restore", "-r", "-y", "-T", ".", "-f", "-")
_RUNS_SINCE = 49  # of 0.4b
_HARMLESS = (
    "tar: Exiting with failure status due to previous errors",
    "restore: cannot open /dev/tty",  # who would answer?
    "restore: ./lost+found: File exists",  # a new file system has one
)
"""What lines begin with that say nothing of the tree."""

_NAMELESS = re.compile(r"expected next file \d+, got (\d+)")
"""What restore(8) says of a file of the dump that is in no directory."""

_ROOT_HAS = frozenset({"etc", "usr", "bin"})
_DISKS = (".qcow2", ".raw", ".vdi", ".vhd", ".vhdx", ".vmdk")  # a disk in a tar, as for GCE, or of an OVA
_LEFT_BY_RESTORE = "restoresymtable"

_LOG_AT_MOST = 1 << 16
_FEW_INODES = 16  # a program that fails for want of them may have given some back
_LITTLE_ROOM = 1 << 20  # likewise

_CPU_SECONDS = 3600
"""How long either may compute: enough for hundreds of GiB, and an end where damage sends them round and round."""

_MEMORY = 1 << 30
"""Bytes that either may allocate. restore takes 8 for each inode of the file system that was dumped, which is 1 TiB of
it in 500 MiB; tar keeps every directory until the end. Neither asks whether what it is told to keep makes sense."""


def get_ready(*, for_dumps: bool) -> None:
    """Find out now what unpacking has to know of this node: it takes programs, and can be done beside other work.

    Raises:
        NodeError: nothing can be unpacked here.
    """
    confine(["true"])
    if for_dumps:
        _restore_knows_runs()


def unpack_tar(stream: Stream, root: Path, *, name: str) -> None:
    """Unpack a tar of a root file system.

    Owners by number, modes, times, hard links, sparse files, devices, ACLs, capabilities and other extended attributes
    come through; what would take more than that (``trusted.*``, SELinux's labels) does not.

    Args:
        stream: the archive, not compressed.
        root: an empty directory.
        name: what messages call it.

    Raises:
        ImageError: the archive is damaged or cut off, reaches beyond the tree, or holds something twice; names the
            member and its byte. ``root`` holds a part then.
    """
    scanner = Scanner(name)
    with _running(_TAR, root, name) as unpacker:
        for piece in scanner.scan(stream.fileno(), unpacker.fd):
            unpacker.write(piece)
    acl.apply(scanner.acls, root, name)


def unpack_dump(stream: Stream, root: Path, *, name: str) -> None:
    """Restore a dump of an ext file system, which dump(8) itself may have compressed.

    Owners, modes, times, hard links, sparse files, devices, ACLs, capabilities and extended attributes of users come
    through; ``trusted.*``, SELinux's labels and what chattr(1) sets do not.

    Args:
        stream: the dump.
        root: an empty directory.
        name: what messages call it.

    Raises:
        ImageError: it is damaged or cut off, no dump of level 0, one of several volumes, compressed by LZO, or of a
            format that this node's restore(8) does not know; names the byte. ``root`` holds a part then.
    """
    label = dump.read_label(_read(stream.fileno(), dump.RECORD), name)
    runs = _restore_knows_runs()
    with _records(stream, label, name) as records, _running(_RESTORE, root, name) as unpacker:
        for piece in dump.scan(label, name, records, unpacker.fd, runs=runs, nameless=unpacker.nameless):
            unpacker.write(piece)
    (root / _LEFT_BY_RESTORE).unlink(missing_ok=True)


def require_root(root: Path, name: str) -> None:
    """See that what was unpacked is a root file system.

    Args:
        root: its top.
        name: what messages call the archive or dump.

    Raises:
        ImageError: it is something else.
    """
    held = sorted(entry.name for entry in root.iterdir() if entry.name != "lost+found")
    if not _ROOT_HAS.intersection(held):
        shown = printable(", ".join(held[:5])) or "nothing"
        way = "make the tar of / itself (tar -C / .), or the dump"
        if disks := [each for each in held if each.endswith(_DISKS)]:
            way = f"unpack it, and name the disk image in it as source ({printable(disks[0])})"
        raise ImageError(f"{name}: no root file system: its top holds {shown}; {way}")


@functools.cache
def _restore_knows_runs() -> bool:
    """Whether this node's restore(8) reads dumps of 0.4b49 and later. It has no option to say its version, and does."""
    version = re.match(rb"\S+ 0\.4b(\d+) ", run(["restore"], check=False).stderr)
    return version is not None and int(version[1]) >= _RUNS_SINCE


@contextmanager
def _records(stream: Stream, label: dump.Label, name: str) -> Iterator[int]:
    """A dump's records behind the first: the descriptor to read them from.

    Raises:
        ImageError: they cannot be inflated.
    """
    if not label.compressed:
        yield stream.fileno()
        return
    inflate = confine(
        ["python3", "-I", "-S", _INFLATE_INSIDE, str(label.write_bytes)],
        read={Path(dump_inflate.__file__): _INFLATE_INSIDE},
    )
    with tempfile.TemporaryFile() as log, running(inflate, stdin=stream.fileno(), stderr=log.fileno()) as process:
        error = None
        try:
            yield process.stdout.fileno() if process.stdout else -1
        except ImageError as raised:
            error = raised
        # Where the records end too early, whoever inflates them says why, and has ended.
        with suppress(subprocess.TimeoutExpired):
            if process.wait(timeout=1 if error else None) and (said := _said(log)):
                raise ImageError(f"{name}: {said}") from error
        if error:
            raise error


class _Unpacker:
    """A program that unpacks into ``root`` what is written to ``fd``; what it says is in ``log``.

    Attributes:
        fd: see above.
        nameless: inodes of files that need not be in the tree, whatever it says of them.
    """

    def __init__(self, fd: int, log: IO[bytes], root: Path, name: str) -> None:
        self.fd = fd
        self.nameless: set[int] = set()
        self._log = log
        self._root = root
        self._name = name

    def write(self, data: bytes) -> None:
        """Have it unpack more.

        Raises:
            ImageError: it has complained already. It would go on to the archive's end, and of each member.
        """
        view = memoryview(data)
        while view:
            view = view[os.write(self.fd, view) :]
        if said := self.said(to_be_continued=True):
            raise self.failure(said)

    def said(self, *, to_be_continued: bool = False) -> str:
        """What it said of the tree, as :func:`_said`."""
        return _said(self._log, nameless=self.nameless, to_be_continued=to_be_continued)

    def failure(self, said: str) -> ImageError:
        """The error for what it said."""
        return ImageError(f"{self._name}: cannot be unpacked: {said}{_fullness(self._root)}")


@contextmanager
def _running(argv: Sequence[str], root: Path, name: str) -> Iterator[_Unpacker]:
    """A program that unpacks into ``root``.

    Raises:
        ImageError: it failed, or left something out; with what it said first.
    """
    if root.is_symlink() or not root.is_dir():  # whatever made it: nothing is written where a link leads to
        raise ImageError(f"{name}: cannot be unpacked: {root} is not a directory")
    boxed = confine(
        argv,
        write={root: _INSIDE},
        privileges=UNPACK_PRIVILEGES,
        cwd=_INSIDE,
        memory_bytes=_MEMORY,
        cpu_seconds=_CPU_SECONDS,
    )
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
    fcntl.fcntl(write_fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    with tempfile.TemporaryFile() as log, running(boxed, stdin=read_fd, stderr=log.fileno()) as process:
        os.close(read_fd)
        unpacker = _Unpacker(write_fd, log, root, name)
        ended_early = False
        try:
            yield unpacker
        except BrokenPipeError:
            ended_early = True  # what it said tells why
        finally:
            os.close(write_fd)
        status = process.wait()
        said = unpacker.said()
        if (number := signal_of(status)) == signal.SIGKILL:
            said = f"{argv[0]} computed for more than {_CPU_SECONDS} s; the archive sends it round and round"
        elif number:
            said = f"{said}; {argv[0]} was ended by signal {number}".removeprefix("; ")
        if status or said or ended_early:
            raise unpacker.failure(said or f"{argv[0]} ended with status {status}")


def _fullness(root: Path) -> str:
    """What a program may not have said of the file system that it wrote to."""
    found = os.statvfs(root)
    if found.f_files and found.f_ffree <= _FEW_INODES:
        return f" (it holds more files than the {found.f_files} that a file system of this size has room for)"
    if found.f_bfree * found.f_frsize <= _LITTLE_ROOM:
        return f" (the file system of {human_bytes(found.f_blocks * found.f_frsize)} is full)"
    return ""


def _said(log: IO[bytes], *, nameless: Collection[int] = (), to_be_continued: bool = False) -> str:
    """The first lines that a program printed, but for those that say nothing; only whole ones where more may come."""
    text = os.pread(log.fileno(), _LOG_AT_MOST, 0).decode(errors="replace")
    lines = (text.rpartition("\n")[0] if to_be_continued else text).splitlines()
    said = [line.strip() for line in lines if line.strip() and not _is_harmless(line, nameless)]
    return printable("; ".join(said[:2]))


def _is_harmless(line: str, nameless: Collection[int]) -> bool:
    left_out = _NAMELESS.fullmatch(line)
    return line.startswith(_HARMLESS) or (left_out is not None and int(left_out[1]) in nameless)


def _read(fd: int, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := os.read(fd, size - len(data))):
        data += more
    return data
