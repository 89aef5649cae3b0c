"""The documentation as data: its fenced blocks, each with the rule by which tests run it, its tables and its links.

A block's rule is its language, with a word behind it where the language alone says too little:

- ``yaml``: a configuration file, which the first line names as a comment (``# variants/web.yaml``);
- ``python``, ``sh``: a hook, likewise (``# hooks/motd``);
- ``jinja``: a template, likewise (``{# templates/motd.j2 #}``);
- ``console``: lines after ``$ `` are commands, other lines what the one before prints (``...`` stands for anything);
- ``json context``, ``json manifest``: what a hook reads, and a manifest;
- ``text create``: the steps of a ``create``, some left out.

Not for: the tests themselves.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CHECKOUT", "DOCUMENTS", "RULES", "Block", "Command", "anchors", "blocks", "commands", "prose", "table"]

CHECKOUT = Path(__file__).resolve().parents[2]
DOCUMENTS = (CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md")))

RULES = frozenset({"yaml", "python", "sh", "jinja", "console", "json context", "json manifest", "text create"})
FILES = frozenset({"yaml", "python", "sh", "jinja"})
"""Rules of blocks that are a file of the site's."""

_FENCE = re.compile(r"(?ms)^```([^\n]*)\n(.*?)^```$\n?")
_FILE = r"(?:cache|defaults)\.yaml|(?:variants|images|subnets|instances)/\S+\.yaml|hooks/\S+|templates/\S+\.j2"
_NAME = re.compile(rf"(?m)\A(?:#!.*\n)?(?:# |\{{# )({_FILE})(?: #\}})?$")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block.

    Attributes:
        document: the file that it is in.
        line: of its fence, 1-based.
        rule: what stands behind the fence.
        text: between the fences.
    """

    document: Path
    line: int
    rule: str
    text: str

    def __str__(self) -> str:
        return f"{self.document.name}:{self.line}"

    @property
    def file(self) -> str | None:
        """The file of the site's that it is, by its path beneath the configuration directory."""
        found = _NAME.match(self.text) if self.rule in FILES else None
        return found[1] if found else None


@dataclass(frozen=True, slots=True)
class Command:
    """A command of a console block, and what it prints; empty where the document does not say."""

    words: tuple[str, ...]
    output: str


def blocks(document: Path) -> list[Block]:
    """The fenced blocks of a document."""
    text = document.read_text()
    return [
        Block(document, text.count("\n", 0, found.start()) + 1, found[1].strip(), found[2])
        for found in _FENCE.finditer(text)
    ]


def prose(document: Path) -> str:
    """A document without its fenced blocks."""
    return _FENCE.sub("", document.read_text())


def commands(block: Block) -> list[Command]:
    """The commands of a console block; those that ``&&`` joins are each one of their own."""
    found: list[Command] = []
    for part in re.split(r"(?m)^\$ ", block.text)[1:]:
        line, _, output = part.partition("\n")
        several = [tuple(shlex.split(each)) for each in line.split(" && ")]
        found += [Command(words, "") for words in several[:-1]]
        found.append(Command(several[-1], output))
    return found


def table(document: Path, heading: str) -> list[list[str]]:
    """The rows of the first table below a heading, without its head."""
    section = re.split(rf"(?m)^##+ {re.escape(heading)}$", document.read_text())[1]
    lines = re.search(r"(?m)(?:^\|.*\n)+", section)
    assert lines, f"{document.name} has no table below {heading}"
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[0].splitlines()]
    return rows[2:]


def anchors(document: Path) -> set[str]:
    """What can be linked to in a document, as GitHub names it."""
    headings = re.findall(r"(?m)^#+ (.*)$", prose(document))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
