"""What the steps of a build share: the tree, where its packages come from, and an apt of the node that works on it.

That apt sees nothing of the node's own configuration, and runs in isolation.
Not for: which steps there are (:mod:`osprovider.images.builder.bootstrap`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from osprovider.guest.protocol import Guest
from osprovider.images.builder import archives
from osprovider.images.builder.archives import Source
from osprovider.images.builder.isolation import Fetching, run_isolated
from osprovider.images.builder.watch import Watch
from osprovider.images.recipe import Recipe

__all__ = ["SOURCES_LIST", "Build"]

SOURCES_LIST = "/etc/apt/sources.list"
_KEYS = Path("/etc/apt/keyrings")


@dataclass(frozen=True, slots=True)
class Build:
    """A build that goes on.

    Attributes:
        recipe: what of.
        guest: the tree.
        root: where it is mounted.
        scratch: a directory of the build's own, not in the tree.
        fetching: how packages are fetched.
        watch: is told what the tools say.
        local: the repository of the local packages, where there are any.
        wanted: these, as apt takes them.
        sources: all that packages come from, as soon as it is known.
    """

    recipe: Recipe
    guest: Guest
    root: Path
    scratch: Path
    fetching: Fetching
    watch: Watch
    local: tuple[Source, ...]
    wanted: tuple[str, ...]
    sources: list[Source] = field(default_factory=list)

    @property
    def preferences(self) -> Path:
        """What apt must never install (apt_preferences(5))."""
        return self.scratch / "preferences"

    def keyring(self, name: str) -> Path:
        """The keys of a repository, or those of the distribution's ``archive``."""
        return self.scratch / "keys" / f"{name}.gpg"

    # -- programs -----------------------------------------------------------------------------------------------------

    def fetch(self, *argv: str) -> None:
        """Run a program of the node's that fetches packages."""
        run_isolated(argv, self.watch.line, fetching=self.fetching)

    def apt(self, *words: str, **env: str) -> None:
        """Run apt-get on the tree."""
        argv = ["apt-get", "--yes", *words]
        env["APT_CONFIG"] = str(self.scratch / "apt.conf")
        run_isolated(argv, self.watch.line, furnish=self.root, fetching=self.fetching, env=env)

    def chroot(self, *argv: str, **env: str) -> None:
        """Run a program of the tree's in it."""
        run_isolated(["chroot", self.root, *argv], self.watch.line, furnish=self.root, env=env)

    # -- where packages come from -------------------------------------------------------------------------------------

    def write_settings(self, mirror: str, security_mirror: str | None) -> list[str]:
        """Write what apt goes by. Returns the lines of the sources."""
        keys = self.scratch / "keys"
        # Of one version in several of them apt takes the first, and the site's file is what was asked for.
        self.sources[:] = [*self.local, *archives.sources(self.recipe.build, mirror, security_mirror, keys)]
        lines = [archives.one_line(source, signed_by=source.keyring, copying=True) for source in self.sources]
        (self.scratch / "sources.list").write_text("".join(f"{line}\n" for line in lines))
        self.keep_away(self.recipe.build.exclude)
        (self.scratch / "apt.conf").write_text(_apt_settings(self))
        return lines

    def keep_away(self, names: Iterable[str]) -> None:
        """Have apt never install these packages."""
        pins = (f"Package: {name}\nPin: release *\nPin-Priority: -1\n" for name in names)
        self.preferences.write_text("\n".join(pins))

    def hand_over_sources(self) -> None:
        """Let the image's own apt go on with the same sources, each with its keys."""
        own_keys = self.recipe.build.keyring is not None
        archive = [source for source in self.sources if not source.key.startswith(("repositories.", "debs"))]
        key = self._hand_over_keyring("archive") if own_keys else None
        lines = [archives.one_line(source, signed_by=key) for source in archive]
        self.guest.write(SOURCES_LIST, "".join(f"{line}\n" for line in lines))
        for source in self.sources:
            if source.key.startswith("repositories."):
                name = source.key.partition(".")[2]
                stanza = archives.stanza(source, signed_by=self._hand_over_keyring(name))
                self.guest.write(f"/etc/apt/sources.list.d/{name}.sources", stanza)

    def _hand_over_keyring(self, name: str) -> Path:
        keyring = self.keyring(name)
        self.guest.write(str(_KEYS / keyring.name), keyring.read_bytes())
        return _KEYS / keyring.name


def _apt_settings(build: Build) -> str:
    """An apt.conf(5) for an apt of the node that works on the tree and sees nothing of the node's configuration."""
    root, scratch, said = build.root, build.scratch, build.recipe.build
    recommends = str(said.recommends).lower()
    return f"""\
Dir "{root}";
Dir::State::Status "{root}/var/lib/dpkg/status";
Dir::Etc::SourceList "{scratch}/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "{build.preferences}";
Dir::Etc::Trusted "/dev/null";
Dir::Etc::TrustedParts "/dev/null";
APT::Architecture "{said.arch}";
APT::Architectures {{ "{said.arch}"; }};
APT::Install-Recommends "{recommends}";
APT::Get::Fix-Policy-Broken "{recommends}";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Dir::Bin::dpkg "env";
DPkg::Options {{ "--unset=APT_CONFIG"; "dpkg"; }};
DPkg::Chroot-Directory "{root}";
"""
