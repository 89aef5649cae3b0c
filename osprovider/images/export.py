"""A prepared template for other tools: as a raw file, as qcow2, or its tree as a tar archive.

What is written is what was prepared: a file system without a partition table, or the publisher's disk with its table
back in its place. Identity was never in it, or is the publisher's: an instance's is made when it is deployed.
A file appears under its name when it is whole and synced. Until then it lies beside, as ``.NAME.new``.
Not for: finding or preparing the template (:mod:`osprovider.images.store`).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Literal

from osprovider import linux
from osprovider.descriptors import opened, path_of
from osprovider.disk import integrity
from osprovider.disk.copy import copy_extents, read_checked
from osprovider.disk.loop import loop_device
from osprovider.disk.raw import write_all
from osprovider.errors import DeviceError, GuestError, ImageError, ToolError, reason_of
from osprovider.guest.mounting import Volume, mounted
from osprovider.images.diskimage import rebuilt_table
from osprovider.images.newfile import new_file, raw_beside, to_qcow2
from osprovider.images.space import is_full
from osprovider.layout import Placement
from osprovider.log import reporter
from osprovider.manifest import Extent, Template
from osprovider.paths import Directories
from osprovider.run import run

__all__ = ["EXPORT_FORMATS", "ExportFormat", "export"]

ExportFormat = Literal["raw", "qcow2", "tar"]
EXPORT_FORMATS: tuple[ExportFormat, ...] = ("raw", "qcow2", "tar")

_STDOUT = 1
_PIECE = 1 << 20
_ZEROS = bytes(_PIECE)
_CANNOT_CLONE = frozenset({errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY, errno.ENOSYS})

# Everything of a file that a file system knows, and nothing that a second run would have otherwise.
_TAR = (
    "--create",
    "--format=posix",
    "--pax-option=delete=atime,delete=ctime,exthdr.name=%d/PaxHeaders/%f",
    "--sort=name",
    "--numeric-owner",
    "--xattrs",
    "--xattrs-include=*",
    "--acls",
    "--sparse",
    "--warning=no-file-ignored",  # sockets, which tar cannot hold
    "--exclude=./lost+found",
)


def export(
    template: Template, kind: ExportFormat, output: Path | None, directories: Directories, *, force: bool
) -> None:
    """Write a template for other tools.

    Args:
        template: in use.
        kind: what to write.
        output: the file; None for standard output, which qcow2 is not for: it is not written from end to end.
        directories: where mount points and the appliance lie.
        force: take the place of a file that is there.

    Raises:
        ImageError: the file is there, or cannot be written; names it.
        DamagedTemplate: the template is damaged.
    """
    if output is None:
        # By its own number it would be another one in a program that is run.
        with opened(os.dup(_STDOUT)) as fd, _naming(None, fd):
            _WRITERS[kind](template, fd, Path(), directories)
        return
    with new_file(output, force=force) as (fd, new), _naming(output, fd):
        _WRITERS[kind](template, fd, new, directories)


@contextmanager
def _naming(output: Path | None, fd: int) -> Iterator[None]:
    """Have what fails name the file, or standard output where there is none."""
    try:
        yield
    except (DeviceError, GuestError, ToolError, OSError) as error:
        reason = str(error)
        if isinstance(error, OSError) and error.strerror:
            reason = reason_of(error)
        elif isinstance(error, ToolError) and error.tail:
            reason = error.tail.splitlines()[0]  # tar says last that it gives up, and before why
        if output is not None and is_full(output.parent):
            reason = "there is no space left"
        elif output is None and (lost := _why_lost(fd)):
            reason = f"{lost}; see what became of its reader, or name a file"
        raise ImageError(f"{output or 'standard output'}: cannot be written: {reason}") from error


def _why_lost(fd: int) -> str | None:
    """Why a descriptor takes no more, which the appliance does not say; what it took is not whole already."""
    try:
        os.write(fd, b"\0")
    except OSError as error:
        return reason_of(error)
    return None


def _write_raw(template: Template, fd: int, _path: Path, _directories: Directories) -> None:
    """The template as it is, with its partition table."""
    manifest = template.manifest
    table = rebuilt_table.pieces(manifest.table, manifest.size_bytes) if manifest.table else []
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        _stream(template, fd, table)
        return
    if _clone(template.fd, fd):
        integrity.refuse_damaged(template)
    else:
        os.truncate(fd, manifest.size_bytes)
        with reporter.progress(f"image {manifest.image}: copy", manifest.data_bytes) as advance:
            whole = [Placement(0, manifest.size_bytes, 0)]
            copy_extents(template.fd, fd, whole, manifest.extents, advance, zeroing=None)
    for offset, data in table:
        write_all(fd, data, offset)


def _clone(source: int, target: int) -> bool:
    """Share the blocks, where the file system can and both are on it."""
    try:
        linux.clone_file(source, target)
    except OSError as error:
        if error.errno not in _CANNOT_CLONE:
            raise
        return False
    return True


def _stream(template: Template, fd: int, table: list[tuple[int, bytes]]) -> None:
    """Write everything from the first byte to the last, zeros included."""
    manifest = template.manifest
    position = 0
    with reporter.progress(f"image {manifest.image}: copy", manifest.size_bytes) as advance:
        for extent in (*manifest.extents, Extent(manifest.size_bytes, 0, 0)):
            while position < extent.offset:
                count = min(_PIECE, extent.offset - position)
                _put(fd, position, bytearray(_ZEROS[:count]), table, advance)
                position += count
            data = bytearray(extent.length)
            read_checked(template.fd, extent, memoryview(data))
            _put(fd, position, data, table, advance)
            position += extent.length


def _put(
    fd: int, position: int, data: bytearray, table: list[tuple[int, bytes]], advance: Callable[[int], None]
) -> None:
    for offset, piece in table:
        begin, end = max(offset, position), min(offset + len(piece), position + len(data))
        if begin < end:
            data[begin - position : end - position] = piece[begin - offset : end - offset]
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    advance(len(data))


def _write_qcow2(template: Template, _fd: int, path: Path, directories: Directories) -> None:
    """Compressed, by qemu-img(1) from the raw file, which is our own."""
    with ExitStack() as stack:
        source = template.path
        if template.manifest.table is None:
            integrity.refuse_damaged(template)
        else:
            raw, source = stack.enter_context(raw_beside(path))
            _write_raw(template, raw, source, directories)
        to_qcow2(source, path, f"image {template.manifest.image}")


def _write_tar(template: Template, fd: int, _path: Path, directories: Directories) -> None:
    """The tree, with owners by number, extended attributes, ACLs and capabilities."""
    manifest = template.manifest
    integrity.refuse_damaged(template)
    if not manifest.built_here:
        from osprovider.guest.appliance import pack  # what was built here needs no libguestfs

        with _volumes(template) as volumes, reporter.step(f"image {manifest.image}: pack"):
            pack(volumes, directories, fd)
        return
    linux.private_mount_namespace()
    with (
        loop_device(template.path, read_only=True) as loop,
        mounted(loop, manifest.filesystem.type, directories.run, read_only=True) as guest,
        reporter.step(f"image {manifest.image}: pack"),
    ):
        # Names of sparse files bear tar's process ID, which is the same in a namespace of its own.
        words = ["unshare", "--pid", "--fork", "--kill-child", "tar", *_TAR]
        run(
            [*words, f"--file={path_of(fd)}", f"--directory={path_of(guest.root_fd)}", "."],
            pass_fds=[fd, guest.root_fd],
        )


def _volumes(template: Template) -> AbstractContextManager[list[Volume]]:
    """The file systems that make up the tree, the root first."""
    from osprovider.images.diskimage.reading import volumes_of

    manifest = template.manifest
    if manifest.table is None:
        return nullcontext([Volume(template.path, manifest.filesystem.type)])
    return volumes_of(template.path, manifest.table.partitions)


_WRITERS: dict[ExportFormat, Callable[[Template, int, Path, Directories], None]] = {
    "raw": _write_raw,
    "qcow2": _write_qcow2,
    "tar": _write_tar,
}
