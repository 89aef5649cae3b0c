"""Files from HTTP servers that cannot be relied on: resumed, tried again, bounded in size and time.

requests is used for what it knows of HTTP, TLS, proxies and pools; following redirects is done here, so that none leads
from https to http, and nothing of the caller's environment (proxies, netrc(5)) has a say.
Not for: whether what was fetched is right (:mod:`osprovider.images.sources`).
Source: RFC 9110, 13.1.5 (If-Range), 14 (ranges), 15.3.7 (206), 10.2.3 (Retry-After).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar
from urllib.parse import urljoin, urlsplit

import requests
import urllib3.exceptions

import osprovider
from osprovider.errors import ImageError
from osprovider.log import human_bytes, reporter

__all__ = ["Fetched", "Fetcher", "Limits"]

_CHUNK = 1 << 20
_MOST_REDIRECTS = 10
_TRY_AGAIN = frozenset({408, 429, 500, 502, 503, 504})
_LONGEST_PAUSE = 60.0
_HEADERS = {"User-Agent": f"osprovider/{osprovider.__version__}", "Accept-Encoding": "identity"}
_Result = TypeVar("_Result")
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a server is waited for, in seconds, and how often it is asked.

    Attributes:
        connect: until it answers the call. idle: until the next byte. total: for one file, all attempts together.
        attempts: how often in a row without a single byte more.
        pause: before the second attempt; doubled before each further one.
    """

    connect: float = 15.0
    idle: float = 60.0
    total: float = 6 * 3600.0
    attempts: int = 5
    pause: float = 1.0


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file that was fetched whole.

    Attributes:
        digests: of its content, hexadecimal, by hashlib's name.
        size_bytes: its size.
        etag: the server's validator, as it stands in the header; None without one. last_modified: likewise.
    """

    digests: Mapping[str, str]
    size_bytes: int
    etag: str | None
    last_modified: str | None


class _TryAgain(Exception):  # noqa: N818 - never leaves this module
    """Something that may be better the next time; ``pause`` is how long the server wants us to wait, in seconds."""

    def __init__(self, what: str, pause: float = 0.0) -> None:
        super().__init__(what)
        self.pause = pause


class Fetcher:
    """Fetches files.

    Args:
        proxy: an HTTP proxy's URL.
        limits: see there.
        ca_file: certificates that are trusted in place of the system's, for tests.
    """

    def __init__(self, proxy: str | None = None, limits: Limits | None = None, ca_file: Path | None = None) -> None:
        self._limits = limits or Limits()
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.headers.update(_HEADERS)
        self._session.verify = str(ca_file) if ca_file else "/etc/ssl/certs/ca-certificates.crt"
        if proxy:
            self._session.proxies = {"http": proxy, "https": proxy}

    def small(self, url: str, limit_bytes: int = 4 << 20) -> bytes:
        """A small file, in memory.

        Raises:
            ImageError: it cannot be had, or is larger.
        """

        def attempt(_: float) -> bytes:
            with self._get(url, {}) as response:
                data = b"".join(self._chunks(response, url, limit_bytes, 0))
                _check_length(response, len(data))
                return data

        return self._persist(url, attempt, lambda: 0)

    def download(
        self,
        url: str,
        target: Path,
        *,
        algorithms: tuple[str, ...],
        limit_bytes: int,
        unless: Mapping[str, str] | None = None,
    ) -> Fetched | None:
        """Fetch a file, going on where an earlier attempt ended, of this process or of another.

        Args:
            url: http or https.
            target: the file that is written; what it is so far lies beside it, in ``TARGET.json``.
            algorithms: hashlib's names of the digests that are wanted.
            limit_bytes: the most that it may have.
            unless: headers of a conditional request (``If-None-Match``, ``If-Modified-Since``).

        Returns:
            what was fetched, synced; None where the server says that the conditions hold.

        Raises:
            ImageError: it cannot be had; says what the server answered, and what to do.
        """
        name = urlsplit(url).path.rpartition("/")[2] or url
        with reporter.step(f"fetch {name}") as detail, _Part(target, algorithms) as part:

            def attempt(deadline: float) -> Fetched | None:
                return self._download_once(url, part, limit_bytes, dict(unless or {}), deadline)

            fetched = self._persist(url, attempt, lambda: part.size)
            detail(human_bytes(fetched.size_bytes) if fetched else "not changed")
        return fetched

    def _download_once(
        self, url: str, part: _Part, limit: int, conditions: dict[str, str], deadline: float
    ) -> Fetched | None:
        with self._get(url, conditions | part.conditions()) as response:
            if response.status_code == 304:
                return None
            if response.status_code == 206:
                part.go_on(response)
            else:
                part.begin(response)
            due = time.monotonic() + 10
            total = part.expected
            for chunk in self._chunks(response, url, limit, part.size):
                part.append(chunk)
                now = time.monotonic()
                if now > deadline:
                    raise ImageError(f"{url}: not done after {self._limits.total:.0f} s: the server is too slow")
                if now > due:
                    due = now + 10
                    share = f"{part.size * 100 // total} % of {human_bytes(total)}" if total else human_bytes(part.size)
                    reporter.running("fetch", share)
            if total is not None and part.size < total:
                raise _TryAgain(f"the connection ended after {part.size} of {total} bytes")
        return part.finished()

    def _persist(self, url: str, attempt: Callable[[float], _Result], progress: Callable[[], int]) -> _Result:
        """Try, and try again as long as that may help."""
        deadline = time.monotonic() + self._limits.total
        failures, before = 0, progress()
        while True:
            try:
                return attempt(deadline)
            except _TryAgain as error:
                what, pause = str(error), error.pause
            except requests.exceptions.SSLError as error:
                raise ImageError(f"{url}: the server's certificate is not trusted: {_cause(error)}") from error
            except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
                what, pause = _cause(error), 0.0
            except OSError as error:
                raise ImageError(f"{error.filename or url}: {error.strerror}") from error
            failures = 0 if progress() > before else failures
            before = progress()
            failures += 1
            if failures >= self._limits.attempts or time.monotonic() > deadline:
                raise ImageError(
                    f"{url}: {what}, {failures} times in a row; is the server up, and reachable from here?"
                )
            pause = max(min(pause, _LONGEST_PAUSE), self._limits.pause * 2 ** (failures - 1))
            reporter.info(f"{url}: {what}; trying again in {pause:.0f} s")
            time.sleep(pause)

    def _get(self, url: str, headers: Mapping[str, str]) -> requests.Response:
        """Ask for a file, through redirects."""
        place = url
        for _ in range(_MOST_REDIRECTS):
            response = self._session.get(
                place,
                headers=dict(headers),
                stream=True,
                allow_redirects=False,
                timeout=(self._limits.connect, self._limits.idle),
            )
            if not response.is_redirect:
                _check_status(response, url)
                return response
            response.close()
            place = urljoin(place, response.headers["Location"])
            if not place.startswith(("http://", "https://")) or (
                url.startswith("https:") and place.startswith("http:")
            ):
                raise ImageError(f"{url}: redirects to {place}, which is less safe; correct the source")
        raise ImageError(f"{url}: redirects more than {_MOST_REDIRECTS} times, the last time to {place}")

    def _chunks(self, response: requests.Response, url: str, limit: int, size: int) -> Iterator[bytes]:
        while chunk := response.raw.read(_CHUNK, decode_content=False):
            size += len(chunk)
            if size > limit:
                raise ImageError(
                    f"{url}: larger than {human_bytes(limit)}, which is what the definition allows; raise its max_size "
                    "if that is right"
                )
            yield chunk


class _Part:
    """A file as far as it was fetched, and what the server said of it, so that it can be gone on with."""

    def __init__(self, path: Path, algorithms: tuple[str, ...]) -> None:
        self._path = path
        self._notes = path.with_name(f"{path.name}.json")
        self._algorithms = algorithms
        self._digests = {name: hashlib.new(name) for name in algorithms}
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._said: dict[str, str | int | None] = {}
        self.size = 0
        self.expected: int | None = None
        self._take_up()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
        if not self.size:
            self._path.unlink()
            self._notes.unlink(missing_ok=True)

    def conditions(self) -> dict[str, str]:
        """Headers that ask for the rest, if it is still the rest of the same file; none where there is nothing yet."""
        validator = self._said.get("etag") or self._said.get("last_modified")
        if not self.size or not isinstance(validator, str) or validator.startswith("W/"):
            return {}
        return {"Range": f"bytes={self.size}-", "If-Range": validator}

    def begin(self, response: requests.Response) -> None:
        """The server sends all of it."""
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        self._digests = {name: hashlib.new(name) for name in self._algorithms}
        self.size = 0
        length = response.headers.get("Content-Length", "")
        self.expected = int(length) if length.isdigit() else None
        self._said = {
            "etag": response.headers.get("ETag"),
            "last_modified": response.headers.get("Last-Modified"),
            "expected": self.expected,
        }
        self._notes.write_text(json.dumps(self._said))

    def go_on(self, response: requests.Response) -> None:
        """The server sends the rest."""
        found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != self.size:
            os.ftruncate(self._fd, 0)
            self.size = 0
            self._said = {}
            raise _TryAgain("the server sent another part than it was asked for")
        self.expected = int(found[3]) if found[3] != "*" else int(found[2]) + 1

    def append(self, chunk: bytes) -> None:
        """Store what came."""
        view = memoryview(chunk)
        while view:
            view = view[os.write(self._fd, view) :]
        for digest in self._digests.values():
            digest.update(chunk)
        self.size += len(chunk)

    def finished(self) -> Fetched:
        """All of it is there: have it stored."""
        os.fsync(self._fd)
        self._notes.unlink(missing_ok=True)
        etag, modified = self._said.get("etag"), self._said.get("last_modified")
        return Fetched(
            {name: digest.hexdigest() for name, digest in self._digests.items()},
            self.size,
            etag if isinstance(etag, str) else None,
            modified if isinstance(modified, str) else None,
        )

    def _take_up(self) -> None:
        """Read what an earlier attempt left."""
        try:
            said = json.loads(self._notes.read_bytes())
            self._said = dict(said)
        except (OSError, ValueError, TypeError):
            os.ftruncate(self._fd, 0)
            return
        while chunk := os.read(self._fd, _CHUNK):
            for digest in self._digests.values():
                digest.update(chunk)
            self.size += len(chunk)


def _check_status(response: requests.Response, url: str) -> None:
    status = response.status_code
    if status in (200, 206, 304):
        return
    response.close()
    said = f"the server answers {status} {response.reason}"
    if status == 416:
        raise _TryAgain(said)
    if status in _TRY_AGAIN:
        after = response.headers.get("Retry-After", "")
        raise _TryAgain(said, float(after) if after.isdigit() else 0.0)
    raise ImageError(f"{url}: {said}: correct the address in the definition")


def _check_length(response: requests.Response, size: int) -> None:
    length = response.headers.get("Content-Length", "")
    if length.isdigit() and size < int(length):
        raise _TryAgain(f"the connection ended after {size} of {length} bytes")


def _cause(error: BaseException) -> str:
    """The innermost reason, without the addresses of Python objects."""
    while isinstance(error, requests.RequestException | urllib3.exceptions.HTTPError):
        inner = (
            error.__cause__
            or error.__context__
            or next((each for each in error.args if isinstance(each, Exception)), None)
        )
        inner = getattr(error, "reason", None) if isinstance(getattr(error, "reason", None), Exception) else inner
        if inner is None or inner is error:
            break
        error = inner
    text = str(getattr(error, "strerror", None) or error) or type(error).__name__
    return re.sub(r"<[^>]*>: ", "", text).lower()
