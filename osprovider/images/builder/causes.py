"""Why a build failed, in one line for the operator, from what apt, dpkg, wget and debootstrap said.

These tools have no other interface for their errors than prose, so only few and old wordings are looked for; where none
is found, the last line is handed on.
Not for: deciding anything but a message.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from osprovider.images.builder.archives import Source
from osprovider.images.recipe import Recipe

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


# The most telling first: once dpkg is at work all is fetched, so what looks like a mirror's failure is what a package's
# script said; and a name that cannot be resolved also means that something could not be fetched.
_CAUSES = (
    _Cause(
        (r"dpkg: error processing (?:package|archive) (\S+)",),
        "package {what} cannot be installed: {before}{next}; leave it out of {file}, or report it as a bug",
    ),
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
        "the name of {mirror} cannot be resolved ({line}); check the node's name servers, and {key} of {file}",
    ),
    _Cause(
        (r"NO_PUBKEY", r"EXPKEYSIG", r"BADSIG", r"is not signed", r"unknown key", r"Invalid Release signature"),
        "what {mirror} offers is not signed by a key of {keyring} ({line}); get its newer keys, or correct {key} of "
        "{file}",
    ),
    _Cause(
        (r"Release file for \S+ is (?:expired|not valid yet)",),
        "{mirror} offers a list of {suite} that is out of date, or of the future ({line}); check the node's clock, or "
        "{key} of {file}",
    ),
    _Cause(
        (r"Failed to fetch \S+/(\S+\.deb)\s+404",),
        "{mirror} lists {what} and does not have it (404); try again later, or where it keeps the release no longer, "
        "check {place}",
    ),
    _Cause(
        (
            r"does not have a Release file",
            r"No such script: ",
            r"\b404\s+Not Found",
            r"ERROR 404: ",
            r"Invalid Release file",
        ),
        "{mirror} has no suite {suite}: it answers 404; check {place}",
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
        "{mirror} cannot be reached ({line}); check the node's network, and {key} of {file}",
    ),
)

_FULL = re.compile(r"No space left on device|don't have enough free space")
_STEP = re.compile(r"$|Setting up |Unpacking |Preparing |Processing |Selecting |\(Reading ")
_NEEDS = re.compile(r"\b(\S+) : (?:Pre)?-?(?:Depends): ([^\s:]+).* but it is not (?:installable|going to be installed)")


def explain(lines: Sequence[str], recipe: Recipe, sources: Sequence[Source], last: str) -> str:
    """The cause, and the way out.

    Args:
        lines: what the tools said, in order.
        recipe: what was built.
        sources: where packages come from, as far as that was known.
        last: what to say where no cause is found.
    """
    file = f"images/{recipe.image}.yaml"
    for needs in filter(None, map(_NEEDS.search, lines)):
        if needs[2] in recipe.build.exclude:
            return f"{needs[1]} needs {needs[2]}, which is excluded; correct build.exclude of {file}"
    for cause in _CAUSES:
        found = [(number, match) for number, line in enumerate(lines) if (match := _match(cause, line))]
        if found:
            # One that names its source says more than the first.
            number, match = next((each for each in found if _source(lines[each[0]], sources)), found[0])
            before = lines[number - 1].strip() if number else ""
            return cause.message.format(
                **_values(recipe, _source(lines[number], sources), file),
                file=file,
                what=(match.groups() or ("",))[0] or "",
                line=_plain(lines[number]),
                before="" if _STEP.match(before) else f"{before}: ",
                next=lines[number + 1].strip() if number + 1 < len(lines) else "no reason was given",
            )
    return f"{last}; --debug shows what the build said"


def _match(cause: _Cause, line: str) -> re.Match[str] | None:
    return next((match for match in (re.search(wording, line) for wording in cause.wordings) if match), None)


def _source(line: str, sources: Sequence[Source]) -> Source | None:
    """Which source a line is about: apt names it by URL and suite, or by the URL of a file beneath."""
    named = [source for source in sources if f"{source.url} {source.suite}" in line]
    named = named or [source for source in sources if f"{source.url}/dists/{source.suite}/" in line]
    named = named or [source for source in sources if f"{source.url}/" in line and source.switch != "updates"]
    return max(named, key=lambda source: len(f"{source.url} {source.suite}")) if named else None


def _values(recipe: Recipe, source: Source | None, file: str) -> dict[str, str]:
    """What messages say of a source; of the distribution's release itself where none is known."""
    build = recipe.build
    if source is None or (source.key == "mirror" and source.switch is None):
        return {
            "mirror": build.mirror or "the default mirror",
            "suite": build.suite,
            "key": "build.mirror",
            "keyring": str(recipe.keyring),
            "place": f"build.suite, build.components and build.mirror of {file}",
        }
    keyring = recipe.repository_keyrings.get(source.key.removeprefix("repositories."), recipe.keyring)
    key = f"build.{source.key}"
    instead = f", or say build.{source.switch}: false there" if source.switch else ""
    place = f"{key} of {file}{instead}"
    return {"mirror": source.url, "suite": source.suite, "key": key, "keyring": str(keyring), "place": place}


def is_out_of_space(lines: Sequence[str]) -> bool:
    """Does what the tools said tell that the file system is full?"""
    return any(_FULL.search(line) for line in lines)


def _plain(line: str) -> str:
    """The line without the tool's marks in front of it."""
    return re.sub(r"^(?:\s|[EWIN]:|Err:\d+)+", "", line).strip()
