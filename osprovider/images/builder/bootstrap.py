"""Packages into an empty tree, by mmdebstrap or debootstrap, isolated and with progress.

Either tool lays the least that apt can work with. All else is one transaction of apt's, run from outside of the tree as
mmdebstrap itself does it: so both give the same system, and repositories, files and exclusions mean the same. (And
debootstrap's own resolver knows neither alternatives nor versions.) At last the site's scripts run in the tree.
No daemon is started: policy-rc.d(8), and a start-stop-daemon(8) that does nothing.
Not for: file systems, cleaning, or the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from osprovider.errors import ImageError, OutOfSpace, ToolError
from osprovider.guest.protocol import Guest
from osprovider.images.builder import archives, causes, reproducible
from osprovider.images.builder.archives import Source
from osprovider.images.builder.base import lay_base
from osprovider.images.builder.build import Build
from osprovider.images.builder.isolation import Fetching, run_isolated
from osprovider.images.builder.watch import Watch
from osprovider.images.recipe import Recipe

__all__ = ["LEFT_FOR_BUILD", "install", "run_script"]

_INITRAMFS = "/etc/initramfs-tools/conf.d/osprovider"
_POLICY = "/usr/sbin/policy-rc.d"
_DEBOOTSTRAP_LOG = "/debootstrap/debootstrap.log"
_SCRIPT = "/run/osprovider-script"

LEFT_FOR_BUILD = (_INITRAMFS, _POLICY)
"""What is in the tree for the time of the build only."""

_PRIORITIES = {
    "minbase": ("required",),
    "important": ("required", "important"),
    "standard": ("required", "important", "standard"),
}

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


def install(recipe: Recipe, guest: Guest, root: Path, scratch: Path, *, proxy: str | None = None) -> int:
    """Install the system into a tree.

    Args:
        recipe: what of.
        guest: the tree, empty.
        root: where it is mounted, with device nodes and programs allowed.
        scratch: an empty directory for files of the build's own, not in the tree, which apt's user can pass through.
        proxy: an HTTP proxy's URL, for what is fetched.

    Returns:
        when the newest of the repositories was made, in seconds since the epoch: no file has to be younger.

    Raises:
        OutOfSpace: the file system is too small.
        ImageError: the build failed; says why, and the way out.
    """
    for path, content in _PREPARED.items():
        guest.write(path, content)
    # An initramfs for any machine, which can check its root and looks for no swap of the node's (/proc/swaps shows that
    # in every namespace).
    guest.write(_INITRAMFS, f"MODULES=most\nFSTYPE={recipe.filesystem}\nRESUME=none\n")
    for name in ("network", "keys", "debs", "no-further-keys"):
        (scratch / name).mkdir()
    with _naming(recipe):
        for key, keyring in {**recipe.repository_keyrings, "archive": recipe.keyring}.items():
            (scratch / "keys" / f"{key}.gpg").write_bytes(archives.public_keys(keyring))
        local, wanted = _local_packages(recipe, scratch / "debs")
    watch = Watch(f"image {recipe.image}")
    build = Build(recipe, guest, root, scratch, Fetching(scratch / "network", proxy), watch, local, wanted)
    try:
        lay_base(build)
        with _no_daemons(build):
            epoch = _complete(build)
    except ToolError as error:
        raise _explained(build, error) from error
    for script in recipe.scripts:
        run_script(recipe.image, guest, root, script, epoch, watch.line)
    build.hand_over_sources()
    _require_absent(recipe, guest)
    return epoch


def run_script(image: str, guest: Guest, root: Path, script: Path, epoch: int, on_line: Callable[[str], None]) -> None:
    """Run a script of the site's in a tree, without network.

    Args:
        image: the definition's name, for messages.
        guest: the tree.
        root: where it is mounted.
        script: the file.
        epoch: what it is told as SOURCE_DATE_EPOCH.
        on_line: called with each line that it prints.

    Raises:
        ImageError: it failed; says how.
    """
    guest.write(_SCRIPT, script.read_bytes(), mode=0o755)
    env = {"HOME": "/root", "SOURCE_DATE_EPOCH": str(epoch)}
    try:
        run_isolated(["chroot", root, _SCRIPT], on_line, furnish=root, env=env)
    except ToolError as error:
        how = error.last_line or f"exit status {error.status}"
        raise ImageError(f"image {image}: the script {script} failed: {how}") from error
    finally:
        guest.remove(_SCRIPT)


@contextmanager
def _naming(recipe: Recipe) -> Iterator[None]:
    """Have what fails name the image."""
    try:
        yield
    except ImageError as error:
        raise ImageError(f"image {recipe.image}: {error}") from error


def _local_packages(recipe: Recipe, directory: Path) -> tuple[tuple[Source, ...], tuple[str, ...]]:
    """The repository of the local packages, where there are any, and these as apt takes them."""
    if not recipe.debs:
        return (), ()
    source, wanted = archives.local_packages(recipe.debs, directory, recipe.build.arch)
    return (source,), wanted


def _complete(build: Build) -> int:
    """Install all that the definition says. Returns when the newest of the repositories was made."""
    said = build.recipe.build
    build.apt("update")
    epoch = reproducible.newest_release(build.guest)
    env = {"SOURCE_DATE_EPOCH": str(epoch)}
    if said.tool == "debootstrap":  # it knows neither updates nor the other repositories
        build.apt("dist-upgrade", **env)
    build.apt("install", _base(build.recipe), *said.packages, *build.wanted, **env)
    return epoch


def _base(recipe: Recipe) -> str:
    """The packages of the variant's priorities in the release itself, as apt-patterns(7) has it."""
    said = recipe.build
    of_release = f"?or(?archive(^{said.suite}$),?codename(^{said.suite}$)),?architecture({said.arch})"
    priority = ",".join(f"?priority({name})" for name in _PRIORITIES[said.variant])
    without = "".join(f",?not(?exact-name({name}))" for name in said.exclude)
    return f"?narrow({of_release},?and(?or({priority}),?not(?essential){without}))"


@contextmanager
def _no_daemons(build: Build) -> Iterator[None]:
    """Keep packages from starting daemons, as long as nothing fails; a tree that failed is thrown away."""
    build.guest.write(_POLICY, "#!/bin/sh\nexit 101\n", mode=0o755)
    owned = build.guest.read_text("/var/lib/dpkg/info/dpkg.list").splitlines()
    starter = next(line for line in owned if line.endswith("/sbin/start-stop-daemon"))
    _divert(build, "--add", starter)
    build.guest.write(starter, "#!/bin/sh\nexit 0\n", mode=0o755)
    yield
    build.guest.remove(starter)
    _divert(build, "--remove", starter)


def _divert(build: Build, action: str, path: str) -> None:
    """Move a program out of the way, or back, so that an upgrade of its package respects it (dpkg-divert(1))."""
    build.chroot("dpkg-divert", "--local", "--rename", "--divert", f"{path}.real", action, path)


def _require_absent(recipe: Recipe, guest: Guest) -> None:
    """See that what is excluded is not there; the least that a tool lays takes no notice of it."""
    excluded = {*recipe.build.exclude}
    for paragraph in guest.read_text("/var/lib/dpkg/status").split("\n\n") if excluded else ():
        name = paragraph.partition("\n")[0].removeprefix("Package: ")
        if name in excluded and "\nStatus: install ok installed" in paragraph:
            raise ImageError(
                f"image {recipe.image}: {name} is excluded, and no system of this release is without it; "
                f"correct build.exclude of images/{recipe.image}.yaml"
            )


def _explained(build: Build, error: ToolError) -> ImageError:
    """Why the tools failed."""
    recipe, watch = build.recipe, build.watch
    if build.guest.exists(_DEBOOTSTRAP_LOG):  # it says what wget, tar and dpkg said there and nowhere else
        watch.lines.extend(build.guest.read_text(_DEBOOTSTRAP_LOG).splitlines())
    last = error.last_line or str(error)
    if causes.is_out_of_space(watch.lines):
        return OutOfSpace(f"image {recipe.image}: {last}")
    return ImageError(f"image {recipe.image}: {causes.explain(watch.lines, recipe, build.sources, last)}")
