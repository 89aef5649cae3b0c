"""Images that others made: an archive is unpacked into a file system of ours, a disk or file system taken as it is.

Not for: where they come from (:mod:`osprovider.images.sources.obtain`), or what all templates have in common
(:mod:`osprovider.images.prepare`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from osprovider.background import Task
from osprovider.config.sizes import parse_size
from osprovider.errors import ImageError
from osprovider.guest.host import HostGuest
from osprovider.images import formats, streams
from osprovider.images.archive import dump, unpack
from osprovider.images.detach import detach
from osprovider.images.inspection import Facts
from osprovider.images.prepare import Job, Made, look, scan
from osprovider.images.sources.obtain import Obtained
from osprovider.images.tree import make_tree, written_out
from osprovider.log import reporter
from osprovider.manifest import EXT, Origin
from osprovider.sandbox import confine

__all__ = ["take"]

_TREES = ("tar", "dump")
_USUAL_FOR_EACH_BYTE = 8
"""Bytes of a file system for each of an archive: for files of 2 KiB, or the eighth of their size when compressed."""

_MOST_FOR_EACH_BYTE = 32
"""Bytes of a file system for each of an archive that is not compressed: an empty file has a header of 512 there, and
needs an inode here, of which there is one in 16 KiB. Directories, and blocks that are nearly empty, take less."""

_ALWAYS = 512 << 20  # what the file system needs for itself


def take(job: Job, obtained: Obtained, isolation: str) -> Made:
    """Make a template of an image that was obtained.

    Args:
        job: the preparation.
        obtained: its source.
        isolation: where a disk is looked into, as the variant has it.

    Raises:
        ImageError: it is not what it should be, or cannot be read; names the image or the file, and what is wrong.
    """
    obtained.require_same()
    paths = obtained.paths
    main = paths.get("image") or paths["root"]
    wanted = job.recipe.definition.format
    found = {part: formats.detect(path, wanted) for part, path in paths.items()}
    for part, each in found.items():
        if len(found) > 1 and each.container not in _TREES:
            raise ImageError(f"{paths[part]}: is {each}, and both of a pair have to be dumps: take the other one away")
    kind = found["image" if "image" in paths else "root"]
    limit = parse_size(job.recipe.definition.max_size)
    if kind.container in _TREES:
        ready = Task("get ready", partial(unpack.get_ready, for_dumps=kind.container == "dump"))

        def fill(guest: HostGuest, root: Path) -> Facts:
            with reporter.step(f"image {job.name}: unpack {kind}") as detail:
                ready.result()
                _unpack(paths, found, root, limit)
                gone = detach(guest)
                facts = look(job, guest)
                detail(facts.distribution.pretty_name)
            for line in gone:
                reporter.debug(f"image {job.name}: its /etc/fstab loses a file system that stayed behind: {line}")
            return facts

        made = make_tree(job, _sizes(paths, found, min(job.free_bytes, limit)), fill)
    else:
        made = _disk(job, main, kind, limit, isolation)
    pin = obtained.pin
    if not obtained.still_same():
        raise ImageError(f"image {job.name}: {main} was changed while it was read; prepare the image again")
    origin = Origin(pin.location, pin.digest, pin.size_bytes, str(kind), pin.verified)
    return dataclasses.replace(made, origin=origin)


def _sizes(paths: Mapping[str, Path], found: Mapping[str, formats.ImageFormat], limit: int) -> list[int]:
    """What archives usually unpack to, and what they may unpack to; in bytes of a file system."""
    size = sum(path.stat().st_size for path in paths.values())
    usual, most = _ALWAYS + _USUAL_FOR_EACH_BYTE * size, _ALWAYS + _MOST_FOR_EACH_BYTE * size
    if any(_is_compressed(path, found[part]) for part, path in paths.items()):
        most = limit  # there is no telling
    return sorted({min(usual, limit), min(most, limit)})


def _is_compressed(path: Path, kind: formats.ImageFormat) -> bool:
    if kind.compression == "none" and kind.container == "dump":
        return dump.read_label(streams.head(path, "none", dump.RECORD), str(path)).compressed
    return kind.compression != "none"


def _unpack(paths: Mapping[str, Path], found: Mapping[str, formats.ImageFormat], root: Path, limit: int) -> None:
    """Unpack an archive, or a pair of dumps, whose parts are named by where they belong."""
    for part, path in sorted(paths.items(), key=lambda each: each[0] == "boot"):
        target = root
        if part == "boot":
            target = root / "boot"
            with suppress(FileExistsError):  # who unpacks into it looks what it is
                target.mkdir()
        kind = found[part]
        with streams.decompressed(path, kind.compression, limit_bytes=limit) as stream:
            if kind.container == "tar":
                unpack.unpack_tar(stream, target, name=str(path))
            else:
                unpack.unpack_dump(stream, target, name=str(path))
    unpack.require_root(root, str(paths.get("image") or paths["root"]))


def _disk(job: Job, path: Path, kind: formats.ImageFormat, limit: int, isolation: str) -> Made:
    """Take a disk, or a file system, as it is. It goes on to its disk while it is looked into, too."""
    Task("get ready", confine, ["true"])  # whoever confines something asks the node only once whether it can
    from osprovider.images.diskimage import contents, convert  # dear to import, and an archive needs neither

    size = path.stat().st_size
    with written_out(job.image):
        with reporter.progress(f"image {job.name}: {kind} to raw", size) as advance:
            convert.to_raw(path, kind, job.image, scratch=job.scratch, limit_bytes=limit, advance=advance)
        with reporter.step(f"image {job.name}: look inside") as detail:
            table, parts = contents.settle(job.image, job.name)
            starts = [part.start_bytes for part in parts if part.filesystem and part.filesystem.type in EXT]
            checksums = scan(job, starts, built_here=False)
            held = table, parts
            found, facts = contents.examine(job.image, job.name, held, job.directories, isolation, partial(look, job))
            detail(facts.distribution.pretty_name)
    size = job.image.stat().st_size
    return Made(facts, size, found.table, found.filesystem, built_here=False, tools={}, scan=checksums)
