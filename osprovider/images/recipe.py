"""What a template is made from, and the key that follows from it.

The key is a digest over all that the result depends on and that we decide: the definition and its name, the packages
that the variant adds, the file system, the content of the files that the definition names (keys, packages, scripts),
and the way we build. What is not in it: the state of the mirror, which changes daily and would make every look-up a
download; and the version of mmdebstrap or debootstrap, which does not change what a definition means and would cost a
program's start at each create. The manifest notes the version. A template is made anew on demand when the mirror has
news.
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
from osprovider.images.builder.distributions import KEYRINGS, distribution
from osprovider.layout import template_filesystem
from osprovider.manifest import MANIFEST_FORMAT
from osprovider.paths import Directories

__all__ = ["Recipe"]

_REVISION = 4
"""Of what this package does to a tree, and of the file systems that :func:`osprovider.disk.filesystem.make` makes; a
higher one makes every template anew."""

_SITE = Directories().config


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that a template is made from.

    Attributes:
        image: the definition's name.
        definition: it, with the variant's packages among those that its build installs, sorted.
        filesystem: the root's type, where the image does not bring its own.
        digest: of the definition's source (``sha256:`` and 64 hexadecimal digits); None where it is built, or while
            nobody knows the source's content.
        site: the directory of the site's configuration, which holds the files that a build names.
    """

    image: str
    definition: Image
    filesystem: str
    digest: str | None = None
    site: Path = _SITE

    @classmethod
    def of(cls, name: str, image: Image, variant: Variant, digest: str | None = None, *, site: Path = _SITE) -> Recipe:
        """The recipe for a variant's root.

        Args:
            name: the definition's name.
            image: the definition.
            variant: merged.
            digest: of the definition's source.
            site: see above.
        """
        if image.build is not None:
            packages = tuple(sorted({*image.build.packages, *variant.packages}))
            image = dataclasses.replace(image, build=dataclasses.replace(image.build, packages=packages))
        return cls(name, image, template_filesystem(variant.layout.filesystem), digest, site)

    def of_content(self, digest: str | None) -> Recipe:
        """The same with another content of the source."""
        return dataclasses.replace(self, digest=digest)

    @property
    def build(self) -> BootstrapBuild:
        """The definition's build.

        Raises:
            ImageError: it has none.
        """
        if self.definition.build is None:
            raise ImageError(f"image {self.image} is not built from packages")
        return self.definition.build

    @property
    def keyring(self) -> Path:
        """The file of the keys that have to have signed the distribution's archive."""
        if self.build.keyring is not None:
            return self._file("keys", self.build.keyring)
        return KEYRINGS[distribution(self.build)].path

    @property
    def repository_keyrings(self) -> dict[str, Path]:
        """Likewise of the further repositories, by their names."""
        return {name: self._file("keys", found.keyring) for name, found in self.build.repositories.items()}

    @property
    def debs(self) -> tuple[Path, ...]:
        """The packages that are files."""
        return tuple(self._file("debs", name) for name in self.build.debs)

    @property
    def scripts(self) -> tuple[Path, ...]:
        """What runs in the new system, in this order."""
        return tuple(self._file("scripts", name) for name in self.build.scripts)

    def to_json(self) -> dict[str, Any]:
        """What the key is taken over, JSON-ready."""
        common = {
            "revision": _REVISION,
            "manifest": MANIFEST_FORMAT,
            "image": self.image,
            "filesystem": self.filesystem,
        }
        if self.definition.build is not None:
            files = {
                "keyring": _digest(self.keyring),
                "repositories": {name: _digest(path) for name, path in self.repository_keyrings.items()},
                "debs": [_digest(path) for path in self.debs],
                "scripts": [_digest(path) for path in self.scripts],
            }
            return {**common, "build": dataclasses.asdict(self.build), "files": files}
        return {**common, "format": self.definition.format, "arch": self.definition.arch, "digest": self.digest}

    def key(self) -> str:
        """64 hexadecimal digits; the same for the same recipe, on every node."""
        canonical = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def _file(self, directory: str, name: str) -> Path:
        """A file that the definition names: the site's, or one with a path of its own."""
        return Path(name) if name.startswith("/") else self.site / directory / name


def _digest(path: Path) -> str | None:
    """Of a file's content; None without the file: then nothing can be built either, which the build says."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
