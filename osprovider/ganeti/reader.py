"""Ganeti's variables taken one by one, with a note of everything that is wrong with them.

Not for: which variables there are (:mod:`osprovider.ganeti.environment`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path

__all__ = ["Reader"]

_INDEXED = re.compile(r"(DISK|NIC)_(0|[1-9][0-9]{0,8})_")
_MOST_DEVICES = 64  # well above MAX_DISKS (16) and MAX_NICS (8) in Ganeti's constants; bounds what a typo costs
_LONGEST = 400  # characters of a problem: more than the longest host name takes
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Reader:
    """Takes variables and notes whatever is wrong with them, so that a caller goes on and all of it is said at once.

    Args:
        environ: where the variables are.

    Attributes:
        problems: one line each: the variable, what is wrong, and what Ganeti should have set (``expected``).
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.problems: list[str] = []

    def complain(self, variable: str, what: str, expected: str) -> None:
        """Note a problem; ``what`` is shortened where it repeats a value that does not end."""
        if len(what) > _LONGEST:
            what = f"{what[: _LONGEST // 2]}...{what[-_LONGEST // 2 :]}"
        self.problems.append(f"{variable}: {what}; Ganeti sets {expected}")

    def optional(self, variable: str) -> str | None:
        """The value, None where it is missing, empty or the ``str()`` of Python's None."""
        value = self.environ.get(variable, "")
        return None if value in {"", "None"} else value

    def required(self, variable: str, expected: str) -> str:
        """The value, empty where that is a problem."""
        value = self.optional(variable)
        if value is None:
            self.complain(variable, "is not set", expected)
        return value or ""

    def matching(self, variable: str, pattern: re.Pattern[str], expected: str) -> str:
        """The value, which has to match the whole pattern."""
        value = self.required(variable, expected)
        if value and not pattern.fullmatch(value):
            self.complain(variable, f"{value!r} is malformed", expected)
        return value

    def uuid(self, variable: str, *, required: bool = True) -> str | None:
        """A UUID as Ganeti writes it (``UUID_REGEX`` in its constants)."""
        if required or self.optional(variable):
            return self.matching(variable, _UUID, "a UUID in lower case")
        return None

    def number(self, variable: str, expected: str, *, required: bool = True) -> int | None:
        """A whole number, not negative."""
        value = self.required(variable, expected) if required else self.optional(variable)
        if not value:
            return None
        if not re.fullmatch(r"[0-9]{1,15}", value):
            self.complain(variable, f"{value!r} is not a number", expected)
            return None
        return int(value)

    def absolute_path(self, variable: str, expected: str) -> Path | None:
        """A path that does not depend on the working directory."""
        value = self.optional(variable)
        if value is None:
            return None
        if not value.startswith("/"):
            self.complain(variable, f"{value!r} is not an absolute path", expected)
        return Path(value)

    def address(self, variable: str) -> str | None:
        """An IP address without a prefix length, in its canonical form."""
        value = self.optional(variable)
        if value is None:
            return None
        try:
            return str(ip_address(value))
        except ValueError:
            self.complain(variable, f"{value!r} is not an IP address", "an address without a prefix length")
            return value

    def subnet(self, variable: str, version: int) -> str | None:
        """An IPv4 or IPv6 network in CIDR notation, in its canonical form."""
        value = self.optional(variable)
        if value is None:
            return None
        try:
            network = (IPv4Network if version == 4 else IPv6Network)(value)
        except ValueError as error:
            self.complain(variable, str(error), f"an IPv{version} network with its prefix length")
            return value
        return str(network)

    def indices(self, kind: str) -> range:
        """The indices of ``DISK`` or ``NIC``, as many as ``*_COUNT`` says; a device beyond it is a problem."""
        count = self.number(f"{kind}_COUNT", f"how many {kind}_n_* there are")
        if count is None:
            return range(0)
        found = [match for name in self.environ if (match := _INDEXED.match(name)) and match[1] == kind]
        for prefix in sorted({match[0] for match in found if int(match[2]) >= count}):
            self.complain(f"{prefix}*", f"is set although {kind}_COUNT is {count}", "no more devices than that")
        if count > _MOST_DEVICES:
            self.complain(f"{kind}_COUNT", f"{count} is too many", f"at most {_MOST_DEVICES}")
        return range(min(count, _MOST_DEVICES))
