"""Where images come from: a file of this node, or one that is fetched; verified either way, and known by its digest.

A create goes by the pin of the definition and asks nobody; the pin is renewed when a local file has changed, or on
demand. What does not verify never gets its name. Where the definition of a local file asks for nothing, its digest
only names it, and is made while the file is read already.
Not for: what is kept (:mod:`osprovider.images.sources.cache`), what a source must be (``expected``), HTTP (``fetch``),
or what a file is (:mod:`osprovider.images.formats`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from osprovider.background import Task
from osprovider.config.model import Image
from osprovider.config.sizes import parse_size
from osprovider.errors import ImageError, NodeError
from osprovider.images.sources.addresses import is_remote, shown
from osprovider.images.sources.cache import Pin, SourceCache
from osprovider.images.sources.localfiles import Identity, changes, digests_of, identities, local_files
from osprovider.log import reporter
from osprovider.paths import Directories

if TYPE_CHECKING:
    from osprovider.images.sources.expected import Expected
    from osprovider.images.sources.fetch import Fetcher

__all__ = ["Obtained", "Sources"]

_ALGORITHM = "sha256"  # of what pins and files are known by
_DIGEST = f"{_ALGORITHM}:"


@dataclass(frozen=True, slots=True, eq=False)
class Obtained:
    """A source that is there, and verified where its definition asks for that.

    Attributes:
        paths: its files: ``image`` alone, or ``root`` and perhaps ``boot`` of a pair of dumps.
        size_bytes: of them all.
        files: of a local source; see :class:`osprovider.images.sources.cache.Pin`.
        is_known: :attr:`pin` waits for nothing.
        is_fresh: it was verified just now, or will be, and not by an earlier run.
    """

    paths: Mapping[str, Path]
    size_bytes: int
    files: tuple[Identity, ...]
    is_known: bool
    is_fresh: bool
    _changed: tuple[int, ...]
    _find: Callable[[], Pin]

    @classmethod
    def of(cls, pin: Pin, paths: Mapping[str, Path], *, is_fresh: bool) -> Obtained:
        """What is known already; see the attributes."""
        changed = changes(paths) if pin.files else ()
        return cls(
            paths, pin.size_bytes, pin.files, is_known=True, is_fresh=is_fresh, _changed=changed, _find=lambda: pin
        )

    @property
    def pin(self) -> Pin:
        """What it is; waited for where it is still being read.

        Raises:
            ImageError: it cannot be read, or was changed meanwhile.
        """
        return self._find()

    def require_same(self) -> None:
        """See that what an earlier run verified is still that, before anything is made of it: disks lose bits.

        Raises:
            ImageError: it is not, or cannot be read.
        """
        if self.is_fresh:
            return
        with reporter.step(f"verify {self.pin.location} again"):
            found = _digest([digests_of(path, (_ALGORITHM,)) for path in self.paths.values()])
        if found != self.pin.digest:
            raise ImageError(
                f"{next(iter(self.paths.values()))}: damaged since it was verified: has {found} and had "
                f"{self.pin.digest}; fetch or make it again, and check the disk that it is on"
            )

    def still_same(self) -> bool:
        """Has nobody changed the files since they were obtained, and set their times back."""
        return not self.files or (self.files == identities(self.paths) and self._changed == changes(self.paths))


class Sources:
    """The sources of this node's images.

    Args:
        directories: ``config`` holds keyrings in ``keys/``, ``cache`` what was fetched, ``run`` the locks.
        proxy: an HTTP proxy's URL.
        fetcher: fetches, in place of one with that proxy.
    """

    def __init__(self, directories: Directories, *, proxy: str | None = None, fetcher: Fetcher | None = None) -> None:
        self._keys = directories.config / "keys"
        self._cache = SourceCache(directories)
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
        source = _source(name, image)
        pin = self._cache.pin(image)
        if pin is None or is_remote(source):
            return pin
        try:
            return pin if pin.files == identities(local_files(name, Path(source))) else None
        except (ImageError, OSError):
            return pin if not any(os.access(file[0], os.F_OK) for file in pin.files) else None

    @contextmanager
    def obtain(self, name: str, image: Image, wanted: Pin | None = None) -> Iterator[Obtained]:
        """Have the source there, fetched now where it is not, and verified; nobody removes it meanwhile.

        A file of this node is obtained by one at a time, until it is used. Where its definition asks for nothing, it is
        read beside, for :attr:`Obtained.pin`.

        What was fetched goes where an :class:`ImageError` of its user says that it is no good, unless it is the node
        (:class:`NodeError`) that is not: the next one fetches it anew. The error then names the URL, and not the file.

        Args:
            name: the definition's name.
            image: the definition, with a source.
            wanted: what :meth:`pulled` has just found, and the node may not keep to yet.

        Raises:
            ImageError: it cannot be had, or does not verify; names the file or URL, and what to do.
        """
        if is_remote(_source(name, image)):
            with self._fetched(name, image, wanted) as obtained:
                yield obtained
            return
        with self._cache.obtaining(image, f"prepares image {name}"):
            obtained = self._local(name, image, wanted)
            try:
                yield obtained
            except ImageError as error:
                if isinstance(error, NodeError) or obtained.still_same():
                    raise
                raise _changed(name, image) from error

    @contextmanager
    def pulled(self, name: str, image: Image) -> Iterator[Pin]:
        """Ask whether the source has changed, and obtain it anew where it has.

        The node keeps to what was fetched once the body ends well, and until then to what it had before.

        Args:
            name: the definition's name.
            image: the definition, with a source.

        Raises:
            ImageError: as for :meth:`obtain`.
        """
        source = _source(name, image)
        doing = f"obtains image {name}"
        with self._cache.obtaining(image, doing):
            if is_remote(source):
                before = self._cache.pin(image)
                found = self._fetch(name, image, before)
                if before is None:  # nothing to keep to, and whoever waits here would fetch it as well
                    self._cache.save_pin(image, found)
                    before = found
            else:
                before = found = self._read(name, image, local_files(name, Path(source))).pin
        yield found
        if found is not before:
            with self._cache.obtaining(image, doing):
                self._cache.save_pin(image, found)
            if before is not None and before.digest != found.digest:
                self._cache.discard(self._cache.path(before.digest))

    # -- files of this node -------------------------------------------------------------------------------------------

    def _local(self, name: str, image: Image, wanted: Pin | None) -> Obtained:
        """What is there, verified where the definition asks for that. Only while nobody else obtains it."""
        paths = local_files(name, Path(_source(name, image)))
        known = self.pinned(name, image)
        if known is not None:
            return Obtained.of(known, paths, is_fresh=known == wanted)
        obtained = self._read(name, image, paths)
        if image.checksums is None:
            return obtained
        _ = obtained.pin
        return replace(obtained, is_known=True)

    def _read(self, name: str, image: Image, paths: Mapping[str, Path]) -> Obtained:
        """Begin to read local files: who asks for the pin waits, and has them verified and pinned."""
        source = _source(name, image)
        files, changed = identities(paths), changes(paths)
        size = sum(file[3] for file in files)
        if image.checksums is not None and len(paths) > 1:
            raise ImageError(f"image {name}: checksums are of one file, and {source} is a pair of dumps; remove them")
        expected = self._expected(image, next(iter(paths.values())).name)
        reading = Task("digest", lambda: [digests_of(path, expected.algorithms) for path in paths.values()])

        @cache
        def verify() -> Pin:
            with reporter.step(f"image {name}: verify") as detail:
                digests = reading.result()
                detail(expected.verified)
            for path, found in zip(paths.values(), digests, strict=True):
                expected.compare(str(path), found)
            if identities(paths) != files:
                raise _changed(name, image)
            pin = Pin(source, _digest(digests), size, expected.verified, expected.text, files=files)
            self._cache.save_pin(image, pin)
            return pin

        return Obtained(paths, size, files, is_known=False, is_fresh=True, _changed=changed, _find=verify)

    # -- files of servers ---------------------------------------------------------------------------------------------

    @contextmanager
    def _fetched(self, name: str, image: Image, wanted: Pin | None) -> Iterator[Obtained]:
        """A source that was fetched, and goes where its user says that it is no good."""
        with ExitStack() as stack:
            with self._cache.obtaining(image, f"fetches image {name}"):
                before = self._cache.pin(image)
                pin, path, is_fresh = self._have(stack, name, image, wanted)
            os.utime(path)
            try:
                yield Obtained.of(pin, {"image": path}, is_fresh=is_fresh)
            except ImageError as error:
                error.args = (str(error).replace(str(path), pin.location),)
                if wanted is None and before is not None and before != pin:
                    self._keep_to(image, before, pin)
                if not isinstance(error, NodeError):
                    stack.close()  # we use it no longer
                    with suppress(OSError):  # the first error is the one to show
                        self._cache.discard(path)
                raise

    def _keep_to(self, image: Image, before: Pin, failed: Pin) -> None:
        """Have the source be what it was before, of which there may be templates, unless it is yet another by now."""
        with self._cache.obtaining(image, f"obtains {failed.location}"), suppress(ImageError):  # the first error counts
            if self._cache.pin(image) == failed:
                self._cache.save_pin(image, before)

    def _have(self, stack: ExitStack, name: str, image: Image, wanted: Pin | None) -> tuple[Pin, Path, bool]:
        """Have what is wanted or pinned, or what the source is now; nobody removes it until ``stack`` is closed.

        Returns:
            what it is, where, and whether it was fetched now.
        """
        pinned = self._cache.pin(image)
        pin, is_fresh = wanted or pinned, wanted is not None and wanted != pinned
        while True:
            if pin is not None:
                path = self._cache.path(pin.digest)
                stack.enter_context(self._cache.in_use(path))
                if path.exists():
                    return pin, path, is_fresh
            pin, is_fresh = self._fetch(name, image), True
            if wanted is None:
                self._cache.save_pin(image, pin)

    def _fetch(self, name: str, image: Image, before: Pin | None = None) -> Pin:
        """Fetch and verify the source; ``before`` where nothing has changed since."""
        source = _source(name, image)
        expected = self._expected(image, unquote(urlsplit(source).path.rpartition("/")[2]))
        if before is not None and expected.checksum is not None and before.expected == expected.text:
            return before
        return self._known(source, expected) or self._download(source, image, expected, before)

    def _known(self, source: str, expected: Expected) -> Pin | None:
        """What was fetched already, for another definition or under another URL."""
        if expected.checksum is None or expected.checksum.algorithm != _ALGORITHM:
            return None
        digest = _DIGEST + expected.checksum.digits
        path = self._cache.path(digest)
        with self._cache.in_use(path):
            if not path.exists() or _digest([digests_of(path, (_ALGORITHM,))]) != digest:  # damaged: fetched anew
                return None
            return Pin(shown(source), digest, path.stat().st_size, expected.verified, expected.text)

    def _download(self, source: str, image: Image, expected: Expected, before: Pin | None) -> Pin:
        """Fetch the source and verify it, and give it its name then; ``before`` where the server has nothing newer."""
        part = self._cache.part_path(image)
        fetched = self._server().download(
            source,
            part,
            algorithms=expected.algorithms,
            limit_bytes=parse_size(image.max_size),
            unless=_conditions(before) if before and expected.checksum is None else None,
        )
        if fetched is None and before is not None:
            return before
        try:
            if fetched is None or not fetched.size_bytes:
                raise ImageError(f"{shown(source)}: empty, 0 bytes: is this the right address?")
            expected.compare(shown(source), fetched.digests)
            digest = _DIGEST + fetched.digests[_ALGORITHM]
            part.rename(self._cache.path(digest))
        finally:
            part.unlink(missing_ok=True)
        return Pin(
            shown(source),
            digest,
            fetched.size_bytes,
            expected.verified,
            expected.text,
            fetched.etag,
            fetched.last_modified,
        )

    def _server(self) -> Fetcher:
        if self._fetcher is None:
            from osprovider.images.sources.fetch import Fetcher  # dear to import

            self._fetcher = Fetcher(self._proxy)
        return self._fetcher

    def _expected(self, image: Image, file: str) -> Expected:
        """What the source must be, which lists call ``file``."""
        from osprovider.images.sources.expected import find_expected  # a warm create verifies nothing

        return find_expected(image, file, self._keys, lambda url: self._server().small(url))


def _digest(digests: Sequence[Mapping[str, str]]) -> str:
    """What a source is known by: its file's digest, or one over those of both."""
    if len(digests) == 1:
        return _DIGEST + digests[0][_ALGORITHM]
    return _DIGEST + hashlib.sha256("".join(f"{each[_ALGORITHM]}\n" for each in digests).encode()).hexdigest()


def _changed(name: str, image: Image) -> ImageError:
    return ImageError(f"image {name}: {image.source} was changed while it was read; try again")


def _source(name: str, image: Image) -> str:
    if image.source is None:
        raise ImageError(f"image {name} is built from packages and has no source")
    return image.source


def _conditions(pin: Pin) -> dict[str, str]:
    """Headers that ask for news since a pin."""
    headers = {"If-None-Match": pin.etag, "If-Modified-Since": pin.last_modified}
    return {name: value for name, value in headers.items() if value}
