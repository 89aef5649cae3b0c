"""Programs of a build, isolated: what packages and scripts do stays in the tree, and ends with the program.

They run as root, in PID, mount, IPC, UTS and network namespaces of their own, with an environment that holds nothing of
ours. There is no network in them but a loopback interface: servers of the node, its abstract unix sockets, and the
world are out of reach. What fetches packages, apt's methods and debootstrap's wget, goes back to the node's network, by
itself and by nothing else: each of these programs is replaced, in the build's view of the node, by one that enters it.
So a maintainer script has no network, whichever tool runs it, and no tool has to be told.
This keeps honest scripts from depending on what a build does not declare, and from touching the node by accident. It is
no wall against a package that means harm: that is root, and packages have to be trusted for as long as instances live.
Not for: what is run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import osprovider
from osprovider.run import run_lines

__all__ = ["Fetching", "run_isolated"]


@dataclass(frozen=True, slots=True)
class Fetching:
    """How packages are fetched.

    Attributes:
        directory: an empty directory, which is mounted upon for as long as a program runs.
        proxy: an HTTP proxy's URL; None for none, whatever this node's apt uses.
    """

    directory: Path
    proxy: str | None = None


def run_isolated(
    argv: Sequence[str | Path],
    on_line: Callable[[str], None],
    *,
    furnish: Path | None = None,
    fetching: Fetching | None = None,
    env: Mapping[str, str] | None = None,
) -> None:
    """Run a program in namespaces of its own; what it leaves running ends with it, or with us.

    Args:
        argv: the program and its arguments.
        on_line: called with each line that it prints.
        furnish: a tree that gets ``/dev``, ``/proc`` and an empty ``/sys`` mounted for it.
        fetching: lets what fetches packages use the node's network; None: nothing does.
        env: further environment variables.

    Raises:
        ToolError: it failed.
    """
    way_out = (fetching.directory, fetching.proxy or "-") if fetching else ("-", "-")
    inside = [sys.executable, "-m", "osprovider.images.builder.inside", furnish or "-", *way_out, *argv]
    package = str(Path(osprovider.__file__).resolve().parent.parent)
    namespaces = ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--ipc", "--uts"]
    run_lines([*namespaces, "--", *inside], on_line, env={**(env or {}), "PYTHONPATH": package})
