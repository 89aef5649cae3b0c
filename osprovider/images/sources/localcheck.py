"""Are files of this node what a definition says: hashed in a thread, beside what is done meanwhile.

Not for: which files these are (:mod:`osprovider.images.sources.localfiles`), or what a source must be
(:mod:`osprovider.images.sources.expected`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from osprovider.background import Task
from osprovider.errors import ImageError
from osprovider.images.sources.cache import DIGEST, Pin
from osprovider.images.sources.expected import Expected
from osprovider.images.sources.localfiles import Identity, digests_of, identities
from osprovider.log import reporter

__all__ = ["LocalCheck"]


class LocalCheck:
    """Files that are hashed from now on.

    Args:
        name: the definition's.
        source: as it says.
        files: what they were before anybody found out what they have to be.
        expected: what they have to be.
        keep: called with what they are, once that is known and right.
    """

    def __init__(
        self,
        name: str,
        source: str,
        files: tuple[Identity, ...],
        expected: Expected,
        *,
        keep: Callable[[Pin], None],
    ) -> None:
        self._name = name
        self._source = source
        self._files = files
        self._paths = [Path(file[0]) for file in files]
        self._expected = expected
        self._keep = keep
        self._found: Pin | None = None
        self._hashing = Task("hash", self._digests)

    @property
    def promised(self) -> Pin | None:
        """What the files are if they are what they have to be; None where that does not say their SHA-256."""
        checksum = self._expected.checksum
        return self._pin(checksum.digits) if checksum is not None and checksum.algorithm == "sha256" else None

    def pin(self) -> Pin:
        """What the files are; waits until that is known.

        Raises:
            ImageError: it is not what they have to be; one cannot be read, or was changed meanwhile.
        """
        if self._found is None:
            with reporter.step(f"image {self._name}: verify") as detail:
                found = self._hashing.result()
                detail(self._expected.verified)
            self._found = self._judged(found)
            self._keep(self._found)
        return self._found

    def _judged(self, found: list[dict[str, str]]) -> Pin:
        for path, digests in zip(self._paths, found, strict=True):
            self._expected.compare(str(path), digests)
        if identities(self._paths) != self._files:
            raise ImageError(f"image {self._name}: {self._source} was changed while it was read; try again")
        digest = found[0]["sha256"]
        if len(found) > 1:
            digest = hashlib.sha256("".join(f"{each['sha256']}\n" for each in found).encode()).hexdigest()
        return self._pin(digest)

    def _digests(self) -> list[dict[str, str]]:
        return [digests_of(path, self._expected.algorithms) for path in self._paths]

    def _pin(self, digits: str) -> Pin:
        size = sum(status[3] for status in self._files)
        expected = self._expected
        return Pin(self._source, DIGEST + digits, size, expected.verified, expected.text, files=self._files)
