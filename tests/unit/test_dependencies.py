"""Which parts of the program know which: in one direction only, as CONTRIBUTING.md says."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

_PACKAGE = Path(__file__).resolve().parents[2] / "osprovider"
_DECISIONS = (
    *("config", "addressing", "layout", "division", "adoption", "booting", "rootpath", "systemdisk", "datadisks"),
    *("manifest", "plan"),
)
_WORK = {"customize", "deploy", "disk", "guest", "images", "linux", "locks", "opening", "rename", "run"}


def _imports(path: Path) -> Iterator[str]:
    """The modules of ours that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names if each.name.startswith("osprovider."))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "osprovider":
            for each in node.names:
                place = Path(*f"{node.module}.{each.name}".split(".")[1:])
                is_module = (_PACKAGE / place).is_dir() or (_PACKAGE / place).with_suffix(".py").exists()
                yield f"{node.module}.{each.name}" if is_module else str(node.module)


@cache
def _graph(depth: int | None) -> dict[str, set[str]]:
    """Who imports whom, by the names of modules; shortened to so many words, the parts that they belong to."""
    graph: dict[str, set[str]] = {}
    for path in _PACKAGE.rglob("*.py"):
        words = ["osprovider", *path.relative_to(_PACKAGE).with_suffix("").parts]
        own = ".".join(words[:depth])
        graph.setdefault(own, set()).update({".".join(name.split(".")[:depth]) for name in _imports(path)} - {own})
    return graph


@pytest.mark.parametrize("depth", [None, 2], ids=["modules", "parts"])
def test_nothing_depends_on_itself_by_way_of_others(depth: int | None) -> None:
    """Else it raises CycleError, which names all of the circle."""
    order = list(TopologicalSorter(_graph(depth)).static_order())
    assert order.index("osprovider.errors") < order.index("osprovider.plan") < order.index("osprovider.deploy")


@pytest.mark.parametrize("part", _DECISIONS)
def test_a_decision_needs_nothing_that_does_the_work(part: str) -> None:
    graph = _graph(None)
    known = {name for name in graph if f"{name}.".startswith(f"osprovider.{part}.")}
    assert known
    waiting = list(known)
    while waiting:
        new = graph.get(waiting.pop(), set()) - known
        known |= new
        waiting += new
    assert {name.split(".")[1] for name in known} & _WORK == set()
