"""A file that is fetched in several attempts: as far as it is there, and what the server said of it.

Not for: the requests (:mod:`osprovider.images.sources.fetch`).
Source: RFC 9110, 13.1.5 (If-Range), 14.4 (Content-Range), 15.5.17 (416), 8.8.1 (weak validators).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Self

import requests

from osprovider.errors import ImageError
from osprovider.log import human_bytes

__all__ = ["Fetched", "Part", "TryAgain", "UnfinishedError", "length_of", "number"]

_CHUNK = 1 << 20
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_CONTENT_RANGE = re.compile(r"bytes (?:([0-9]{1,18})-([0-9]{1,18})|\*)/([0-9]{1,18}|\*)")


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file that was fetched whole.

    Attributes:
        digests: of its content, hexadecimal, by hashlib's name.
        size_bytes: its size.
        etag: the server's validator, as it stands in the header; None without one.
        last_modified: likewise.
    """

    digests: Mapping[str, str]
    size_bytes: int
    etag: str | None
    last_modified: str | None


class TryAgain(Exception):  # noqa: N818 - never leaves the fetching
    """Something that may be better the next time; ``pause`` is how long the server wants us to wait, in seconds."""

    def __init__(self, what: str, pause: float = 0.0) -> None:
        super().__init__(what)
        self.pause = pause


class UnfinishedError(ImageError):
    """The server did not do it this time. What came of it so far can be gone on with."""


class Part:
    """A file as far as it was fetched, and what the server said of it, so that it can be gone on with.

    Not after a crash of the node: what was not synced may be zeros then.

    Args:
        path: the file; made where it is missing.
        algorithms: hashlib's names of the digests that are wanted.
    """

    def __init__(self, path: Path, algorithms: tuple[str, ...]) -> None:
        self._path = path
        self._notes = path.with_name(f"{path.name}.json")
        self._algorithms = algorithms
        self._digests = {name: hashlib.new(name) for name in algorithms}
        self._said: dict[str, str | int | None] = {}
        self._whole = False
        self.size = 0
        self.expected: int | None = None
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            self._take_up()
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        os.close(self._fd)
        if self._whole:
            return
        refused = kind is not None and issubclass(kind, ImageError | OSError) and kind is not UnfinishedError
        if refused or kind is None or not self.conditions():
            self._notes.unlink(missing_ok=True)
            self._path.unlink(missing_ok=True)

    def conditions(self) -> dict[str, str]:
        """Headers that ask for the rest, if it is still the rest of the same file; none where there is nothing yet."""
        validator = self._said.get("etag") or self._said.get("last_modified")
        if not self.size or not isinstance(validator, str) or validator.startswith("W/"):
            return {}
        return {"Range": f"bytes={self.size}-", "If-Range": validator}

    def begin(self, response: requests.Response) -> None:
        """The server sends all of it."""
        self._drop()
        self.expected = length_of(response)
        self._said = {
            "boot": _BOOT.read_text(),
            "etag": _validator(response, "ETag"),
            "last_modified": _validator(response, "Last-Modified"),
        }
        self._notes.write_text(json.dumps(self._said))

    def go_on(self, response: requests.Response) -> None:
        """The server sends the rest, or some of it."""
        found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if found is None or found[1] is None or int(found[1]) != self.size or self._is_another(response):
            self._refuse("the server sent another part than it was asked for")
        if found[3] == "*" or length_of(response) not in {None, int(found[2]) + 1 - self.size}:
            self._refuse("the server does not say how much it has, or contradicts itself")
        self.expected = int(found[3])

    def end(self, response: requests.Response) -> None:
        """The server says that there is no more: all of it was there."""
        found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if found is None or found[3] != str(self.size) or self._is_another(response):
            self._refuse("the server has no such part")

    def append(self, chunk: bytes) -> None:
        """Store what came."""
        view = memoryview(chunk)
        while view:
            view = view[os.write(self._fd, view) :]
        for digest in self._digests.values():
            digest.update(chunk)
        self.size += len(chunk)

    def check_size(self) -> None:
        """The server sent all that it was going to."""
        if self.expected is not None and self.size > self.expected:
            self._refuse("the server sent more than it said")
        if self.expected is not None and self.size < self.expected:
            raise TryAgain(f"the connection ended after {self.size} of {self.expected} bytes")

    def progress(self) -> str:
        """How far it is, for people."""
        if not self.expected:
            return human_bytes(self.size)
        return f"{self.size * 100 // self.expected} % of {human_bytes(self.expected)}"

    def finished(self) -> Fetched:
        """All of it is there: have it stored."""
        os.fsync(self._fd)
        self._notes.unlink(missing_ok=True)
        self._whole = True
        etag, modified = self._said.get("etag"), self._said.get("last_modified")
        return Fetched(
            {name: digest.hexdigest() for name, digest in self._digests.items()},
            self.size,
            etag if isinstance(etag, str) else None,
            modified if isinstance(modified, str) else None,
        )

    def _is_another(self, response: requests.Response) -> bool:
        """Is this of another file, from a server that knows no If-Range."""
        etag, modified = _validator(response, "ETag"), _validator(response, "Last-Modified")
        if etag is not None:
            return etag != self._said.get("etag")
        return modified is not None and modified != self._said.get("last_modified")

    def _refuse(self, what: str) -> NoReturn:
        """Begin anew the next time."""
        self._drop()
        raise TryAgain(what)

    def _drop(self) -> None:
        """Forget what is there."""
        self._notes.unlink(missing_ok=True)
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        self._digests = {name: hashlib.new(name) for name in self._algorithms}
        self._said = {}
        self.size = 0
        self.expected = None

    def _take_up(self) -> None:
        """Read what an earlier attempt left."""
        said: object = None
        with suppress(OSError, ValueError):
            said = json.loads(self._notes.read_bytes())
        if not isinstance(said, dict) or said.get("boot") != _BOOT.read_text():
            self._drop()
            return
        self._said = said
        while chunk := os.read(self._fd, _CHUNK):
            for digest in self._digests.values():
                digest.update(chunk)
            self.size += len(chunk)


def _validator(response: requests.Response, name: str) -> str | None:
    """A header that can be sent back; one that goes on in another line or the like cannot."""
    text: str = response.headers.get(name, "")
    return text if text.isprintable() and text else None


def length_of(response: requests.Response) -> int | None:
    """The length of a body, as the server declares it."""
    if "Transfer-Encoding" in response.headers:
        return None
    said = {each.strip() for each in response.headers.get("Content-Length", "").split(",")}  # perhaps twice
    return number(said.pop()) if len(said) == 1 else None


def number(text: str) -> int | None:
    """A number of a header; None where it is none."""
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None
