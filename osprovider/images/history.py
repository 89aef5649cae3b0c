"""What an image was prepared from, and when: a line of JSON for each template, kept when the template is gone.

``CACHE/history/NAME``. Lost with the cache, and nothing depends on it.
Not for: how often a template was used.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass

from osprovider.manifest import Manifest
from osprovider.paths import Directories

__all__ = ["Entry", "entries", "note"]


@dataclass(frozen=True, slots=True)
class Entry:
    """A template that was prepared.

    Attributes:
        created: when, UTC, ISO 8601.
        key: the template's.
        system: what it is (``Debian GNU/Linux 12 (bookworm)``).
        packages: how many.
        data_bytes: what an instance gets copied.
        digest: of its source, or of the template where it was built from packages.
        verified: how the source was verified, for people; None where it was built from packages.
    """

    created: str
    key: str
    system: str
    packages: int
    data_bytes: int
    digest: str | None
    verified: str | None


def note(directories: Directories, manifest: Manifest) -> None:
    """Add a template that was just prepared; what cannot be noted is left out."""
    entry = Entry(
        created=manifest.created,
        key=manifest.key,
        system=manifest.distribution.pretty_name,
        packages=manifest.packages,
        data_bytes=manifest.data_bytes,
        digest=manifest.origin.digest if manifest.origin else manifest.digest,
        verified=manifest.origin.verified if manifest.origin else None,
    )
    path = directories.cache / "history" / manifest.image
    with suppress(OSError):
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        # One write(2) at the end of the file, so that lines of two processes do not mix; it begins with the newline,
        # since a full disk may have cut off the line before.
        with path.open("ab", buffering=0) as file:
            file.write(f"\n{json.dumps(asdict(entry))}".encode())


def entries(directories: Directories, name: str) -> tuple[Entry, ...]:
    """An image's history, the oldest first; a line that a full disk cut off is left out.

    Args:
        directories: the cache holds it.
        name: the definition's.
    """
    found = []
    with suppress(FileNotFoundError):
        for line in (directories.cache / "history" / name).read_text(errors="replace").splitlines():
            with suppress(ValueError, TypeError):
                found.append(Entry(**json.loads(line)))
    return tuple(found)
