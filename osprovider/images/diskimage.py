"""A disk image of any format becomes a raw, sparse file.

What is raw already is copied by its data, or streamed while it is decompressed, without a copy beside; other formats
are QEMU's to read, in the sandbox, after their headers were checked here.
Not for: what is on the disk (:mod:`osprovider.images.contents`).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from osprovider.disk.copy import data_ranges, write_all
from osprovider.errors import DeviceError, ImageError, ToolError
from osprovider.images.containers import check_container
from osprovider.images.formats import Format
from osprovider.images.streams import decompressed
from osprovider.log import human_bytes
from osprovider.run import run
from osprovider.sandbox import confine

__all__ = ["to_raw"]

_BLOCK = 4096
_PIECE = 64 << 10
_BUFFER = 1 << 20
_ZEROS = bytes(_PIECE)
_CONVERT_MEMORY = 1 << 30  # address space that QEMU's tools may fill with data; they take a tenth
_CONVERT_SECONDS = 4 * 3600.0


def to_raw(
    path: Path,
    kind: Format,
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
        elif kind.compression == "none":
            _convert(path, kind, target, limit_bytes)
        else:
            unpacked = scratch / "unpacked"
            _unpack(path, kind, unpacked, limit_bytes, advance)
            _convert(unpacked, kind, target, limit_bytes)
            unpacked.unlink()
    except DeviceError as error:
        raise ImageError(str(error)) from error
    size = -(-target.stat().st_size // _BLOCK) * _BLOCK
    os.truncate(target, size)
    return size


def _refuse_large(path: Path, size: int, limit: int) -> None:
    if size > limit:
        raise ImageError(
            f"{path}: a disk of {human_bytes(size)} ({size} bytes), and the definition allows {human_bytes(limit)}; "
            "raise its max_size if that is right"
        )


def _copy(path: Path, target: Path, limit: int, advance: Callable[[int], None]) -> None:
    """Copy a raw file by its data; its file system may share the blocks (copy_file_range(2))."""
    with path.open("rb", buffering=0) as source, target.open("r+b", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(source.fileno()).st_mode):
            raise ImageError(f"{path}: is no regular file")
        size = os.fstat(source.fileno()).st_size
        _refuse_large(path, size, limit)
        os.truncate(target, size)
        done = 0
        for offset, length in data_ranges(source.fileno(), 0, size):
            position, end = offset, min(offset + length, size)
            while position < end:
                count = min(_BUFFER * 64, end - position)
                moved = os.copy_file_range(source.fileno(), file.fileno(), count, position, position)
                if moved == 0:
                    raise ImageError(f"{path}: ends at byte {position}, sooner than it said")
                position += moved
            advance(end - done)
            done = end


def _unpack(path: Path, kind: Format, target: Path, limit: int, advance: Callable[[int], None]) -> None:
    """Decompress into a sparse file."""
    buffer = bytearray(_BUFFER)
    view = memoryview(buffer)
    read = position = 0
    with (
        decompressed(path, kind.compression, limit_bytes=limit) as stream,
        target.open("wb", buffering=0) as file,
    ):
        while filled := _fill(stream.fileno(), view):
            for start in range(0, filled, _PIECE):
                end = min(start + _PIECE, filled)
                if buffer[start:end] != _ZEROS[: end - start]:
                    write_all(file.fileno(), view[start:end], position + start)
            position += filled
            advance(stream.position - read)
            read = stream.position
        os.truncate(file.fileno(), position)


def _fill(fd: int, view: memoryview) -> int:
    """Fill a buffer from a pipe; less only at its end."""
    filled = 0
    while filled < len(view) and (count := os.readv(fd, [view[filled:]])):
        filled += count
    return filled


def _convert(path: Path, kind: Format, target: Path, limit: int) -> None:
    """Have qemu-img(1) write it, with the format given, in the sandbox."""
    _refuse_large(path, check_container(path, kind.container), limit)
    convert = ["qemu-img", "convert", "-W", "-f", kind.container, "-O", "raw", "-S", "64k", "/source", "/target"]
    boxed = confine(convert, read={path: "/source"}, write={target: "/target"}, memory_bytes=_CONVERT_MEMORY)
    try:
        run(boxed, timeout=_CONVERT_SECONDS)
    except ToolError as error:
        said = error.tail.splitlines()[-1].removeprefix("qemu-img: ") if error.tail else str(error)
        if "No space left" in said:
            raise ImageError(f"{target.parent}: no space left for the disk in {path}") from error
        raise ImageError(f"{path}: damaged {kind.container} image: {said}") from error
