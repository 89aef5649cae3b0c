"""A set of many names in little memory: 64 bits of each, by which another one is told from it.

Two of a million names have the same with a chance of one in ten million; whoever asks is then told of a name that is
not there. Which those are nobody can choose, since Python salts what it hashes.
Source: ``object.__hash__`` of the Python Language Reference.
Not for: saying which names there are.
"""

from __future__ import annotations

from array import array

__all__ = ["NameSet"]

_FIRST_SLOTS = 1 << 10
_FULL = 0.7
_EVEN = (1 << 64) - 2


class NameSet:
    """Names, each with a flag.

    A table with open addressing; no slot that is used has the number 0.
    """

    def __init__(self) -> None:
        self._slots = array("Q", bytes(8 * _FIRST_SLOTS))
        self._used = 0

    def __len__(self) -> int:
        return self._used

    def __contains__(self, name: str) -> bool:
        return self._slots[self._place(_hash(name))] != 0

    @property
    def bytes(self) -> int:
        """The memory that it takes."""
        return 8 * len(self._slots)

    def add(self, name: str, *, flag: bool = False) -> bool:
        """Take a name in; returns whether it was not there."""
        key = _hash(name)
        place = self._place(key)
        if self._slots[place]:
            return False
        self._slots[place] = key | flag
        self._used += 1
        if self._used > _FULL * len(self._slots):
            self._grow()
        return True

    def flag(self, name: str) -> bool:
        """The flag of a name, which is there."""
        return bool(self._slots[self._place(_hash(name))] & 1)

    def _place(self, key: int) -> int:
        """Where a name is, or where there is room for it."""
        slots, last = self._slots, len(self._slots) - 1
        place = key >> 1 & last
        while (found := slots[place]) and found | 1 != key | 1:
            place = place + 1 & last
        return place

    def _grow(self) -> None:
        old, self._slots = self._slots, array("Q", bytes(2 * self.bytes))
        for key in old:
            if key:
                self._slots[self._place(key & ~1)] = key


def _hash(name: str) -> int:
    """An even number, and never 0."""
    return hash(name) & _EVEN or 2
