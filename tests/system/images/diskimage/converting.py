"""Disks made of disk images, or not; as a program: of the image, and in the directory, that are its arguments.

Not for: making the images (:mod:`tests.support.disk_images`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from osprovider import linux
from osprovider.errors import ImageError
from osprovider.images.diskimage.convert import to_raw
from osprovider.images.formats import ImageFormat, detect

__all__ = ["MIB", "allocated", "convert", "is_disk", "mounted", "refused"]

MIB = 1 << 20
_NOWHERE = Path("/nonexistent/scratch")


def convert(
    path: Path,
    directory: Path,
    *,
    kind: ImageFormat | None = None,
    scratch: Path | None = None,
    limit: int = 1 << 40,
    advance: Callable[[int], None] = lambda _count: None,
) -> Path:
    """Make a disk of an image, in a directory; without `scratch` none is needed."""
    target = directory / "target"
    target.unlink(missing_ok=True)
    target.touch(mode=0o600)
    size = to_raw(path, kind or detect(path), target, scratch=scratch or _NOWHERE, limit_bytes=limit, advance=advance)
    assert size == target.stat().st_size
    assert size % 4096 == 0
    return target


def refused(path: Path, directory: Path, *, kind: ImageFormat | None = None, limit: int = 1 << 40) -> str:
    """The message about an image; nothing but the target is left."""
    scratch = directory / "scratch"
    scratch.mkdir(exist_ok=True)
    with pytest.raises(ImageError) as caught:
        convert(path, directory, kind=kind, scratch=scratch, limit=limit)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    assert list(scratch.iterdir()) == []
    return message


def is_disk(target: Path, raw: Path) -> bool:
    """Is a file the disk, and zeros to its end."""
    disk, found = raw.read_bytes(), target.read_bytes()
    return found.startswith(disk) and not found[len(disk) :].strip(b"\0")


def allocated(path: Path) -> int:
    """Bytes that a file takes on its disk."""
    return path.stat().st_blocks * 512


@contextmanager
def mounted(place: Path, kind: str, options: str, source: str = "none") -> Iterator[Path]:
    """A file system, in a mount namespace of this process."""
    linux.private_mount_namespace()
    place.mkdir()
    linux.mount(source, str(place), kind, linux.MountFlag.NOATIME, options)
    try:
        yield place
    finally:
        linux.umount(str(place))


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]), scratch=Path(sys.argv[2]))
