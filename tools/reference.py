"""The parts of the documentation that the code says: tables of keys, OS parameters and images, and ``parameters.list``.

``python3 -m tools.reference`` writes them, between ``<!-- keys: CLASS -->`` and ``<!-- end -->`` in ``docs/``; a test
says when they are stale.
"""

from __future__ import annotations

import dataclasses
import re
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

import yaml

from osprovider.config import model
from osprovider.config.forms import ScalarOrMap
from osprovider.config.parameters import PARAMETERS, parameters_list
from osprovider.config.wording import enumerate_words

__all__ = ["generated"]

_CHECKOUT = Path(__file__).resolve().parent.parent
_REGION = re.compile(r"(?s)(<!-- (keys: \w+|parameters|images) -->\n).*?(<!-- end -->\n)")
_BASIC = {str: "text", int: "a whole number", bool: "`true` or `false`"}


def generated() -> dict[Path, str]:
    """The files that are generated, or have a part that is, with what they should hold."""
    files = {_CHECKOUT / "scripts" / "parameters.list": parameters_list()}
    for path in sorted((_CHECKOUT / "docs").glob("*.md")):
        text = path.read_text()
        if _REGION.search(text):
            files[path] = _REGION.sub(lambda found: f"{found[1]}\n{_table(found[2])}\n{found[3]}", text)
    return files


def _table(what: str) -> str:
    if what == "parameters":
        rows = [["Parameter", "Key", "Meaning"]]
        for parameter in PARAMETERS.values():
            key = f"`{'.'.join(parameter.path)}`" if parameter.path else ""
            rows.append([f"`{parameter.name}`", key, parameter.description])
    elif what == "images":
        rows = [["Image", "What it is", "From", "Verified by"], *_images()]
    else:
        rows = [["Key", "Value", "Default", "Meaning"], *_keys(getattr(model, what.removeprefix("keys: ")), "")]
    head, *body = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body, ""])


def _images() -> Iterator[list[str]]:
    """A row for each image that is shipped, what is packaged here first."""
    loaded = {path.stem: yaml.safe_load(path.read_text()) for path in (_CHECKOUT / "images").glob("*.yaml")}

    def place(name: str) -> tuple[bool, list[str | int]]:
        return "source" in loaded[name], [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]

    for name in sorted(loaded, key=place):
        image = loaded[name]
        if "build" in image:
            origin = [f"packages of {image['build']['suite']}", "the archive's keys"]
        else:
            origin = [f"`{urlsplit(image['source']).hostname}`", f"`{image['checksums'].rpartition('/')[2]}`"]
        yield [f"`{name}`", image["description"], *origin]


def _keys(cls: type, prefix: str) -> Iterator[list[str]]:
    """A row for each key of a dataclass and of the dataclasses in it."""
    hints = get_type_hints(cls, include_extras=True)
    inherited = {name for base in cls.__bases__ if dataclasses.is_dataclass(base) for name in get_type_hints(base)}
    for item in dataclasses.fields(cls):
        if item.name in inherited:
            continue
        hint, key = _bare(hints[item.name]), f"{prefix}{item.name}"
        said = item.metadata.get("help", "")
        form = next((each for each in get_args(hint)[1:] if isinstance(each, ScalarOrMap)), None)
        if form:
            yield [f"`{key}`", form.check.write, _value(form.write(item.default)), said]
            yield from _keys(form.map, f"{key}.")
            continue
        kind: Any = get_origin(hint)
        inner = get_args(hint)[1] if kind is dict else get_args(hint)[0] if kind is tuple else hint
        if dataclasses.is_dataclass(inner) and isinstance(inner, type):
            if said:
                yield [f"`{key}`", {dict: "map", tuple: "list", None: "map"}[kind], _default(item), said]
            yield from _keys(inner, {dict: f"{key}.NAME.", tuple: f"{key}[].", None: f"{key}."}[kind])
        else:
            yield [f"`{key}.NAME`" if kind is dict else f"`{key}`", _form(hint), _default(item), said]


def _bare(hint: Any) -> Any:  # noqa: ANN401 - annotations have no type
    """``T`` of ``T | None``."""
    if get_origin(hint) in {types.UnionType, Union}:
        return next(each for each in get_args(hint) if each is not types.NoneType)
    return hint


def _default(item: dataclasses.Field[Any]) -> str:
    if item.default is dataclasses.MISSING:
        return "required" if item.default_factory is dataclasses.MISSING else _value(item.default_factory())
    return _value(item.default)


def _value(value: object) -> str:
    """A value as YAML has it; nothing for one that is not there."""
    if value is None or value == "" or dataclasses.is_dataclass(value):
        return ""
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _form(hint: Any) -> str:  # noqa: ANN401 - annotations have no type
    """What a value looks like."""
    arguments = get_args(hint)
    forms: dict[Any, Callable[[], str]] = {
        Literal: lambda: enumerate_words(f"`{word}`" for word in arguments),
        Annotated: lambda: arguments[1].write,
        tuple: lambda: f"list; each {_form(arguments[0])}",
        dict: lambda: _form(arguments[1]),
    }
    maker = forms.get(get_origin(hint))
    return maker() if maker else _BASIC[hint]


if __name__ == "__main__":
    for path, text in generated().items():
        path.write_text(text)
