"""A disk image of any format becomes a raw, sparse file.

What is raw already shares its blocks with the copy, or is copied or decompressed without its zeros; other formats are
QEMU's to read, in the sandbox, after their headers and tables were checked here. Only one of those that is compressed
as a whole is unpacked into a file beside, since QEMU reads it back and forth.
Not for: what is on the disk (:mod:`osprovider.images.diskimage.contents`).
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from osprovider.disk.raw import BLOCK
from osprovider.disk.sparse import copy_data, write_data
from osprovider.errors import DeviceError, ImageError, NodeError, ToolError, reason_of
from osprovider.images.diskimage.containers import check_container
from osprovider.images.diskimage.headers.reader import SECTOR
from osprovider.images.diskimage.soundness import QEMU_MEMORY, check_whole, qemu_failure, qemu_seconds, qemu_source
from osprovider.images.formats import ImageFormat, is_fixed_vhd
from osprovider.images.streams import decompressed
from osprovider.linux import clone_file
from osprovider.log import human_bytes
from osprovider.programs import require
from osprovider.run import running
from osprovider.sandbox import confine

__all__ = ["to_raw"]

_PIECE = 64 << 10
_BUFFER = 1 << 20
_TABLES = 128 << 20  # what a container may have beside the disk, and an eighth of the disk
_PERCENT = re.compile(rb"\((\d+\.\d+)/100%\)")


def to_raw(
    path: Path,
    kind: ImageFormat,
    target: Path,
    *,
    scratch: Path,
    limit_bytes: int,
    advance: Callable[[int], None],
) -> int:
    """Write a disk image's content into a sparse file.

    Args:
        path: the image.
        kind: what it is.
        target: the file, there and empty.
        scratch: a directory on the same file system, for what has to be unpacked before it can be read.
        limit_bytes: the most that the disk may have.
        advance: called with each number of the image's own bytes done.

    Returns:
        the file's size in bytes, a multiple of 4096.

    Raises:
        ImageError: the image is damaged or not what it should be, too large, or there is no room for it.
    """
    try:
        if kind.container == "raw" and kind.compression == "none":
            _copy(path, target, limit_bytes, advance)
        elif kind.container == "raw":
            _unpack(path, kind, target, limit_bytes, advance)
            _cut_footer(target, str(path))
        elif kind.compression == "none":
            _convert(path, kind, target, limit_bytes, str(path), advance)
        else:
            unpacked = scratch / "unpacked"
            try:
                _unpack(path, kind, unpacked, limit_bytes + limit_bytes // 8 + _TABLES, advance)
                _convert(unpacked, kind, target, limit_bytes, str(path), lambda _count: None)
            finally:
                unpacked.unlink(missing_ok=True)
    except DeviceError as error:
        raise NodeError(str(error)) from error
    size = -(-target.stat().st_size // BLOCK) * BLOCK
    os.truncate(target, size)
    return size


def _refuse_large(name: str, size: int, limit: int) -> None:
    if size > limit:
        raise ImageError(
            f"{name}: a disk of {human_bytes(size)} ({size} bytes), and the definition allows {human_bytes(limit)}; "
            "raise its max_size if that is right"
        )


def _copy(path: Path, target: Path, limit: int, advance: Callable[[int], None]) -> None:
    """Copy a raw file, without its zeros; where the file system can, the copy shares its blocks."""
    with path.open("rb", buffering=0) as source, target.open("r+b", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(source.fileno()).st_mode):
            raise ImageError(f"{path}: is no regular file")
        size = os.fstat(source.fileno()).st_size
        _refuse_large(str(path), size, limit)
        with suppress(OSError):  # other file systems, or one that cannot
            clone_file(source.fileno(), file.fileno())
            advance(size)
            return
        os.truncate(file.fileno(), size)
        copy_data(source.fileno(), file.fileno(), 0, size, advance, partial(_unreadable, path))


def _unreadable(path: Path, position: int, error: OSError) -> ImageError:
    return ImageError(f"{path}: cannot be read at byte {position}: {reason_of(error)}; fetch or make it again")


def _unpack(path: Path, kind: ImageFormat, target: Path, limit: int, advance: Callable[[int], None]) -> None:
    """Decompress into a sparse file."""
    view = memoryview(bytearray(_BUFFER))
    read = position = 0
    with (
        decompressed(path, kind.compression, limit_bytes=limit) as stream,
        target.open("wb", buffering=0) as file,
    ):
        while filled := _fill(stream.fileno(), view):
            write_data(file.fileno(), view[:filled], position)
            position += filled
            now = stream.position  # asked once: the decompressor reads on meanwhile
            advance(now - read)
            read = now
        advance(stream.position - read)
        os.truncate(file.fileno(), position)


def _fill(fd: int, view: memoryview) -> int:
    """Fill a buffer from a pipe; less only at its end."""
    filled = 0
    while filled < len(view) and (count := os.readv(fd, [view[filled:]])):
        filled += count
    return filled


def _cut_footer(target: Path, name: str) -> None:
    """Take the footer off a fixed VHD, which is a raw disk but for it, and shows itself only when it is unpacked."""
    if is_fixed_vhd(target):
        os.truncate(target, check_container(target, "vpc", name=name))


def _convert(
    path: Path, kind: ImageFormat, target: Path, limit: int, name: str, advance: Callable[[int], None]
) -> None:
    """Have qemu-img(1) write it, with the format given, in the sandbox."""
    size = check_container(path, kind.container, name=name)
    _refuse_large(name, size, limit)
    require("bwrap", "qemu-img", what=name)
    check_whole(path, kind.container, size, name=name)
    source = ("--image-opts", qemu_source(kind.container))
    convert = ["qemu-img", "convert", "-p", "-W", "-O", "raw", "-S", "64k", *source, "/target"]
    boxed = confine(
        convert,
        read={path: "/source"},
        write={target: "/target"},
        memory_bytes=QEMU_MEMORY,
        cpu_seconds=qemu_seconds(size),
    )
    try:
        _run_with_progress(boxed, path.stat().st_size, advance)
    except ToolError as error:
        if "No space left" in error.tail:
            raise NodeError(f"{target.parent}: no space left for the disk in {name}") from error
        raise qemu_failure(name, kind.container, error.status, error.tail) from error
    found = target.stat().st_size
    if found != -(-size // SECTOR) * SECTOR:
        raise ImageError(
            f"{name}: {kind.container} image: its header speaks of a disk of {size} bytes, and QEMU finds {found}"
        )


def _run_with_progress(argv: Sequence[str], total: int, advance: Callable[[int], None]) -> None:
    """Run a program that prints how far it is, as ``qemu-img -p`` does, and count that as parts of ``total``."""
    done = 0
    with tempfile.TemporaryFile() as log, Path(os.devnull).open("rb") as nothing:
        with running(argv, stdin=nothing.fileno(), stderr=log.fileno()) as process:
            while process.stdout and (said := os.read(process.stdout.fileno(), _PIECE)):
                for percent in _PERCENT.findall(said)[-1:]:
                    now = int(total * float(percent) / 100)
                    advance(now - done)
                    done = now
            status = process.wait()
        if status:
            log.seek(0)
            raise ToolError(argv, status, log.read(_PIECE).decode(errors="replace"))
    advance(total - done)
