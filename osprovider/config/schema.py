"""The dataclasses of :mod:`osprovider.config.model` as a schema: YAML nodes become their instances, or problems.

Also publishes the same as JSON Schema (draft 2020-12), so that editors complete and check. What JSON Schema lets through
may still be a problem here (an address with five numbers); what it refuses always is.
Annotations that it knows: ``str``, ``int``, ``bool``, ``Literal`` of words, ``tuple[T, ...]``, ``dict[str, T]``,
``T | None``, dataclasses, and ``Annotated[T, check]``.
Not for: reading files (``document``), merging and finding them (``load``).
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Iterator
from functools import cache
from typing import Annotated, Any, Final, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

from osprovider.config.checks import Check
from osprovider.config.document import Mark, Node
from osprovider.config.suggest import enumerate_words, suggest
from osprovider.errors import Problem

__all__ = ["bind", "json_schema"]

T = TypeVar("T")

_BAD: Final = object()


def bind(cls: type[T], node: Node, problems: list[Problem]) -> T | None:
    """Make an instance of a dataclass of a tree.

    Args:
        cls: one of the model's dataclasses.
        node: the tree.
        problems: what is wrong with it is added here, all of it.

    Returns:
        The instance, or None where there are problems.
    """
    value = _Binder(cls, problems).convert(cls, node, "")
    return None if value is _BAD else cast(T, value)


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)


class _Binder:
    """One tree's conversion. Every method returns the value, or _BAD after it has added a problem."""

    def __init__(self, root: type, problems: list[Problem]) -> None:
        self._root = root
        self._problems = problems

    def convert(self, hint: Any, node: Node, path: str, *, secret: bool = False) -> Any:
        origin = get_origin(hint)
        if origin is Annotated:
            return self._checked(hint, node, path)
        if origin is types.UnionType:
            return None if node.value is None else self.convert(_optional(hint), node, path, secret=secret)
        if origin is Literal:
            return self._word(get_args(hint), node, path)
        if origin is tuple:
            return self._tuple(get_args(hint)[0], node, path)
        if origin is dict:
            return self._dict(*get_args(hint), node, path)
        if dataclasses.is_dataclass(hint):
            return self._dataclass(cast(type, hint), node, path)
        return self._scalar(hint, node, path, secret=secret)

    def _bad(self, mark: Mark, path: str, message: str) -> Any:
        self._problems.append(mark.problem(f"{path}: {message}" if path else message))
        return _BAD

    def _checked(self, hint: Any, node: Node, path: str) -> Any:
        inner, check = get_args(hint)
        value = self.convert(inner, node, path, secret=check.secret)
        return value if value is _BAD or self._passes(check, value, node.mark, path) else _BAD

    def _passes(self, check: Check, value: Any, mark: Mark, path: str) -> bool:
        try:
            check(value)
        except ValueError as error:
            self._bad(mark, path, str(error))
            return False
        return True

    def _scalar(self, kind: Any, node: Node, path: str, *, secret: bool) -> Any:
        value = node.value
        if type(value) is kind:
            return value
        if kind is str:
            if isinstance(value, bool | int | float):
                example = "" if secret else f' ("{node.text}")'
                return self._bad(node.mark, path, f"must be text, and this reads as {_kind(node)}; put quotes around it{example}")
            return self._bad(node.mark, path, f"must be text, not {_kind(node)}; write one")
        if kind is bool:
            word = node.text.lower()
            instead = {"yes": "true", "on": "true", "no": "false", "off": "false"}.get(word, "true or false")
            quotes = " without quotes" if isinstance(value, str) and word in ("true", "false") else ""
            return self._bad(node.mark, path, f"must be true or false, not {_kind(node)}; write {quotes and word or instead}{quotes}")
        how = "a whole number without quotes, unit, sign or leading zeros"
        return self._bad(node.mark, path, f"must be a number, not {_kind(node)}; write {how}")

    def _word(self, words: tuple[str, ...], node: Node, path: str) -> Any:
        if isinstance(node.value, str) and node.value in words:
            return node.value
        choice = enumerate_words(words)
        if not isinstance(node.value, str):
            return self._bad(node.mark, path, f"must be a word, not {_kind(node)}; write {choice}")
        meant = suggest(node.value, words)
        return self._bad(node.mark, path, f'"{node.value}" is not known; write {choice}{meant if "mean" in meant else ""}')

    def _tuple(self, hint: Any, node: Node, path: str) -> Any:
        if not isinstance(node.value, tuple):
            shown = node.text if isinstance(node.value, str) and len(node.text) < 40 else "..."
            return self._bad(node.mark, path, f"must be a list, not {_kind(node)}; write [{shown}], or [] for none")
        values = [self.convert(hint, item, f"{path}[{index}]") for index, item in enumerate(node.value)]
        if get_origin(hint) is Literal:
            for index, value in enumerate(values):
                if value is not _BAD and value in values[:index]:
                    values[index] = self._bad(node.value[index].mark, f"{path}[{index}]", f'"{value}" is there twice; keep one')
        return _BAD if any(value is _BAD for value in values) else tuple(values)

    def _dict(self, key_hint: Any, hint: Any, node: Node, path: str) -> Any:
        if not isinstance(node.value, dict):
            return self._not_a_map(node, path)
        check = get_args(key_hint)[1]
        result = {}
        good = True
        for key, item in node.value.items():
            key_good = self._passes(check, key, node.keys.get(key, node.mark), path)
            value = self.convert(hint, item, f"{path}.{key}")
            good = good and key_good and value is not _BAD
            result[key] = value
        return result if good else _BAD

    def _dataclass(self, cls: type, node: Node, path: str) -> Any:
        if not isinstance(node.value, dict):
            return self._not_a_map(node, path)
        hints = _hints(cls)
        values = {}
        good = True
        for key, item in node.value.items():
            if key in hints:
                values[key] = self.convert(hints[key], item, f"{path}.{key}" if path else key)
                good = good and values[key] is not _BAD
            else:
                self._bad(node.keys.get(key, node.mark), path, f'there is no key "{key}" here{self._elsewhere(key, hints)}')
                good = False
        for item in dataclasses.fields(cls):
            if item.name not in values and _is_required(item):
                self._bad(node.mark, path, f'the key "{item.name}" is missing ({item.metadata["help"]}); add it')
                good = False
        return cls(**values) if good else _BAD

    def _elsewhere(self, key: str, hints: dict[str, Any]) -> str:
        """What an unknown key may have been meant to be: one of these, or one that belongs elsewhere in the file."""
        if "mean" in (meant := suggest(key, hints)):
            return meant
        places = [place for place in _paths(self._root, "") if place.rpartition(".")[2] == key]
        return f"; did you mean {enumerate_words(places)}?" if places else meant

    def _not_a_map(self, node: Node, path: str) -> Any:
        empty = "; write {}, or leave the key out" if node.value is None else "; write 'key: value' lines below it"
        return self._bad(node.mark, path, f"must be a map, not {_kind(node)}{empty}")


def _kind(node: Node) -> str:
    """What a node's value is, for people."""
    match node.value:
        case None:
            return "nothing"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "text"
        case tuple():
            return "a list"
        case _:
            return "a map"


def _optional(hint: Any) -> Any:
    """T of ``T | None``."""
    (inner,) = (arg for arg in get_args(hint) if arg is not types.NoneType)
    return inner


def _is_required(item: dataclasses.Field[Any]) -> bool:
    return item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING


def _paths(cls: type, prefix: str) -> Iterator[str]:
    """Every key of a dataclass and of the dataclasses in it, dotted; names of a dict's entries are left out."""
    for name, hint in _hints(cls).items():
        yield prefix + name
        inner = _optional(hint) if get_origin(hint) is types.UnionType else hint
        if dataclasses.is_dataclass(inner):
            yield from _paths(cast(type, inner), f"{prefix}{name}.")


def json_schema(cls: type) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of one of the model's dataclasses, as JSON-ready data."""
    definitions: dict[str, Any] = {}
    schema = _object_schema(cls, definitions)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": cls.__name__, **schema, "$defs": definitions}


def _object_schema(cls: type, definitions: dict[str, Any]) -> dict[str, Any]:
    hints = _hints(cls)
    properties = {}
    required = []
    for item in dataclasses.fields(cls):
        schema = _schema(hints[item.name], definitions)
        if "help" in item.metadata:
            schema["description"] = item.metadata["help"]
        if _is_required(item):
            required.append(item.name)
        elif item.default is not dataclasses.MISSING:
            schema["default"] = list(item.default) if isinstance(item.default, tuple) else item.default
        properties[item.name] = schema
    description = " ".join((cls.__doc__ or "").partition("\n\n")[0].split())
    return {
        "type": "object",
        "description": description,
        "properties": properties,
        **({"required": required} if required else {}),
        "additionalProperties": False,
    }


_SCALARS: dict[Any, str] = {str: "string", int: "integer", bool: "boolean"}


def _schema(hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    arguments = get_args(hint)
    makers: dict[Any, Callable[[], dict[str, Any]]] = {
        Annotated: lambda: {**_schema(arguments[0], definitions), **arguments[1].schema},
        types.UnionType: lambda: {"anyOf": [_schema(_optional(hint), definitions), {"type": "null"}]},
        Literal: lambda: {"enum": list(arguments)},
        tuple: lambda: {
            "type": "array",
            "items": _schema(arguments[0], definitions),
            **({"uniqueItems": True} if get_origin(arguments[0]) is Literal else {}),
        },
        dict: lambda: {
            "type": "object",
            "propertyNames": dict(get_args(arguments[0])[1].schema),
            "additionalProperties": _schema(arguments[1], definitions),
        },
    }
    if maker := makers.get(get_origin(hint)):
        return maker()
    if dataclasses.is_dataclass(hint):
        cls = cast(type, hint)
        if cls.__name__ not in definitions:
            definitions[cls.__name__] = {}
            definitions[cls.__name__] = _object_schema(cls, definitions)
        return {"$ref": f"#/$defs/{cls.__name__}"}
    return {"type": _SCALARS[hint]}
