"""Fetching a file, and what is left of it."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest

from osprovider.errors import ImageError
from osprovider.images.sources.fetch import Fetched, Fetcher, Limits
from tests.support.http_server import Server

__all__ = ["CONTENT", "DIGEST", "IMPATIENT", "LIMIT", "QUICK", "assert_whole", "fetch", "left", "refusal"]

CONTENT = random.Random(1).randbytes(3 << 20)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
LIMIT = 4 << 20
QUICK = Limits(connect=20, idle=20, total=120, attempts=3, pause=0)
IMPATIENT = Limits(connect=20, idle=3, total=120, attempts=3, pause=0)


def fetch(
    server: Server,
    target: Path,
    path: str = "/image",
    *,
    limits: Limits = QUICK,
    limit_bytes: int = LIMIT,
    unless: dict[str, str] | None = None,
) -> Fetched | None:
    return Fetcher(limits=limits).download(
        f"{server.url}{path}", target, algorithms=("sha256",), limit_bytes=limit_bytes, unless=unless
    )


def assert_whole(fetched: Fetched | None, target: Path, content: bytes = CONTENT) -> None:
    """It came, it is all that is left, and what is said of it is right."""
    assert fetched is not None
    assert target.read_bytes() == content
    assert fetched.digests == {"sha256": hashlib.sha256(content).hexdigest()}
    assert fetched.size_bytes == len(content)
    assert left(target) == [target.name]


def left(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


def refusal(server: Server, target: Path, path: str = "/image", *, limits: Limits = QUICK, limit: int = LIMIT) -> str:
    with pytest.raises(ImageError) as caught:
        fetch(server, target, path, limits=limits, limit_bytes=limit)
    message = str(caught.value)
    assert message.isprintable()
    return message
