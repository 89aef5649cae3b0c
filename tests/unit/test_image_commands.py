"""``osprovider image`` as far as it needs neither root nor a template."""

from __future__ import annotations

import pytest

from tests.unit.test_cli import Command, command

__all__ = ["command"]  # the fixture


@pytest.mark.parametrize("group", ["", "image", "variant"])
def test_a_list_of_commands_says_what_each_does_to_the_end_of_the_sentence(command: Command, group: str) -> None:
    said = command.answer(*group.split(), "--help")
    lines = said.partition("Commands:\n")[2].splitlines()
    assert lines
    assert [line for line in lines if not line.endswith(".") or line.endswith("...")] == []
