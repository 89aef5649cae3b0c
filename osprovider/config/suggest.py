"""What somebody may have meant who wrote a word that is not known.

Not for: deciding anything; the suggestion ends a message.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["enumerate_words", "suggest"]


def enumerate_words(words: Iterable[str], last: str = "or") -> str:
    """``a, b or c``."""
    *init, tail = list(words) or ["nothing"]
    return f"{', '.join(init)} {last} {tail}" if init else tail


def suggest(word: str, known: Iterable[str]) -> str:
    """The end of a message: ``; did you mean X?``, or what there is, or that there is none."""
    from difflib import get_close_matches  # 5 ms that only mistakes cost

    known = sorted(known)
    lower = {choice.lower(): choice for choice in reversed(known)}
    if close := get_close_matches(word.lower(), lower, n=1, cutoff=0.6):
        return f"; did you mean {lower[close[0]]}?"
    return f"; there is {enumerate_words(known, 'and')}" if known else "; there is none"
