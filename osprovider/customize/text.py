"""Lines of a guest's files as Unix programs see them.

``str.splitlines`` also ends them at form feeds, U+2028 and others, so that a hook that writes them back would turn what
a user put into a comment into a line of its own.
Not for: the fields of a line.
"""

from __future__ import annotations

__all__ = ["split_lines"]


def split_lines(text: str) -> list[str]:
    """The lines of ``text`` without the line feeds, which alone end them; the last one need not have one."""
    return text.removesuffix("\n").split("\n") if text else []
