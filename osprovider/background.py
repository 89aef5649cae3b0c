"""Calls that run beside the main thread, in threads of their own, and what became of them.

As ``concurrent.futures`` without its executors and its 5 ms of imports: an executor waits for its threads when the
process ends, however long they take; these are daemons, which end with it, and so do the programs that they run.
Not for: dividing one job among threads (:mod:`osprovider.disk.crew`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

__all__ = ["Task", "background"]

_PATIENCE_SECONDS = 1.0

_Result = TypeVar("_Result")


class Task(Generic[_Result]):
    """A call that runs in a thread of its own from now on.

    Args:
        name: the thread's.
        function: what to call.
        arguments: with what.
    """

    def __init__(self, name: str, function: Callable[..., _Result], *arguments: object) -> None:
        self._value: _Result
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(function, arguments), name=name, daemon=True)
        self._thread.start()

    def result(self) -> _Result:
        """Wait for it; returns what it returned, raises what it raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._value

    def wait(self, seconds: float | None = None) -> None:
        """Wait until it is over, or for some seconds at most; its error is not raised."""
        self._thread.join(seconds)

    def _run(self, function: Callable[..., _Result], arguments: tuple[object, ...]) -> None:
        try:
            self._value = function(*arguments)
        except BaseException as error:
            self._error = error


@contextmanager
def background(name: str) -> Iterator[Callable[..., Task[Any]]]:
    """Yield a function that calls another one beside; in the end all of them are waited for.

    After an error, or when we are asked to end, that is only for a moment.

    Args:
        name: what the threads' names begin with.
    """
    tasks: list[Task[Any]] = []

    def start(function: Callable[..., Any], *arguments: object) -> Task[Any]:
        tasks.append(Task(f"{name}-{len(tasks) + 1}", function, *arguments))
        return tasks[-1]

    try:
        yield start
    except BaseException:
        for task in tasks:
            task.wait(_PATIENCE_SECONDS / len(tasks))
        raise
    for task in tasks:
        task.wait()
