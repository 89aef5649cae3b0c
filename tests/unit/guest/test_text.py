"""Lines and blocks in files that are the guest's own."""

from __future__ import annotations

import pytest

from osprovider.guest.text import with_block

MARK = "# ours"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("a\n# ours: begin\nold\n# ours: end\nb\n", "a\nb\n"),
        ("a\n# ours: begin\nb\nc\n", "a\nb\nc\n"),
        ("a\n# ours: end\nb\n", "a\nb\n"),
        ("a\n# ours: begin\nb\n# ours: begin\nold\n# ours: end\nc\n", "a\nb\nc\n"),
        ("# ours: begin\nold\n# ours: end\nb\n# ours: end\n", "b\n"),
        ("# ours: begin\n1\n# ours: end\na\n# ours: begin\n2\n# ours: end", "a\n"),
        ("", ""),
    ],
    ids=["replaced", "no end", "no beginning", "an end is missing", "two ends", "two blocks", "empty"],
)
def test_our_block_takes_the_place_of_the_old_one_and_nothing_of_the_guests_goes(text: str, left: str) -> None:
    assert with_block(text, MARK, "") == left
    assert with_block(text, MARK, "new\n") == f"{left}# ours: begin\nnew\n# ours: end\n"
    assert with_block(with_block(text, MARK, "new\n"), MARK, "new\n") == with_block(text, MARK, "new\n")
