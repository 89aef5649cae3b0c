"""What a check of a single value is, and the two kinds that there are: of text, and of whole numbers.

A pattern is for both readers, this one and JSON Schema's, so it keeps to what Python and ECMA-262 agree on and is
anchored with ``^`` and ``$``.
Not for: the checks themselves (:mod:`osprovider.config.checks`).
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from osprovider.config.wording import quote

__all__ = ["Check", "Number", "Text"]


class Check(ABC):
    """A check that is called with a value and returns nothing.

    Attributes:
        write: what to write, for messages.
        schema: the keywords of JSON Schema that say the same, or as much of it as they can.
        secret: the value must not appear in a message.
        takes_numbers: a whole number is as good as its digits.
    """

    __slots__ = ("schema", "secret", "takes_numbers", "write")

    def __init__(self, write: str, schema: Mapping[str, Any], *, secret: bool, takes_numbers: bool = False) -> None:
        self.write = write
        self.schema = schema
        self.secret = secret
        self.takes_numbers = takes_numbers

    @abstractmethod
    def __call__(self, value: str | int) -> None:
        """Check a value.

        Raises:
            ValueError: what is wrong, and what to write instead.
        """

    def _refuse(self, value: str | int, what: str) -> NoReturn:
        raise ValueError(f"{'this' if self.secret else quote(value)} {what}; write {self.write}")


class Text(Check):
    """A check of text, by a pattern and perhaps by more than one can say."""

    __slots__ = ("_extra", "_fullmatch", "_longest", "_pattern")

    def __init__(
        self,
        write: str,
        pattern: str,
        longest: int,
        extra: Callable[[str], None] | None = None,
        *,
        secret: bool = False,
        takes_numbers: bool = False,
    ) -> None:
        """Make a check of text.

        Args:
            write: what to write instead, for messages.
            pattern: what values look like.
            longest: in characters.
            extra: what a pattern cannot say; called with values that fit it; raises ValueError.
            secret: see :class:`Check`.
            takes_numbers: likewise.
        """
        schema: dict[str, Any] = {"pattern": pattern, "maxLength": longest}
        if takes_numbers:
            schema |= {"type": ["string", "integer"], "minimum": 0}
        super().__init__(write, schema, secret=secret, takes_numbers=takes_numbers)
        self._pattern = pattern
        self._longest = longest
        self._extra = extra
        self._fullmatch: Callable[[str], object] | None = None

    def __call__(self, value: str | int) -> None:
        """Check a value, as any check does."""
        if not isinstance(value, str):
            raise TypeError(value)
        if len(value) > self._longest:
            self._refuse(value, f"is longer than {self._longest} characters")
        if self._fullmatch is None:  # compiled when needed: there are many, few are used
            self._fullmatch = re.compile(self._pattern).fullmatch
        if self._fullmatch(value) is None:
            self._refuse(value, "does not fit")
        if self._extra:
            self._extra(value)


class Number(Check):
    """A check of a whole number, by its bounds."""

    __slots__ = ("_maximum", "_minimum")

    def __init__(self, write: str, minimum: int, maximum: int) -> None:
        """Make a check of a number; ``write`` is what to write instead, for messages."""
        super().__init__(write, {"minimum": minimum, "maximum": maximum}, secret=False)
        self._minimum = minimum
        self._maximum = maximum

    def __call__(self, value: str | int) -> None:
        """Check a value, as any check does."""
        if not isinstance(value, int):
            raise TypeError(value)
        if not self._minimum <= value <= self._maximum:
            self._refuse(value, "does not fit")
