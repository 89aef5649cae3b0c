"""What a source must be, by its definition: a digest that it states, or one of a list, signed or not.

Not for: reading lists and checking signatures (:mod:`osprovider.images.sources.signatures`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from osprovider.config.model import Image
from osprovider.errors import ImageError, reason_of
from osprovider.images.sources import signatures
from osprovider.images.sources.addresses import beside, is_remote, shown
from osprovider.images.sources.localfiles import regular
from osprovider.images.sources.signatures import Checksum

__all__ = ["Expected", "find_expected"]

_LARGEST_LIST = 4 << 20
_ALWAYS = "sha256"  # what files and pins are known by


@dataclass(frozen=True, slots=True)
class Expected:
    """What is known of a source before it is there.

    Attributes:
        checksum: what it must have; None where the definition asks for nothing.
        verified: how that is known, for people.
    """

    checksum: Checksum | None
    verified: str

    @property
    def text(self) -> str | None:
        """The checksum, ``ALGORITHM:DIGITS``."""
        return str(self.checksum) if self.checksum else None

    @property
    def algorithms(self) -> tuple[str, ...]:
        """The digests of the source that are needed, by hashlib's names: sha256, and the expected one."""
        wanted = [_ALWAYS, *([self.checksum.algorithm] if self.checksum else [])]
        return tuple(dict.fromkeys(wanted))

    def compare(self, where: str, found: Mapping[str, str]) -> None:
        """See that a source is what was expected.

        Args:
            where: what messages call it.
            found: its digests.

        Raises:
            ImageError: it is not.
        """
        if self.checksum is None or found[self.checksum.algorithm] == self.checksum.digits:
            return
        algorithm = self.checksum.algorithm
        raise ImageError(
            f"{where}: has {algorithm} {found[algorithm]} and should have {self.checksum.digits}: damaged, or not the "
            "image that was meant; fetch it again, or correct checksums"
        )


def find_expected(image: Image, file: str, keys: Path, fetch: Callable[[str], bytes]) -> Expected:
    """Find out what a source must be.

    Args:
        image: its definition.
        file: what lists call it.
        keys: the directory of the keyrings.
        fetch: fetches a small file by its URL.

    Raises:
        ImageError: the list or its signature cannot be had, is not good, or does not have the source.
    """
    if image.checksums is None:
        return Expected(None, "nothing")
    if (given := signatures.parse_checksum(image.checksums)) is not None:
        return Expected(given, f"{given.algorithm} of the definition")

    def read(where: str) -> bytes:
        return fetch(where) if is_remote(where) else _read_local(Path(where))

    where = beside(str(image.source), image.checksums)
    text = read(where)
    verified = shown(where).rpartition("/")[2]
    if image.signature is not None and image.keyring is not None:
        signed_where = beside(str(image.source), image.signature)
        detached = None if signed_where == where else read(signed_where)
        ring = keys / image.keyring  # an absolute path stays itself
        text, fingerprint = signatures.verify(text, detached, ring, where=shown(signed_where))
        verified = f"{verified}, signed by {fingerprint}"
    return Expected(signatures.find_checksum(text, file, where=shown(where)), verified)


def _read_local(path: Path) -> bytes:
    """A list or a signature of this node."""
    try:
        with regular(path) as file:
            data = file.read(_LARGEST_LIST + 1)
    except OSError as error:
        raise ImageError(f"{path}: {reason_of(error)}; correct checksums or signature in the definition") from error
    if len(data) > _LARGEST_LIST:
        raise ImageError(f"{path}: too large for a list or a signature; correct checksums or signature")
    return data
