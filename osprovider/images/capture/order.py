"""What is to be captured, what is found on it, and what both kinds of image do with it.

Not for: what is taken out of a system (:mod:`osprovider.images.anonymize`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from osprovider.errors import GuestError, ImageError
from osprovider.guest.protocol import Guest
from osprovider.images.anonymize import anonymize
from osprovider.images.inspection import inspect
from osprovider.log import plain, reporter
from osprovider.manifest import ImagePartition, ImageTable

__all__ = ["SUFFIXES", "CaptureFormat", "CaptureOrder", "Found", "naming", "take_identity"]

CaptureFormat = Literal["tar", "qcow2"]
SUFFIXES: dict[CaptureFormat, str] = {"tar": ".tar.zst", "qcow2": ".qcow2"}

_LONGEST_NAME = 100


@dataclass(frozen=True, slots=True)
class CaptureOrder:
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
    kind: CaptureFormat = "tar"
    keep: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    force: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """What is on the disk.

    Attributes:
        table: None where one file system fills the disk.
        parts: what it divides the disk into.
    """

    table: ImageTable | None
    parts: tuple[ImagePartition, ...]


@contextmanager
def naming(order: CaptureOrder) -> Iterator[None]:
    """Have what fails name the disk, in place of the image that it is to become."""
    try:
        yield
    except (GuestError, ImageError) as error:
        said = str(error).removeprefix(f"image {order.name}: ")
        raise ImageError(f"{order.source}: {said}") from error


def take_identity(order: CaptureOrder, guest: Guest) -> str:
    """Take out what makes the system this one; returns what it calls itself."""
    with reporter.step(f"image {order.name}: take out its identity") as detail:
        system = plain(inspect(guest).distribution.pretty_name[:_LONGEST_NAME])
        anonymize(guest, keep=order.keep, remove=order.remove)
        detail(system)
    return system
