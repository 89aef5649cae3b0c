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
from osprovider.images import manifest

__all__ = ["KEYRING", "Recipe"]

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
"""The keys whose signatures are trusted, whatever else this node's apt trusts."""

_REVISION = 1
"""Of what this package does to a tree, and of the file systems that :func:`osprovider.disk.filesystem.make` makes; a
higher one makes every template anew."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that a template is made from.

    Attributes:
        image: the definition's name.
        build: the definition, with the variant's packages in it, sorted.
        filesystem: the root's type.
        keyring: the file whose keys are trusted.
    """

    image: str
    build: BootstrapBuild
    filesystem: str
    keyring: Path = KEYRING

    @classmethod
    def of(cls, name: str, image: Image, variant: Variant) -> Recipe:
        """The recipe for a variant's root.

        Args:
            name: the definition's name.
            image: the definition.
            variant: merged.
        """
        packages = tuple(sorted({*image.build.packages, *variant.packages}))
        return cls(name, dataclasses.replace(image.build, packages=packages), variant.layout.filesystem)

    def to_json(self) -> dict[str, Any]:
        """What the key is taken over, JSON-ready."""
        return {
            "revision": _REVISION,
            "manifest": manifest.FORMAT,
            "image": self.image,
            "build": dataclasses.asdict(self.build),
            "filesystem": self.filesystem,
            "keyring": self._keyring_digest(),
        }

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
