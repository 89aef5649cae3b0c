"""The file system that a tree is made in: a sparse file, mounted through a loop device while it is filled.

It is mounted in a mount namespace of this process, so that file capabilities, ACLs and other attributes stay as they
are. Trimmed, checked and shrunk, it is small, and grows well.
Not for: what it is filled with (:mod:`osprovider.images.built`, :mod:`osprovider.images.foreign`); what becomes of it
(:mod:`osprovider.images.prepare`).
"""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from osprovider import linux
from osprovider.background import Task
from osprovider.descriptors import opened
from osprovider.disk import features, filesystem
from osprovider.disk.loop import loop_device
from osprovider.errors import GuestError, ImageError, OutOfSpace
from osprovider.guest.host import HostGuest
from osprovider.guest.mounting import DRIVERS
from osprovider.images.inspection import Facts
from osprovider.images.prepare import LEAST_FREE, Job, Made, scan
from osprovider.images.space import is_nearly_full
from osprovider.linux import MountFlag, Umount
from osprovider.log import human_bytes, reporter
from osprovider.manifest import Filesystem

__all__ = ["filling", "make_tree", "written_out"]

_BLOCK = 4096
_FEW_INODES = 16  # a program that fails for want of them may have given some back
_WRITE_OUT_SECONDS = 0.03
# The first inode that is none of the file system's own; more groups than any has.
_TOGETHER = {"inode_goal": "12", "mb_max_linear_groups": "2147483647"}


class _TooSmallError(ImageError):
    """What was to be put into a file system does not fit into it."""


def make_tree(job: Job, sizes: Sequence[int], fill: Callable[[HostGuest, Path], Facts]) -> Made:
    """Make a file system, have it filled, and make it as small as a template should be.

    Args:
        job: see there.
        sizes: of the file system while it is filled, in bytes: where the first is too small, all is done again in one
            of the next. It is dear to make a file system small that was made much too large.
        fill: called with the tree and where it is mounted.

    Raises:
        ImageError: it does not fit, or ``fill`` failed.
    """
    try:
        facts, unmounting = _filled(job, sizes[0], fill)
    except _TooSmallError:
        if len(sizes) == 1:
            raise
        reporter.info(f"image {job.name}: takes more than usual; once more, with room for {human_bytes(sizes[1])}")
        job.image.unlink()
        job.image.touch(mode=0o600)
        return make_tree(job, sizes[1:], fill)
    try:
        with reporter.step(f"image {job.name}: check and shrink") as detail:
            unknown = features.unknown_to(facts.distribution, job.recipe.filesystem)
            filesystem.shrink(job.image, job.recipe.filesystem, without=unknown, is_new=True)
            checksums = scan(job, [0], built_here=True)
            made = Filesystem(**dataclasses.asdict(filesystem.read_superblock(job.image)))
            detail(human_bytes(made.size_bytes))
    finally:
        unmounting.result()  # where something could not be stored, nobody asks what came of it
    return Made(facts, made.size_bytes, None, made, built_here=True, tools={}, scan=checksums)


def _filled(job: Job, size_bytes: int, fill: Callable[[HostGuest, Path], Facts]) -> tuple[Facts, Task[None]]:
    """Make a file system and have it filled and stored; what was seen of it, and its unmounting."""
    with ExitStack() as stack:
        guest, root = stack.enter_context(filling(job, job.image, size_bytes))
        with written_out(job.image, root):
            facts = fill(guest, root)
        with reporter.step(f"image {job.name}: store"):
            # Not every error of a write shows up at the unmounting; this says all since the mounting (syncfs(2)).
            linux.syncfs(guest.root_fd)
            _finish(root)
        return facts, Task("unmount", stack.pop_all().close)


@contextmanager
def filling(job: Job, image: Path, size_bytes: int) -> Iterator[tuple[HostGuest, Path]]:
    """Make a file system in a file, and mount it while it is filled.

    Args:
        job: see there.
        image: the file.
        size_bytes: of the file system, at least a certain size that everything needs.

    Yields:
        the tree, and where it is mounted.

    Raises:
        ImageError: it is full.
    """
    kind = job.recipe.filesystem
    size_bytes = max(size_bytes - size_bytes % _BLOCK, LEAST_FREE)
    without = filesystem.WITHOUT_JOURNAL
    filesystem.make(image, kind, uuid=job.filesystem_uuid, label="", size_bytes=size_bytes, without=without)
    linux.private_mount_namespace()
    root = job.scratch / "root"
    root.mkdir(exist_ok=True)
    with _mounted(image, kind, root) as guest:
        try:
            yield guest, root
        except (GuestError, ImageError, OSError) as error:
            if isinstance(error, OutOfSpace) or is_nearly_full(root):
                raise _full(job, size_bytes) from error
            if os.statvfs(root).f_ffree <= _FEW_INODES:
                raise _TooSmallError(str(error)) from error
            raise


@contextmanager
def _mounted(image: Path, kind: str, root: Path) -> Iterator[HostGuest]:
    """Mount a file system so that programs run and devices work in it; unmounted and synced afterwards.

    It has not to outlive a crash before that, so there is no journal, and nothing in it waits for the disk.
    """
    with loop_device(image) as loop:
        driver, options = DRIVERS[kind]
        linux.mount(str(loop), str(root), driver, MountFlag.NOATIME, f"{options},nobarrier")
        _keep_together(loop)
        try:
            with opened(os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as fd:
                yield HostGuest(fd, mountpoint=root)
        finally:
            _detach(root)


def _finish(root: Path) -> None:
    """Have the file system that is mounted on ``root`` be as it will be unmounted, and nothing be mounted there.

    It stays with those who have it open: to forget all that was in it takes the kernel 70 ms for 390 MiB. Nothing is
    written then (``ext4_put_super`` in the kernel's fs/ext4/super.c), so its image may be changed already.
    """
    linux.mount(None, str(root), None, MountFlag.REMOUNT | MountFlag.RDONLY | MountFlag.NOATIME)
    _detach(root)


def _detach(root: Path) -> None:
    """Unmount what is mounted on ``root``, if anything is; at once, where somebody has it open."""
    with suppress(OSError):
        linux.umount(str(root), Umount.DETACH)


@contextmanager
def written_out(image: Path, root: Path | None = None) -> Iterator[None]:
    """While the body fills an image, have it written to its disk, so that nobody waits for that in the end.

    Args:
        image: the file.
        root: where the file system in it is mounted, if it is.
    """
    done = threading.Event()

    def write(image_fd: int, root_fd: int | None) -> None:
        while not done.wait(_WRITE_OUT_SECONDS):
            with suppress(OSError):  # whoever stores it in the end is told
                if root_fd is not None:
                    linux.syncfs(root_fd)
                linux.start_writeback(image_fd, 0, 0)

    with ExitStack() as stack:
        image_fd = stack.enter_context(opened(os.open(image, os.O_RDWR | os.O_CLOEXEC)))
        root_fd = stack.enter_context(opened(os.open(root, os.O_RDONLY | os.O_CLOEXEC))) if root else None
        task = Task("write-out", write, image_fd, root_fd)
        try:
            yield
        finally:
            done.set()
            task.wait()


def _keep_together(loop: Path) -> None:
    """Have the kernel lay all files at the front of a file system that is made larger than what it is to hold.

    By itself it spreads directories over all of it, and their files with them, which shrinking has to move (12,700
    files of 390 MiB: 1.2 s, else 0.2 s). Where sysfs is read-only, or a kernel no longer has these, that is all.
    Source: the kernel's Documentation/ABI/testing/sysfs-fs-ext4 (``inode_goal``, ``mb_max_linear_groups``).
    """
    for name, value in _TOGETHER.items():
        with suppress(OSError):
            Path("/sys/fs/ext4", loop.name, name).write_text(value)


def _full(job: Job, size_bytes: int) -> ImageError:
    """What to say where the file system that was to be filled is full."""
    if size_bytes >= job.free_bytes - _BLOCK:
        return job.too_little_space(f"more than {human_bytes(job.free_bytes)}")
    way_out = "leave packages out" if job.recipe.definition.build else "raise its max_size"
    return _TooSmallError(f"image {job.name}: it takes more than {human_bytes(size_bytes)} unpacked; {way_out}")
