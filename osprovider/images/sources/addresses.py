"""Where a source and what belongs to it lie: paths of this node and URLs, as definitions have them.

Not for: fetching (:mod:`osprovider.images.sources.fetch`), or which files a path means (``localfiles``).
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urljoin, urlsplit, urlunsplit

from osprovider.images.printable import printable

__all__ = ["beside", "is_remote", "shown", "shown_url"]


def is_remote(where: str) -> bool:
    """Is it to be fetched; otherwise it is a path."""
    return where.startswith(("http://", "https://"))


def beside(source: str, where: str) -> str:
    """A path or URL that may be relative to that of the source."""
    if is_remote(source):
        return urljoin(source, where)
    return where if is_remote(where) else str(Path(source).parent / where)


def shown(where: str) -> str:
    """A path or URL for messages and records."""
    return shown_url(where) if is_remote(where) else where


def shown_url(url: str) -> str:
    """A URL for messages and records: without user, password and query, and printable."""
    try:
        parts = urlsplit(url)
        bare = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    except ValueError:
        return "something that is no address"
    return printable(bare)
