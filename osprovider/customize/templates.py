"""Rendering the files that hooks generate: Jinja2 templates, each of which a site can replace by one of its own.

Undefined values are errors, blocks leave no empty lines behind, and nothing is escaped: these are no web pages.
Not for: deciding what a file says; hooks pass that in.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateError, TemplateNotFound, TemplateSyntaxError

from osprovider.errors import HookError, Problem

__all__ = ["compile_all", "render", "syntax_problems"]


def compile_all(directories: Sequence[Path]) -> None:
    """Compile what may be rendered soon, which saves that time then. What is no template is told only when it is used.

    Args:
        directories: as for :func:`render`.
    """
    environment = _environment(tuple(directories))
    for name in environment.list_templates(extensions=["j2"]):
        with suppress(TemplateError, OSError, UnicodeDecodeError):
            environment.get_template(name)


def render(directories: Sequence[Path], name: str, values: Mapping[str, Any]) -> str:
    """Render the template ``name``.

    Args:
        directories: where templates are; the first that has it wins.
        name: the template's file name (``fstab.j2``).
        values: what it sees.

    Raises:
        HookError: it does not exist, does not parse, or fails; names its file and line.
    """
    try:
        return _environment(tuple(directories)).get_template(name).render(values)
    except TemplateNotFound as error:
        places = ", ".join(str(directory) for directory in directories) or "no directory"
        raise HookError(f"there is no template {error.name} in {places}") from error
    except TemplateSyntaxError as error:
        raise HookError(f"template {error.filename or name}:{error.lineno}: {_said(error)}") from error
    except Exception as error:
        what = error.message if isinstance(error, TemplateError) else f"{type(error).__name__}: {error}"
        raise HookError(f"template {_place(error, directories) or name}: {what}") from error


def syntax_problems(directory: Path) -> list[Problem]:
    """What of the templates in a directory is none; nothing is rendered."""
    problems = []
    for path in sorted(directory.glob("*.j2")):
        try:
            _environment((directory,)).parse(path.read_text("utf-8"), path.name, str(path))
        except TemplateSyntaxError as error:
            problems.append(Problem(str(path), error.lineno, 0, f"is no template: {_said(error)}"))
        except (OSError, UnicodeDecodeError) as error:
            problems.append(Problem.of_file(path, f"is no template: {error}"))
    return problems


def _said(error: TemplateSyntaxError) -> str:
    return str(error.message).rstrip(".")


@cache
def _environment(directories: tuple[Path, ...]) -> Environment:
    return Environment(  # noqa: S701  the results are configuration files, where HTML's escapes would be wrong
        loader=FileSystemLoader(directories),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )


def _place(error: Exception, directories: Sequence[Path]) -> str | None:
    """``FILE:LINE`` of the template that raised; Jinja2 puts the template's own lines into the traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = [frame for frame in frames if any(Path(frame.filename).is_relative_to(place) for place in directories)]
    return f"{inside[-1].filename}:{inside[-1].lineno}" if inside else None
