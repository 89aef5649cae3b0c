"""Images that this node builds: packages are installed into a file system of ours, whose tree is packed.

What packages made is packed into a file system of its own, the same each time (:mod:`osprovider.disk.pack`), since the
one that they were installed into tells in what order that went.
Not for: how packages are installed (:mod:`osprovider.images.builder`), or what all templates have in common
(:mod:`osprovider.images.prepare`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import time

from osprovider.config.load import load_cache
from osprovider.disk import features, filesystem
from osprovider.disk.pack import pack
from osprovider.images.builder import bootstrap, reproducible, requirements
from osprovider.images.cleaning import LEFT_BY_BUILD, clean
from osprovider.images.prepare import Job, Made, look, scan
from osprovider.images.tree import filling
from osprovider.log import human_bytes, reporter
from osprovider.manifest import Filesystem

__all__ = ["build"]

_LARGEST_BUILD = 16 << 30
"""Of the file system while packages are installed into it; sparse."""


def build(job: Job) -> Made:
    """Install packages, and pack the tree: from the same packages comes the same file.

    Args:
        job: the preparation, of a definition with a build.

    Raises:
        NodeError: this node lacks what it takes; names all of it.
        ImageError: the build failed; names the image, the cause and the way out.
    """
    requirements.require_tools(job.recipe)
    definition, began = job.recipe.build, time.time() - 1  # a file's time may be behind the clock's by a tick
    materials = job.scratch / "materials"
    materials.mkdir()
    with filling(job, job.scratch / "system.img", min(job.free_bytes, _LARGEST_BUILD)) as (guest, root):
        with reporter.step(f"image {job.name}: {definition.suite} by {definition.tool}") as detail:
            proxy = load_cache(job.directories).proxy
            epoch = bootstrap.install(job.recipe, guest, root, materials, proxy=proxy)
            facts = look(job, guest)
            detail(f"{len(facts.packages)} packages")
        with reporter.step(f"image {job.name}: clean"):
            clean(guest, (*LEFT_BY_BUILD, *bootstrap.LEFT_FOR_BUILD))
            reproducible.settle(guest, root, began=began, epoch=epoch)
        with reporter.step(f"image {job.name}: pack") as detail:
            kind = job.recipe.filesystem
            unknown = features.unknown_to(facts.distribution, kind)
            pack(root, job.image, kind, uuid=job.filesystem_uuid, epoch=epoch, without=unknown)
            made = Filesystem(**dataclasses.asdict(filesystem.read_superblock(job.image)))
            detail(human_bytes(made.size_bytes))
    checksums = scan(job, [0], built_here=True)
    tools: dict[str, str] = {definition.tool: requirements.tool_version(definition.tool)}
    with reporter.step(f"image {job.name}: digest"), job.image.open("rb") as file:
        digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    size = made.size_bytes
    return Made(facts, size, None, made, built_here=True, tools=tools, scan=checksums, digest=digest)
