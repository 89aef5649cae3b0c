"""Sizes as the configuration writes them.

Not for: checking them (:data:`osprovider.config.checks.size`).
"""

from __future__ import annotations

__all__ = ["parse_size"]

_UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


def parse_size(text: str) -> int:
    """The bytes of a size with its unit (``20GiB``), which passed its check."""
    return int(text[:-3]) * _UNITS[text[-3:]]
