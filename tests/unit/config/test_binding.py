"""What becomes of values that are right."""

from __future__ import annotations

import json

import pytest

from osprovider.config.model import Swap, Variant
from osprovider.config.schema import written
from tests.unit.config.binding import bound, validator


def test_a_value_keeps_what_was_written() -> None:
    text = "layout: {firmware: [uefi], grow: false}\nboot: {timeout: 3}\nusers: {admin: {groups: [sudo, adm]}}\n"
    _, value, _ = bound(Variant, text)
    assert isinstance(value, Variant)
    assert value.layout.firmware == ("uefi",)
    assert value.layout.grow is False
    assert value.boot.timeout == 3
    assert value.users["admin"].groups == ("sudo", "adm")
    assert value.boot.kernel_args == Variant().boot.kernel_args


SWAPS = {
    "none": Swap(),
    "memory": Swap("memory"),
    "2GiB": Swap("partition", size="2GiB"),
    "{disk: 1}": Swap("disk", disk="1"),
    "{disk: swap, file: ~}": Swap("disk", disk="swap"),
    "{file: 1GiB}": Swap("file", size="1GiB"),
}


@pytest.mark.parametrize("text", SWAPS)
def test_swap_is_a_word_a_size_or_a_map(text: str) -> None:
    _, value, problems = bound(Variant, f"layout: {{swap: {text}}}")
    assert problems == []
    assert isinstance(value, Variant)
    assert value.layout.swap == SWAPS[text]


@pytest.mark.parametrize("boot", ["none", "{}", "{size: 512MiB, filesystem: ext2}"])
@pytest.mark.parametrize("swap", SWAPS)
def test_what_was_bound_is_written_as_it_may_be_read_again(swap: str, boot: str) -> None:
    text = f"layout: {{swap: {swap}, boot: {boot}}}\ndisks: {{data: {{options: [noatime]}}}}\n"
    _, value, _ = bound(Variant, text)
    again = json.dumps(written(value))
    assert bound(Variant, again)[1] == value
    validator(Variant).validate(json.loads(again))


def test_a_password_hash_is_not_in_the_representation() -> None:
    _, value, _ = bound(Variant, "users: {root: {password_hash: '$5$abc$" + "x" * 43 + "'}}")
    assert isinstance(value, Variant)
    assert value.users["root"].password_hash is not None
    assert "$5$" not in repr(value)
