"""Files that are written for others to use: under their name when they are whole and stored, and not before.

Until then a file lies beside its place as ``.NAME.new``. What a process that was killed has left there, the next one
that writes the same file replaces.
Not for: what is in them.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from osprovider.disk.raw import sync
from osprovider.errors import ImageError, reason_of
from osprovider.log import human_bytes, reporter
from osprovider.run import run
from osprovider.sandbox import confine

__all__ = ["new_file", "raw_beside", "refuse_output", "to_qcow2"]

_MODE = 0o600  # of every file that holds an image: the hashes of passwords may be in it
_CONVERT_MEMORY = 1 << 30


@contextmanager
def new_file(output: Path, *, force: bool) -> Iterator[tuple[int, Path]]:
    """A file that gets its name when the body ends well.

    Args:
        output: its path.
        force: take the place of a file that is there.

    Yields:
        a descriptor for reading and writing, and what the file is called until then.

    Raises:
        ImageError: there is such a file already, it cannot be written, or somebody else is writing it.
    """
    refuse_output(output, force=force)
    new = output.with_name(f".{output.name}.new")
    try:
        fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, _MODE)
    except OSError as error:
        raise _unwritable(output, error) from error
    with ExitStack() as stack:
        stack.callback(os.close, fd)
        if not _is_ours(fd, new):
            raise ImageError(f"{output}: another osprovider is writing it; wait, or name another file")
        try:
            os.truncate(fd, 0)
            yield fd, new
            with reporter.step(f"sync {output}"):
                sync(fd)
            if force:
                new.rename(output)
            else:
                output.hardlink_to(new)
        except FileExistsError as error:
            raise ImageError(f"{output}: has come into being meanwhile; name another file, or use --force") from error
        finally:
            new.unlink(missing_ok=True)


def _is_ours(fd: int, new: Path) -> bool:
    """Can we lock a file that we have opened by this name; it may have got its own since, from who held the lock."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(fd), new.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


def refuse_output(output: Path, *, force: bool) -> None:
    """See that a file can be written, as far as that can be seen before the work.

    Args:
        output: its path.
        force: take the place of a file that is there.

    Raises:
        ImageError: there is such a file already, or no place for one.
    """
    try:
        output.parent.stat()
        exists = output.exists()
    except OSError as error:
        raise _unwritable(output, error) from error
    if exists and not output.is_file():
        raise ImageError(f"{output}: is no plain file: name one, and copy it to where it is needed")
    if exists and not force:
        raise ImageError(f"{output}: is there already; name another file, or use --force")


def _unwritable(output: Path, error: OSError) -> ImageError:
    return ImageError(
        f"{output}: cannot be written: {reason_of(error)}; name a file in a directory that is there and writable"
    )


@contextmanager
def raw_beside(new: Path) -> Iterator[tuple[int, Path]]:
    """An empty file beside one that is being made, for the raw disk that it is made from; it goes again.

    Yields:
        a descriptor for reading and writing, and its path.
    """
    raw = new.with_name(f"{new.name}.raw")
    fd = os.open(raw, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, _MODE)
    try:
        yield fd, raw
    finally:
        os.close(fd)
        raw.unlink()


def to_qcow2(raw: Path, target: Path, what: str) -> None:
    """Write a raw disk as a compressed qcow2, by qemu-img(1).

    Args:
        raw: the disk, ours.
        target: a file that is there and empty.
        what: whose disk it is, for the step's name.

    Raises:
        ToolError: it cannot be written.
    """
    convert = ["qemu-img", "convert", "-c", "-W", "-f", "raw", "-O", "qcow2", "/source", "/target"]
    with reporter.step(f"{what}: compress") as detail:
        run(confine(convert, read={raw: "/source"}, write={target: "/target"}, memory_bytes=_CONVERT_MEMORY))
        detail(human_bytes(target.stat().st_size))
