"""Files from HTTP servers that cannot be relied on: resumed, tried again, bounded in size and time.

requests is used for what it knows of HTTP, TLS, proxies and pools; following redirects is done here, so that none leads
from https to http, and nothing of the caller's environment (proxies, netrc(5)) has a say.
Messages show addresses without what may be secret in them: users, passwords and queries.
Not for: whether what was fetched is right (:mod:`osprovider.images.sources.obtain`).
Source: RFC 9110, 13.1.5 (If-Range), 14 (ranges), 15.3.7 (206), 15.5.17 (416), 10.2.3 (Retry-After).
"""

from __future__ import annotations

import http.client
import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import urljoin, urlsplit

import requests
import urllib3.exceptions
from urllib3.util.ssl_match_hostname import CertificateError

import osprovider
from osprovider.errors import ImageError, reason_of
from osprovider.images.printable import printable
from osprovider.images.sources.addresses import shown_url
from osprovider.images.sources.connections import EndingAdapter
from osprovider.images.sources.partial import Fetched, Part, TryAgain, UnfinishedError, length_of, number
from osprovider.log import human_bytes, reporter

__all__ = ["Fetched", "Fetcher", "Limits"]

_CHUNK = 1 << 18
_MOST_REDIRECTS = 10
_TRY_AGAIN = frozenset({408, 429, 500, 502, 503, 504})
_LONGEST_PAUSE = 60.0
_HEADERS = {"User-Agent": f"osprovider/{osprovider.__version__}", "Accept-Encoding": "identity"}
_AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a server is waited for, in seconds, and how often it is asked.

    Attributes:
        connect: until it answers the call.
        idle: until the next byte.
        total: for one file, all attempts together.
        attempts: how often in a row without a single byte more.
        pause: before the second attempt; doubled before each further one.
    """

    connect: float = 15.0
    idle: float = 60.0
    total: float = 6 * 3600.0
    attempts: int = 5
    pause: float = 1.0


class _Session(requests.Session):
    """Follows no redirects, of which the base class looks for the next one even so, and reads the body: all of it."""

    def resolve_redirects(self, *_: object, **__: object) -> Iterator[requests.Response]:
        """As the base class, which calls it."""
        return iter(())


class Fetcher:
    """Fetches files.

    Args:
        proxy: an HTTP proxy's URL.
        limits: see there.
        ca_file: certificates that are trusted in place of the system's, for tests.
    """

    def __init__(self, proxy: str | None = None, limits: Limits | None = None, ca_file: Path | None = None) -> None:
        self._limits = limits or Limits()
        self._session = _Session()
        self._session.trust_env = False
        self._session.headers.update(_HEADERS)
        self._session.verify = str(ca_file or _AUTHORITIES)
        self._connections = EndingAdapter()
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, self._connections)
        self._proxy = proxy
        if proxy:
            self._session.proxies = {"http": proxy, "https": proxy}

    def small(self, url: str, limit_bytes: int = 4 << 20) -> bytes:
        """A small file, in memory.

        Raises:
            ImageError: it cannot be had, or is larger.
        """

        def attempt() -> bytes:
            with self._get(url, {}) as response:
                _refuse_encoded(response, url)
                large = f"larger than {human_bytes(limit_bytes)}, which is too much for a list or a signature"
                data = b"".join(self._chunks(response, url, limit_bytes, large))
                length = length_of(response)
                if length is not None and len(data) < length:
                    raise TryAgain(f"the connection ended after {len(data)} of {length} bytes")
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
            target: the file that is written; what it is so far lies beside it, in ``TARGET.json``. Neither is left
                where it cannot be gone on with.
            algorithms: hashlib's names of the digests that are wanted.
            limit_bytes: the most that it may have.
            unless: headers of a conditional request (``If-None-Match``, ``If-Modified-Since``).

        Returns:
            what was fetched, synced; None where the server says that the conditions hold.

        Raises:
            ImageError: it cannot be had; says what the server answered, and what to do.
        """
        name = urlsplit(url).path.rpartition("/")[2] or shown_url(url)
        try:
            with reporter.step(f"fetch {name}") as detail, Part(target, algorithms) as part:

                def attempt() -> Fetched | None:
                    return self._download_once(url, part, limit_bytes, dict(unless or {}))

                fetched = self._persist(url, attempt, lambda: part.size)
                detail(human_bytes(fetched.size_bytes) if fetched else "not changed")
        except OSError as error:
            raise ImageError(
                f"{target}: {reason_of(error)}; the cache directory has to be writable, and not full"
            ) from error
        return fetched

    def _download_once(self, url: str, part: Part, limit: int, unless: dict[str, str]) -> Fetched | None:
        rest = part.conditions()
        good = {200, *([304] if unless else []), *([206, 416] if rest else [])}
        with self._get(url, unless | rest, good) as response:
            status = response.status_code
            if status == 304:
                return None
            if status == 416:
                part.end(response)
                return part.finished()
            large = f"larger than {human_bytes(limit)}, the max_size of the definition; raise that if it is right"
            if status == 206:
                part.go_on(response)
            else:
                part.begin(response)
            if part.expected is not None and part.expected > limit:
                raise ImageError(f"{shown_url(url)}: {large}")
            due = time.monotonic() + 10
            for chunk in self._chunks(response, url, limit - part.size, large):
                part.append(chunk)
                if time.monotonic() > due:
                    due = time.monotonic() + 10
                    reporter.running("fetch", part.progress())
        part.check_size()
        return part.finished()

    def _persist(self, url: str, attempt: Callable[[], _Result], progress: Callable[[], int]) -> _Result:
        """Try, and try again as long as that may help."""
        deadline = time.monotonic() + self._limits.total
        failures, most = 0, progress()
        while True:
            try:
                with self._connections.until(deadline):
                    return attempt()
            except TryAgain as error:
                what, pause = str(error), error.pause
            if self._connections.have_ended:
                raise self._too_slow(url)
            if progress() > most:  # than ever: a server that begins anew each time gets nowhere
                most, failures = progress(), 0
            failures += 1
            if failures >= self._limits.attempts:
                times = "" if failures == 1 else f", {failures} times in a row"
                way = f" through the proxy {shown_url(self._proxy)} of cache.yaml" if self._proxy else ""
                raise UnfinishedError(
                    f"{shown_url(url)}: {what}{times}; is the server up, and reachable from here{way}?"
                )
            pause = max(min(pause, _LONGEST_PAUSE), min(self._limits.pause * 2 ** (failures - 1), _LONGEST_PAUSE))
            reporter.info(f"{shown_url(url)}: {what}; trying again in {pause:.0f} s")
            time.sleep(pause)

    def _get(self, url: str, headers: Mapping[str, str], good: set[int] | None = None) -> requests.Response:
        """Ask for a file, through redirects; ``good`` are the statuses that are answers."""
        place = url
        for _ in range(_MOST_REDIRECTS + 1):
            response = self._ask(url, place, headers)
            if not response.is_redirect:
                try:
                    _check_status(response, url, good or {200})
                except BaseException:
                    response.close()
                    raise
                return response
            response.close()
            place = _next_place(url, place, response)
        raise ImageError(
            f"{shown_url(url)}: redirects more than {_MOST_REDIRECTS} times, the last time to {shown_url(place)}"
        )

    def _ask(self, url: str, place: str, headers: Mapping[str, str]) -> requests.Response:
        """One request; ``place`` is where redirects led."""
        by_way = "" if place == url else f"redirected to {shown_url(place)}: "
        try:
            return self._session.get(
                place,
                headers=dict(headers),
                stream=True,
                allow_redirects=False,
                timeout=(self._limits.connect, self._limits.idle),
            )
        except requests.exceptions.InvalidHeader as error:
            raise TryAgain(f"{by_way}the server's answer contradicts itself: {_say(_cause(error))}") from error
        except ValueError as error:  # of an address, or of the one that the answer redirects to
            raise ImageError(f"{shown_url(url)}: {by_way}not an address; correct the source") from error
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            cause = _cause(error)
            if isinstance(cause, ssl.SSLCertVerificationError | CertificateError):
                raise ImageError(
                    f"{shown_url(url)}: {by_way}the server's certificate is not trusted: "
                    f"{getattr(cause, 'verify_message', '') or _say(cause)}; correct the address or this node's "
                    "clock, or add its authority to this node's (update-ca-certificates)"
                ) from error
            raise TryAgain(f"{by_way}{_say(cause)}") from error
        except OSError as error:  # requests looks for the file before it connects
            raise ImageError(f"{_AUTHORITIES}: {error}; install ca-certificates") from error

    def _chunks(self, response: requests.Response, url: str, limit: int, large: str) -> Iterator[bytes]:
        """A body as it comes, not decoded; ``limit`` is the most of it, and ``large`` what is said of more."""
        # urllib3 does not return what is there before as much is there as was asked for: a server that sends a byte now
        # and then would never let us look at the clock. http.client does, but does not always know where a body ends.
        body: http.client.HTTPResponse = response.raw._original_response  # noqa: SLF001
        left = length_of(response)
        size = 0
        while left is None or left > 0:
            try:
                chunk = body.read1(_CHUNK if left is None else min(_CHUNK, left))
            except TimeoutError as error:
                raise TryAgain(f"nothing came for {self._limits.idle:.0f} s") from error
            except (OSError, http.client.HTTPException) as error:
                raise TryAgain(_say(error)) from error
            if self._connections.have_ended:
                raise self._too_slow(url)
            if not chunk:
                break
            size += len(chunk)
            left = None if left is None else left - len(chunk)
            if size > limit:
                raise ImageError(f"{shown_url(url)}: {large}")
            yield chunk

    def _too_slow(self, url: str) -> UnfinishedError:
        return UnfinishedError(f"{shown_url(url)}: not done after {self._limits.total:.0f} s: the server is too slow")


def _next_place(url: str, place: str, response: requests.Response) -> str:
    """Where a redirect leads.

    Raises:
        ImageError: to nothing that is fetched, or from https to what is not.
    """
    try:
        location = response.headers["Location"].encode("latin-1")  # as http.client has read it
        following = urljoin(place, location.decode())
        scheme = urlsplit(following).scheme
    except ValueError as error:
        raise ImageError(f"{shown_url(url)}: redirects to something that is no address; correct the source") from error
    if scheme == "https" or (scheme == "http" and urlsplit(place).scheme == "http"):
        return following
    raise ImageError(f"{shown_url(url)}: redirects to {shown_url(following)}, which is less safe; correct the source")


def _check_status(response: requests.Response, url: str, good: set[int]) -> None:
    status = response.status_code
    if status in good:
        return
    said = f"the server answers {status} {printable(response.reason or '')}".rstrip()
    if status in _TRY_AGAIN:
        raise TryAgain(said, float(number(response.headers.get("Retry-After", "")) or 0))
    wrong = "proxy in cache.yaml" if status == 407 else "the address in the definition"
    raise ImageError(f"{shown_url(url)}: {said}: correct {wrong}")


def _refuse_encoded(response: requests.Response, url: str) -> None:
    encoding = response.headers.get("Content-Encoding", "identity").lower()
    if encoding != "identity":
        raise ImageError(
            f"{shown_url(url)}: the server sends it as {printable(encoding)}, though it was asked for it as it is; "
            "fetch it by other means, and name that file in the definition"
        )


def _cause(error: BaseException) -> BaseException:
    """The innermost reason."""
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
    return error


def _say(error: BaseException) -> str:
    """An error in words, without the addresses of Python objects."""
    if isinstance(error, http.client.IncompleteRead):
        return "the connection ended in the middle"
    if isinstance(error, http.client.BadStatusLine) and not isinstance(error, ConnectionError):
        return "what answers speaks no HTTP"
    text = str(getattr(error, "strerror", None) or error) or type(error).__name__
    return printable(re.sub(r"<[^>]*>: ", "", text)).lower()
