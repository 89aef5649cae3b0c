"""Which hooks there are, and in what order they run.

A hook is a file in ``hooks/``: Python that defines ``run(guest, context)``, or any executable. In its first lines,
comments may say ``# after: NAME...``, ``# before: NAME...`` and ``# events: create rename``. Python may also define
``prepare(context)``, for what takes long and needs no guest: it is called in a thread of its own while the disk is
still being copied, its files belong into ``context.scratch``, and what it returns is ``context.prepared`` of ``run``.
Not for: running them (:mod:`osprovider.customize.runner`).
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from osprovider.config import model
from osprovider.config.files import HOOK_NAME
from osprovider.errors import ConfigurationError, HookError, Problem, reason_of
from osprovider.paths import Directories
from osprovider.run import BASE_ENVIRONMENT

__all__ = ["Hook", "arrange", "discover", "mistakes", "refuse_programs", "select"]

_HEADER = re.compile(r"#\s*(after|before|events):\s*(.*)")
_HEADER_LINES = 30
_RUN = re.compile(rb"^def run\(", re.MULTILINE)
_FUNCTIONS = {"run": ("guest", "context"), "prepare": ("context",)}
_EVENTS = frozenset({"create", "rename"})
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, slots=True)
class Hook:
    """A hook.

    Attributes:
        name: its file's name.
        path: its file.
        after: names of hooks that run before it, where they run.
        before: names of hooks that run after it, likewise.
        events: at which of ``create`` and ``rename`` it runs.
        kind: ``python`` is loaded, ``executable`` is run as a program.
        shipped: it came with osprovider.
    """

    name: str
    path: Path
    after: frozenset[str] = frozenset()
    before: frozenset[str] = frozenset()
    events: frozenset[str] = frozenset({"create"})
    kind: Literal["python", "executable"] = "python"
    shipped: bool = False


def discover(directories: Directories) -> dict[str, Hook]:
    """The hooks by name, those that a site's file of the same name takes the place of left out.

    Raises:
        ConfigurationError: a site's file is neither Python with ``run`` nor executable, could be changed by somebody
            other than root, or has a header that says nothing known.
    """
    problems: list[Problem] = []
    hooks = _read_directory(directories.shipped / "hooks", shipped=True, problems=problems)
    hooks |= _read_directory(directories.config / "hooks", shipped=False, problems=problems)
    if problems:
        raise ConfigurationError(problems)
    return hooks


def _read_directory(directory: Path, *, shipped: bool, problems: list[Problem]) -> dict[str, Hook]:
    if not directory.is_dir():
        return {}
    if not shipped and (complaint := _unsafe(directory)):
        problems.append(Problem.of_file(directory, complaint))
    hooks = {}
    for path in sorted(directory.iterdir()):
        if not HOOK_NAME.fullmatch(path.name) or path.is_dir():
            continue
        try:
            hooks[path.name] = _read_hook(path, shipped=shipped)
        except ConfigurationError as error:
            problems.extend(error.problems)
        except OSError as error:
            problems.append(Problem.of_file(path, f"cannot be read: {reason_of(error)}"))
    return hooks


def _read_hook(path: Path, *, shipped: bool) -> Hook:
    content = path.read_bytes()
    is_python = _RUN.search(content) is not None
    if not is_python and not os.access(path, os.X_OK):
        complaint: str | None = "neither executable nor Python that defines run(guest, context): chmod +x or remove it"
    else:
        complaint = None if shipped else _unsafe(path)
    if complaint:
        raise ConfigurationError([Problem.of_file(path, complaint)])
    header = _read_header(path, content.decode(errors="replace").splitlines()[:_HEADER_LINES])
    return Hook(
        path.name,
        path,
        after=header.get("after", frozenset()),
        before=header.get("before", frozenset()),
        events=header.get("events", frozenset({"create"})),
        kind="python" if is_python else "executable",
        shipped=shipped,
    )


def _read_header(path: Path, lines: Sequence[str]) -> dict[str, frozenset[str]]:
    header: dict[str, frozenset[str]] = {}
    for number, line in enumerate(lines, 1):
        if match := _HEADER.fullmatch(line.rstrip()):
            words = frozenset(match[2].replace(",", " ").split())
            header[match[1]] = header.get(match[1], frozenset()) | words
            if match[1] == "events" and (not words or words - _EVENTS):
                complaint = f"events are {' and '.join(sorted(_EVENTS))}, not {match[2] or 'nothing'!r}"
                raise ConfigurationError([Problem(str(path), number, 1, complaint)])
    return header


def _unsafe(path: Path) -> str | None:
    """Why somebody other than root, or the one who runs this, could put their own code here; None when nobody could."""
    status = path.stat()
    if status.st_uid not in {0, os.geteuid()}:
        return f"belongs to user {status.st_uid}, who would run as root: chown root it"
    if status.st_mode & _WRITABLE_BY_OTHERS:
        return f"can be written by others than its owner (mode {stat.S_IMODE(status.st_mode):04o}): chmod go-w it"
    return None


def arrange(hooks: Mapping[str, Hook], settings: model.Hooks, event: str) -> tuple[Hook, ...]:
    """The hooks that run at ``event``, in their order.

    The shipped hooks keep their order among themselves, whatever a site adds; a site's run after them unless somebody
    says otherwise; what nothing decides goes by name. A reference to a hook that does not run is void.

    Args:
        hooks: as :func:`discover` found them.
        settings: ``hooks:`` of the variant, whose names :mod:`osprovider.config` has checked.
        event: ``create`` or ``rename``.

    Raises:
        ConfigurationError: the order is a circle.
    """
    chosen = {name: hook for name, hook in hooks.items() if event in hook.events and name not in settings.disable}
    predecessors = {name: set(hook.after) for name, hook in chosen.items()}
    for name, hook in chosen.items():
        for later in hook.before & chosen.keys():
            predecessors[later].add(name)
    for name, (word, *others) in ((name, order.split()) for name, order in settings.order.items()):
        for other in others:
            first, second = (other, name) if word == "after" else (name, other)
            if second in chosen:
                predecessors[second].add(first)
    ordered: dict[str, Hook] = {}
    for name in sorted(chosen, key=lambda name: (not chosen[name].shipped, name)):
        _visit(name, chosen, predecessors, ordered, ())
    return tuple(ordered.values())


def _visit(
    name: str,
    chosen: Mapping[str, Hook],
    predecessors: Mapping[str, set[str]],
    ordered: dict[str, Hook],
    path: tuple[str, ...],
) -> None:
    """Append to ``ordered`` first what has to run before ``name``, then it."""
    if name in path:
        circle = " after ".join([*path[path.index(name) :], name])
        complaint = f"their order is a circle: {circle}; change hooks.order or a hook's header"
        raise ConfigurationError([Problem.of_file("hooks", complaint)])
    if name in ordered:
        return
    waiting_for = predecessors[name] & chosen.keys()
    for earlier in sorted(waiting_for, key=lambda name: (not chosen[name].shipped, name)):
        _visit(earlier, chosen, predecessors, ordered, (*path, name))
    ordered[name] = chosen[name]


def select(directories: Directories, settings: model.Hooks, event: str) -> tuple[Hook, ...]:
    """The hooks that run at ``event``, in their order.

    Args:
        directories: where hooks lie.
        settings: as for :func:`arrange`.
        event: likewise.

    Raises:
        ConfigurationError: as for :func:`discover` and :func:`arrange`; or one of them cannot run.
    """
    chosen = arrange(discover(directories), settings, event)
    if problems := mistakes(chosen):
        raise ConfigurationError(problems)
    return chosen


def refuse_programs(hooks: Iterable[Hook]) -> None:
    """Refuse to run programs where the guest is not mounted on the node, but in the appliance.

    Raises:
        HookError: one of the hooks is a program.
    """
    for hook in hooks:
        if hook.kind == "executable":
            raise HookError(
                f"hook {hook.path} is a program, which would change the guest below TARGET, but this guest is not"
                " mounted on the node: write it in Python with run(guest, context), or disable it"
            )


def mistakes(hooks: Iterable[Hook]) -> list[Problem]:
    """What keeps hooks of the site's from running, as far as that can be seen without running anything of them."""
    problems: list[Problem] = []
    for hook in hooks:
        if hook.shipped:
            continue
        try:
            content = hook.path.read_bytes()
            if hook.kind == "python":
                problems += _mistakes_in_python(hook.path, content)
            else:
                problems += _mistakes_in_program(hook.path, content)
        except OSError as error:
            problems.append(Problem.of_file(hook.path, f"cannot be read: {reason_of(error)}"))
    return problems


def _mistakes_in_python(path: Path, content: bytes) -> Iterator[Problem]:
    try:
        tree = ast.parse(content, path)
        compile(tree, path, "exec", dont_inherit=True)
    except SyntaxError as error:
        yield Problem(str(path), error.lineno or 0, error.offset or 0, f"is not Python: {error.msg}")
        return
    except ValueError as error:
        yield Problem.of_file(path, f"is not Python: {error}")
        return
    functions = {each.name: each for each in tree.body if isinstance(each, ast.FunctionDef)}
    if "run" not in functions:
        yield Problem.of_file(path, "does not define run(guest, context) at the outermost level")
    for name, wanted in _FUNCTIONS.items():
        if name in functions and not _takes(functions[name], len(wanted)):
            complaint = f"{name} takes other arguments than ({', '.join(wanted)})"
            yield Problem(str(path), functions[name].lineno, 1, complaint)


def _takes(function: ast.FunctionDef, count: int) -> bool:
    """Can it be called with that many positional arguments; what is decorated can be anything."""
    given = function.args
    most = len(given.posonlyargs) + len(given.args)
    fits = most - len(given.defaults) <= count and (count <= most or given.vararg is not None)
    return bool(function.decorator_list) or (fits and None not in given.kw_defaults)


def _mistakes_in_program(path: Path, content: bytes) -> Iterator[Problem]:
    """By its first line: what the kernel calls with it (execve(2), "Interpreter scripts")."""
    line = os.fsdecode(content.partition(b"\n")[0])
    interpreter, *words = re.split("[ \t]+", line.removeprefix("#!").strip(" \t"))
    if content.startswith(b"\x7fELF"):
        return
    if not line.startswith("#!") or not interpreter.startswith("/"):
        complaint = "names no interpreter: begin with #!/bin/sh or the like, or define run(guest, context)"
        yield Problem(str(path), 1, 1, complaint)
        return
    if Path(interpreter).name == "env" and words and not words[0].startswith("-"):
        interpreter = words[0]
    if shutil.which(interpreter, path=BASE_ENVIRONMENT["PATH"]) is None:
        yield Problem(str(path), 1, 3, f"{interpreter!r} is not there: install it, or correct the line")
