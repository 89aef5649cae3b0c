"""Values that are written as a scalar where a word says it all, and as a map where there is more to say.

Not for: types that have one form (:mod:`osprovider.config.schema`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from osprovider.config.check import Check

__all__ = ["ScalarOrMap"]


@dataclass(frozen=True, slots=True)
class ScalarOrMap:
    """Annotation of a value that is written as text or as a map: ``Annotated[T, ScalarOrMap(...)]``.

    Attributes:
        check: of the text.
        map: the dataclass whose keys a map has.
        read: makes T of the text or of an instance of ``map``; ValueError: what is wrong, and what to write instead.
        write: the way back: the text or the instance that ``read`` made a T of.
    """

    check: Check
    map: type
    read: Callable[[Any], object]
    write: Callable[[Any], object]
