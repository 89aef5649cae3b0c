"""What ``CACHE/sources/`` holds: files that were fetched, and what the definitions' sources were.

A file that was fetched is named by the digest of its content, once that is verified, and kept while it is needed. A
**pin** is what a definition's source was when it was last obtained.
Not for: obtaining a source (:mod:`osprovider.images.sources.obtain`), or when what was fetched goes
(:mod:`osprovider.images.pruning`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osprovider import locks
from osprovider.config.model import Image
from osprovider.errors import ImageError, reason_of
from osprovider.images.sources.localfiles import Identity
from osprovider.paths import Directories

__all__ = ["Download", "Pin", "SourceCache"]

_DIGEST = "sha256:"
_PART = ".part"
_NEW = ".new"
_PIN = ".json"
# What else lies there is somebody's, and stays.
_DOWNLOAD = re.compile(r"[0-9a-f]{64}(\.part|\.new)?")
_PIN_NAME = re.compile(r"[0-9a-f]{64}\.json")


@dataclass(frozen=True, slots=True)
class Pin:
    """What a definition's source was when it was last obtained.

    Attributes:
        location: the path or URL.
        digest: of its content: ``sha256:`` and 64 hexadecimal digits; of a pair of dumps, over both their digests.
        size_bytes: of its content, of all its files.
        verified: how it was verified, for people; ``nothing`` where the definition asks for nothing.
        expected: the checksum that it had to have, ``ALGORITHM:DIGITS``; None without one.
        etag: the server's validator, as it stood in the header; None without one.
        last_modified: likewise.
        files: of a local source: path, device, inode, size and modification time (in ns) of each of its files.
    """

    location: str
    digest: str
    size_bytes: int
    verified: str
    expected: str | None = None
    etag: str | None = None
    last_modified: str | None = None
    files: tuple[Identity, ...] = ()


@dataclass(frozen=True, slots=True)
class Download:
    """A file that was fetched, or a part of one; or a pin.

    Attributes:
        path: the file.
        size_bytes: what it takes.
        used: when it was last needed, in seconds since 1970.
    """

    path: Path
    size_bytes: int
    used: float


class SourceCache:
    """The sources that this node has.

    Args:
        directories: ``cache`` holds them, ``run`` their locks.
    """

    def __init__(self, directories: Directories) -> None:
        self._directory = directories.cache / "sources"
        self._locks = directories.run / "locks"

    # -- of a definition ----------------------------------------------------------------------------------------------

    def obtaining(self, image: Image, doing: str) -> AbstractContextManager[None]:
        """Nobody else obtains the definition's source within; ``doing`` is what whoever waits for that is told."""
        return locks.exclusive(self._lock(_key(image)), doing)

    def pin(self, image: Image) -> Pin | None:
        """What the definition's source was; None where it was never obtained."""
        try:
            data: dict[str, Any] = json.loads(self._pin_path(image).read_bytes())
            if data.pop("checksum") != _checksum(data):  # a bit of it has flipped
                return None
            return Pin(**{**data, "files": tuple(tuple(each) for each in data["files"])})
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def save_pin(self, image: Image, pin: Pin) -> None:
        """Note what the definition's source is now. Only within :meth:`obtaining`.

        Raises:
            ImageError: it cannot be written.
        """
        self._make_directory()
        path = self._pin_path(image)
        new = path.with_suffix(_NEW)
        try:
            with new.open("w") as file:
                data = dataclasses.asdict(pin)
                json.dump({**data, "checksum": _checksum(data)}, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            new.rename(path)
        except OSError as error:
            with suppress(OSError):
                new.unlink()
            raise ImageError(
                f"{path}: cannot be written: {reason_of(error)}; the cache directory has to be writable, and not full"
            ) from error

    def part_path(self, image: Image) -> Path:
        """Where the definition's source is fetched to, until it is verified. Only within :meth:`obtaining`."""
        self._make_directory()
        return self._directory / f"{_key(image)}{_PART}"

    def _pin_path(self, image: Image) -> Path:
        return self._directory / f"{_key(image)}{_PIN}"

    def _make_directory(self) -> None:
        try:
            self._directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        except OSError as error:
            raise ImageError(f"{error.filename}: {reason_of(error)}; the cache directory has to be writable") from error

    # -- files that were fetched --------------------------------------------------------------------------------------

    def path(self, digest: str) -> Path:
        """Where a file with this content lies, or would lie."""
        return self._directory / digest.removeprefix(_DIGEST)

    def in_use(self, path: Path) -> AbstractContextManager[None]:
        """Nobody discards the file within."""
        return locks.shared(self._lock(path.name))

    def downloads(self) -> tuple[Download, ...]:
        """What was fetched and is still there, the least recently used first."""
        return tuple(sorted(self._found(_DOWNLOAD), key=lambda download: download.used))

    def stray_pins(self, images: Iterable[Image]) -> tuple[Download, ...]:
        """The pins of sources that none of these definitions has, which are all that there are."""
        kept = {self._pin_path(image) for image in images}
        return tuple(found for found in self._found(_PIN_NAME) if found.path not in kept)

    def _found(self, pattern: re.Pattern[str]) -> Iterator[Download]:
        """The files of such a name."""
        with suppress(FileNotFoundError), os.scandir(self._directory) as entries:
            for entry in entries:
                if pattern.fullmatch(entry.name):
                    with suppress(FileNotFoundError):  # it is discarded at this moment
                        status = entry.stat(follow_symlinks=False)
                        yield Download(Path(entry.path), status.st_blocks * 512, status.st_mtime)

    def discard(self, path: Path) -> bool:
        """Remove what was fetched, or a pin, unless somebody uses or fetches it. It is fetched again on demand.

        Returns:
            is it gone.
        """
        with locks.attempt(self._lock(path.name.partition(".")[0])) as free:
            if free:
                path.unlink(missing_ok=True)
                path.with_name(f"{path.name}{_PIN}").unlink(missing_ok=True)
            return free

    def _lock(self, name: str) -> Path:
        return self._locks / f"source-{name}"


def _checksum(data: Mapping[str, Any]) -> str:
    """Of what a pin says: zlib's CRC-32."""
    return f"{zlib.crc32(json.dumps(data, sort_keys=True).encode()):08x}"


def _key(image: Image) -> str:
    """Names what belongs to a definition's source: another word of how to get it is another source."""
    said = json.dumps([image.source, image.checksums, image.signature, image.keyring])
    return hashlib.sha256(said.encode()).hexdigest()
