"""Packages into an empty tree, by mmdebstrap or debootstrap, isolated and with progress.

Both give the same system: Debian's minimal one, the packages asked for with their dependencies but without recommended
packages (the definition says all; the image's own apt keeps its default), and, from the tool's own default mirror, all
updates. mmdebstrap does it in one apt transaction. debootstrap's own resolver knows neither alternatives nor versions,
so it only lays the minimal system, and apt does the rest from outside the tree, as mmdebstrap has it do.

Isolation: the programs run as root, in PID, mount, IPC and UTS namespaces of their own, with an environment that holds
nothing of ours; no daemon is started (policy-rc.d(8), a start-stop-daemon(8) that does nothing), and what one leaves
running ends with the PID namespace. The network is the node's: apt fetches through it.
Not for: file systems, cleaning, or the store.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import osprovider
from osprovider.config.model import BootstrapBuild
from osprovider.errors import ImageError, ToolError
from osprovider.guest.protocol import Guest
from osprovider.images import causes
from osprovider.images.recipe import Recipe
from osprovider.images.watch import Watch
from osprovider.run import BASE_ENVIRONMENT, run, run_lines

__all__ = ["LEFT_FOR_BUILD", "OutOfSpace", "install", "require_tools", "run_isolated", "tool_version"]

_INITRAMFS = "/etc/initramfs-tools/conf.d/osprovider"
_POLICY = "/usr/sbin/policy-rc.d"
_DEBOOTSTRAP_LOG = "/debootstrap/debootstrap.log"
_SOURCES = "/etc/apt/sources.list"

LEFT_FOR_BUILD = (_INITRAMFS, _POLICY)
"""What is in the tree for the time of the build only."""

# Lays the merged /usr at the start, as debootstrap does; else Debian 12's apt would install usrmerge, and so Perl.
_MERGED_USR = Path("/usr/share/mmdebstrap/hooks/maybe-merged-usr")

_HOSTS = """\
127.0.0.1	localhost
::1		localhost ip6-localhost ip6-loopback
ff02::1		ip6-allnodes
ff02::2		ip6-allrouters
"""

_PREPARED = {
    # There before the tools begin, these keep them from copying the node's.
    "/etc/hostname": "localhost\n",
    "/etc/hosts": _HOSTS,
    "/etc/resolv.conf": "",
}

_WITHOUT_UPDATES = frozenset({"sid", "unstable", "experimental", "rc-buggy", "testing"})


class OutOfSpace(ImageError):  # noqa: N818 - its name is what it is
    """The tree's file system filled up."""


def require_tools(recipe: Recipe) -> None:
    """See that what the build needs is installed.

    Raises:
        ImageError: the tool or the archive's keys are missing.
    """
    image, build = recipe.image, recipe.build
    if shutil.which(build.tool, path=BASE_ENVIRONMENT["PATH"]) is None:
        other = "debootstrap" if build.tool == "mmdebstrap" else "mmdebstrap"
        raise ImageError(
            f"image {image}: {build.tool} is not installed; apt install {build.tool}, "
            f"or say build.tool: {other} in images/{image}.yaml"
        )
    if not recipe.keyring.is_file():
        raise ImageError(f"image {image}: {recipe.keyring} is missing; apt install debian-archive-keyring")


def tool_version(tool: str) -> str:
    """The version that the tool says it has (``1.3.5``)."""
    return run([tool, "--version"]).text.split()[-1]


def install(recipe: Recipe, guest: Guest, root: Path, scratch: Path) -> None:
    """Install the system into a tree.

    Args:
        recipe: what of.
        guest: the tree, empty.
        root: where it is mounted, with device nodes and programs allowed.
        scratch: an empty directory for files of the build's own, not in the tree.

    Raises:
        OutOfSpace: the file system is too small.
        ImageError: the build failed; says why, and the way out.
    """
    for path, content in _PREPARED.items():
        guest.write(path, content)
    # An initramfs for any machine, which can check its root and looks for no swap of the node's (/proc/swaps shows that
    # in every namespace).
    guest.write(_INITRAMFS, f"MODULES=most\nFSTYPE={recipe.filesystem}\nRESUME=none\n")
    image, build = recipe.image, recipe.build
    watch = Watch(f"image {image}")
    try:
        if build.tool == "mmdebstrap":
            _mmdebstrap(recipe, root, scratch, watch)
        else:
            _debootstrap(recipe, guest, root, scratch, watch)
    except ToolError as error:
        if guest.exists(_DEBOOTSTRAP_LOG):  # it says what wget, tar and dpkg said there and nowhere else
            watch.lines.extend(guest.read_text(_DEBOOTSTRAP_LOG).splitlines())
        last = error.tail.splitlines()[-1].strip() if error.tail else str(error)
        if causes.is_out_of_space(watch.lines):
            raise OutOfSpace(f"image {image}: {last}") from error
        cause = causes.explain(
            watch.lines, image=image, mirror=build.mirror, suite=build.suite, keyring=str(recipe.keyring), last=last
        )
        raise ImageError(f"image {image}: {cause}") from error


def run_isolated(
    argv: Sequence[str | Path], on_line: Callable[[str], None], *, furnish: Path | None = None, **env: str
) -> None:
    """Run a program in PID, mount, IPC and UTS namespaces of its own; what it leaves running ends with it, or with us.

    Args:
        argv: the program and its arguments.
        on_line: called with each line that it prints.
        furnish: a tree that gets ``/dev``, ``/proc`` and an empty ``/sys`` mounted for it.
        env: further environment variables.

    Raises:
        ToolError: it failed.
    """
    inside = [sys.executable, "-m", "osprovider.images.inside", furnish or "-", *argv]
    package = str(Path(osprovider.__file__).resolve().parent.parent)
    namespaces = ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--ipc", "--uts"]
    run_lines([*namespaces, "--", *inside], on_line, env={**env, "PYTHONPATH": package})


def _mmdebstrap(recipe: Recipe, root: Path, scratch: Path, watch: Watch) -> None:
    build = recipe.build
    no_further_keys = scratch / "no-further-keys"
    no_further_keys.mkdir()
    run_isolated(
        [
            "mmdebstrap",
            "--mode=root",
            "--format=directory",
            "--variant=minbase",
            f"--architectures={build.arch}",
            f"--components={','.join(build.components)}",
            *([f"--include={','.join(build.packages)}"] if build.packages else []),
            # A file takes the place of the node's trusted.gpg, a directory that of its trusted.gpg.d.
            f"--keyring={recipe.keyring}",
            f"--keyring={no_further_keys}",
            *([f"--hook-directory={_MERGED_USR}"] if _MERGED_USR.is_dir() else []),
            "--skip=check/empty",
            "--skip=check/signed-by",
            "--skip=chroot/mount/sys",
            "--verbose",
            build.suite,
            root,
            *([build.mirror] if build.mirror else []),
        ],
        watch.line,
    )


def _debootstrap(recipe: Recipe, guest: Guest, root: Path, scratch: Path, watch: Watch) -> None:
    build = recipe.build
    run_isolated(
        [
            "debootstrap",
            "--variant=minbase",
            f"--arch={build.arch}",
            f"--components={','.join(build.components)}",
            f"--keyring={recipe.keyring}",
            build.suite,
            root,
            *([build.mirror] if build.mirror else []),
        ],
        watch.line,
    )
    _complete_sources(build, guest)
    settings = scratch / "apt.conf"
    settings.write_text(_apt_settings(recipe, root))
    guest.write(_POLICY, "#!/bin/sh\nexit 101\n", mode=0o755)
    starter = _daemon_starter(guest)
    _divert(root, watch, "--add", starter)
    guest.write(starter, "#!/bin/sh\nexit 0\n", mode=0o755)
    for words in (["update"], ["dist-upgrade"], ["install", *build.packages]):
        run_isolated(["apt-get", "--yes", *words], watch.line, furnish=root, APT_CONFIG=str(settings))
    guest.remove(starter)
    _divert(root, watch, "--remove", starter)


def _apt_settings(recipe: Recipe, root: Path) -> str:
    """An apt.conf(5) for an apt of the node that works on the tree and sees nothing of the node's configuration."""
    return f"""\
Dir "{root}";
Dir::State::Status "{root}/var/lib/dpkg/status";
Dir::Etc::Trusted "{recipe.keyring}";
Dir::Etc::TrustedParts "/dev/null";
APT::Architecture "{recipe.build.arch}";
APT::Architectures {{ "{recipe.build.arch}"; }};
APT::Install-Recommends "false";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
DPkg::Chroot-Directory "{root}";
"""


def _complete_sources(build: BootstrapBuild, guest: Guest) -> None:
    """Add the updates of a release to what debootstrap wrote, as mmdebstrap does for its default mirror."""
    if build.mirror is not None or build.suite in _WITHOUT_UPDATES:
        return
    kind, mirror, suite, *components = guest.read_text(_SOURCES).split()
    more = [(mirror, f"{suite}-updates"), (f"{mirror.rstrip('/')}-security", f"{suite}-security")]
    lines = [" ".join([kind, *place, *components]) for place in [(mirror, suite), *more]]
    guest.write(_SOURCES, "\n".join(lines) + "\n")


def _daemon_starter(guest: Guest) -> str:
    """Where dpkg has its start-stop-daemon(8)."""
    owned = guest.read_text("/var/lib/dpkg/info/dpkg.list").splitlines()
    return next(line for line in owned if line.endswith("/sbin/start-stop-daemon"))


def _divert(root: Path, watch: Watch, action: str, path: str) -> None:
    """Move a program out of the way, or back, so that an upgrade of its package respects it (dpkg-divert(1))."""
    divert = ["dpkg-divert", "--local", "--rename", "--divert", f"{path}.real", action, path]
    run_isolated(["chroot", str(root), *divert], watch.line, furnish=root)
