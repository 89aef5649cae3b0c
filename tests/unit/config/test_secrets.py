"""What people paste into the wrong place does not get into the log."""

from __future__ import annotations

import pytest

from osprovider.config.document import parse
from osprovider.config.model import Variant
from osprovider.config.schema import bind
from osprovider.errors import Problem


@pytest.mark.parametrize(
    "text",
    [
        "users: {root: {ssh_authorized_keys: b3BlbnNzaC1rZXktdjE}}",
        "users: {root: {ssh_authorized_keys: [b3BlbnNzaC1rZXktdjE]}}",
        "users: {root: {password_hash: b3BlbnNzaC1rZXktdjE}}",
        "users: {root: {password_hash: [b3BlbnNzaC1rZXktdjE]}}",
        "users: {root: b3BlbnNzaC1rZXktdjE}",
    ],
)
def test_no_message_repeats_what_may_be_a_secret(text: str) -> None:
    problems: list[Problem] = []
    node = parse(text.encode(), "file.yaml", problems)
    assert node
    assert bind(Variant, node, problems) is None
    assert len(problems) == 1
    assert "b3BlbnNzaC1rZXktdjE" not in str(problems[0])
