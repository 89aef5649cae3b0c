"""A disk with an installed system becomes an image: the disk of an instance that is shut down, as it lies there.

The disk is only read, and what is on it is only parsed in the libguestfs appliance. A tree is packed straight from the
disk: what has to be changed for it is written to an overlay in the appliance's memory, so that there is no copy of
anything. An image of the disk is made of a sparse copy, because only there can free space be given back.
Not for: activating an instance's disks (:mod:`osprovider.ganeti.activation`); what is taken out of a system
(:mod:`osprovider.images.anonymize`).
"""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from osprovider.background import Task
from osprovider.config.model import Image
from osprovider.config.sizes import parse_size
from osprovider.disk.device import Device, claim
from osprovider.disk.raw import data_ranges, write_all
from osprovider.errors import DeviceError, GuestError, ImageError, OsproviderError, ToolError
from osprovider.guest.appliance import appliance, require_appliance
from osprovider.guest.protocol import Guest
from osprovider.images import formats, tree
from osprovider.images.anonymize import anonymize
from osprovider.images.definition import checksum_of
from osprovider.images.detach import detach
from osprovider.images.diskimage import contents
from osprovider.images.diskimage.unclean import why_unclean
from osprovider.images.manifest import ImagePartition, ImageTable
from osprovider.images.newfile import MODE, new_file, to_qcow2
from osprovider.images.programs import require
from osprovider.log import reporter
from osprovider.paths import Directories
from osprovider.run import running

__all__ = ["FORMATS", "SUFFIXES", "Captured", "Format", "Order", "capture"]

Format = Literal["tar", "qcow2"]
FORMATS: tuple[Format, ...] = ("tar", "qcow2")
SUFFIXES: dict[Format, str] = {"tar": ".tar.zst", "qcow2": ".qcow2"}

_BLKFLSBUF = 0x1261  # <linux/fs.h>
_PIECE = 1 << 20
_STEP = 64 << 10
_ZEROS = bytes(_STEP)
_SWAP_HEADER = 4096  # mkswap(8): the first page says what it is; the others are somebody's memory
_GPT_BACKUP = 1 << 20
_MOST_THREADS = 8  # of zstd, which takes 10 MiB for each
_SPARE = 1.1
_LONGEST_NAME = 100
_GIB = 1 << 30
_LABELLED = "/etc/selinux/config"


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be captured.

    Attributes:
        name: the image's, for messages.
        source: the disk: a block device or a file, raw.
        output: the file to make.
        kind: the tree, compressed, or the disk.
        keep: patterns of paths that stay; see :func:`osprovider.images.anonymize.anonymize`.
        remove: patterns of further paths that go.
        force: take the place of a file that is there.
    """

    name: str
    source: Path
    output: Path
    kind: Format = "tar"
    keep: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    force: bool = False


@dataclass(frozen=True, slots=True)
class Captured:
    """What was made.

    Attributes:
        system: as its os-release(5) calls it.
        size_bytes: of the file.
        checksum: likewise, as definitions have it.
        max_size: what a definition has to allow it to unpack to; None where its default is enough.
    """

    system: str
    size_bytes: int
    checksum: str
    max_size: str | None


def capture(order: Order, directories: Directories) -> Captured:
    """Make an image of a disk.

    Args:
        order: which, and how.
        directories: where locks and the appliance lie.

    Raises:
        DeviceError: the disk is in use, or cannot be read.
        ImageError: there is no system on it that can be captured, it was not shut down in order, or the image cannot be
            written; names the disk or the file.
        GuestError: the appliance cannot run on this node.
    """
    require_appliance()
    if order.kind == "qcow2":
        require("qemu-img", what=str(order.output))
    with (
        claim(order.source, directories.run, read_only=True) as device,
        new_file(order.output, force=order.force) as (fd, new),
    ):
        if device.is_block:
            fcntl.ioctl(device.fd, _BLKFLSBUF)  # a guest writes past this node's page cache
        table, parts = _find(order, directories)
        try:
            if order.kind == "tar":
                system, unpacked = _pack(order, parts, fd, directories)
            else:
                system, unpacked = _copy_disk(order, device, table, parts, new, directories)
        except (OsproviderError, OSError) as error:
            if _ran_out_of_space(error, order.output.parent):
                raise ImageError(f"{order.output}: cannot be written: there is no space left") from error
            raise
        return Captured(system, os.fstat(fd).st_size, checksum_of(new, order.output), _max_size(unpacked))


def _find(order: Order, directories: Directories) -> tuple[ImageTable | None, tuple[ImagePartition, ...]]:
    """Look at the disk, and refuse what cannot be captured."""
    source = order.source
    kind = formats.detect(source)
    if str(kind) != "raw":
        raise ImageError(f"{source}: is {kind}, and no disk itself: osprovider image add {source} takes it as it is")
    with reporter.step(f"look at {source}"), _naming(order):
        table, parts = contents.find_partitions(source, order.name, directories)
        with contents.volumes(source, parts) as volumes:
            for volume in volumes:
                why = why_unclean(volume.device, volume.filesystem)
                if why is not None:
                    raise ImageError(
                        f"the file system of {volume.mount} ({volume.filesystem}) was not unmounted: {why}; start the "
                        "instance, have it shut down by itself, and capture it then"
                    )
    return table, parts


@contextmanager
def _naming(order: Order) -> Iterator[None]:
    """Have what fails name the disk, in place of the image that it is to become."""
    try:
        yield
    except (GuestError, ImageError) as error:
        said = str(error).removeprefix(f"image {order.name}: ")
        raise ImageError(f"{order.source}: {said}") from error


def _take_identity(order: Order, guest: Guest) -> str:
    """Take out what makes the system this one; returns what it calls itself."""
    with reporter.step(f"image {order.name}: take out its identity") as detail:
        named = tree.inspect(guest).distribution.pretty_name
        system = "".join(each for each in named if each.isprintable())[:_LONGEST_NAME]
        anonymize(guest, keep=order.keep, remove=order.remove)
        detail(system)
    return system


# -- a tree -----------------------------------------------------------------------------------------------------------


def _pack(order: Order, parts: Sequence[ImagePartition], target: int, directories: Directories) -> tuple[str, int]:
    """Pack the tree; returns what the system calls itself, and how many bytes the tar has."""
    wanted = [part for part in parts if part.role != "esp"]  # every instance gets its own
    with ExitStack() as stack, _naming(order):
        volumes = stack.enter_context(contents.volumes(order.source, wanted))
        compressor = stack.enter_context(_compressor(target, order.output))
        inside = stack.enter_context(ExitStack())
        guest = inside.enter_context(appliance(volumes, directories, overlay=True, archive=compressor.fileno()))
        system = _take_identity(order, guest)
        detach(guest)
        if guest.exists(_LABELLED):
            guest.write("/.autorelabel", "")  # SELinux's labels are not in an image's tree; selinux-autorelabel(8)
        used = os.fstatvfs(guest.root_fd)
        total = (used.f_blocks - used.f_bfree) * used.f_frsize
        with reporter.progress(f"image {order.name}: pack", total) as advance:
            compressor.advance = advance
            inside.close()
    return system, compressor.count


class _Compressor:
    """Moves a tar from a pipe to zstd(1), and counts its bytes."""

    def __init__(self, write_fd: int) -> None:
        self.count = 0
        self.advance: Callable[[int], None] = lambda _: None
        self._fd = write_fd

    def fileno(self) -> int:
        """Where the tar is to be written."""
        return self._fd

    def work(self, source: int, target: int) -> None:
        """Run to the end of the data, or until nobody reads any more."""
        try:
            while moved := os.splice(source, target, _PIECE):
                self.count += moved
                self.advance(moved)
        except BrokenPipeError:
            pass
        finally:  # so that whoever writes, or reads, hears of the end
            os.close(source)
            os.close(target)


@contextmanager
def _compressor(target: int, output: Path) -> Iterator[_Compressor]:
    """A pipe whose bytes arrive in a file, compressed; all of them when the body ends well.

    Raises:
        ImageError: the file cannot be written.
    """
    threads = min(os.cpu_count() or 1, _MOST_THREADS)
    zstd_in, relay_out = os.pipe2(os.O_CLOEXEC)
    relay_in, write_fd = os.pipe2(os.O_CLOEXEC)
    compressor = _Compressor(write_fd)
    with tempfile.TemporaryFile() as log:
        words = ["zstd", "--quiet", "--stdout", f"--threads={threads}"]
        with running(words, stdin=zstd_in, stderr=log.fileno(), stdout=target) as process:
            os.close(zstd_in)
            task = Task("compress", compressor.work, relay_in, relay_out)
            try:
                yield compressor
            except Exception as error:
                os.close(write_fd)
                process.kill()
                task.wait()
                if said := _said(log):
                    raise ImageError(f"{output}: cannot be written: {said}") from error
                raise
            except BaseException:
                os.close(write_fd)
                raise
            os.close(write_fd)
            task.result()
            if process.wait() != 0:
                raise ImageError(f"{output}: cannot be written: {_said(log) or 'zstd failed'}")


def _said(log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read(1 << 16).decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else ""


# -- a disk -----------------------------------------------------------------------------------------------------------


def _copy_disk(
    order: Order,
    device: Device,
    table: ImageTable | None,
    parts: Sequence[ImagePartition],
    target: Path,
    directories: Directories,
) -> tuple[str, int]:
    """Make a qcow2 of the disk; returns what the system calls itself, and the disk's size."""
    size = device.facts.size_bytes
    raw = target.with_name(f"{target.name}.raw")
    with ExitStack() as stack:
        fd = os.open(raw, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, MODE)
        stack.callback(raw.unlink)
        stack.callback(os.close, fd)
        os.ftruncate(fd, size)
        ranges = _wanted_ranges(table, parts, size)
        with reporter.progress(f"image {order.name}: copy {order.source}", sum(b - a for a, b in ranges)) as advance:
            for start, end in ranges:
                _copy(device.fd, fd, start, end, advance)
        with (
            _naming(order),
            contents.volumes(raw, parts, read_only=False) as volumes,
            appliance(volumes, directories, trim=True) as guest,
        ):
            system = _take_identity(order, guest)
        try:
            to_qcow2(raw, target, f"image {order.name}")
        except ToolError as error:
            raise ImageError(f"{order.output}: cannot be written: {error}") from error
    return system, size


def _wanted_ranges(table: ImageTable | None, parts: Sequence[ImagePartition], size: int) -> list[tuple[int, int]]:
    """The bytes (from, to) of a disk that belong to an image of it: not what was in its memory, nor between partitions.

    Between the partitions of an msdos table are the records of the logical ones.
    """
    end_of = {part.start_bytes: part.start_bytes + part.size_bytes for part in parts}
    swaps = {part.start_bytes: part.start_bytes + _SWAP_HEADER for part in parts if part.role == "swap"}
    if table is None or table.type != "gpt":
        skipped = sorted((header, end_of[start]) for start, header in swaps.items())
        edges = [0, *(edge for pair in skipped for edge in pair), size]
        return [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if a < b]
    first = min(end_of, default=size)
    ranges = sorted([(0, first), *{**end_of, **swaps}.items(), (max(size - _GPT_BACKUP, first), size)])
    merged: list[tuple[int, int]] = []
    for start, end in ranges:
        begin = max(start, merged[-1][1]) if merged else start
        if begin < end:
            merged.append((begin, end))
    return merged


def _copy(source: int, target: int, start: int, end: int, advance: Callable[[int], None]) -> None:
    """Copy a range, without its zeros, into a file that has none but them."""
    buffer = bytearray(_PIECE)
    done = start
    for offset, length in data_ranges(source, start, end):
        for position in range(offset, offset + length, _PIECE):
            count = min(_PIECE, offset + length - position)
            view = memoryview(buffer)[:count]
            _read(source, view, position)
            for at in range(0, count, _STEP):
                piece = view[at : at + _STEP]
                if piece != _ZEROS[: len(piece)]:
                    write_all(target, piece, position + at)
            advance(position + count - done)
            done = position + count
    advance(end - done)


def _read(fd: int, view: memoryview, offset: int) -> None:
    try:
        while view:
            count = os.preadv(fd, [view], offset)
            if count == 0:
                raise DeviceError(f"{_name(fd)}: ends at byte {offset}, sooner than it said")
            view, offset = view[count:], offset + count
    except OSError as error:
        raise DeviceError(f"{_name(fd)}: cannot be read at byte {offset}: {error.strerror}") from error


def _name(fd: int) -> str:
    return str(Path(f"/proc/self/fd/{fd}").readlink())


# -- its definition ---------------------------------------------------------------------------------------------------


def _max_size(unpacked: int) -> str | None:
    """What an image's definition must allow, where that is more than it does by itself."""
    needed = int(unpacked * _SPARE)
    return f"{-(-needed // _GIB)}GiB" if needed > parse_size(Image().max_size) else None


def _ran_out_of_space(error: BaseException | None, directory: Path) -> bool:
    """Was it that the directory's file system is full; what had been written may be gone by now."""
    found = os.statvfs(directory)
    if found.f_bavail * found.f_frsize < _PIECE:
        return True
    while error is not None:
        if os.strerror(errno.ENOSPC) in str(error):
            return True
        error = error.__cause__
    return False
