"""Calls beside the main thread: their results, their errors, and who waits for whom."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from osprovider.background import background


def test_results_come_back_and_calls_run_side_by_side() -> None:
    together = threading.Barrier(2, timeout=60)

    def call(number: int) -> int:
        together.wait()
        return number * 2

    with background("test") as start:
        tasks = [start(call, number) for number in (1, 2)]
        assert [task.result() for task in tasks] == [2, 4]


def test_an_error_is_raised_where_the_result_is_asked_for() -> None:
    def fail() -> None:
        raise KeyError("lost")

    with background("test") as start:
        task = start(fail)
        task.wait()
        with pytest.raises(KeyError, match="lost"):
            task.result()


def test_the_end_waits_for_what_still_runs() -> None:
    release, done = threading.Event(), threading.Event()

    def call() -> None:
        release.wait(60)
        done.set()

    with background("test") as start:
        start(call)
        release.set()
    assert done.is_set()


def test_after_an_error_an_endless_call_is_left_behind() -> None:
    release = threading.Event()
    with pytest.raises(ValueError, match="first"), background("test") as start:  # noqa: PT012 - the block is the point
        start(release.wait)
        raise ValueError("first")
    release.set()


def test_leaving_flushes_and_does_not_wait_for_threads() -> None:
    program = (
        "import threading\n"
        "from osprovider.background import Task\n"
        "from osprovider.process import leave\n"
        "Task('endless', threading.Event().wait)\n"
        "print('said', end='')\n"
        "leave(3)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (3, b"said")
