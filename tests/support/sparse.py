"""Files that read as zeros and hold nothing yet, such as an empty disk."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["sparse_file"]


def sparse_file(path: Path, size_bytes: int) -> Path:
    """Make one, in place of what was there."""
    path.write_bytes(b"")
    os.truncate(path, size_bytes)
    return path
