"""What is the same for every template: its file, what a deployment copies of that, and its manifest.

Not for: what a template is made of (:mod:`osprovider.images.built`, :mod:`osprovider.images.foreign`), or the file
system that a tree is made in (:mod:`osprovider.images.tree`); where templates lie, and who waits for whom
(:mod:`osprovider.images.store`).
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

import osprovider
from osprovider.background import Task, background
from osprovider.disk.metadata import ExtInFile
from osprovider.disk.scan import scan_extents, scan_ranges
from osprovider.errors import ApplianceError, DeviceError, GuestError, ImageError, NodeError, reason_of
from osprovider.guest.host import HostGuest
from osprovider.images import packages
from osprovider.images.inspection import Facts, inspect
from osprovider.images.recipe import Recipe
from osprovider.images.space import free_bytes, is_nearly_full
from osprovider.linux import Fallocate, fallocate
from osprovider.log import human_bytes, reporter
from osprovider.manifest import MANIFEST_FORMAT, Extent, Filesystem, ImageTable, Manifest, Origin
from osprovider.paths import Directories

__all__ = ["LEAST_FREE", "Job", "Made", "look", "prepare", "scan"]

LEAST_FREE = 512 << 20
"""What the smallest system takes while it is built, its fetched packages included; and the smallest file system that
anything is unpacked into."""

_MOST_METADATA = 64 << 20  # that a deployment holds in memory
_BLOCK = 4096
_LONG_RUN = 1 << 20  # bytes of zeros that are worth a hole

_Scanned: TypeAlias = tuple[tuple[Extent, ...], tuple[Extent, ...]]


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

    def too_little_space(self, needed: str) -> NodeError:
        """What is said where the cache directory has too little space.

        Args:
            needed: how much more it should have had free, for the message.
        """
        return NodeError(
            f"image {self.name}: the cache directory {self.directories.cache} has too little space: "
            f"{human_bytes(self.free_bytes)} are free, and preparing it needs {needed}; make room, or remove images "
            "that are not used (osprovider image list, image prune, image remove)"
        )


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
    free = free_bytes(scratch)
    with background("prepare") as start:
        job = Job(recipe, key, image, scratch, directories, free, start)
        if free < LEAST_FREE:
            raise job.too_little_space(f"at least {human_bytes(LEAST_FREE)}")
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
        if is_nearly_full(job.scratch):
            raise job.too_little_space(f"more than {human_bytes(job.free_bytes)}") from error
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
