"""The man pages of ``osprovider`` and its subcommands, made from what ``--help`` is made from.

``python3 -m tools.man_pages DIRECTORY`` writes ``osprovider.1``, ``osprovider-plan.1`` and so on; see groff_man(7).
Not for: the configuration's keys, which ``docs/`` and ``osprovider schema`` describe.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from datetime import UTC, datetime
from inspect import cleandoc
from pathlib import Path

import click

from osprovider import __version__
from osprovider.cli.gathered import main as command_line
from osprovider.ganeti.request import Script
from osprovider.paths import Directories
from osprovider.scripts import main as os_script

__all__ = ["pages"]

_EXIT_STATUS = (
    ("0", "Done."),
    ("1", "The work failed; the last line on standard error says why."),
    ("2", "Wrong use, or a problem in the configuration; each is said with its file, line and column."),
)
_STANDARD = Directories()
_FILES = (
    (
        _STANDARD.config,
        "The site's own: defaults, variants, images with their keys, subnets, instances, hooks, templates.",
    ),
    (_STANDARD.shipped, "What comes with osprovider; a site's file of the same name takes its place."),
    (_STANDARD.cache, "Prepared images; can be removed while nothing runs."),
    (_STANDARD.run, "Locks and mount points."),
)
_ENVIRONMENT = (
    ("OSPROVIDER_CONFIG_DIR", f"In place of {_STANDARD.config}, for trying out."),
    ("OSPROVIDER_CACHE_DIR", f"In place of {_STANDARD.cache}, likewise."),
    ("OSPROVIDER_RUN_DIR", f"In place of {_STANDARD.run}, likewise."),
)


def pages() -> dict[str, str]:
    """Every page by its file name."""
    return {f"{name.replace(' ', '-')}.1": "\n".join(_page(name, context)) + "\n" for name, context in _walk()}


def _walk() -> Iterator[tuple[str, click.Context]]:
    """Every command with its whole name."""
    waiting = [click.Context(command_line, info_name="osprovider", **command_line.context_settings)]
    while waiting:
        context = waiting.pop(0)
        yield context.command_path, context
        waiting += [click.Context(command, context, name) for name, command in _subcommands(context)]


def _subcommands(context: click.Context) -> list[tuple[str, click.Command]]:
    group = context.command
    return sorted(group.commands.items()) if isinstance(group, click.Group) else []


def _page(name: str, context: click.Context) -> Iterator[str]:
    page = name.replace(" ", "-")
    paragraphs = cleandoc(context.command.help or "").split("\n\n")
    yield f'.TH {page.upper()} 1 {_date()} "osprovider {__version__}" osprovider'
    yield from (".nh", ".ad l")  # words are there to be copied, or to be looked up
    yield ".SH NAME"
    yield f"{_escape(page)} \\- {_escape(_headline(paragraphs[0]))}"
    yield ".SH SYNOPSIS"
    arguments = " ".join(_argument(word) for word in context.command.collect_usage_pieces(context))
    yield f"\\fB{_escape(name)}\\fP {arguments}".rstrip()
    yield ".SH DESCRIPTION"
    for paragraph in paragraphs:
        yield from _paragraph(paragraph)
    commands = [(f"{_escape(name)} {_escape(word)}", command) for word, command in _subcommands(context)]
    yield from _entries("COMMANDS", ((title, command.get_short_help_str(200)) for title, command in commands))
    records = [parameter.get_help_record(context) for parameter in context.command.get_params(context)]
    yield from _entries("OPTIONS", ((_escape(record[0]), record[1]) for record in records if record))
    if context.parent is None:
        yield from _overall()
    yield from _entries("EXIT STATUS", _EXIT_STATUS)
    yield ".SH SEE ALSO"
    yield ", ".join(f"\\fB{_escape(other)}\\fP(1)" for other in _related(name)) + ","
    yield "\\fBganeti\\-os\\-interface\\fP(7), \\fBgnt\\-instance\\fP(8);"
    yield _escape("the guides in /usr/share/doc/osprovider")


def _overall() -> Iterator[str]:
    """What the page of the command itself has beyond those of its subcommands."""
    yield ".SH OS SCRIPTS"
    yield from _paragraph(
        "Ganeti calls these in the directory of the OS definition; called by hand they need the same environment."
    )
    for script in Script:
        said = io.StringIO()
        with redirect_stdout(said):
            os_script(script.value, ["--help"], {})
        usage, _, does = said.getvalue().splitlines()[0].removeprefix("usage: ").partition(": ")
        yield from (".TP", f"\\fB{_escape(usage)}\\fP", _escape(_sentence(does)))
    yield from _entries("FILES", ((_escape(str(path)), text) for path, text in _FILES))
    yield from _entries("ENVIRONMENT", _ENVIRONMENT)


def _entries(title: str, entries: Iterator[tuple[str, str]] | tuple[tuple[str, str], ...]) -> Iterator[str]:
    """A section of tagged paragraphs; nothing where there are none."""
    lines = [line for tag, text in entries for line in (".TP", f"\\fB{tag}\\fP", _escape(_sentence(text)))]
    if lines:
        yield from (f".SH {title}", *lines)


def _paragraph(text: str) -> Iterator[str]:
    """A paragraph of a docstring; one that click is told by a backspace to leave as it is stays as it is."""
    if text.startswith("\b\n"):
        yield from (".PP", ".nf", ".RS", *map(_escape, text.splitlines()[1:]), ".RE", ".fi")
    else:
        yield from (".PP", _escape(" ".join(text.split())))


def _related(name: str) -> list[str]:
    """The pages of the command's parent, its children and its siblings."""
    parent = name.rpartition(" ")[0]
    near = [other for other, _ in _walk() if other != name and other.rpartition(" ")[0] in {name, parent}]
    return [each.replace(" ", "-") for each in sorted({*near, parent} - {""})]


def _argument(word: str) -> str:
    bare = word.strip("[].")
    return _escape(word).replace(_escape(bare), f"\\fI{_escape(bare)}\\fP") if bare.isupper() else _escape(word)


def _headline(text: str) -> str:
    """A sentence as a man page's NAME has it."""
    flat = " ".join(text.split()).rstrip(".")
    return flat[0].lower() + flat[1:]


def _sentence(text: str) -> str:
    flat = " ".join(text.split())
    return flat[:1].upper() + flat[1:]


def _escape(text: str) -> str:
    """Text as roff takes it: hyphens that can be copied, backslashes, no line that looks like a request."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


def _date() -> str:
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    when = datetime.fromtimestamp(int(epoch), UTC) if epoch else datetime.now(UTC)
    return when.strftime("%Y\\-%m\\-%d")


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    for file, content in pages().items():
        (target / file).write_text(content)
