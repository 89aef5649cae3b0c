"""YAML text as a tree of nodes that remember where they stand, so that every complaint can name its line and column.

Only what a configuration needs: maps with text keys, lists, plain values. Plain words are read as YAML 1.2 reads them
(``yes``, ``no``, ``on`` and ``off`` are words, ``010`` is not eight), which is also what JSON Schema and editors go by.
Refused: tags, anchors and aliases, keys written twice, a second document, deep nesting, files over 1 MiB.
Not for: what the values mean (:mod:`osprovider.config.schema`).
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import yaml

from osprovider.config.wording import quote
from osprovider.errors import Problem, reason_of

__all__ = ["MAXIMUM_BYTES", "NUMBER", "Mark", "Node", "Value", "merge", "parse", "read"]

MAXIMUM_BYTES = 1 << 20
_MAXIMUM_DEPTH = 32

# libyaml's parser where PyYAML was built with it: ten times as fast as the one in Python.
_Parser: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# PyYAML's classes of events share neither a base's attributes nor a protocol.
_Event: TypeAlias = Any

# YAML 1.2, 10.3.2 (core schema); of the integers only those that every reader takes for the same number.
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")
NUMBER = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|0o[0-7]+|0x[0-9A-Fa-f]+|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
"""What is a number where it stands without quotes."""
# YAML 1.2, 5.1: what is not c-printable may not stand in a document.
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

_HINTS = {
    "mapping values are not allowed": "a text with ': ' in it needs quotes, and keys of one map the same indentation",
    "found character '\\t'": "indent with spaces, not tabs",
    "found character that cannot start any token": "indent with spaces; a text that starts with @, ` or % needs quotes",
    "did not find expected key": "check the indentation, and that quotes are closed",
    "did not find expected '-' indicator": "items of one list need the same indentation",
}


class Mark(NamedTuple):
    """A place: ``file`` as people know it, ``line`` and ``column`` 1-based, 0 where there is none (a variable)."""

    file: str
    line: int = 0
    column: int = 0

    def problem(self, message: str) -> Problem:
        """This message, at this place."""
        return Problem(self.file, self.line, self.column, message)


Value: TypeAlias = "str | int | float | bool | tuple[Node, ...] | dict[str, Node] | None"


@dataclass(slots=True)
class Node:
    """A value and where it stands.

    Attributes:
        value: a scalar; a tuple of nodes for a list; a dict of nodes for a map. A number that is not a plain decimal
            integer is a float, whatever it says; its ``text`` is what was written.
        mark: where the value starts.
        keys: of a map: where each key stands.
        text: of a scalar: as written, without quotes.
    """

    value: Value
    mark: Mark
    keys: dict[str, Mark] = field(default_factory=dict)
    text: str = ""

    def at(self, *path: str | int) -> Node:
        """The node at this path of keys and indices, or the last one on the way to it."""
        node = self
        for step in path:
            found: Node | None = None
            if isinstance(node.value, dict):
                found = node.value.get(str(step))
            elif isinstance(node.value, tuple) and isinstance(step, int) and step < len(node.value):
                found = node.value[step]
            if found is None:
                break
            node = found
        return node


def merge(base: Node, over: Node) -> Node:
    """Lay one tree over another: maps merge, lists and scalars replace. Marks stay with what they belong to."""
    if not (isinstance(base.value, dict) and isinstance(over.value, dict)):
        return over
    merged = dict(base.value)
    for key, node in over.value.items():
        merged[key] = merge(merged[key], node) if key in merged else node
    return Node(merged, over.mark, base.keys | over.keys)


def read(path: Path, problems: list[Problem]) -> Node | None:
    """Read a file.

    Args:
        path: the file; also how problems call it.
        problems: what is wrong is added here.

    Returns:
        Its tree; None where there is none to be had.

    Raises:
        FileNotFoundError: there is no such file.
    """
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                problems.append(Problem.of_file(path, "is not a regular file; put the YAML text there"))
                return None
            content = file.read(MAXIMUM_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        problems.append(
            Problem.of_file(path, f"cannot be read: {reason_of(error)}; put a file there that root can read")
        )
        return None
    return parse(content, str(path), problems)


def _open_without_waiting(path: str, flags: int) -> int:
    """For ``open``: somebody may have put a FIFO there, and nobody may ever write to it."""
    return os.open(path, flags | os.O_NONBLOCK)


def parse(content: bytes, file: str, problems: list[Problem]) -> Node | None:
    """Parse YAML.

    Args:
        content: the text in UTF-8. An empty one is an empty map.
        file: how problems call it.
        problems: what is wrong is added here.

    Returns:
        Its tree; None where there is none to be had.
    """
    try:
        return _Document(_decode(content, file), file, problems).build()
    except _RefusedError as refused:
        problems.append(refused.problem)
    except yaml.YAMLError as error:
        problems.append(_syntax_problem(error, file))
    return None


class _RefusedError(Exception):
    """Reading ends here."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        super().__init__(str(problem))


def _decode(content: bytes, file: str) -> str:
    if len(content) > MAXIMUM_BYTES:
        raise _RefusedError(
            Problem.of_file(file, "is larger than 1 MiB; split it or remove what does not belong there")
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        mark = _position(content[: error.start].decode("utf-8", "replace"), file)
        message = f"is not UTF-8 (byte 0x{content[error.start]:02x}); save it as UTF-8"
        raise _RefusedError(mark.problem(message)) from None
    if found := _UNPRINTABLE.search(text):
        mark = _position(text[: found.start()], file)
        message = f"holds the control character U+{ord(found[0]):04X}; remove it"
        raise _RefusedError(mark.problem(message))
    return text


def _position(before: str, file: str) -> Mark:
    """The place right after this text."""
    return Mark(file, before.count("\n") + 1, len(before) - before.rfind("\n"))


def _syntax_problem(error: yaml.YAMLError, file: str) -> Problem:
    if not isinstance(error, yaml.MarkedYAMLError):
        return Problem.of_file(file, f"is not YAML: {' '.join(str(error).split())}")
    mark = error.problem_mark or error.context_mark
    begin = f" (from line {error.context_mark.line + 1})" if error.context_mark else ""
    what = f"{error.context}{begin}, {error.problem}" if error.context else str(error.problem)
    fallback = "check indentation, quotes and brackets here"
    hint = next((hint for known, hint in _HINTS.items() if known in what), fallback)
    place = Mark(file, mark.line + 1, mark.column + 1) if mark else Mark(file)
    return place.problem(f"is not YAML: {what}; {hint}")


class _Document:
    """The events of one document, built into nodes."""

    def __init__(self, text: str, file: str, problems: list[Problem]) -> None:
        self._file = file
        self._problems = problems
        self._events: Iterator[_Event] = yaml.parse(text, Loader=_Parser)
        self._is_whole = True

    def build(self) -> Node | None:
        """The root; None after something that stands for another value, whose lack would only confuse."""
        root: Node | None = None
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                if root:
                    raise _RefusedError(self._mark(event).problem("starts a second document; a file holds one"))
                root = self._node(next(self._events), 0)
        if root is None or root.value is None:
            return Node({}, Mark(self._file, 1, 1)) if self._is_whole else None
        return root if self._is_whole else None

    def _mark(self, event: _Event) -> Mark:
        return Mark(self._file, event.start_mark.line + 1, event.start_mark.column + 1)

    def _node(self, event: _Event, depth: int) -> Node:
        mark = self._mark(event)
        if depth > _MAXIMUM_DEPTH:
            message = f"is nested more than {_MAXIMUM_DEPTH} levels deep; nothing here needs that"
            raise _RefusedError(mark.problem(message))
        if isinstance(event, yaml.AliasEvent):
            self._refuse(mark, f"the alias *{event.anchor}", "write the value out")
            return Node(None, mark)
        if event.anchor is not None:
            self._refuse(mark, f"the anchor &{event.anchor}", "remove it")
        if event.tag is not None:
            self._refuse(mark, f"the tag {quote(event.tag)}", "write the value without it")
        if isinstance(event, yaml.MappingStartEvent):
            return self._map(mark, depth)
        if isinstance(event, yaml.SequenceStartEvent):
            return Node(tuple(self._items(depth)), mark)
        return Node(_scalar(event.value) if not event.style else event.value, mark, text=event.value)

    def _refuse(self, mark: Mark, what: str, instead: str) -> None:
        self._is_whole = False
        self._problems.append(mark.problem(f"{what} is not taken; {instead}"))

    def _items(self, depth: int) -> Iterator[Node]:
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            yield self._node(event, depth + 1)

    def _map(self, mark: Mark, depth: int) -> Node:
        values: dict[str, Node] = {}
        keys: dict[str, Mark] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._node(event, depth + 1)
            value = self._node(next(self._events), depth + 1)
            if not isinstance(key.value, str):
                shown = f" ({quote(key.text)})" if key.text else ""
                self._problems.append(key.mark.problem(f"a key must be text; put quotes around it{shown}"))
            elif key.value in values:
                first = keys[key.value].line
                message = f"the key {quote(key.value)} is here a second time, after line {first}; keep one"
                self._problems.append(key.mark.problem(message))
            else:
                values[key.value], keys[key.value] = value, key.mark
        return Node(values, mark, keys)


def _scalar(text: str) -> str | int | float | bool | None:
    """A plain (unquoted) scalar's value."""
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    return float("nan") if NUMBER.fullmatch(text) else text
