"""Is a template what its manifest says: every extent by its checksum, and nothing but zeros between them.

Not for: what becomes of a damaged one (:mod:`osprovider.images.store`), or checking what is copied anyway
(:mod:`osprovider.disk.copy`).
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from osprovider.disk.copy import DamagedTemplate
from osprovider.disk.raw import BLOCK, data_ranges
from osprovider.errors import ImageError, reason_of
from osprovider.log import reporter
from osprovider.manifest import Extent, Manifest, Template

__all__ = ["find_damage", "refuse_damaged"]

_PIECE = 1 << 20
_ZEROS = bytes(_PIECE)


def find_damage(path: Path, manifest: Manifest, *, cached: bool = False) -> str | None:
    """Read a template whole.

    Args:
        path: its image.
        manifest: what it should be.
        cached: as the kernel has it, which is what is used next; otherwise from its disk rather than from memory.

    Returns:
        the first thing that is wrong, with the byte; None where nothing is.
    """
    damage = _misplaced(manifest)
    if damage is not None:
        return f"its manifest: {damage}"
    with (
        path.open("rb", buffering=0) as file,
        reporter.progress(f"image {manifest.image}: verify {manifest.key[:12]}", manifest.data_bytes) as advance,
    ):
        if not cached:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        try:
            return _read(file.fileno(), manifest, advance)
        except OSError as error:
            return f"{path.name} cannot be read: {reason_of(error)}"
        except ImageError as error:
            return str(error)


def refuse_damaged(template: Template, *, cached: bool = False) -> None:
    """Read a template whole before it is used in a way that checks nothing.

    Args:
        template: in use.
        cached: as for :func:`find_damage`.

    Raises:
        DamagedTemplate: it is not what its manifest says.
    """
    damage = find_damage(template.path, template.manifest, cached=cached)
    if damage is not None:
        raise DamagedTemplate(f"template {template.path} is damaged: {damage}")


def _misplaced(manifest: Manifest) -> str | None:
    """What is wrong with the extents by themselves."""
    for extents in (manifest.extents, manifest.metadata):
        end = 0
        for extent in extents:
            if extent.offset % BLOCK or extent.length % BLOCK or extent.length <= 0:
                return f"the extent at byte {extent.offset} is not of whole blocks"
            if extent.offset < end:
                return f"the extent at byte {extent.offset} overlaps the one before"
            end = extent.offset + extent.length
        if end > manifest.size_bytes:
            return f"an extent ends at byte {end}, and the template at {manifest.size_bytes}"
    return None


def _read(fd: int, manifest: Manifest, advance: Callable[[int], None]) -> str | None:
    position = 0
    for extent in (*manifest.extents, Extent(manifest.size_bytes, 0, 0)):
        for offset, data in _data(fd, position, extent.offset):
            if data != _ZEROS[: len(data)]:
                first = offset + next(index for index, byte in enumerate(data) if byte)
                return f"byte {first} is not zero, and no extent has it"
        position = extent.offset + extent.length
        if not _is_sound(fd, extent):
            return f"the checksum of the {extent.length} bytes from byte {extent.offset} on is wrong"
        advance(extent.length)
    for extent in manifest.metadata:
        if not _is_sound(fd, extent):
            return f"its manifest: the checksum of the metadata from byte {extent.offset} on is wrong"
    return None


def _is_sound(fd: int, extent: Extent) -> bool:
    """Does an extent have its checksum."""
    checksum, end = 0, extent.offset + extent.length
    for start in range(extent.offset, end, _PIECE):
        checksum = zlib.crc32(os.pread(fd, min(_PIECE, end - start), start), checksum)
    return checksum == extent.crc32


def _data(fd: int, begin: int, end: int) -> Iterator[tuple[int, bytes]]:
    """What is not a hole, piece by piece, with its offset."""
    for offset, length in data_ranges(fd, begin, end):
        for start in range(offset, offset + length, _PIECE):
            yield start, os.pread(fd, min(_PIECE, offset + length - start), start)
