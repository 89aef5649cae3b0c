"""Lines of a guest's files as Unix programs see them.

``str.splitlines`` also ends them at form feeds, U+2028 and others, so that a hook that writes them back would turn what
a user put into a comment into a line of its own.
Not for: the fields of a line.
"""

from __future__ import annotations

__all__ = ["split_lines", "with_block"]


def split_lines(text: str) -> list[str]:
    """The lines of ``text`` without the line feeds, which alone end them; the last one need not have one."""
    return text.removesuffix("\n").split("\n") if text else []


def with_block(text: str, mark: str, block: str) -> str:
    """``text`` with a block of ours at its end, in the place of the one that an earlier call put there.

    A line of ours that has lost its other half goes; what stands around it is the guest's and stays.

    Args:
        text: a file of the guest's own.
        mark: a comment, which with ``: begin`` and ``: end`` behind it stands around the block.
        block: whole lines; empty to take the block away.
    """
    begin, end = f"{mark}: begin", f"{mark}: end"
    kept: list[str] = []
    start: int | None = None  # of a block that has begun, in kept
    for line in split_lines(text):
        if line == begin:
            start = len(kept)
        elif line != end:
            kept.append(line)
        elif start is not None:
            del kept[start:]
            start = None
    ours = [begin, *split_lines(block), end] if block else []
    return "".join(f"{line}\n" for line in (*kept, *ours))
