"""Debian packages and repositories of a test's own: real ones, made by dpkg-deb(1) and signed by gpg(1).

Not for: packages that do anything useful.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Mapping, Sequence
from email.utils import formatdate
from pathlib import Path

from tests.support.openpgp import Keys

__all__ = ["make_deb", "make_repository"]

_EPOCH = 1700000000  # of all that is made here


def make_deb(
    directory: Path, name: str, version: str = "1.0", *, postinst: str = "", fields: Mapping[str, str] | None = None
) -> Path:
    """Make a package of one file, ``/usr/share/NAME``, which holds its version.

    Args:
        directory: where the package is made.
        name: its name.
        version: its version.
        postinst: the script that configures it; none when empty.
        fields: further fields of its control file, or others than usual.
    """
    tree = directory / f"{name}-{version}-tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "usr" / "share").mkdir(parents=True)
    (tree / "usr" / "share" / name).write_text(f"{version}\n")
    control = {
        "Package": name,
        "Version": version,
        "Architecture": "all",
        "Maintainer": "Nobody <nobody@example.org>",
        "Description": "nothing",
        **(fields or {}),
    }
    (tree / "DEBIAN" / "control").write_text("".join(f"{field}: {value}\n" for field, value in control.items()))
    if postinst:
        (tree / "DEBIAN" / "postinst").write_text(postinst)
        (tree / "DEBIAN" / "postinst").chmod(0o755)
    path = directory / f"{name}_{version}_{control['Architecture']}.deb"
    environ = {"PATH": "/usr/bin:/bin", "SOURCE_DATE_EPOCH": str(_EPOCH)}
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "--build", tree, path], check=True, capture_output=True, env=environ
    )
    return path


def make_repository(directory: Path, suite: str, debs: Sequence[Path], keys: Keys, *signers: str) -> None:
    """Make a repository with a component ``main`` for amd64.

    Args:
        directory: the repository, made here.
        suite: its only one.
        debs: what it has.
        keys: has the keys of ``signers``, which sign it.
        signers: see there.
    """
    entries = []
    for deb in debs:
        data = deb.read_bytes()
        place = directory / "pool" / deb.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        control = subprocess.run(["dpkg-deb", "--field", deb], check=True, capture_output=True, text=True).stdout
        digest = hashlib.sha256(data).hexdigest()
        entries.append(f"{control}Filename: pool/{deb.name}\nSize: {len(data)}\nSHA256: {digest}\n")
    index = directory / "dists" / suite / "main" / "binary-amd64" / "Packages"
    index.parent.mkdir(parents=True)
    index.write_text("\n".join(entries))
    data = index.read_bytes()
    release = directory / "Release"
    release.write_text(
        f"Origin: test\nSuite: {suite}\nCodename: {suite}\nDate: {formatdate(_EPOCH, usegmt=True)}\n"
        "Architectures: amd64\nComponents: main\n"
        f"SHA256:\n {hashlib.sha256(data).hexdigest()} {len(data)} main/binary-amd64/Packages\n"
    )
    (directory / "dists" / suite / "InRelease").write_bytes(keys.sign(release, *signers, how="--clearsign"))
