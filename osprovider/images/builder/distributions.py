"""What is known of Debian and Ubuntu before anything is fetched: whose suite is whose, and whose keys count.

Not for: mirrors; the building tools know theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from osprovider.config.model import BootstrapBuild

__all__ = ["KEYRINGS", "ROLLING", "TO_BE_MERGED", "Keyring", "distribution"]

ROLLING = frozenset({"sid", "unstable", "experimental", "rc-buggy", "testing"})
"""Debian's suites that have no updates beside them."""

TO_BE_MERGED = frozenset(
    {"buster", "bullseye", "bookworm", "oldoldstable", "oldstable"} | {"focal", "jammy", "kinetic", "lunar", "mantic"}
)
"""Releases whose /usr is merged by who installs them; since then the links are in a package (base-files), which does
not mind those that are there."""

_UBUNTU = frozenset(
    {"trusty", "xenial", "bionic", "focal", "jammy", "kinetic", "lunar", "mantic", "noble", "oracular", "plucky"}
    | {"questing", "resolute", "devel"}
)


@dataclass(frozen=True, slots=True)
class Keyring:
    """The keys of a distribution's archive, as a node has them.

    Attributes:
        path: the file.
        package: what brings it.
        hint: what a message says of the package behind its name.
    """

    path: Path
    package: str
    hint: str = ""


KEYRINGS = {
    "debian": Keyring(Path("/usr/share/keyrings/debian-archive-keyring.gpg"), "debian-archive-keyring"),
    "ubuntu": Keyring(
        Path("/usr/share/keyrings/ubuntu-archive-keyring.gpg"),
        "ubuntu-keyring",
        " (images.md has the way for Debian 12, which lacks it)",
    ),
}
"""Whose signatures are trusted by default, whatever else this node's apt trusts."""


def distribution(build: BootstrapBuild) -> str:
    """Whose suite a build is of: ``debian`` or ``ubuntu``."""
    if build.distribution != "auto":
        return build.distribution
    return "ubuntu" if build.suite in _UBUNTU else "debian"
