"""Where images come from: a file of this node, or one that is fetched; verified either way, and known by its digest.

``CACHE/sources/`` holds what was fetched, named by the digest of its content, while it is needed, and a **pin** for
each definition: what its source was when it was last obtained. A create goes by the pin and asks nobody; it is renewed
when a local file has changed, or on demand. What does not verify never gets its name.
Not for: what a file is (:mod:`osprovider.images.formats`), or HTTP (:mod:`osprovider.images.sources.fetch`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urljoin, urlsplit

from osprovider import locks
from osprovider.config.model import Image
from osprovider.config.sizes import parse_size
from osprovider.errors import ImageError, NodeError
from osprovider.images.sources.localfiles import Identity, digests_of, identities, local_files, regular
from osprovider.log import reporter
from osprovider.paths import Directories

if TYPE_CHECKING:
    from osprovider.images.sources.fetch import Fetched, Fetcher
    from osprovider.images.sources.signatures import Checksum

__all__ = ["Download", "Obtained", "Pin", "Sources", "shown"]

_DIGEST = "sha256:"
_PART = ".part"
_NEW = ".new"
_LARGEST_LIST = 4 << 20


@dataclass(frozen=True, slots=True)
class Pin:
    """What a definition's source was when it was last obtained.

    Attributes:
        location: the path or URL.
        digest: of its content: ``sha256:`` and 64 hexadecimal digits; of a pair of dumps, over both their digests.
        size_bytes: of its content, of all its files.
        verified: how it was verified, for people; ``nothing`` where the definition asks for nothing.
        expected: the checksum that it had to have, ``ALGORITHM:DIGITS``; None without one.
        etag: the server's validators, as they stood in the headers. last_modified: likewise.
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
class Obtained:
    """A source that is there and verified.

    Attributes:
        pin: see there.
        paths: its files: ``image`` alone, or ``root`` and perhaps ``boot`` of a pair of dumps.
    """

    pin: Pin
    paths: Mapping[str, Path]

    def still_same(self) -> bool:
        """Has nobody changed the files since they were verified."""
        return not self.pin.files or self.pin.files == identities(self.paths)


@dataclass(frozen=True, slots=True)
class Download:
    """A file that was fetched, or a part of one.

    Attributes:
        path: the file.
        size_bytes: what it takes.
        used: when it was last needed, in seconds since 1970.
    """

    path: Path
    size_bytes: int
    used: float


class Sources:
    """The sources of this node's images.

    Args:
        directories: ``config`` holds key rings in ``keys/``, ``cache`` what was fetched, ``run`` the locks.
        proxy: an HTTP proxy's URL.
        fetcher: fetches, in place of one with that proxy.
    """

    def __init__(self, directories: Directories, *, proxy: str | None = None, fetcher: Fetcher | None = None) -> None:
        self._directories = directories
        self._store = directories.cache / "sources"
        self._proxy = proxy
        self._fetcher = fetcher

    def pinned(self, name: str, image: Image) -> Pin | None:
        """What the source was when it was last obtained. Asks nobody, waits for nobody.

        Args:
            name: the definition's name.
            image: the definition, with a source.

        Returns:
            None where it was never obtained as the definition now says, or where a local file has changed. A file that
            is not there now has not changed: a share that is not mounted keeps nobody from a template.
        """
        pin = self._load_pin(image)
        if pin is None or _is_remote(_source(name, image)):
            return pin
        try:
            return pin if pin.files == identities(local_files(name, Path(_source(name, image)))) else None
        except (ImageError, OSError):
            return pin if not any(os.access(file[0], os.F_OK) for file in pin.files) else None

    @contextmanager
    def obtain(self, name: str, image: Image) -> Iterator[Obtained]:
        """Have the source there, fetched now where it is not, and verified; nobody removes it meanwhile.

        What was fetched goes where an :class:`ImageError` of its user says that it is no good, unless it is the node
        (:class:`NodeError`) that is not: the next one fetches it anew. The error then names the URL, and not the file.

        Args:
            name: the definition's name.
            image: the definition, with a source.

        Raises:
            ImageError: it cannot be had, or does not verify; names the file or URL, and what to do.
        """
        if not _is_remote(_source(name, image)):
            paths = local_files(name, Path(_source(name, image)))
            with locks.exclusive(self._lock(_key(image)), _waiting(f"verifies image {name}")):
                pin = self.pinned(name, image) or self._verify_local(name, image, paths)
            yield Obtained(pin, paths)
            return
        with self._blaming() as blamed, ExitStack() as stack:
            with locks.exclusive(self._lock(_key(image)), _waiting(f"fetches image {name}")):
                pin, path = self._have(stack, name, image)
            blamed[path] = pin.location
            os.utime(path)
            yield Obtained(pin, {"image": path})

    @contextmanager
    def _blaming(self) -> Iterator[dict[Path, str]]:
        """A place for the files that were fetched, with where from, to be blamed for what goes wrong with them."""
        files: dict[Path, str] = {}
        try:
            yield files
        except ImageError as error:
            text = str(error)
            for path, location in files.items():
                text = text.replace(str(path), location)
                if not isinstance(error, NodeError):
                    with suppress(OSError):  # the first error is the one to show
                        self._discard_path(path)
            error.args = (text,)
            raise

    def pull(self, name: str, image: Image) -> Pin:
        """Ask whether the source has changed, and obtain it anew where it has.

        Args:
            name: the definition's name.
            image: the definition, with a source.

        Raises:
            ImageError: as for :meth:`obtain`.
        """
        with locks.exclusive(self._lock(_key(image)), _waiting(f"obtains image {name}")):
            if not _is_remote(_source(name, image)):
                return self._verify_local(name, image, local_files(name, Path(_source(name, image))))
            before = self._load_pin(image)
            found = self._fetch(name, image, before)
        if before is not None and before.digest != found.digest:
            self._discard_path(self._path(before.digest))
        return found

    def downloads(self) -> tuple[Download, ...]:
        """What was fetched and is still there, the least recently used first."""
        found = []
        try:
            with os.scandir(self._store) as entries:
                for entry in entries:
                    if not entry.name.endswith(".json"):
                        status = entry.stat(follow_symlinks=False)
                        found.append(Download(Path(entry.path), status.st_blocks * 512, status.st_mtime))
        except FileNotFoundError:
            return ()
        return tuple(sorted(found, key=lambda download: download.used))

    def discard_download(self, download: Download) -> bool:
        """Remove what was fetched, unless somebody uses it. It is fetched again on demand.

        Returns:
            it is gone.
        """
        return self._discard_path(download.path)

    # -- files of this node -------------------------------------------------------------------------------------------

    def _verify_local(self, name: str, image: Image, paths: Mapping[str, Path]) -> Pin:
        files = identities(paths)
        if image.checksums is not None and len(paths) > 1:
            raise ImageError(
                f"image {name}: checksums are of one file, and {image.source} is a pair of dumps; remove them"
            )
        expected, why = self._expected(image, next(iter(paths.values())).name)
        algorithms = ("sha256", *([expected.algorithm] if expected else []))
        with reporter.step(f"image {name}: verify") as detail:
            digests = [digests_of(path, algorithms) for path in paths.values()]
            detail(why)
        for path, found in zip(paths.values(), digests, strict=True):
            _compare(str(path), found, expected)
        if identities(paths) != files:
            raise ImageError(f"image {name}: {image.source} was changed while it was read; try again")
        digest = digests[0]["sha256"]
        if len(digests) > 1:
            digest = hashlib.sha256("".join(f"{each['sha256']}\n" for each in digests).encode()).hexdigest()
        size = sum(status[3] for status in files)
        pin = Pin(
            _source(name, image), _DIGEST + digest, size, why, str(expected) if expected else None, None, None, files
        )
        self._save_pin(image, pin)
        return pin

    # -- files of servers ---------------------------------------------------------------------------------------------

    def _have(self, stack: ExitStack, name: str, image: Image) -> tuple[Pin, Path]:
        """Have what is pinned there, or what the source is now; nobody removes it until ``stack`` is closed."""
        pin = self._load_pin(image)
        while True:
            if pin is not None:
                path = self._path(pin.digest)
                stack.enter_context(locks.shared(self._lock(path.name)))
                if path.exists():
                    return pin, path
            pin = self._fetch(name, image)

    def _fetch(self, name: str, image: Image, before: Pin | None = None) -> Pin:
        """Fetch and verify; ``before`` where nothing has changed since."""
        source = _source(name, image)
        expected, why = self._expected(image, unquote(urlsplit(source).path.rpartition("/")[2]))
        if before is not None and expected is not None and before.expected == str(expected):
            return before
        if expected is not None and expected.algorithm == "sha256":
            known = self._path(_DIGEST + expected.digits)
            if known.exists():
                pin = Pin(shown(source), _DIGEST + known.name, known.stat().st_size, why, str(expected))
                self._save_pin(image, pin)
                return pin
        target = self._store / f"{_key(image)}{_PART}"
        self._make_store()
        fetched = self._server().download(
            source,
            target,
            algorithms=("sha256", *([expected.algorithm] if expected and expected.algorithm != "sha256" else [])),
            limit_bytes=parse_size(image.max_size),
            unless=_conditions(before) if before and expected is None else None,
        )
        if fetched is None and before is not None:
            return before
        if fetched is None or not fetched.size_bytes:
            target.unlink(missing_ok=True)
            raise ImageError(f"{shown(source)}: empty, 0 bytes: is this the right address?")
        try:
            _compare(shown(source), fetched.digests, expected)
        except ImageError:
            target.unlink(missing_ok=True)
            raise
        return self._keep(image, target, fetched, expected, why)

    def _keep(self, image: Image, target: Path, fetched: Fetched, expected: Checksum | None, why: str) -> Pin:
        """Give a file its name, now that it is verified."""
        digest = _DIGEST + fetched.digests["sha256"]
        target.rename(self._path(digest))
        pin = Pin(
            shown(str(image.source)),
            digest,
            fetched.size_bytes,
            why,
            str(expected) if expected else None,
            fetched.etag,
            fetched.last_modified,
        )
        self._save_pin(image, pin)
        return pin

    def _server(self) -> Fetcher:
        if self._fetcher is None:
            from osprovider.images.sources.fetch import Fetcher  # dear to import

            self._fetcher = Fetcher(self._proxy)
        return self._fetcher

    # -- checksums and signatures -------------------------------------------------------------------------------------

    def _expected(self, image: Image, file: str) -> tuple[Checksum | None, str]:
        """The checksum that the source must have, which lists call ``file``, and how it is known, for people."""
        from osprovider.images.sources import signatures

        if image.checksums is None:
            return None, "nothing"
        if (given := signatures.parse_checksum(image.checksums)) is not None:
            return given, f"{given.algorithm} of the definition"
        where = _beside(str(image.source), image.checksums)
        text = self._read(where)
        why = shown(where).rpartition("/")[2]
        if image.signature is not None and image.keyring is not None:
            signed_where = _beside(str(image.source), image.signature)
            detached = None if signed_where == where else self._read(signed_where)
            ring = self._directories.config / "keys" / image.keyring  # an absolute path stays itself
            text, fingerprint = signatures.verify(text, detached, ring, where=shown(signed_where))
            why = f"{why}, signed by {fingerprint}"
        return signatures.find_checksum(text, file, where=shown(where)), why

    def _read(self, where: str) -> bytes:
        """A list or a signature, of a server or of this node."""
        if _is_remote(where):
            return self._server().small(where)
        try:
            with regular(Path(where)) as file:
                data = file.read(_LARGEST_LIST + 1)
        except OSError as error:
            raise ImageError(f"{where}: {error.strerror}; correct checksums or signature in the definition") from error
        if len(data) > _LARGEST_LIST:
            raise ImageError(f"{where}: too large for a list or a signature; correct checksums or signature")
        return data

    # -- pins and files -----------------------------------------------------------------------------------------------

    def _load_pin(self, image: Image) -> Pin | None:
        try:
            data: dict[str, Any] = json.loads((self._store / f"{_key(image)}.json").read_bytes())
            return Pin(**{**data, "files": tuple(tuple(each) for each in data["files"])})
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _save_pin(self, image: Image, pin: Pin) -> None:
        self._make_store()
        path = self._store / f"{_key(image)}.json"
        new = path.with_suffix(_NEW)  # ours alone: we hold the lock of the definition's source
        with new.open("w") as file:
            json.dump(dataclasses.asdict(pin), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        new.rename(path)

    def _make_store(self) -> None:
        try:
            self._store.mkdir(mode=0o755, parents=True, exist_ok=True)
        except OSError as error:
            raise ImageError(f"{error.filename}: {error.strerror}; the cache directory has to be writable") from error

    def _path(self, digest: str) -> Path:
        return self._store / digest.removeprefix(_DIGEST)

    def _lock(self, what: str) -> Path:
        return self._directories.run / "locks" / f"source-{what}"

    def _discard_path(self, path: Path) -> bool:
        name = path.name.removesuffix(_PART).removesuffix(_NEW)
        with locks.attempt(self._lock(name)) as free:
            if free:
                path.unlink(missing_ok=True)
                path.with_name(f"{path.name}.json").unlink(missing_ok=True)
            return free


def _source(name: str, image: Image) -> str:
    if image.source is None:
        raise ImageError(f"image {name} is built from packages and has no source")
    return image.source


def _key(image: Image) -> str:
    """Names what belongs to a definition's source: another word of how to get it is another source."""
    said = json.dumps([image.source, image.checksums, image.signature, image.keyring])
    return hashlib.sha256(said.encode()).hexdigest()


def _is_remote(where: str) -> bool:
    return where.startswith(("http://", "https://"))


def shown(where: str) -> str:
    """A path or URL for messages and records."""
    if not _is_remote(where):
        return where
    from osprovider.images.sources import fetch  # as above

    return fetch.shown(where)


def _beside(source: str, where: str) -> str:
    """A path or URL that is relative to another."""
    if _is_remote(source):
        return urljoin(source, where)
    return where if _is_remote(where) else str(Path(source).parent / where)


def _compare(where: str, found: Mapping[str, str], expected: Checksum | None) -> None:
    if expected is not None and found[expected.algorithm] != expected.digits:
        has = found[expected.algorithm]
        raise ImageError(
            f"{where}: has {expected.algorithm} {has} and should have {expected.digits}: damaged, or not the image "
            "that was meant; fetch it again, or correct checksums"
        )


def _conditions(pin: Pin) -> dict[str, str]:
    """Headers that ask for news since a pin."""
    headers = {"If-None-Match": pin.etag, "If-Modified-Since": pin.last_modified}
    return {name: value for name, value in headers.items() if value}


def _waiting(doing: str) -> Callable[[], None]:
    return lambda: reporter.info(f"waiting for another osprovider that {doing}")
