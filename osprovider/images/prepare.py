"""What is the same for every template: its file, the file system that a tree is made in, and its manifest.

A file system of ours is a sparse file, mounted through a loop device in a mount namespace of this process, so that file
capabilities, ACLs and other attributes stay as they are. Trimmed, checked and shrunk, it is small, and grows well.

Not for: what a template is made of (:mod:`osprovider.images.built`, :mod:`osprovider.images.foreign`); where templates
lie, and who waits for whom (:mod:`osprovider.images.store`).
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

import osprovider
from osprovider import linux
from osprovider.background import Task, background
from osprovider.descriptors import opened
from osprovider.disk import features, filesystem
from osprovider.disk.loop import loop_device
from osprovider.disk.metadata import ExtInFile
from osprovider.disk.scan import scan_extents, scan_ranges
from osprovider.errors import ApplianceError, DeviceError, GuestError, ImageError, NodeError, OutOfSpace, reason_of
from osprovider.guest.host import HostGuest
from osprovider.guest.mounting import DRIVERS
from osprovider.images import packages
from osprovider.images.inspection import Facts, inspect
from osprovider.images.recipe import Recipe
from osprovider.linux import Fallocate, MountFlag, Umount, fallocate
from osprovider.log import human_bytes, reporter
from osprovider.manifest import MANIFEST_FORMAT, Extent, Filesystem, ImageTable, Manifest, Origin
from osprovider.paths import Directories

__all__ = ["Job", "Made", "filling", "look", "make_tree", "prepare", "scan", "written_out"]

_LEAST_FREE = 512 << 20
"""What the smallest system takes while it is built, its fetched packages included; and the smallest file system that
anything is unpacked into."""

_NEARLY_FULL = 32 << 20
_FEW_INODES = 16  # a program that fails for want of them may have given some back
_MOST_METADATA = 64 << 20  # that a deployment holds in memory
_BLOCK = 4096
_LONG_RUN = 1 << 20  # bytes of zeros that are worth a hole
_WRITE_OUT_SECONDS = 0.03
# The first inode that is none of the file system's own; more groups than any has.
_TOGETHER = {"inode_goal": "12", "mb_max_linear_groups": "2147483647"}

_Scanned: TypeAlias = tuple[tuple[Extent, ...], tuple[Extent, ...]]


class _TooSmallError(ImageError):
    """What was to be put into a file system does not fit into it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """What every step of a preparation needs; see :func:`prepare` for the attributes.

    Attributes:
        free_bytes: of the cache directory's file system, when the preparation began.
        start: calls a function beside (:func:`osprovider.background.background`).
    """

    recipe: Recipe
    key: str
    image: Path
    scratch: Path
    directories: Directories
    free_bytes: int
    start: Callable[..., Task[_Scanned]]

    @property
    def name(self) -> str:
        """The definition's name."""
        return self.recipe.image

    @property
    def filesystem_uuid(self) -> str:
        """The UUID of a file system that is made for the template; each instance gets another.

        It follows from all but the content of the source, which may not be known yet.
        """
        return str(uuid.uuid5(uuid.NAMESPACE_OID, self.recipe.of_content(None).key()))


@dataclasses.dataclass(frozen=True, slots=True)
class Made:
    """A template's file, as far as it is made; see :class:`osprovider.manifest.Manifest` for other attributes.

    Attributes:
        scan: looks for its extents, and for those of metadata.
    """

    facts: Facts
    size_bytes: int
    table: ImageTable | None
    filesystem: Filesystem
    built_here: bool
    tools: dict[str, str]
    scan: Task[_Scanned]
    origin: Origin | None = None
    digest: str | None = None


def prepare(
    recipe: Recipe, key: str, image: Path, scratch: Path, directories: Directories, make: Callable[[Job], Made]
) -> Manifest:
    """Make a template.

    Args:
        recipe: what of; where the content of its source is not known yet, the manifest is not of that either.
        key: the recipe's.
        image: the file to make, in ``scratch``.
        scratch: an empty directory; what else is left in it is the caller's to remove.
        directories: the cache directory is named when it is full; the appliance lies in it.
        make: fills the file: :func:`osprovider.images.built.build`, or :func:`osprovider.images.foreign.take`.

    Returns:
        what is in the image.

    Raises:
        ImageError: it cannot be made; names the image, the cause and the way out. The caller removes ``scratch``.
    """
    free = _free_bytes(scratch)
    with background("prepare") as start:
        job = Job(recipe, key, image, scratch, directories, free, start)
        if free < _LEAST_FREE:
            raise _too_little_space(job, f"at least {human_bytes(_LEAST_FREE)}")
        image.touch(mode=0o600, exist_ok=False)
        made = _made(job, make)
        with reporter.step(f"image {job.name}: checksums") as detail:
            extents, metadata = made.scan.result()
            detail(human_bytes(sum(extent.length for extent in extents)))
    for leftover in scratch.iterdir():
        if leftover != image:
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    return _manifest(job, made, extents, metadata, packages.save(made.facts.packages, scratch))


def _made(job: Job, make: Callable[[Job], Made]) -> Made:
    """Have the file filled; whatever goes wrong is told as what is wrong with the image, or the node."""
    try:
        return make(job)
    except (DeviceError, GuestError, ImageError, OSError) as error:
        if _free_bytes(job.scratch) < _NEARLY_FULL:
            raise _too_little_space(job, f"more than {human_bytes(job.free_bytes)}") from error
        if isinstance(error, OSError):
            where = error.filename or job.directories.cache
            raise NodeError(f"image {job.name}: cannot be prepared: {where}: {reason_of(error)}") from error
        if isinstance(error, GuestError):
            fault = NodeError if isinstance(error, ApplianceError) else ImageError
            raise fault(f"image {job.name}: {error}") from error
        raise


def scan(job: Job, ext_starts: Sequence[int], *, built_here: bool) -> Task[_Scanned]:
    """Begin to look for what a deployment copies of an image, and what of that are file systems' own blocks.

    Args:
        job: the preparation, in which nobody writes to the image any more.
        ext_starts: where in it ext file systems begin, in bytes.
        built_here: they were made here.

    Returns:
        extents, and those of metadata.
    """
    return job.start(_scan, job.image, ext_starts, built_here)


def _scan(image: Path, ext_starts: Sequence[int], built_here: bool) -> _Scanned:
    with image.open("r+b") as file:
        fd, size = file.fileno(), os.fstat(file.fileno()).st_size
        search = Task("metadata", _metadata_of, [ExtInFile(fd, start, is_ours=built_here) for start in ext_starts])
        try:
            extents = scan_extents(fd, size)
        finally:
            search.wait()
        metadata = scan_ranges(fd, search.result())
        _give_back_zeros(fd, extents, size)
        return extents, metadata


def _metadata_of(filesystems: Sequence[ExtInFile]) -> list[tuple[int, int]]:
    """Where the file systems have their own blocks; without those of one where nobody knows, or of too many."""
    found: list[tuple[int, int]] = []
    for each in filesystems:
        found += each.metadata(_MOST_METADATA - sum(length for _, length in found))
    return found


def _give_back_zeros(fd: int, extents: tuple[Extent, ...], size_bytes: int) -> None:
    """Give back the room of long runs of zeros: a new journal is 64 MiB of them."""
    position = 0
    for extent in (*extents, Extent(size_bytes, 0, 0)):
        if extent.offset - position >= _LONG_RUN:
            with suppress(OSError):  # the file system cannot: they stay
                fallocate(fd, Fallocate.PUNCH_HOLE | Fallocate.KEEP_SIZE, position, extent.offset - position)
        position = extent.offset + extent.length


def _manifest(
    job: Job, made: Made, extents: tuple[Extent, ...], metadata: tuple[Extent, ...], packages_crc32: int
) -> Manifest:
    facts = made.facts
    build = job.recipe.definition.build
    return Manifest(
        format=MANIFEST_FORMAT,
        key=job.key,
        image=job.name,
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        architecture=build.arch if build else job.recipe.definition.arch,
        distribution=facts.distribution,
        init=facts.init,
        network_stacks=facts.network_stacks,
        boot_loaders=facts.boot_loaders,
        kernels=facts.kernels,
        size_bytes=made.size_bytes,
        table=made.table,
        filesystem=made.filesystem,
        packages=len(facts.packages),
        packages_crc32=packages_crc32,
        extents=extents,
        built_here=made.built_here,
        tools={**made.tools, "osprovider": osprovider.__version__},
        definition=job.recipe.to_json(),
        origin=made.origin,
        metadata=metadata,
        digest=made.digest,
    )


def look(job: Job, guest: HostGuest) -> Facts:
    """Note what a manifest says of a system, and list its packages."""
    return dataclasses.replace(inspect(guest), packages=packages.read(guest, job.scratch, job.name))


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
    size_bytes = max(size_bytes - size_bytes % _BLOCK, _LEAST_FREE)
    without = filesystem.WITHOUT_JOURNAL
    filesystem.make(image, kind, uuid=job.filesystem_uuid, label="", size_bytes=size_bytes, without=without)
    linux.private_mount_namespace()
    root = job.scratch / "root"
    root.mkdir(exist_ok=True)
    with _mounted(image, kind, root) as guest:
        try:
            yield guest, root
        except (GuestError, ImageError, OSError) as error:
            if isinstance(error, OutOfSpace) or _free_bytes(root) < _NEARLY_FULL:
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


def _free_bytes(directory: Path) -> int:
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize


def _full(job: Job, size_bytes: int) -> ImageError:
    """What to say where the file system that was to be filled is full."""
    if size_bytes >= job.free_bytes - _BLOCK:
        return _too_little_space(job, f"more than {human_bytes(job.free_bytes)}")
    return _TooSmallError(
        f"image {job.name}: it takes more than {human_bytes(size_bytes)} unpacked; raise its max_size"
    )


def _too_little_space(job: Job, needed: str) -> NodeError:
    return NodeError(
        f"image {job.name}: the cache directory {job.directories.cache} has too little space: "
        f"{human_bytes(job.free_bytes)} are free, and preparing it needs {needed}; make room, or remove images that "
        "are not used (osprovider image list, image prune, image remove)"
    )
