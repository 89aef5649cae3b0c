"""Where the packages of a build come from: the distribution's archive, further repositories, and files of the site's.

Each source is trusted for its own keys and no others, while the image is built and in the image.
Not for: fetching (apt's, and :mod:`osprovider.images.builder.isolation`).
Sources: sources.list(5); https://wiki.debian.org/SourcesList; https://wiki.debian.org/DebianRepository/Format.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from osprovider.config.model import BootstrapBuild
from osprovider.errors import ImageError, ToolError
from osprovider.images.builder.distributions import ROLLING, distribution
from osprovider.images.sources.signatures import dearmoured
from osprovider.run import run

__all__ = [
    "Source",
    "local_packages",
    "mirrors_of",
    "one_line",
    "public_keys",
    "sources",
    "stanza",
]


@dataclass(frozen=True, slots=True)
class Source:
    """A suite of packages.

    Attributes:
        key: what the definition says of it (``mirror``, ``repositories.NAME``).
        url: where it is.
        suite: see sources.list(5).
        components: likewise.
        keyring: a file of the keys that have to have signed it, in binary; None for files of ours.
        switch: the key that would leave it out (``security``), where there is one.
    """

    key: str
    url: str
    suite: str
    components: tuple[str, ...]
    keyring: Path | None
    switch: str | None = None


def mirrors_of(text: str, suite: str) -> tuple[str, str | None]:
    """Read a sources.list(5) that a tool wrote for a suite.

    Returns:
        the URL of its mirror, and the one of its security updates where it has them.

    Raises:
        ImageError: it says nothing of the suite.
    """
    found = {words[2]: words[1] for words in map(str.split, text.splitlines()) if words[:1] == ["deb"]}
    if suite not in found:
        raise ImageError(f"no mirror of {suite} is known: say which in build.mirror")
    return found[suite], found.get(f"{suite}-security")


def sources(build: BootstrapBuild, mirror: str, security_mirror: str | None, keyrings: Path) -> tuple[Source, ...]:
    """All that a build takes packages from, the archive first.

    Args:
        build: see there.
        mirror: its own, or the tool's default.
        security_mirror: likewise; None for where a mirror has security updates as a rule.
        keyrings: the directory with ``archive.gpg``, and ``NAME.gpg`` for the repository NAME.
    """
    base = Source("mirror", mirror.rstrip("/"), build.suite, build.components, keyrings / "archive.gpg")
    found = [base]
    if build.suite not in ROLLING:
        if build.updates:
            found.append(replace(base, suite=f"{build.suite}-updates", switch="updates"))
        if build.security:
            usual = base.url if distribution(build) == "ubuntu" else f"{base.url}-security"
            place = (security_mirror or usual).rstrip("/")
            key = "security_mirror" if build.security_mirror else "mirror"
            found.append(replace(base, key=key, url=place, suite=f"{build.suite}-security", switch="security"))
    for name, repository in sorted(build.repositories.items()):
        keys, url = keyrings / f"{name}.gpg", repository.url.rstrip("/")
        found.append(Source(f"repositories.{name}", url, repository.suite, repository.components, keys))
    return tuple(found)


def one_line(source: Source, *, signed_by: Path | None, copying: bool = False) -> str:
    """A source as a line of sources.list(5).

    Args:
        source: see there.
        signed_by: the file of its keys, where the line should say so.
        copying: packages of ``file:`` are copied, as where a tree is not beneath the same root.
    """
    options = f"[signed-by={signed_by}] " if signed_by else "[trusted=yes] " if source.keyring is None else ""
    url = source.url.replace("file:", "copy:", 1) if copying and source.url.startswith("file:") else source.url
    return " ".join([f"deb {options}{url}", source.suite, *source.components])


def stanza(source: Source, *, signed_by: Path) -> str:
    """A source as a file beneath sources.list.d (sources.list(5), "DEB822-STYLE FORMAT")."""
    lines = ["Types: deb", f"URIs: {source.url}", f"Suites: {source.suite}"]
    if source.components:
        lines.append(f"Components: {' '.join(source.components)}")
    return "\n".join([*lines, f"Signed-By: {signed_by}", ""])


def public_keys(path: Path) -> bytes:
    """The public keys of a file, in binary whatever they are.

    Raises:
        ImageError: it holds none, or a secret one, which must not get into an image.
    """
    data = path.read_bytes()
    is_secret = b"-----BEGIN PGP PRIVATE KEY BLOCK-----" in data
    data = data if is_secret else dearmoured(data, path)
    tag = data[0] if data else 0
    # RFC 9580, 4.2: the high bit is set; then the old format's two or the new one's six bits of type.
    kind = 0 if not tag & 0x80 else tag & 0x3F if tag & 0x40 else tag >> 2 & 0xF
    if is_secret or kind == 5:
        raise ImageError(f"{path}: holds a secret key, which an image must not have: gpg --export has the public ones")
    if kind != 6:
        raise ImageError(f"{path}: holds no OpenPGP keys: export them again (gpg --export)")
    return data


def local_packages(paths: Sequence[Path], directory: Path, architecture: str) -> tuple[Source, tuple[str, ...]]:
    """Make a repository of package files.

    Args:
        paths: the files.
        directory: an empty directory for it.
        architecture: what they have to be for, if not for all.

    Returns:
        the repository, and what to install of it: ``NAME=VERSION``.

    Raises:
        ImageError: a file is no package, does not say what it is, or is another architecture's.
    """
    index, wanted = [], []
    for number, path in enumerate(paths):
        try:
            control = run(["dpkg-deb", "--field", path]).text
        except ToolError as error:
            why = error.last_line or "dpkg-deb cannot read it"
            raise ImageError(f"{path}: no Debian package: {why}") from error
        fields = _fields(control.splitlines())
        for name in ("Package", "Version", "Architecture"):
            if name not in fields:
                raise ImageError(f"{path}: does not say its {name}, as every Debian package does: build it again")
        if fields["Architecture"] not in {architecture, "all"}:
            raise ImageError(f"{path}: is for {fields['Architecture']}, and the image for {architecture}: remove it")
        copy = directory / f"{number}.deb"
        shutil.copyfile(path, copy)
        with copy.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        index.append(f"{control}\nFilename: ./{copy.name}\nSize: {copy.stat().st_size}\nSHA256: {digest}\n")
        wanted.append(f"{fields['Package']}={fields['Version']}")
    (directory / "Packages").write_text("\n".join(index))
    return Source("debs", f"copy:{directory}", "./", (), None), tuple(wanted)


def _fields(lines: Iterable[str]) -> dict[str, str]:
    """The fields of a control file (deb822(5)), without those of several lines."""
    pairs = (line.partition(":") for line in lines if not line.startswith((" ", "\t")))
    return {name: value.strip() for name, _, value in pairs}
