"""The words of messages: values quoted, choices enumerated, and what somebody may have meant.

Not for: deciding anything.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["closest", "enumerate_words", "quote", "suggest"]

_MOST = 16
"""How many known words a message lists."""


def enumerate_words(words: Iterable[str], last: str = "or") -> str:
    """``a, b or c``."""
    *init, tail = list(words) or ["nothing"]
    return f"{', '.join(init)} {last} {tail}" if init else tail


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known word that this one may be a mistake for."""
    from difflib import get_close_matches  # 5 ms that only mistakes cost

    lower = {choice.lower(): choice for choice in sorted(known, reverse=True)}
    close = get_close_matches(word.lower(), lower, n=1)
    return lower[close[0]] if close else None


def suggest(word: str, known: Iterable[str]) -> str:
    """The end of a message: ``; did you mean X?``, or what there is, or that there is none."""
    known = sorted(known)
    if meant := closest(word, known):
        return f"; did you mean {meant}?"
    if len(known) > _MOST:
        known = [*known[:_MOST], f"{len(known) - _MOST} more"]
    return f"; there is {enumerate_words(known, 'and')}" if known else "; there is none"


def quote(value: str | int) -> str:
    """The value as a message quotes it: on one line, and not endless."""
    if not isinstance(value, str):
        return str(value)
    printable = value if value.isprintable() else ascii(value)[1:-1]
    return f'"{printable if len(printable) <= 60 else printable[:57] + "..."}"'
