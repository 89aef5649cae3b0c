"""A set of names that keeps little of each."""

from __future__ import annotations

import random
import tracemalloc

import pytest

from osprovider.images.archive.name_set import NameSet
from osprovider.images.archive.tar_header import DIRECTORY
from osprovider.images.archive.tar_names import Names


def test_it_tells_names_apart_with_their_flags() -> None:
    chance = random.Random(1)
    names = {f"usr/share/{chance.random()}": chance.random() < 0.5 for _ in range(20_000)}
    found = NameSet()
    for name, flag in names.items():
        assert name not in found
        assert found.add(name, flag=flag)
    assert len(found) == len(names)
    assert all(name in found and found.flag(name) == flag for name, flag in names.items())
    assert not any(f"{name}x" in found for name in names)


def test_a_name_is_taken_in_once_and_keeps_its_flag() -> None:
    found = NameSet()
    assert found.add("etc/passwd", flag=True)
    assert not found.add("etc/passwd", flag=False)
    assert len(found) == 1
    assert found.flag("etc/passwd")


def test_names_that_belong_in_one_place_stay_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("osprovider.images.archive.name_set._hash", lambda name: int(name) << 40 or 2)
    found = NameSet()
    for number in range(500):
        assert found.add(str(number))
        assert str(number + 1) not in found
    assert all(str(number) in found for number in range(500))


def test_a_member_of_an_archive_takes_few_bytes() -> None:
    """Two million, with names of sixty bytes, take less than a hundred MiB."""
    names, members = Names(), 50_000
    tracemalloc.start()
    try:
        for number in range(members):
            directory = f"usr/share/a-directory-with-a-name-{number // 100}"
            if number % 100 == 0:
                names.add(DIRECTORY, directory, "")
            names.add(b"0", f"{directory}/a-file-with-a-usual-name-{number}.txt", "")
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken / members < 48
