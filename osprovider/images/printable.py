"""What archives, servers and systems call things, in our messages: none of it may tell a terminal what to do.

Not for: names in files.
"""

from __future__ import annotations

from osprovider.log import plain

__all__ = ["printable"]

_LONGEST = 500  # a name may be of megabytes


def printable(text: str) -> str:
    """A text of somebody else's for a line of ours: without what is no character, and not without end."""
    shown = plain(text[:_LONGEST])
    return shown if len(text) <= _LONGEST else f"{shown}..."
