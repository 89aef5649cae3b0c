"""The packages that a system has, from the lists that its package managers keep; none of its programs runs.

dpkg's, apk's and pacman's lists are text and read here; an rpm database is read in the sandbox
(:mod:`osprovider.images.rpmdb`). All of them are anybody's: what is endless or no package is left out.
Sources: deb-control(5) and dpkg(1), "/var/lib/dpkg/status"; apk-tools' src/database.c (``lib/apk/db/installed``);
pacman's lib/libalpm/be_local.c (``local/NAME-VERSION/desc``); rpm's rpmdb locations of Fedora and SUSE.
Not for: what a package is made of, or what is known of it elsewhere.
"""

from __future__ import annotations

import dataclasses
import json
import os
import stat
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Literal

from osprovider.descriptors import opened, path_of
from osprovider.errors import GuestError, ImageError, ToolError, reason_of
from osprovider.guest.host import HostGuest
from osprovider.guest.resolve import open_inside
from osprovider.images import rpmdb
from osprovider.log import reporter
from osprovider.manifest import Manifest
from osprovider.run import running
from osprovider.sandbox import confine

__all__ = ["LIST", "Package", "find_damage", "load", "read", "save"]

LIST = "packages.json"
"""Lies beside a template's manifest."""

_DPKG = "/var/lib/dpkg/status"
_APK = ("/lib/apk/db/installed", "/usr/lib/apk/db/installed")
_PACMAN = "/var/lib/pacman/local/*/desc"
_RPM = tuple(
    f"{directory}/{name}"
    for directory in ("/usr/lib/sysimage/rpm", "/var/lib/rpm")
    for name in ("rpmdb.sqlite", "Packages.db", "Packages")
)

_MOST = 100_000
_LONGEST = 1024  # characters of a field; the longest real one is an rpm's licence of some 600
_LARGEST_DATABASE = 2 << 30
_CHUNK = 1 << 20
_RPM_MEMORY = 512 << 20
_RPM_SECONDS = 120
_LONGEST_LINE = 1 << 16


@dataclass(frozen=True, slots=True, order=True)
class Package:
    """An installed package.

    Attributes:
        type: what manages it, as package URLs name it.
        name: the package's.
        version: as its manager compares it (``1:2.3-4``).
        architecture: as its manager names it (``amd64``, ``x86_64``, ``noarch``).
        source: the name of what it was built from; empty where nobody says.
        license: as the package says; empty likewise, which is so for each of Debian's.
    """

    type: Literal["deb", "rpm", "apk", "alpm"]
    name: str
    version: str
    architecture: str
    source: str = ""
    license: str = ""


def read(guest: HostGuest, scratch: Path, name: str) -> tuple[Package, ...]:
    """The packages that a system's managers say are installed, sorted.

    Args:
        guest: the system.
        scratch: an existing directory that has room for a copy of a database.
        name: the image definition's name. What cannot be read is warned of, and its packages are left out: an
            instance does without the list.
    """
    found: set[Package] = set()
    for path, packages in _lists(guest, scratch):
        try:
            found |= _all_of(packages)
        except (GuestError, ImageError, ToolError, OSError, ValueError, TypeError, AttributeError) as error:
            reporter.warning(f"image {name}: packages are not listed, since {path} cannot be read: {error}")
    return tuple(sorted(found))


def _all_of(packages: Iterator[Package]) -> set[Package]:
    listed = set(islice(packages, _MOST + 1))
    if len(listed) > _MOST:
        raise ImageError(f"it lists more than {_MOST}")
    return listed


def save(packages: Iterable[Package], directory: Path) -> int:
    """Write the list beside a manifest, synced.

    Returns:
        its checksum (zlib's CRC-32), for the manifest.
    """
    text = json.dumps({"packages": [dataclasses.asdict(package) for package in packages]}, indent=1).encode() + b"\n"
    with (directory / LIST).open("wb") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return zlib.crc32(text)


def load(directory: Path, manifest: Manifest) -> tuple[Package, ...]:
    """Read what :func:`save` wrote.

    Raises:
        ImageError: it is not there, or damaged.
    """
    text, damage = _look(directory, manifest)
    if damage:
        raise ImageError(
            f"{directory}: {damage}; osprovider image verify {manifest.image} removes it, to be prepared again"
        )
    return tuple(Package(**each) for each in json.loads(text)["packages"])


def find_damage(directory: Path, manifest: Manifest) -> str | None:
    """What is wrong with the list beside a manifest; None where nothing is."""
    return _look(directory, manifest)[1]


def _look(directory: Path, manifest: Manifest) -> tuple[bytes, str | None]:
    """The list beside a manifest, read once, since it may be replaced; and what is wrong with it."""
    try:
        text = (directory / LIST).read_bytes()
    except OSError as error:
        return b"", f"{LIST} cannot be read: {reason_of(error)}"
    return text, None if zlib.crc32(text) == manifest.packages_crc32 else f"the checksum of {LIST} is wrong"


def _lists(guest: HostGuest, scratch: Path) -> Iterator[tuple[str, Iterator[Package]]]:
    """The lists that a system has, by their paths."""
    if guest.exists(_DPKG):
        yield _DPKG, _dpkg(guest)
    if path := next(filter(guest.exists, _APK), None):  # both are one where /usr is merged
        yield path, _apk(guest, path)
    if descriptions := guest.glob(_PACMAN):
        yield _PACMAN, _pacman(guest, descriptions)
    if path := next(filter(guest.exists, _RPM), None):
        yield path, _rpm(guest, path, scratch)


def _dpkg(guest: HostGuest) -> Iterator[Package]:
    for fields in _paragraphs(guest.read_text(_DPKG), ": "):
        if fields.get("Status", "").split()[-1:] == ["installed"]:
            source = fields.get("Source", "").partition(" ")[0]
            yield from _package("deb", fields, "Package", "Version", "Architecture", source or fields.get("Package"))


def _apk(guest: HostGuest, path: str) -> Iterator[Package]:
    for fields in _paragraphs(guest.read_text(path), ":"):
        yield from _package("apk", fields, "P", "V", "A", fields.get("o"), fields.get("L"))


def _pacman(guest: HostGuest, paths: Iterable[str]) -> Iterator[Package]:
    """A description each: ``%NAME%`` and lines until an empty one."""
    for path in paths:
        fields: dict[str, str] = {}
        for block in guest.read_text(path).split("\n\n"):
            key, _, value = block.strip("\n").partition("\n")
            fields.setdefault(key.strip("%"), " AND ".join(value.split("\n")) if key == "%LICENSE%" else value)
        yield from _package("alpm", fields, "NAME", "VERSION", "ARCH", fields.get("BASE"), fields.get("LICENSE"))


def _paragraphs(text: str, sign: str) -> Iterator[dict[str, str]]:
    """Fields of one line each; what continues one is left out."""
    for block in text.split("\n\n"):
        pairs = (line.partition(sign) for line in block.split("\n") if line[:1] not in (" ", "\t"))
        yield {key: value.strip() for key, found, value in pairs if found}


def _package(
    type_: Literal["deb", "rpm", "apk", "alpm"],
    fields: dict[str, str],
    name: str,
    version: str,
    architecture: str,
    source: str | None,
    licence: str | None = None,
) -> Iterator[Package]:
    """A package from the fields of these names, if it is one."""
    values = [fields.get(name, ""), fields.get(version, ""), fields.get(architecture, ""), source or "", licence or ""]
    if values[0] and values[1] and all(len(each) <= _LONGEST and each.isprintable() for each in values):
        yield Package(type_, *values)


def _rpm(guest: HostGuest, path: str, scratch: Path) -> Iterator[Package]:
    with tempfile.TemporaryDirectory(dir=scratch) as directory:
        database = Path(directory) / "database"
        _copy_out(guest, path, database)
        for line in _rpm_lines(database):
            fields: dict[str, str] = json.loads(line)
            if fields.get("name") == "gpg-pubkey":  # a key that rpm trusts, kept among the packages
                continue
            epoch = f"{fields['epoch']}:" if fields.get("epoch", "0") != "0" else ""
            fields["evr"] = f"{epoch}{fields.get('version', '')}-{fields.get('release', '')}"
            source = fields.get("source", "").rsplit("-", 2)[0]
            yield from _package("rpm", fields, "name", "evr", "arch", source, fields.get("license"))


def _copy_out(guest: HostGuest, path: str, target: Path) -> None:
    """Copy a file of the guest's, for a program that opens it by a name."""
    with opened(open_inside(guest.root_fd, path, os.O_PATH)) as found:
        if not stat.S_ISREG(os.fstat(found).st_mode):
            raise ImageError("it is no regular file")
        with open(path_of(found), "rb") as source:  # noqa: PTH123
            _copy(source, target)


def _copy(source: BinaryIO, target: Path) -> None:
    left = _LARGEST_DATABASE
    with target.open("wb") as file:
        while chunk := source.read(_CHUNK):
            left -= len(chunk)
            if left < 0:
                raise ImageError(f"it is larger than {_LARGEST_DATABASE} bytes")
            file.write(chunk)


def _rpm_lines(database: Path) -> Iterator[bytes]:
    argv = ["python3", "-I", "/rpmdb.py", "/database"]
    read_only = {Path(rpmdb.__file__): "/rpmdb.py", database: "/database"}
    boxed = confine(argv, read=read_only, memory_bytes=_RPM_MEMORY, cpu_seconds=_RPM_SECONDS)
    with tempfile.TemporaryFile() as log, open(os.devnull, "rb") as nothing:  # noqa: PTH123
        with running(boxed, stdin=nothing.fileno(), stderr=log.fileno()) as process:
            while process.stdout and (line := process.stdout.readline(_LONGEST_LINE)):
                if not line.endswith(b"\n"):
                    raise ImageError("what it says of a package does not end")
                yield line
            status = process.wait()
        if status != 0:
            log.seek(0)
            last = log.read(_LONGEST_LINE).decode(errors="replace").strip().splitlines()[-1:]
            raise ImageError("".join(last) or f"its reader ended with {status}")
