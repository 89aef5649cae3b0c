"""Makes a template from a recipe: a small file system that grows well, with a clean system in it.

The tree is made once, in the file that becomes the template: a sparse file, our own mkfs in it, mounted through a loop
device in a mount namespace of this process, so that nothing has to be packed or copied and file capabilities, ACLs and
other attributes are as dpkg left them. Then it is cleaned, trimmed, checked and shrunk.
Not for: where templates lie, and who waits for whom (:mod:`osprovider.images.store`).
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import osprovider
from osprovider import linux
from osprovider.disk import filesystem
from osprovider.disk.copy import scan_extents
from osprovider.disk.loop import loop_device
from osprovider.errors import ImageError
from osprovider.guest.host import HostGuest
from osprovider.images import bootstrap, tree
from osprovider.images.manifest import FORMAT, Filesystem, Manifest
from osprovider.images.recipe import Recipe
from osprovider.log import human_bytes, reporter
from osprovider.run import run

__all__ = ["build_template"]

_LARGEST = 16 << 30
"""Of the file system while it is filled; sparse. What fits into it fits an image."""

_LEAST_FREE = 512 << 20
"""What the smallest system takes while it is built, its fetched packages included."""

_NEARLY_FULL = 32 << 20
_BLOCK = 4096


def build_template(recipe: Recipe, key: str, image: Path, scratch: Path, cache: Path) -> Manifest:
    """Make a template.

    Args:
        recipe: what of.
        key: the recipe's.
        image: the file to make, in ``scratch``.
        scratch: an empty directory; what else is left in it is the caller's to remove.
        cache: the cache directory, to be named when it is full.

    Returns:
        what is in the image.

    Raises:
        ImageError: it cannot be made; names the image, the cause and the way out. The caller removes ``scratch``.
    """
    bootstrap.require_tools(recipe)
    free = _free_bytes(scratch)
    if free < _LEAST_FREE:
        raise _full(recipe, cache, free, f"at least {human_bytes(_LEAST_FREE)}")
    try:
        return _build(recipe, key, image, scratch, min(free, _LARGEST))
    except (ImageError, OSError) as error:
        # The file system that is filled is no larger than what was free, so it is the one that fills up.
        if free < _LARGEST and (isinstance(error, bootstrap.OutOfSpace) or _free_bytes(scratch) < _NEARLY_FULL):
            raise _full(recipe, cache, free, f"more than {human_bytes(free)}") from error
        raise


def _build(recipe: Recipe, key: str, image: Path, scratch: Path, size: int) -> Manifest:
    name, build = recipe.image, recipe.build
    image.touch(mode=0o600, exist_ok=False)
    template_uuid = str(uuid.uuid5(uuid.NAMESPACE_OID, key))  # each instance gets another
    filesystem.make(image, recipe.filesystem, uuid=template_uuid, label="", size_bytes=size - size % _BLOCK)
    linux.private_mount_namespace()
    root = scratch / "root"
    root.mkdir()
    with _mounted(image, recipe.filesystem, root) as guest:
        with reporter.step(f"image {name}: {build.suite} by {build.tool}") as detail:
            bootstrap.install(recipe, guest, root, scratch)
            facts = tree.inspect(guest)
            detail(f"{facts.packages} packages")
        with reporter.step(f"image {name}: clean"):
            tree.clean(guest, bootstrap.LEFT_FOR_BUILD)
            # Not every error of a write shows up at the unmounting; this says them all (syncfs(2)).
            run(["sync", "--file-system", root])
            run(["fstrim", root])
    with reporter.step(f"image {name}: check and shrink") as detail:
        filesystem.shrink(image)
        made = Filesystem(**dataclasses.asdict(filesystem.read_superblock(image)))
        detail(human_bytes(made.size_bytes))
    with reporter.step(f"image {name}: checksums") as detail, image.open("rb") as file:
        extents = scan_extents(file.fileno(), made.size_bytes)
        detail(human_bytes(sum(extent.length for extent in extents)))
    for leftover in scratch.iterdir():
        if leftover != image:
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    return Manifest(
        format=FORMAT,
        key=key,
        image=name,
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        architecture=build.arch,
        distribution=facts.distribution,
        init=facts.init,
        network_stacks=facts.network_stacks,
        boot_loaders=facts.boot_loaders,
        kernels=facts.kernels,
        size_bytes=made.size_bytes,
        table=None,
        filesystem=made,
        packages=facts.packages,
        extents=extents,
        built_here=True,
        tools={build.tool: bootstrap.tool_version(build.tool), "osprovider": osprovider.__version__},
        definition=recipe.to_json(),
    )


@contextmanager
def _mounted(image: Path, kind: str, root: Path) -> Iterator[HostGuest]:
    """Mount a file system so that programs run and devices work in it; unmounted and synced afterwards."""
    with loop_device(image) as loop:
        linux.mount(str(loop), str(root), kind, linux.MountFlag.NOATIME, "errors=remount-ro")
        try:
            fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                yield HostGuest(fd, mountpoint=root)
            finally:
                os.close(fd)
        finally:
            linux.umount(str(root))


def _free_bytes(directory: Path) -> int:
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize


def _full(recipe: Recipe, cache: Path, free: int, needed: str) -> ImageError:
    return ImageError(
        f"image {recipe.image}: the cache directory {cache} has too little space: {human_bytes(free)} are free, and "
        f"building needs {needed}; make room, or remove images that are not used (osprovider image list, image remove)"
    )
