"""Running hooks: what they prepare beside the copy, then each in its turn on the guest.

Not for: which hooks there are and their order (:mod:`osprovider.customize.hooks`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import importlib.machinery
import importlib.util
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Self

from osprovider.background import Task, background
from osprovider.customize.context import Context
from osprovider.customize.hooks import Hook
from osprovider.descriptors import opened
from osprovider.errors import HookError, OsproviderError, ToolError
from osprovider.guest.protocol import Guest
from osprovider.log import reporter
from osprovider.paths import Directories
from osprovider.run import run_lines

__all__ = ["HookRunner", "executable_environment"]


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
        self._prepared: dict[str, Task[Any]] = {}
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
            start = stack.enter_context(background("prepare"))
            start(_compile_templates, self._context.templates)
            self._prepared = {name: start(self._modules[name].prepare, self._context) for name in preparing}
            self._resources = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        """Wait for what still prepares, only briefly where something failed, and remove what it made."""
        return self._resources.__exit__(kind, error, trace)

    def run_all(
        self, guest: Guest, *, root_device: Path | None, target: Path | None, boot_device: Path | None = None
    ) -> None:
        """Run every hook, one timed line each.

        Args:
            guest: what they change.
            root_device: the block device that holds the guest's root, on the node.
            target: where the guest's root is mounted on the node; None in the appliance, where no
                executables are among them.
            boot_device: the block device that holds the guest's ``/boot``, on the node; None where the root does.

        Raises:
            HookError: one failed.
        """
        for hook in self._hooks:
            with _blaming(hook), reporter.step(f"hook {hook.name}"):
                if target is None or hook.kind == "python":
                    self._run_python(hook, guest)
                else:
                    self._run_executable(hook, executable_environment(self._context, root_device, target, boot_device))

    def _run_python(self, hook: Hook, guest: Guest) -> None:
        task = self._prepared.get(hook.name)
        prepared = task.result() if task else None
        self._modules[hook.name].run(guest, dataclasses.replace(self._context, prepared=prepared))

    def _run_executable(self, hook: Hook, environment: dict[str, str]) -> None:
        """In a PID namespace of its own, so that whatever it started ends with it, and it with us."""
        try:
            run_lines(
                ["unshare", "--pid", "--fork", "--kill-child", "--", hook.path],
                lambda line: reporter.info(f"  {line}"),
                env=environment,
                stdin=json.dumps(self._context.to_json()).encode(),
            )
        except ToolError as error:
            said = error.last_line or "it said nothing"
            raise HookError(f"failed with exit status {error.status}: {said}") from error


def executable_environment(
    context: Context, root_device: Path | None, target: Path, boot_device: Path | None = None
) -> dict[str, str]:
    """Ganeti's variables, and those that the hooks of instance-image and instance-debootstrap know.

    ``IMAGE_TYPE`` is what instance-image's hooks take for a system that was unpacked onto file systems of ours, and
    ``BOOT_DEV`` is empty where there is no partition for /boot.
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
        "BOOT_DEV": str(boot_device or ""),
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
        import traceback  # only an error needs it

        reporter.debug(traceback.format_exc().rstrip())
        if isinstance(error, OsproviderError):
            cause = str(error)
        else:
            cause = f"{type(error).__name__}: {error}"
            frames = traceback.extract_tb(error.__traceback__)
            if lines := [frame.lineno for frame in frames if frame.filename == str(hook.path)]:
                cause = f"line {lines[-1]}: {cause}"
        raise HookError(f"hook {hook.path}: {cause}") from error


def _compile_templates(directories: Sequence[Path]) -> None:
    """Import Jinja2, which every create needs, and compile the templates, while the disk is still copied."""
    from osprovider.customize.templates import compile_all

    compile_all(directories)


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
    with opened(os.open(directory, os.O_RDONLY | os.O_DIRECTORY)) as fd:
        fcntl.flock(fd, how)
        yield
