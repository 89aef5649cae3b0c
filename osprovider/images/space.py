"""How much room is left where images are made and written.

Not for: a guest's own file systems.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["free_bytes", "is_full", "is_nearly_full"]

_FULL = 1 << 20
_NEARLY_FULL = 32 << 20


def free_bytes(directory: Path) -> int:
    """What is free on a directory's file system, in bytes."""
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize


def is_full(directory: Path) -> bool:
    """Has it no space left for an image that is written in one piece."""
    return free_bytes(directory) < _FULL


def is_nearly_full(directory: Path) -> bool:
    """Has it so little space left that programs that write many files may have failed for that."""
    return free_bytes(directory) < _NEARLY_FULL
