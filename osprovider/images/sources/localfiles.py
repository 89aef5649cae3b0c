"""Image files of this node: which ones a definition means, and what tells them from others.

Not for: files of servers (:mod:`osprovider.images.sources.fetch`), or what a file is
(:mod:`osprovider.images.formats`).
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from osprovider.errors import ImageError, reason_of

__all__ = ["Identity", "changes", "digests_of", "identities", "local_files", "regular"]

Identity = tuple[str, int, int, int, int]
"""Path, device, inode, size in bytes, and time of modification in ns."""

_CHUNK = 1 << 20
_PLAIN_SUFFIXES = (".tar.gz", ".img", ".raw", ".qcow2", ".tar", ".tgz")
_ROOT_DUMP, _BOOT_DUMP = "-root.dump", "-boot.dump"


def local_files(name: str, path: Path) -> dict[str, Path]:
    """The files of a local source.

    Args:
        name: the definition's.
        path: of the file; or up to what instance-image added to it (``-root.dump``, ``.tar.gz`` and others).

    Returns:
        ``image`` alone, or ``root`` and perhaps ``boot`` of a pair of dumps.

    Raises:
        ImageError: there is no such file, or there are several.
    """
    try:
        return _found(name, path)
    except OSError as error:
        raise ImageError(f"image {name}: {path}: {reason_of(error)}; correct source") from error


def _found(name: str, path: Path) -> dict[str, Path]:
    if path.is_file():
        return {"image": path}
    if path.exists():
        raise ImageError(f"image {name}: {path} is no regular file: name the image's file")
    beside = {suffix: path.with_name(path.name + suffix) for suffix in (_ROOT_DUMP, *_PLAIN_SUFFIXES)}
    found = {suffix: each for suffix, each in beside.items() if each.is_file()}
    if not found:
        raise ImageError(
            f"image {name}: there is no {path}, and no {path.name}{_ROOT_DUMP} or the like; correct source, or put it "
            "there"
        )
    if len(found) > 1:
        listed = " and ".join(sorted(each.name for each in found.values()))
        raise ImageError(f"image {name}: {path.parent} has {listed}: name one of them as source")
    ((suffix, only),) = found.items()
    if suffix != _ROOT_DUMP:
        return {"image": only}
    boot = path.with_name(path.name + _BOOT_DUMP)
    return {"root": only, **({"boot": boot} if boot.is_file() else {})}


def identities(paths: Mapping[str, Path]) -> tuple[Identity, ...]:
    """What tells files from others, and from themselves after a change.

    Raises:
        ImageError: one is not there.
    """
    found = []
    for path in paths.values():
        try:
            status = path.stat()
        except OSError as error:
            raise ImageError(
                f"{path}: cannot be looked at: {reason_of(error)}; correct source, or put it there"
            ) from error
        found.append((str(path), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(found)


def changes(paths: Mapping[str, Path]) -> tuple[int, ...]:
    """When files were last changed, in ns: who may write one can set its time of modification back, and not this.

    It also tells of what leaves the content alone, such as a new mode.

    Raises:
        ImageError: one is not there.
    """
    try:
        return tuple(path.stat().st_ctime_ns for path in paths.values())
    except OSError as error:
        raise ImageError(f"{error.filename}: cannot be looked at: {reason_of(error)}; try again") from error


def digests_of(path: Path, algorithms: tuple[str, ...]) -> dict[str, str]:
    """The digests of a file, by hashlib's name.

    Raises:
        ImageError: it cannot be read.
    """
    digests = {name: hashlib.new(name) for name in algorithms}
    try:
        with regular(path) as file:
            buffer = memoryview(bytearray(_CHUNK))  # one for all: libc would keep twice what is freed each time
            while count := file.readinto(buffer):
                for digest in digests.values():
                    digest.update(buffer[:count])
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {reason_of(error)}") from error
    return {name: digest.hexdigest() for name, digest in digests.items()}


@contextmanager
def regular(path: Path) -> Iterator[io.FileIO]:
    """A file open for reading; a pipe or a device is waited for by nobody.

    Raises:
        ImageError: it is something else.
        OSError: it cannot be opened.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ImageError(f"{path}: is no regular file")
        yield file
