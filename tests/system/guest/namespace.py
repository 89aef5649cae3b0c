"""Running a part of a test in a mount namespace of its own, which that part's process alone enters."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import TypeVar, cast

from osprovider import linux

__all__ = ["in_namespace"]

Result = TypeVar("Result")


def in_namespace(body: Callable[[], Result]) -> Result:
    """Call `body` in a child process that sees, and makes, mounts of its own.

    Returns:
        what it returned; it has to survive pickling. What it raised is raised here.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def child() -> None:
        try:
            linux.private_mount_namespace()
            sender.send((body(), None))
        except BaseException as error:
            sender.send((None, error))

    process = context.Process(target=child)
    process.start()
    sender.close()
    result, error = receiver.recv()
    process.join()
    if error is not None:
        raise cast("BaseException", error)
    return cast("Result", result)
