"""What docstrings refer to is there: modules, functions, classes and their like."""

from __future__ import annotations

import ast
import pkgutil
import re
from collections.abc import Iterator

from tests.support.documents import CHECKOUT

_REFERENCE = re.compile(r":(?:mod|func|class|data|meth|attr):`([\w.]+)`")
_PACKAGES = ("osprovider", "tests", "tools")


def test_references_lead_somewhere() -> None:
    modules = (path for package in _PACKAGES for path in (CHECKOUT / package).rglob("*.py"))
    hooks = (path for path in (CHECKOUT / "hooks").iterdir() if path.is_file())
    lost = [f"{path}: {name}" for path in (*modules, *hooks) for name in _lost(path.read_text())]
    assert not lost


def _lost(text: str) -> Iterator[str]:
    """The references of a module that lead neither to what it has itself nor to another one of ours."""
    if names := _REFERENCE.findall(text):
        own = set(_own_names(ast.parse(text)))
        yield from (name for name in names if name.rpartition(".")[2] not in own and not _is_there(name))


def _own_names(tree: ast.AST) -> Iterator[str]:
    """Whatever a module defines or imports, at any level."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.Name(id=name, ctx=ast.Store()):
                yield name
            case ast.alias(name=name, asname=other):
                yield other or name


def _is_there(name: str) -> bool:
    try:
        pkgutil.resolve_name(name)
    except (AttributeError, ImportError, ValueError):
        return False
    return name.startswith(_PACKAGES)
