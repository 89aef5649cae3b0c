"""Packages into an empty tree, by mmdebstrap or debootstrap, isolated and with progress.

Either tool lays the least that apt can work with. All else is one transaction of apt's, run from outside of the tree as
mmdebstrap itself does it: so both give the same system, and repositories, files and exclusions mean the same. (And
debootstrap's own resolver knows neither alternatives nor versions.) At last the site's scripts run in the tree.
No daemon is started: policy-rc.d(8), and a start-stop-daemon(8) that does nothing.
Not for: file systems, cleaning, or the store.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from osprovider.errors import ImageError, ToolError
from osprovider.guest.protocol import Guest
from osprovider.images.builder import archives, causes, reproducible
from osprovider.images.builder.archives import Source
from osprovider.images.builder.distributions import KEYRINGS, TO_BE_MERGED, distribution
from osprovider.images.builder.isolation import Fetching, run_isolated
from osprovider.images.builder.watch import Watch
from osprovider.images.recipe import Recipe
from osprovider.run import BASE_ENVIRONMENT, run

__all__ = ["LEFT_FOR_BUILD", "OutOfSpace", "install", "require_tools", "run_script", "tool_version"]

_INITRAMFS = "/etc/initramfs-tools/conf.d/osprovider"
_POLICY = "/usr/sbin/policy-rc.d"
_DEBOOTSTRAP_LOG = "/debootstrap/debootstrap.log"
_SOURCES = "/etc/apt/sources.list"
_KEYS = Path("/etc/apt/keyrings")
_SCRIPT = "/run/osprovider-script"

LEFT_FOR_BUILD = (_INITRAMFS, _POLICY)
"""What is in the tree for the time of the build only."""

_MERGED = ("bin", "sbin", "lib", "lib64")
_MERGER = "usrmerge"
"""Merges a /usr later, and brings Perl for it: the first alternative of a dependency, and of no use where the links are
there from the start."""

_DEBOOTSTRAP_SCRIPTS = Path("/usr/share/debootstrap/scripts")
_ANY_SUITE = {"debian": "sid", "ubuntu": "gutsy"}
"""Debootstrap's script for the suites of a distribution that it does not know; those that it knows are links to it."""

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


class OutOfSpace(ImageError):  # noqa: N818 - its name is what it is
    """The tree's file system filled up."""


@dataclass(frozen=True, slots=True)
class _Build:
    """What every step needs.

    Attributes:
        recipe: what of.
        guest: the tree. root: where it is mounted.
        scratch: a directory of the build's own, not in the tree.
        fetching: how packages are fetched.
        watch: is told what the tools say.
        local: the repository of the local packages, where there are any. wanted: these, as apt takes them.
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

    def apt(self, *words: str, **env: str) -> None:
        """Run apt-get on the tree."""
        argv = ["apt-get", "--yes", *words]
        env["APT_CONFIG"] = str(self.scratch / "apt.conf")
        run_isolated(argv, self.watch.line, furnish=self.root, fetching=self.fetching, env=env)

    def chroot(self, *argv: str, **env: str) -> None:
        """Run a program of the tree's in it."""
        run_isolated(["chroot", self.root, *argv], self.watch.line, furnish=self.root, env=env)


def require_tools(recipe: Recipe) -> None:
    """See that what the build needs is there, and is what it should be.

    Raises:
        ImageError: the tool, keys or a file is missing or wrong, or the definition contradicts the variant.
    """
    image, build, file = recipe.image, recipe.build, f"images/{recipe.image}.yaml"
    if shutil.which(build.tool, path=BASE_ENVIRONMENT["PATH"]) is None:
        other = "debootstrap" if build.tool == "mmdebstrap" else "mmdebstrap"
        raise ImageError(
            f"image {image}: {build.tool} is not installed; apt install {build.tool}, "
            f"or say build.tool: {other} in {file}"
        )
    if not recipe.keyring.is_file():
        way_out = "put the keys there"
        if build.keyring is None:
            package = KEYRINGS[distribution(build)].package
            way_out = f"apt install {package}, or put the keys into keys/ and name the file in build.keyring of {file}"
        raise ImageError(f"image {image}: {recipe.keyring} is missing; {way_out}")
    named = {
        **{f"build.repositories.{name}.keyring": path for name, path in recipe.repository_keyrings.items()},
        **{f"build.debs[{number}]": path for number, path in enumerate(recipe.debs)},
        **{f"build.scripts[{number}]": path for number, path in enumerate(recipe.scripts)},
    }
    for key, path in named.items():
        if not path.is_file():
            raise ImageError(f"image {image}: {path} is missing; put it there, or correct {key} of {file}")
    for path in recipe.scripts:
        with path.open("rb") as script:
            if script.read(2) != b"#!":
                raise ImageError(
                    f"image {image}: {path} does not say what runs it; begin it with #!/bin/sh or the like"
                )
    if both := sorted({*build.exclude} & {*build.packages}):
        raise ImageError(f"image {image}: {both[0]} is among build.exclude of {file}, and the variant's packages")


def tool_version(tool: str) -> str:
    """The version that the tool says it has (``1.3.5``)."""
    return run([tool, "--version"]).text.split()[-1]


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
    _write_keys(recipe, scratch / "keys")
    local, wanted = _local_packages(recipe, scratch / "debs")
    watch = Watch(f"image {recipe.image}")
    build = _Build(recipe, guest, root, scratch, Fetching(scratch / "network", proxy), watch, local, wanted)
    lay = _mmdebstrap if recipe.build.tool == "mmdebstrap" else _debootstrap
    try:
        lay(build)
        with _no_daemons(build):
            epoch = _complete(build)
    except ToolError as error:
        raise _explained(build, error) from error
    for script in recipe.scripts:
        run_script(recipe.image, guest, root, script, epoch, watch.line)
    _keep_sources(build)
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
        said = error.tail.splitlines()
        how = said[-1].strip() if said else f"exit status {error.status}"
        raise ImageError(f"image {image}: the script {script} failed: {how}") from error
    finally:
        guest.remove(_SCRIPT)


def _write_keys(recipe: Recipe, directory: Path) -> None:
    for name, path in {**recipe.repository_keyrings, "archive": recipe.keyring}.items():
        try:
            (directory / f"{name}.gpg").write_bytes(archives.public_keys(path))
        except ImageError as error:
            raise ImageError(f"image {recipe.image}: {error}") from error


def _local_packages(recipe: Recipe, directory: Path) -> tuple[tuple[Source, ...], tuple[str, ...]]:
    if not recipe.debs:
        return (), ()
    try:
        source, wanted = archives.local_packages(recipe.debs, directory, recipe.build.arch)
    except ImageError as error:
        raise ImageError(f"image {recipe.image}: {error}") from error
    return (source,), wanted


def _mmdebstrap(build: _Build) -> None:
    """Lay the essential packages and apt."""
    said = build.recipe.build
    mirror, security = said.mirror, said.security_mirror
    if mirror is None:
        mirror, security = _default_mirrors(build)
    lines = _write_settings(build, mirror, security)
    _write_pins(build, (*said.exclude, _MERGER))
    for name in _MERGED if said.suite in TO_BE_MERGED else ():
        build.guest.mkdir(f"/usr/{name}")
        build.guest.symlink(f"usr/{name}", f"/{name}")
    run_isolated(
        [
            *("mmdebstrap", "--mode=root", "--format=directory", "--variant=apt", "--verbose"),
            f"--architectures={said.arch}",
            f'--aptopt=Dir::Etc::Preferences "{build.scratch}/preferences"',
            # A file takes the place of the node's trusted.gpg, a directory that of its trusted.gpg.d.
            f"--keyring={build.scratch}/keys/archive.gpg",
            f"--keyring={build.scratch}/no-further-keys",
            *("--skip=check/empty", "--skip=check/signed-by", "--skip=chroot/mount/sys", "--skip=cleanup/apt"),
            *(said.suite, str(build.root), *lines),
        ],
        build.watch.line,
        fetching=build.fetching,
    )
    _write_pins(build, said.exclude)


def _default_mirrors(build: _Build) -> tuple[str, str | None]:
    """Mmdebstrap's mirror for the suite, and where that has security updates. Nothing is fetched."""
    probe = build.scratch / "probe"
    quickly = ["--mode=root", "--format=directory", "--variant=custom", "--skip=update", "--skip=cleanup"]
    run_isolated(["mmdebstrap", *quickly, build.recipe.build.suite, probe], build.watch.line)
    found = archives.mirrors_of((probe / _SOURCES[1:]).read_text(), build.recipe.build.suite)
    shutil.rmtree(probe)
    return found


def _debootstrap(build: _Build) -> None:
    """Lay the required packages and apt."""
    said = build.recipe.build
    target = [said.suite, str(build.root), *([said.mirror] if said.mirror else [])]
    if not (_DEBOOTSTRAP_SCRIPTS / said.suite).exists():
        target = [*target[:2], said.mirror or "", str(_DEBOOTSTRAP_SCRIPTS / _ANY_SUITE[distribution(said)])]
    run_isolated(
        [
            *("debootstrap", "--variant=minbase", f"--arch={said.arch}", f"--components={','.join(said.components)}"),
            f"--keyring={build.scratch}/keys/archive.gpg",
            *([f"--exclude={','.join(said.exclude)}"] if said.exclude else []),
            *target,
        ],
        build.watch.line,
        fetching=build.fetching,
    )
    mirror = said.mirror or archives.mirrors_of(build.guest.read_text(_SOURCES), said.suite)[0]
    _write_settings(build, mirror, said.security_mirror)


def _write_settings(build: _Build, mirror: str, security_mirror: str | None) -> list[str]:
    """Write what apt goes by. Returns the lines of the sources."""
    keys = build.scratch / "keys"
    build.sources[:] = [*archives.sources(build.recipe.build, mirror, security_mirror, keys), *build.local]
    lines = [archives.one_line(source, signed_by=source.keyring, copying=True) for source in build.sources]
    (build.scratch / "sources.list").write_text("".join(f"{line}\n" for line in lines))
    _write_pins(build, build.recipe.build.exclude)
    (build.scratch / "apt.conf").write_text(_apt_settings(build))
    return lines


def _write_pins(build: _Build, never: Iterable[str]) -> None:
    """Have apt never install these packages (apt_preferences(5))."""
    pins = (f"Package: {name}\nPin: release *\nPin-Priority: -1\n" for name in never)
    (build.scratch / "preferences").write_text("\n".join(pins))


def _apt_settings(build: _Build) -> str:
    """An apt.conf(5) for an apt of the node that works on the tree and sees nothing of the node's configuration."""
    root, scratch, said = build.root, build.scratch, build.recipe.build
    recommends = str(said.recommends).lower()
    return f"""\
Dir "{root}";
Dir::State::Status "{root}/var/lib/dpkg/status";
Dir::Etc::SourceList "{scratch}/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "{scratch}/preferences";
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


def _complete(build: _Build) -> int:
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
def _no_daemons(build: _Build) -> Iterator[None]:
    """Keep packages from starting daemons, as long as nothing fails; a tree that failed is thrown away."""
    build.guest.write(_POLICY, "#!/bin/sh\nexit 101\n", mode=0o755)
    owned = build.guest.read_text("/var/lib/dpkg/info/dpkg.list").splitlines()
    starter = next(line for line in owned if line.endswith("/sbin/start-stop-daemon"))
    _divert(build, "--add", starter)
    build.guest.write(starter, "#!/bin/sh\nexit 0\n", mode=0o755)
    yield
    build.guest.remove(starter)
    _divert(build, "--remove", starter)


def _divert(build: _Build, action: str, path: str) -> None:
    """Move a program out of the way, or back, so that an upgrade of its package respects it (dpkg-divert(1))."""
    build.chroot("dpkg-divert", "--local", "--rename", "--divert", f"{path}.real", action, path)


def _keep_sources(build: _Build) -> None:
    """Let the image's own apt go on with the same sources, each with its keys."""
    guest, said = build.guest, build.recipe.build
    own_keys = said.keyring is not None
    archive = [source for source in build.sources if not source.key.startswith(("repositories.", "debs"))]
    key = _KEYS / "archive.gpg"
    lines = [archives.one_line(source, signed_by=key if own_keys else None) for source in archive]
    guest.write(_SOURCES, "".join(f"{line}\n" for line in lines))
    if own_keys:
        guest.write(str(key), (build.scratch / "keys" / key.name).read_bytes())
    for source in build.sources:
        if source.key.startswith("repositories."):
            name = source.key.partition(".")[2]
            key = _KEYS / f"{name}.gpg"
            guest.write(str(key), (build.scratch / "keys" / key.name).read_bytes())
            guest.write(f"/etc/apt/sources.list.d/{name}.sources", archives.stanza(source, signed_by=key))


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


def _explained(build: _Build, error: ToolError) -> ImageError:
    """Why the tools failed."""
    recipe, watch = build.recipe, build.watch
    if build.guest.exists(_DEBOOTSTRAP_LOG):  # it says what wget, tar and dpkg said there and nowhere else
        watch.lines.extend(build.guest.read_text(_DEBOOTSTRAP_LOG).splitlines())
    last = error.tail.splitlines()[-1].strip() if error.tail else str(error)
    if causes.is_out_of_space(watch.lines):
        return OutOfSpace(f"image {recipe.image}: {last}")
    return ImageError(f"image {recipe.image}: {causes.explain(watch.lines, recipe, build.sources, last)}")
