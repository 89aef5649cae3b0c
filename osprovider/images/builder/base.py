"""The least that apt can work with, laid into an empty tree by mmdebstrap or debootstrap.

Not for: all other packages (:mod:`osprovider.images.builder.bootstrap`).
"""

from __future__ import annotations

import shutil
from pathlib import Path

from osprovider.images.builder import archives
from osprovider.images.builder.build import SOURCES_LIST, Build
from osprovider.images.builder.distributions import TO_BE_MERGED, distribution
from osprovider.images.builder.isolation import run_isolated

__all__ = ["lay_base"]

_MERGED = ("bin", "sbin", "lib", "lib64")
_MERGER = "usrmerge"
"""Merges a /usr later, and brings Perl for it: the first alternative of a dependency, and of no use where the links are
there from the start."""

_DEBOOTSTRAP_SCRIPTS = Path("/usr/share/debootstrap/scripts")
_ANY_SUITE = {"debian": "sid", "ubuntu": "gutsy"}
"""Debootstrap's script for the suites of a distribution that it does not know; those that it knows are links to it."""

_KNOWN_SUITE = "bionic"
"""An Ubuntu that mmdebstrap knows by itself. Later ones it reads of in files of debootstrap and distro-info-data, which
it does not depend on; and what it does not know it takes for Debian's. All that live have one mirror."""


def lay_base(build: Build) -> None:
    """Lay the least with the definition's tool, and have apt know its sources.

    Raises:
        ToolError: it failed.
    """
    lay = _mmdebstrap if build.recipe.build.tool == "mmdebstrap" else _debootstrap
    lay(build)


def _mmdebstrap(build: Build) -> None:
    """Lay the essential packages and apt."""
    said = build.recipe.build
    mirror, security = said.mirror, said.security_mirror
    if mirror is None:
        mirror, security = _default_mirrors(build)
    lines = build.write_settings(mirror, security)
    build.keep_away((*said.exclude, _MERGER))
    for name in _MERGED if said.suite in TO_BE_MERGED else ():
        build.guest.mkdir(f"/usr/{name}")
        build.guest.symlink(f"usr/{name}", f"/{name}")
    build.fetch(
        *("mmdebstrap", "--mode=root", "--format=directory", "--variant=apt", "--verbose"),
        f"--architectures={said.arch}",
        f'--aptopt=Dir::Etc::Preferences "{build.preferences}"',
        # A file takes the place of the node's trusted.gpg, a directory that of its trusted.gpg.d.
        f"--keyring={build.keyring('archive')}",
        f"--keyring={build.scratch}/no-further-keys",
        *("--skip=check/empty", "--skip=check/signed-by", "--skip=chroot/mount/sys", "--skip=cleanup/apt"),
        *(said.suite, str(build.root), *lines),
    )
    build.keep_away(said.exclude)


def _default_mirrors(build: Build) -> tuple[str, str | None]:
    """Mmdebstrap's mirror for the suite, and where that has security updates. Nothing is fetched."""
    said, probe = build.recipe.build, build.scratch / "probe"
    suite = _KNOWN_SUITE if distribution(said) == "ubuntu" else said.suite
    # Else gpg, in a directory in /tmp, looks for the suite's keys, and lines say so where the node's apt has none.
    skipped = ["--skip=update", "--skip=cleanup", "--skip=check/signed-by"]
    quickly = ["--mode=root", "--format=directory", "--variant=custom", *skipped]
    run_isolated(["mmdebstrap", *quickly, suite, probe], build.watch.line)
    found = archives.mirrors_of((probe / SOURCES_LIST[1:]).read_text(), suite)
    shutil.rmtree(probe)
    return found


def _debootstrap(build: Build) -> None:
    """Lay the required packages and apt."""
    said = build.recipe.build
    further = [said.mirror] if said.mirror else []
    if not (_DEBOOTSTRAP_SCRIPTS / said.suite).exists():
        further = [said.mirror or "", str(_DEBOOTSTRAP_SCRIPTS / _ANY_SUITE[distribution(said)])]
    build.fetch(
        *("debootstrap", "--variant=minbase", f"--arch={said.arch}", f"--components={','.join(said.components)}"),
        f"--keyring={build.keyring('archive')}",
        *([f"--exclude={','.join(said.exclude)}"] if said.exclude else []),
        *(said.suite, str(build.root), *further),
    )
    mirror = said.mirror or archives.mirrors_of(build.guest.read_text(SOURCES_LIST), said.suite)[0]
    build.write_settings(mirror, said.security_mirror)
