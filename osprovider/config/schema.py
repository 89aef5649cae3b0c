"""The dataclasses of :mod:`osprovider.config.model` as a schema: YAML nodes become their instances, or problems.

Also publishes the same as JSON Schema (draft 2020-12), so that editors complete and check. What JSON Schema lets
through may still be a problem here (an address with five numbers); what it refuses always is.
Annotations that it knows: ``str``, ``int``, ``bool``, ``Literal`` of words, ``tuple[T, ...]``, ``dict[str, T]``,
``T | None``, dataclasses, ``Annotated[T, check]``, and ``Annotated[T, ScalarOrMap(...)]``.
Not for: reading files (``document``), merging and finding them (``load``).
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Iterator
from functools import cache
from typing import Annotated, Any, Final, Literal, TypeAlias, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from osprovider.config.document import Mark, Node
from osprovider.config.forms import ScalarOrMap
from osprovider.config.value_check import Check
from osprovider.config.wording import closest, enumerate_words, quote, suggest
from osprovider.errors import Problem

__all__ = ["bind", "json_schema", "written"]

T = TypeVar("T")

# What annotations evaluate to; Python's types have no name for it.
Hint: TypeAlias = Any

# ``A | None`` is the second where A is Annotated.
_UNIONS: Final = (types.UnionType, Union)

_BAD: Final = object()

# What people write for a boolean.
_BOOLEANS: Final = {
    **dict.fromkeys(("true", "yes", "y", "on", "1"), "true"),
    **dict.fromkeys(("false", "no", "n", "off", "none", "0"), "false"),
}


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
    return None if value is _BAD else cast("T", value)


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)


class _Binder:
    """One tree's conversion. Every method returns the value, or _BAD after it has added a problem."""

    def __init__(self, root: type, problems: list[Problem]) -> None:
        self._root = root
        self._problems = problems

    def convert(self, hint: Hint, node: Node, path: str, *, secret: bool = False) -> object:
        origin: Hint = get_origin(hint)
        arguments = get_args(hint)
        if origin in _UNIONS:
            return None if node.value is None else self.convert(_optional(hint), node, path)
        if dataclasses.is_dataclass(hint):
            return self._dataclass(cast("type", hint), node, path)
        converters: dict[Hint, Callable[[tuple[Hint, ...], Node, str], object]] = {
            Annotated: self._checked,
            Literal: self._word,
            tuple: self._tuple,
            dict: self._dict,
        }
        if converter := converters.get(origin):
            return converter(arguments, node, path)
        return self._scalar(hint, node, path, secret=secret)

    def _bad(self, mark: Mark, path: str, message: str) -> object:
        self._problems.append(mark.problem(f"{path}: {message}" if path else message))
        return _BAD

    def _checked(self, arguments: tuple[Hint, ...], node: Node, path: str) -> object:
        inner, check = arguments
        if isinstance(check, ScalarOrMap):
            return self._scalar_or_map(check, node, path)
        if check.takes_numbers and type(node.value) is int:
            node = Node(node.text, node.mark, text=node.text)
        value = self.convert(inner, node, path, secret=check.secret)
        return value if value is _BAD or self._passes(check, cast("str | int", value), node.mark, path) else _BAD

    def _scalar_or_map(self, form: ScalarOrMap, node: Node, path: str) -> object:
        if isinstance(node.value, dict):
            value = self.convert(form.map, node, path)
        elif isinstance(node.value, str):
            value = node.value if self._passes(form.check, node.value, node.mark, path) else _BAD
        else:
            return self._bad(node.mark, path, f"must not be {_kind(node)}; write {form.check.write}")
        try:
            return value if value is _BAD else form.read(value)
        except ValueError as error:
            return self._bad(node.mark, path, str(error))

    def _passes(self, check: Check, value: str | int, mark: Mark, path: str) -> bool:
        try:
            check(value)
        except ValueError as error:
            self._bad(mark, path, str(error))
            return False
        return True

    def _scalar(self, kind: Hint, node: Node, path: str, *, secret: bool) -> object:
        value = node.value
        if type(value) is kind:
            return value
        if kind is str:
            what, instead = "text", "a line of it, or leave the key out"
            if isinstance(value, bool | int | float):
                instead = "it in quotes" if secret else f'"{node.text}", with the quotes'
        elif kind is bool:
            what, instead = "true or false", f"{_BOOLEANS.get(node.text.lower(), 'true or false')} without quotes"
        else:
            what, instead = "a whole number", "one without quotes, unit, fraction or leading zeros"
        found = node.text if kind is int and isinstance(value, float) else _kind(node)
        return self._bad(node.mark, path, f"must be {what}, not {found}; write {instead}")

    def _word(self, words: tuple[str, ...], node: Node, path: str) -> object:
        if isinstance(node.value, str) and node.value in words:
            return node.value
        choice = enumerate_words(words)
        if not isinstance(node.value, str):
            return self._bad(node.mark, path, f"must be a word, not {_kind(node)}; write {choice}")
        meant = closest(node.value, words)
        end = f"; did you mean {meant}?" if meant and len(words) > 1 else ""
        return self._bad(node.mark, path, f"{quote(node.value)} is not known here; write {choice}{end}")

    def _tuple(self, arguments: tuple[Hint, ...], node: Node, path: str) -> object:
        hint = arguments[0]
        if not isinstance(node.value, tuple):
            is_short = isinstance(node.value, str) and len(node.text) < 40
            shown = node.text if is_short and not _is_secret(hint) else "..."
            return self._bad(node.mark, path, f"must be a list, not {_kind(node)}; write [{shown}], or [] for none")
        values = [self.convert(hint, item, f"{path}[{index}]") for index, item in enumerate(node.value)]
        if _is_words(hint):
            for index, value in enumerate(values):
                if value is not _BAD and value in values[:index]:
                    mark = node.value[index].mark
                    values[index] = self._bad(mark, f"{path}[{index}]", f'"{value}" is there twice; keep one')
        return _BAD if any(value is _BAD for value in values) else tuple(values)

    def _dict(self, arguments: tuple[Hint, ...], node: Node, path: str) -> object:
        if not isinstance(node.value, dict):
            return self._not_a_map(node, path)
        key_hint, hint = arguments
        check = get_args(key_hint)[1]
        result = {}
        good = True
        for key, item in node.value.items():
            key_good = self._passes(check, key, node.keys.get(key, node.mark), path)
            value = self.convert(hint, item, f"{path}.{key if key_good else quote(key)}")
            good = good and key_good and value is not _BAD
            result[key] = value
        return result if good else _BAD

    def _dataclass(self, cls: type, node: Node, path: str) -> object:
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
                mark = node.keys.get(key, node.mark)
                self._bad(mark, path, f"there is no key {quote(key)} here{self._elsewhere(key, hints)}")
                good = False
        for known in dataclasses.fields(cls):
            if known.name not in values and _is_required(known):
                self._bad(node.mark, path, f'the key "{known.name}" is missing ({known.metadata["help"]}); add it')
                good = False
        return cls(**values) if good else _BAD

    def _elsewhere(self, key: str, hints: dict[str, Any]) -> str:
        """What an unknown key may have been meant to be: one of these, or one that belongs elsewhere in the file."""
        places = [place for place in _paths(self._root, "") if place.rpartition(".")[2] == key]
        return f"; did you mean {enumerate_words(places)}?" if places else suggest(key, hints)

    def _not_a_map(self, node: Node, path: str) -> object:
        empty = "; write {}, or leave the key out" if node.value is None else "; write 'key: value' lines"
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


def _optional(hint: Hint) -> Hint:
    """T of ``T | None``."""
    (inner,) = (arg for arg in get_args(hint) if arg is not types.NoneType)
    return inner


def _form(hint: Hint) -> ScalarOrMap | None:
    """How a value of this kind is written, where it is as text or as a map."""
    return next((each for each in get_args(hint)[1:] if isinstance(each, ScalarOrMap)), None)


def _is_words(hint: Hint) -> bool:
    """Is this a ``Literal``."""
    origin: Hint = get_origin(hint)
    return origin is Literal


def _is_secret(hint: Hint) -> bool:
    """May no message repeat a value of this kind."""
    return any(isinstance(check, Check) and check.secret for check in get_args(hint)[1:])


def _is_required(item: dataclasses.Field[Any]) -> bool:
    return item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING


def _paths(cls: type, prefix: str) -> Iterator[str]:
    """Every key of a dataclass and of the dataclasses in it, dotted; names of a dict's entries are left out."""
    for name, hint in _hints(cls).items():
        yield prefix + name
        form = _form(hint)
        inner = form.map if form else _optional(hint) if get_origin(hint) in _UNIONS else hint
        if dataclasses.is_dataclass(inner):
            yield from _paths(cast("type", inner), f"{prefix}{name}.")


def written(value: object) -> object:
    """A value of the model as JSON and YAML have it: what :func:`bind` makes this value of.

    Args:
        value: an instance of one of the model's dataclasses, or a value in it.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
        forms = {name: _form(hint) for name, hint in _hints(type(value)).items()}
        written_forms = {name: form.write(fields[name]) for name, form in forms.items() if form}
        return {name: written(item) for name, item in {**fields, **written_forms}.items()}
    if isinstance(value, dict):
        return {key: written(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [written(item) for item in value]
    return value


def json_schema(cls: type) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of one of the model's dataclasses, as JSON-ready data."""
    definitions: dict[str, Any] = {}
    schema = _object_schema(cls, definitions)
    dialect = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": dialect, "title": cls.__name__, **schema, "$defs": definitions}


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
            form = _form(hints[item.name])
            schema["default"] = written(form.write(item.default) if form else item.default)
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


def _schema(hint: Hint, definitions: dict[str, Any]) -> dict[str, Any]:
    if form := _form(hint):
        return {"anyOf": [{"type": "string", **form.check.schema}, _schema(form.map, definitions)]}
    arguments = get_args(hint)
    makers: dict[Hint, Callable[[], dict[str, Any]]] = {
        Annotated: lambda: {**_schema(arguments[0], definitions), **arguments[1].schema},
        Union: lambda: {"anyOf": [_schema(_optional(hint), definitions), {"type": "null"}]},
        Literal: lambda: {"enum": list(arguments)},
        tuple: lambda: {
            "type": "array",
            "items": _schema(arguments[0], definitions),
            **({"uniqueItems": True} if _is_words(arguments[0]) else {}),
        },
        dict: lambda: {
            "type": "object",
            "propertyNames": dict(get_args(arguments[0])[1].schema),
            "additionalProperties": _schema(arguments[1], definitions),
        },
    }
    origin: Hint = get_origin(hint)
    if maker := makers.get(Union if origin in _UNIONS else origin):
        return maker()
    if dataclasses.is_dataclass(hint):
        cls = cast("type", hint)
        if cls.__name__ not in definitions:
            definitions[cls.__name__] = {}
            definitions[cls.__name__] = _object_schema(cls, definitions)
        return {"$ref": f"#/$defs/{cls.__name__}"}
    return {"type": _SCALARS[hint]}
