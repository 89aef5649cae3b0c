"""Names of an archive in messages: they are anybody's, and none of them may tell a terminal what to do.

Not for: names in files.
"""

from __future__ import annotations

from osprovider.log import plain

__all__ = ["printable"]

_LONGEST = 500  # a name may be of megabytes


def printable(text: str) -> str:
    """A message as it can be shown: without what is no character, and not without end."""
    shown = plain(text[:_LONGEST])
    return shown if len(text) <= _LONGEST else f"{shown}..."
