"""Where images come from: a file of this node, or one that is fetched; verified either way, and known by its digest.

``CACHE/sources/`` holds what was fetched, named by the digest of its content, while it is needed, and a **pin** for
each definition: what its source was when it was last obtained. A create goes by the pin and asks nobody; it is renewed
when a local file has changed, or on demand. What does not verify never gets its name.
Not for: what a file is (:mod:`osprovider.images.formats`), or HTTP (:mod:`osprovider.images.fetch`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from osprovider import locks
from osprovider.config.model import Image
from osprovider.config.sizes import parse_size
from osprovider.errors import ImageError
from osprovider.log import reporter
from osprovider.paths import Directories

if TYPE_CHECKING:
    from osprovider.images.fetch import Fetched, Fetcher
    from osprovider.images.signatures import Checksum

__all__ = ["Download", "Obtained", "Pin", "Sources"]

_CHUNK = 4 << 20
_DIGEST = "sha256:"
_PART = ".part"

_PLAIN_SUFFIXES = (".tar.gz", ".img", ".raw", ".qcow2", ".tar", ".tgz")
_ROOT_DUMP, _BOOT_DUMP = "-root.dump", "-boot.dump"


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
    files: tuple[tuple[str, int, int, int, int], ...] = ()


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
        return not self.pin.files or self.pin.files == _identities(self.paths)


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
            return pin if pin.files == _identities(_local_files(name, image)) else None
        except (ImageError, OSError):
            return pin if not any(os.access(file[0], os.F_OK) for file in pin.files) else None

    @contextmanager
    def obtain(self, name: str, image: Image) -> Iterator[Obtained]:
        """Have the source there, fetched now where it is not, and verified; nobody removes it meanwhile.

        Args:
            name: the definition's name.
            image: the definition, with a source.

        Raises:
            ImageError: it cannot be had, or does not verify; names the file or URL, and what to do.
        """
        if not _is_remote(_source(name, image)):
            paths = _local_files(name, image)
            with locks.exclusive(self._lock(_key(image)), _waiting(f"verifies image {name}")):
                pin = self.pinned(name, image) or self._verify_local(name, image, paths)
            yield Obtained(pin, paths)
            return
        with ExitStack() as stack:
            with locks.exclusive(self._lock(_key(image)), _waiting(f"fetches image {name}")):
                found = self._load_pin(image)
                if found is None or not self._path(found.digest).exists():
                    found = self._fetch(name, image, unless=None) or found
                if found is None:
                    raise ImageError(f"image {name}: {image.source}: the server sent nothing; ask its operator")
                path = self._path(found.digest)
                stack.enter_context(locks.shared(self._lock(path.name)))
            os.utime(path)
            yield Obtained(found, {"image": path})

    def pull(self, name: str, image: Image) -> Pin:
        """Ask whether the source has changed, and obtain it anew where it has.

        Args:
            name: the definition's name.
            image: the definition, with a source.

        Raises:
            ImageError: as for :meth:`obtain`.
        """
        if not _is_remote(_source(name, image)):
            return self._verify_local(name, image, _local_files(name, image))
        with locks.exclusive(self._lock(_key(image)), _waiting(f"fetches image {name}")):
            before = self._load_pin(image)
            unless = before if before and (self._path(before.digest).exists() or before.etag) else None
            found = self._fetch(name, image, unless=unless) or before
        if found is None:
            raise ImageError(f"image {name}: {image.source}: the server sent nothing; ask its operator")
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
        files = _identities(paths)
        expected, why = self._expected(name, image)
        if expected is not None and len(paths) > 1:
            raise ImageError(
                f"image {name}: checksums are of one file, and {image.source} is a pair of dumps; remove them"
            )
        algorithms = ("sha256", *([expected.algorithm] if expected else []))
        with reporter.step(f"image {name}: verify") as detail:
            digests = [_hash(path, algorithms) for path in paths.values()]
            detail(why)
        for path, found in zip(paths.values(), digests, strict=True):
            _compare(str(path), found, expected)
        if _identities(paths) != files:
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

    def _fetch(self, name: str, image: Image, unless: Pin | None) -> Pin | None:
        """Fetch and verify; None where nothing has changed since ``unless``."""
        source = _source(name, image)
        expected, why = self._expected(name, image)
        if unless is not None and expected is not None and unless.expected == str(expected):
            return None
        if expected is not None and expected.algorithm == "sha256" and self._path(_DIGEST + expected.digits).exists():
            path = self._path(_DIGEST + expected.digits)
            pin = Pin(source, _DIGEST + expected.digits, path.stat().st_size, why, str(expected))
            self._save_pin(image, pin)
            return pin
        target = self._store / f"{_key(image)}{_PART}"
        self._make_store()
        fetched = self._server().download(
            source,
            target,
            algorithms=("sha256", *([expected.algorithm] if expected and expected.algorithm != "sha256" else [])),
            limit_bytes=parse_size(image.max_size),
            unless=_conditions(unless) if unless and expected is None else None,
        )
        if fetched is None:
            return None
        try:
            _compare(source, fetched.digests, expected)
        except ImageError:
            target.unlink(missing_ok=True)
            raise
        if not fetched.size_bytes:
            raise ImageError(f"{source}: empty, 0 bytes: is this the right address?")
        return self._keep(image, source, target, fetched, expected, why)

    def _keep(
        self, image: Image, source: str, target: Path, fetched: Fetched, expected: Checksum | None, why: str
    ) -> Pin:
        """Give a file its name, now that it is verified."""
        digest = _DIGEST + fetched.digests["sha256"]
        target.rename(self._path(digest))
        pin = Pin(
            source,
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
            from osprovider.images.fetch import Fetcher  # dear to import

            self._fetcher = Fetcher(self._proxy)
        return self._fetcher

    # -- checksums and signatures -------------------------------------------------------------------------------------

    def _expected(self, name: str, image: Image) -> tuple[Checksum | None, str]:
        """The checksum that the source must have, and how it is known, for people."""
        from osprovider.images import signatures

        if image.checksums is None:
            return None, "nothing"
        if (given := signatures.parse_checksum(image.checksums)) is not None:
            return given, f"{given.algorithm} of the definition"
        where = _beside(_source(name, image), image.checksums)
        text = self._read(where)
        leaf = where.rpartition("/")[2]
        why = leaf
        if image.signature is not None and image.keyring is not None:
            signed_where = _beside(_source(name, image), image.signature)
            detached = None if signed_where == where else self._read(signed_where)
            ring = self._directories.config / "keys" / image.keyring  # an absolute path stays itself
            text, fingerprint = signatures.verify(text, detached, ring, where=signed_where)
            why = f"{leaf}, signed by {fingerprint}"
        image_name = _source(name, image).partition("?")[0].rpartition("/")[2]
        return signatures.find_checksum(text, image_name, where=where), why

    def _read(self, where: str) -> bytes:
        """A small file, of a server or of this node."""
        if _is_remote(where):
            return self._server().small(where)
        try:
            return Path(where).read_bytes()
        except OSError as error:
            raise ImageError(f"{where}: {error.strerror}; correct checksums or signature in the definition") from error

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
        new = path.with_name(f"{path.name}.{os.getpid()}.new")
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
        name = path.name.removesuffix(_PART)
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


def _beside(source: str, where: str) -> str:
    """A path or URL that is relative to another."""
    if _is_remote(source):
        from urllib.parse import urljoin

        return urljoin(source, where)
    return where if _is_remote(where) else str(Path(source).parent / where)


def _local_files(name: str, image: Image) -> dict[str, Path]:
    """The files of a local source: it, or what instance-image would have taken for that name."""
    path = Path(_source(name, image))
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


def _identities(paths: Mapping[str, Path]) -> tuple[tuple[str, int, int, int, int], ...]:
    """What tells files from others, and from themselves after a change."""
    found = []
    for path in paths.values():
        try:
            status = path.stat()
        except OSError as error:
            raise ImageError(f"{path}: {error.strerror}") from error
        found.append((str(path), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(found)


def _hash(path: Path, algorithms: tuple[str, ...]) -> dict[str, str]:
    """The digests of a file, by hashlib's name."""
    digests = {name: hashlib.new(name) for name in algorithms}
    try:
        with path.open("rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ImageError(f"{path}: is no regular file")
            while chunk := file.read(_CHUNK):
                for digest in digests.values():
                    digest.update(chunk)
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}") from error
    return {name: digest.hexdigest() for name, digest in digests.items()}


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
