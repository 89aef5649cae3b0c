"""Obtaining an image, and what is left in the cache afterwards."""

from __future__ import annotations

import hashlib
import random

import pytest

from osprovider.config.model import Image
from osprovider.errors import ImageError
from osprovider.images.sources.cache import Pin
from osprovider.images.sources.fetch import Limits
from osprovider.images.sources.obtain import Obtained, Sources
from osprovider.paths import Directories

__all__ = ["CHANGED", "CONTENT", "QUICK", "SHA256", "SHA512", "assert_kept", "kept", "obtain", "pull", "refusal"]

CONTENT = random.Random(1).randbytes(1 << 20)
CHANGED = CONTENT[::-1]
SHA256 = hashlib.sha256(CONTENT).hexdigest()
SHA512 = hashlib.sha512(CONTENT).hexdigest()
QUICK = Limits(connect=20, idle=20, total=120, attempts=2, pause=0)


def obtain(sources: Sources, image: Image) -> Obtained:
    """Obtain it, and let it go at once."""
    with sources.obtain("web", image) as obtained:
        assert all(path.exists() for path in obtained.paths.values())
        return obtained


def pull(sources: Sources, image: Image) -> Pin:
    """Have the node keep to what the source is now."""
    with sources.pulled("web", image) as pin:
        return pin


def refusal(sources: Sources, image: Image) -> str:
    """Why it is not to be had, by either way."""
    messages = []
    with pytest.raises(ImageError) as caught, sources.obtain("web", image):
        pass
    messages.append(str(caught.value))
    with pytest.raises(ImageError) as caught:
        pull(sources, image)
    messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert messages[0].isprintable()
    assert sources.pinned("web", image) is None
    return messages[0]


def kept(directories: Directories) -> list[str]:
    """All that is in the cache."""
    return sorted(str(path.relative_to(directories.cache)) for path in directories.cache.rglob("*") if path.is_file())


def assert_kept(directories: Directories, *contents: bytes) -> None:
    """The cache has files with these contents and names, the pins beside them, and nothing else."""
    found = [name for name in kept(directories) if not name.endswith(".json")]
    assert found == sorted(f"sources/{hashlib.sha256(content).hexdigest()}" for content in contents)
    assert {(directories.cache / name).read_bytes() for name in found} == set(contents)
