"""Why an archive is refused, as who judges a part of it says it; who reads the archive adds its name and the byte.

Not for: what cannot be read at all (:class:`osprovider.errors.ImageError`).
"""

from __future__ import annotations

__all__ = ["Refused"]


class Refused(Exception):  # noqa: N818 - never leaves the reading
    """What is wrong; in somebody else's words perhaps, and not for a terminal yet."""
