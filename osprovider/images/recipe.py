"""What a template is made from, and the key that follows from it.

The key is a digest over all that the result depends on and that we decide: the definition and its name, the packages
that the variant adds, the file system, the keys that are trusted, and the way we build. What is not in it: the state of
the mirror, which changes daily and would make every look-up a download; and the version of mmdebstrap or debootstrap,
which does not change what a definition means and would cost a program's start at each create. The manifest notes the
version. A template is made anew on demand when the mirror has news.
Not for: building.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osprovider.config.model import BootstrapBuild, Image, Variant
from osprovider.errors import ImageError
from osprovider.images import manifest

__all__ = ["KEYRING", "Recipe"]

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
"""The keys whose signatures are trusted, whatever else this node's apt trusts."""

_REVISION = 2
"""Of what this package does to a tree, and of the file systems that :func:`osprovider.disk.filesystem.make` makes; a
higher one makes every template anew."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that a template is made from.

    Attributes:
        image: the definition's name.
        definition: it, with the variant's packages among those that its build installs, sorted.
        filesystem: the root's type, where the image does not bring its own.
        digest: of the definition's source (``sha256:`` and 64 hexadecimal digits); None where it is built.
        keyring: the file whose keys a build trusts.
    """

    image: str
    definition: Image
    filesystem: str
    digest: str | None = None
    keyring: Path = KEYRING

    @classmethod
    def of(cls, name: str, image: Image, variant: Variant, digest: str | None = None) -> Recipe:
        """The recipe for a variant's root.

        Args:
            name: the definition's name.
            image: the definition.
            variant: merged.
            digest: of the definition's source.
        """
        if image.build is not None:
            packages = tuple(sorted({*image.build.packages, *variant.packages}))
            image = dataclasses.replace(image, build=dataclasses.replace(image.build, packages=packages))
        return cls(name, image, variant.layout.filesystem, digest)

    @property
    def build(self) -> BootstrapBuild:
        """The definition's build.

        Raises:
            ImageError: it has none.
        """
        if self.definition.build is None:
            raise ImageError(f"image {self.image} is not built from packages")
        return self.definition.build

    def to_json(self) -> dict[str, Any]:
        """What the key is taken over, JSON-ready."""
        common = {
            "revision": _REVISION,
            "manifest": manifest.FORMAT,
            "image": self.image,
            "filesystem": self.filesystem,
        }
        if self.definition.build is not None:
            return {**common, "build": dataclasses.asdict(self.build), "keyring": self._keyring_digest()}
        return {**common, "format": self.definition.format, "arch": self.definition.arch, "digest": self.digest}

    def key(self) -> str:
        """64 hexadecimal digits; the same for the same recipe, on every node."""
        canonical = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def _keyring_digest(self) -> str | None:
        """None without the file; then nothing can be built either, which the build says."""
        try:
            return hashlib.sha256(self.keyring.read_bytes()).hexdigest()
        except FileNotFoundError:
            return None
