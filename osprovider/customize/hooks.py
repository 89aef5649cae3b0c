"""Which hooks there are, in what order they run, and running them.

A hook is a file in ``hooks/``: Python that defines ``run(guest, context)``, or any executable. In its first lines,
comments may say ``# after: NAME...``, ``# before: NAME...`` and ``# events: create rename``. Python may also define
``prepare(context)``, for what takes long and needs no guest: it is called in a thread of its own while the disk is
still being copied, its files belong into ``context.scratch``, and what it returns is ``context.prepared`` of ``run``.
Not for: what hooks do, or what they are told (:mod:`osprovider.customize.context`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import importlib.machinery
import importlib.util
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import traceback
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import IO, Any, Literal, Self

from osprovider.config import model
from osprovider.config.suggest import suggest
from osprovider.customize.context import Context
from osprovider.errors import ConfigurationError, HookError, OsproviderError, Problem
from osprovider.guest.protocol import Guest
from osprovider.log import reporter
from osprovider.paths import Directories
from osprovider.run import _program

__all__ = ["Hook", "HookRunner", "arrange", "discover"]

_NAME = re.compile(r"[A-Za-z0-9_-]+")  # as run-parts(8); leaves out editors' and dpkg's backups
_HEADER = re.compile(r"#\s*(after|before|events):\s*(.*)")
_HEADER_LINES = 30
_RUN = re.compile(rb"^def run\(", re.MULTILINE)
_EVENTS = frozenset({"create", "rename"})
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, slots=True)
class Hook:
    """A hook.

    Attributes:
        name: its file's name.
        path: its file.
        after: names of hooks that run before it, where they run. before: names of hooks that run after it, likewise.
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
        problems.append(Problem(str(directory), 0, 0, complaint))
    hooks = {}
    for path in sorted(directory.iterdir()):
        if not _NAME.fullmatch(path.name) or path.is_dir():
            continue
        try:
            hooks[path.name] = _read_hook(path, shipped=shipped)
        except ConfigurationError as error:
            problems.extend(error.problems)
        except OSError as error:
            problems.append(Problem(str(path), 0, 0, f"cannot be read: {str(error.strerror).lower()}"))
    return hooks


def _read_hook(path: Path, *, shipped: bool) -> Hook:
    content = path.read_bytes()
    is_python = _RUN.search(content) is not None
    if not is_python and not os.access(path, os.X_OK):
        complaint: str | None = "neither executable nor Python that defines run(guest, context): chmod +x or remove it"
    else:
        complaint = None if shipped else _unsafe(path)
    if complaint:
        raise ConfigurationError([Problem(str(path), 0, 0, complaint)])
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
        settings: ``hooks:`` of the variant.
        event: ``create`` or ``rename``.

    Raises:
        ConfigurationError: ``settings`` names a hook that does not exist, or the order is a circle.
    """
    _check_names(hooks, settings)
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
        raise ConfigurationError([Problem("hooks", 0, 0, complaint)])
    if name in ordered:
        return
    waiting_for = predecessors[name] & chosen.keys()
    for earlier in sorted(waiting_for, key=lambda name: (not chosen[name].shipped, name)):
        _visit(earlier, chosen, predecessors, ordered, (*path, name))
    ordered[name] = chosen[name]


def _check_names(hooks: Mapping[str, Hook], settings: model.Hooks) -> None:
    named = [("hooks.disable", name) for name in settings.disable]
    for name, order in settings.order.items():
        named += [("hooks.order", word) for word in (name, *order.split()[1:])]
    problems = [Problem(where, 0, 0, _unknown(name, hooks)) for where, name in named if name not in hooks]
    if problems:
        raise ConfigurationError(problems)


def _unknown(name: str, known: Iterable[str]) -> str:
    return f"there is no hook {name!r}{suggest(name, known)}"


class HookRunner:
    """Runs hooks; a context manager, which also starts what they prepare and takes all of that away again.

    Args:
        hooks: in their order.
        context: what they are told.
        run_directory: on a tmpfs; ``context.scratch`` is made in it. The production one when None.
    """

    def __init__(self, hooks: Sequence[Hook], context: Context, run_directory: Path | None = None) -> None:
        self._hooks = tuple(hooks)
        self._context = context
        self._run_directory = run_directory or Directories().run
        self._modules: dict[str, ModuleType] = {}
        self._prepared: dict[str, Future[Any]] = {}
        self._resources = ExitStack()

    def __enter__(self) -> Self:
        """Load the Python hooks and start their ``prepare`` functions, each in its thread.

        Raises:
            HookError: one cannot be loaded.
        """
        with ExitStack() as stack:
            scratch = stack.enter_context(_scratch_directory(self._run_directory))
            self._context = dataclasses.replace(self._context, scratch=scratch)
            for hook in self._hooks:
                if hook.kind == "python":
                    with _blaming(hook):
                        self._modules[hook.name] = _load(hook)
            preparing = [name for name, module in self._modules.items() if hasattr(module, "prepare")]
            pool = stack.enter_context(_threads(len(preparing) + 1))
            pool.submit(_import_templates)
            self._prepared = {name: pool.submit(self._modules[name].prepare, self._context) for name in preparing}
            self._resources = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        """Wait for what still prepares, and remove what it made."""
        return self._resources.__exit__(kind, error, trace)

    def run_all(self, guest: Guest, *, root_device: Path | None, target: Path | None) -> None:
        """Run every hook, one timed line each.

        Args:
            guest: what they change.
            root_device: the block device that holds the guest's root, on the host.
            target: where the guest's root is mounted on the host; None in the appliance, where executables cannot run.

        Raises:
            HookError: one failed, or cannot run here at all; in this case before any of them ran.
        """
        if target is None and (stuck := [hook for hook in self._hooks if hook.kind == "executable"]):
            raise HookError(
                f"hook {stuck[0].path} is a program, which would change the guest below TARGET, but this guest is not"
                " mounted on the host: write it in Python with run(guest, context), or disable it"
            )
        for hook in self._hooks:
            with _blaming(hook), reporter.step(f"hook {hook.name}"):
                if target is None or hook.kind == "python":
                    self._run_python(hook, guest)
                else:
                    self._run_executable(hook, root_device, target)

    def _run_python(self, hook: Hook, guest: Guest) -> None:
        future = self._prepared.get(hook.name)
        prepared = future.result() if future else None
        self._modules[hook.name].run(guest, dataclasses.replace(self._context, prepared=prepared))

    def _run_executable(self, hook: Hook, root_device: Path | None, target: Path) -> None:
        """In a PID namespace of its own, so that whatever it started ends with it, and it with us."""
        tail: deque[str] = deque(maxlen=1)
        with _program(
            ["unshare", "--pid", "--fork", "--kill-child", "--", hook.path],
            env=_executable_environment(self._context, root_device, target),
            cwd=None,
            stdin=True,
            stderr=subprocess.STDOUT,
        ) as process:
            writer = threading.Thread(target=_feed, args=(process.stdin, json.dumps(self._context.to_json()).encode()))
            writer.start()
            for raw in process.stdout or ():
                tail.append(raw.decode(errors="replace").rstrip())
                reporter.info(f"  {tail[-1]}")
            writer.join()
            status = process.wait()
        if status != 0:
            raise HookError(f"failed with exit status {status}: {tail[-1] if tail else 'it said nothing'}")


def _feed(stream: IO[bytes] | None, data: bytes) -> None:
    """Write ``data`` to a program that need not read it."""
    if stream:
        with contextlib.suppress(BrokenPipeError, ValueError), stream:  # ValueError: closed since
            stream.write(data)


def _executable_environment(context: Context, root_device: Path | None, target: Path) -> dict[str, str]:
    """Ganeti's variables, and those that the hooks of instance-image and instance-debootstrap know.

    ``IMAGE_TYPE`` is what instance-image's hooks take for a system that was unpacked onto file systems of ours, and
    ``BOOT_DEV`` is empty, as where it has no partition for /boot.
    """
    disk = context.disks[0] if context.disks else None
    manifest = context.manifest
    root = str(root_device or "")
    return {
        **{name: value for name, value in context.environment.items() if name != "PATH"},
        "TARGET": str(target),
        "BLOCKDEV": str(disk.path) if disk and disk.path else "",
        "ROOT_DEV": root,
        "FSYSDEV": root,
        "BOOT_DEV": "",
        "IMAGE_TYPE": "tarball",
        "PARTITION_STYLE": context.variant.layout.table,
        "SUITE": manifest.distribution.codename if manifest else "",
        "ARCH": manifest.architecture if manifest else "",
        "EXTRA_PKGS": ",".join(context.variant.packages),
    }


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads a file without a suffix, and leaves no bytecode beside it (a package may have put it there)."""

    def set_data(self, path: str, data: object, *, _mode: int = 0o666) -> None:
        """Write nothing."""


def _load(hook: Hook) -> ModuleType:
    """The hook as a module of its own, loaded anew."""
    name = f"osprovider_hook_{hook.name.replace('-', '_')}"
    spec = importlib.util.spec_from_loader(name, _Loader(name, str(hook.path)))
    assert spec is not None  # noqa: S101  a loader was given
    assert spec.loader is not None  # noqa: S101
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look for their module there
    spec.loader.exec_module(module)
    return module


@contextmanager
def _blaming(hook: Hook) -> Iterator[None]:
    """Turn whatever goes wrong into a HookError that names the hook's file."""
    try:
        yield
    except Exception as error:
        reporter.debug(traceback.format_exc().rstrip())
        if isinstance(error, OsproviderError):
            cause = str(error)
        else:
            cause = f"{type(error).__name__}: {error}"
            frames = traceback.extract_tb(error.__traceback__)
            if lines := [frame.lineno for frame in frames if frame.filename == str(hook.path)]:
                cause = f"line {lines[-1]}: {cause}"
        raise HookError(f"hook {hook.path}: {cause}") from error


def _import_templates() -> None:
    """Import Jinja2, which every create needs, while the disk is still copied."""
    import osprovider.customize.templates  # noqa: F401


@contextmanager
def _threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Threads; on the way out what has not begun is dropped and what has begun is waited for."""
    pool = ThreadPoolExecutor(count, thread_name_prefix="prepare")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _scratch_directory(parent: Path) -> Iterator[Path]:
    """A directory that only root sees, gone afterwards; what a killed run left is removed first.

    A live one is told by its lock, which the kernel drops with its process.
    """
    parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    with ExitStack() as stack:
        with _locked(parent, fcntl.LOCK_EX):
            for left in parent.glob("hooks-*"):
                with contextlib.suppress(BlockingIOError), _locked(left, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    shutil.rmtree(left)
            path = Path(tempfile.mkdtemp(prefix="hooks-", dir=parent))
            stack.callback(shutil.rmtree, path, ignore_errors=True)
            stack.enter_context(_locked(path, fcntl.LOCK_EX))
        yield path


@contextmanager
def _locked(directory: Path, how: int) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)
