"""What can go wrong, as one tree of exceptions with an exit code a class.

Every message is one line, lower case, and says what happened, to which file, device or variable, and what to do now.
Not for: errors of the program itself; those stay Python's own and are shown with their type.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "ApplianceError",
    "ConfigurationError",
    "DeviceError",
    "GuestError",
    "HookError",
    "ImageError",
    "NodeError",
    "OsproviderError",
    "OutOfSpace",
    "Problem",
    "RequestError",
    "Terminated",
    "ToolError",
    "UsageError",
    "reason_of",
]


class OsproviderError(Exception):
    """What an operator is told in one line. ``exit_code`` is 1: the work failed."""

    exit_code = 1


class UsageError(OsproviderError):
    """A command was called with words that it does not take."""

    exit_code = 2


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing wrong in a configuration file.

    Attributes:
        file: the file as the operator knows it, or a variable's name (``OSP_WIPE``) where there is no file.
        line: 1-based, 0 where the whole file is meant.
        column: 1-based, 0 where the whole line or file is meant.
        message: what is wrong, and what to write instead.
    """

    file: str
    line: int
    column: int
    message: str

    @classmethod
    def of_file(cls, file: str | Path, message: str) -> Problem:
        """What is wrong with a file as a whole, or with a variable."""
        return cls(str(file), 0, 0, message)

    def __str__(self) -> str:
        place = [self.file, *([str(self.line)] if self.line else []), *([str(self.column)] if self.column else [])]
        return f"{':'.join(place)}: {self.message}"


class ConfigurationError(OsproviderError):
    """One or more problems in the configuration, all of them at once.

    Args:
        problems: at least one; kept sorted by file and position.
    """

    exit_code = 2

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(sorted(set(problems)))
        super().__init__("\n".join(str(problem) for problem in self.problems))


class RequestError(OsproviderError):
    """Ganeti's environment lacks a variable or contradicts itself. The message names every such variable."""

    exit_code = 2


class DeviceError(OsproviderError):
    """A disk cannot be used: too small, in use, read-only, failing. The message names the device."""


class ImageError(OsproviderError):
    """An image cannot be built, read or trusted. The message names the image."""


class OutOfSpace(ImageError):  # noqa: N818 - its name is what it is
    """The file system that an image is built in filled up."""


class NodeError(ImageError):
    """An image cannot be read or prepared by this node as it is now. The image itself may be good."""


class GuestError(OsproviderError):
    """A file of the guest cannot be read or written. The message names the guest's path."""


class ApplianceError(GuestError):
    """This node cannot run the virtual machine that looks after a guest, or it ended. The guest itself may be good."""


class HookError(OsproviderError):
    """A hook failed. The message names the hook's file."""


class ToolError(OsproviderError):
    """A program failed.

    Args:
        argv: what was run.
        status: its exit status; negative: the signal that ended it.
        tail: the last lines that it said, without secrets.

    Attributes:
        last_line: the last of these, which mostly says why; empty where it said nothing.
    """

    def __init__(self, argv: Sequence[str], status: int, tail: str) -> None:
        self.argv = tuple(argv)
        self.status = status
        self.tail = tail.strip()
        self.last_line = self.tail.splitlines()[-1].strip() if self.tail else ""
        ended = f"was ended by signal {-status}" if status < 0 else f"failed with exit status {status}"
        said = self.last_line or "it said nothing"
        super().__init__(f"{Path(argv[0]).name} {ended}: {said} (command: {' '.join(argv)})")


class Terminated(BaseException):
    """A signal asked us to stop; raised in the main thread so that every resource is given back on the way out.

    Not an ``Exception``: nothing that handles errors may swallow it.
    """

    def __init__(self, signal_name: str) -> None:
        self.signal_name = signal_name
        super().__init__(f"ended by {signal_name}")


def reason_of(error: OSError) -> str:
    """What the system says of an error, as the middle of a line."""
    reason = error.strerror or str(error)
    return reason[:1].lower() + reason[1:]
