"""Why a build failed, in one line for the operator, from what apt, dpkg, wget and debootstrap said.

These tools have no other interface for their errors than prose, so only few and old wordings are looked for; where none
is found, the last line is handed on.
Not for: deciding anything but a message.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["explain", "is_out_of_space"]


@dataclass(frozen=True, slots=True)
class _Cause:
    """What to say when a line is found.

    Attributes:
        wordings: patterns; a group is the ``what`` of the message.
        message: what happened, and the way out.
    """

    wordings: tuple[str, ...]
    message: str


# The most telling first: a name that cannot be resolved also means that something could not be fetched.
_CAUSES = (
    _Cause(
        (
            r"Unable to locate package (\S+)",
            r"Package '?([^\s']+)'? has no installation candidate",
            r"Couldn't find any package by (?:regex|glob) '([^']+)'",
        ),
        "{mirror} has no package {what} in {suite}; correct build.packages of {file}, or packages of the variant",
    ),
    _Cause(
        (r"(?:Depends|Conflicts|Breaks): (.+)", r"unmet dependencies"),
        "packages contradict each other: {line}; correct build.packages of {file}, or packages of the variant",
    ),
    _Cause(
        (r"Temporary failure resolving", r"Could not resolve", r"unable to resolve host", r"Name or service not known"),
        "the name of {mirror} cannot be resolved ({line}); check the node's name servers, and build.mirror of {file}",
    ),
    _Cause(
        (r"NO_PUBKEY", r"EXPKEYSIG", r"BADSIG", r"is not signed", r"unknown key", r"Invalid Release signature"),
        "what {mirror} offers is not signed by a key of {keyring} ({line}); install a newer keyring package, or choose "
        "another build.mirror in {file}",
    ),
    _Cause(
        (
            r"does not have a Release file",
            r"No such script: ",
            r"\b404\s+Not Found",
            r"ERROR 404: ",
            r"Invalid Release file",
        ),
        "{mirror} has no suite {suite}: it answers 404; check build.suite, build.components and build.mirror of {file}",
    ),
    _Cause(
        (
            r"Could not connect to",
            r"Unable to connect to",
            r"Connection (?:refused|failed|timed out)",
            r"(?:Network is unreachable|No route to host)",
            r"Failed to fetch",
            r"Failed getting release file",
            r"Couldn't download",
        ),
        "{mirror} cannot be reached ({line}); check the node's network, and build.mirror of {file}",
    ),
    _Cause(
        (r"dpkg: error processing (?:package|archive) (\S+)",),
        "package {what} cannot be installed: {next}; leave it out of build.packages of {file}, or report it as a bug",
    ),
)

_FULL = re.compile(r"No space left on device|don't have enough free space")


def explain(lines: Sequence[str], *, image: str, mirror: str | None, suite: str, keyring: str, last: str) -> str:
    """The cause, and the way out.

    Args:
        lines: what the tools said, in order.
        image: the definition's name.
        mirror: its mirror; None for the tool's own.
        suite: as the definition says.
        keyring: the file whose keys are trusted.
        last: what to say where no cause is found.
    """
    values = {"file": f"images/{image}.yaml", "mirror": mirror or "the default mirror", "suite": suite}
    for cause in _CAUSES:
        for number, line in enumerate(lines):
            found = next((match for match in (re.search(wording, line) for wording in cause.wordings) if match), None)
            if found:
                what = (found.groups() or ("",))[0] or ""
                after = lines[number + 1].strip() if number + 1 < len(lines) else "no reason was given"
                return cause.message.format(**values, keyring=keyring, what=what, line=_plain(line), next=after)
    return f"{last}; --debug shows what the build said"


def is_out_of_space(lines: Sequence[str]) -> bool:
    """Does what the tools said tell that the file system is full?"""
    return any(_FULL.search(line) for line in lines)


def _plain(line: str) -> str:
    """The line without the tool's marks in front of it."""
    return re.sub(r"^(?:\s|[EWIN]:|Err:\d+)+", "", line).strip()
