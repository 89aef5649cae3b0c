"""Guests to try things on: a directory as the root file system.

Not for: guests in the appliance, or on a disk.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from osprovider.guest.host import HostGuest

__all__ = ["directory_guest"]


@contextmanager
def directory_guest(root: Path) -> Iterator[HostGuest]:
    """The guest whose root file system is the directory ``root``."""
    handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield HostGuest(handle)
    finally:
        os.close(handle)
