"""Locks between processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from osprovider.errors import OsproviderError
from osprovider.locks import attempt, exclusive, shared
from osprovider.log import reporter

WAITS = "waiting for another osprovider that tests"

_FORK = multiprocessing.get_context("fork")


class Other:
    """Another process that takes a lock when told to."""

    def __init__(self, lock: Callable[..., object], path: Path) -> None:
        self._ours, theirs = _FORK.Pipe()
        self.process = _FORK.Process(target=self._run, args=(lock, path, theirs), daemon=True)
        self.process.start()
        theirs.close()

    @staticmethod
    def _run(lock: Callable[..., Iterator[None]], path: Path, pipe: Connection) -> None:
        reporter.info = pipe.send  # type: ignore[assignment, method-assign] # in this process alone
        with lock(path, "tests"):  # type: ignore[attr-defined]
            pipe.send("holds")
            pipe.recv()
        pipe.send("gave back")

    def says(self) -> str:
        """What it says next."""
        assert self._ours.poll(30), "nothing was said"
        return str(self._ours.recv())

    def is_silent(self) -> bool:
        """Does it say nothing for a moment."""
        return not self._ours.poll(0.1)

    def release(self) -> None:
        """Have it give the lock back."""
        self._ours.send("release")
        assert self.says() == "gave back"

    def end(self) -> None:
        """Kill it, if it lives."""
        self.process.kill()
        self.process.join()


@pytest.fixture
def other() -> Iterator[Callable[[Callable[..., object]], Other]]:
    """Starts other processes, which end with the test."""
    started: list[Other] = []

    def start(lock: Callable[..., object], path: Path) -> Other:
        started.append(Other(lock, path))
        return started[-1]

    yield start  # type: ignore[misc]
    for each in started:
        each.end()


def test_a_lock_held_alone_keeps_others_out_until_it_is_given_back(other: Callable[..., Other], tmp_path: Path) -> None:
    first = other(exclusive, tmp_path / "lock")
    assert first.says() == "holds"
    second = other(exclusive, tmp_path / "lock")
    assert second.says() == WAITS
    assert second.is_silent()
    first.release()
    assert second.says() == "holds"


def test_waiting_is_not_said_where_nobody_waits(other: Callable[..., Other], tmp_path: Path) -> None:
    assert other(exclusive, tmp_path / "lock").says() == "holds"
    assert other(exclusive, tmp_path / "another").says() == "holds"


def test_a_shared_lock_is_held_by_many_and_keeps_out_who_wants_it_alone(
    other: Callable[..., Other], tmp_path: Path
) -> None:
    sharers = [other(shared, tmp_path / "lock") for _ in range(3)]
    assert [each.says() for each in sharers] == ["holds"] * 3
    alone = other(exclusive, tmp_path / "lock")
    assert alone.says() == WAITS
    for each in sharers:
        assert alone.is_silent()
        each.release()
    assert alone.says() == "holds"


def test_a_lock_dies_with_its_process(other: Callable[..., Other], tmp_path: Path) -> None:
    first = other(exclusive, tmp_path / "lock")
    assert first.says() == "holds"
    second = other(exclusive, tmp_path / "lock")
    assert second.says() == WAITS
    os.kill(first.process.pid or 0, signal.SIGKILL)
    assert second.says() == "holds"


def test_an_attempt_does_not_wait(other: Callable[..., Other], tmp_path: Path) -> None:
    first = other(shared, tmp_path / "lock")
    assert first.says() == "holds"
    with attempt(tmp_path / "lock") as got_it:
        assert not got_it
    first.release()
    with attempt(tmp_path / "lock") as got_it:
        assert got_it
        assert other(shared, tmp_path / "lock").says() == WAITS


def test_the_lock_file_stays_so_that_all_lock_the_same(tmp_path: Path) -> None:
    with exclusive(tmp_path / "deep/down/lock"):
        before = (tmp_path / "deep/down/lock").stat().st_ino
    with exclusive(tmp_path / "deep/down/lock"):
        assert (tmp_path / "deep/down/lock").stat().st_ino == before


def test_a_lock_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(
            OsproviderError, match=rf"^cannot lock {tmp_path}/file/lock: not a directory; what it lies in has to be a"
        ),
        exclusive(tmp_path / "file/lock"),
    ):
        pass
