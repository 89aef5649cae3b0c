"""Lists of packages as each package manager keeps them, and as nobody should."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from osprovider.errors import ImageError
from osprovider.guest.host import HostGuest
from osprovider.images import packages
from osprovider.images.packages import Package
from tests.support.guests import directory_guest
from tests.support.manifests import manifest

DPKG = """\
Package: bash
Essential: yes
Status: install ok installed
Priority: required
Installed-Size: 7164
Architecture: amd64
Multi-Arch: foreign
Version: 5.2.15-2+b9
Depends: base-files (>= 2.1.12), debianutils (>= 5.6-0.1)
Description: GNU Bourne Again SHell
 Version: 0 of nothing, since this line continues one.
Source: bash (5.2.15-2)

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: half
Status: install reinstreq half-installed
Architecture: amd64
Version: 1

Package: base-files
Status: hold ok installed
Architecture: amd64
Version: 12.4+deb12u12
"""

APK = """\
C:Q1xyz=
P:busybox
V:1.37.0-r30
A:x86_64
S:510000
T:Size optimized toolbox: many applets
L:GPL-2.0-only
o:busybox
F:bin
R:busybox
a:0:0:755

C:Q1abc=
P:ssl_client
V:1.37.0-r30
A:x86_64
L:GPL-2.0-only
o:busybox

"""

PACMAN = """\
%NAME%
linux-firmware-whence

%VERSION%
1:20260110-1

%BASE%
linux-firmware

%ARCH%
any

%LICENSE%
custom
MIT

%DEPENDS%
%NAME%

"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    return root


@pytest.fixture
def guest(root: Path) -> Iterator[HostGuest]:
    with directory_guest(root) as guest:
        yield guest


def lay(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def test_dpkg(root: Path, guest: HostGuest, tmp_path: Path) -> None:
    lay(root, "var/lib/dpkg/status", DPKG)
    assert packages.read(guest, tmp_path, "test") == (
        Package("deb", "base-files", "12.4+deb12u12", "amd64", "base-files"),
        Package("deb", "bash", "5.2.15-2+b9", "amd64", "bash"),
    )


@pytest.mark.parametrize("place", ["lib", "usr/lib"])
def test_apk(place: str, root: Path, guest: HostGuest, tmp_path: Path) -> None:
    lay(root, f"{place}/apk/db/installed", APK)
    assert packages.read(guest, tmp_path, "test") == (
        Package("apk", "busybox", "1.37.0-r30", "x86_64", "busybox", "GPL-2.0-only"),
        Package("apk", "ssl_client", "1.37.0-r30", "x86_64", "busybox", "GPL-2.0-only"),
    )


def test_pacman(root: Path, guest: HostGuest, tmp_path: Path) -> None:
    lay(root, "var/lib/pacman/local/linux-firmware-whence-1:20260110-1/desc", PACMAN)
    lay(root, "var/lib/pacman/local/ALPM_DB_VERSION", "9\n")
    assert packages.read(guest, tmp_path, "test") == (
        Package("alpm", "linux-firmware-whence", "1:20260110-1", "any", "linux-firmware", "custom AND MIT"),
    )


def test_a_system_without_a_package_manager_has_none(guest: HostGuest, tmp_path: Path) -> None:
    assert packages.read(guest, tmp_path, "test") == ()


@pytest.mark.parametrize(
    "paragraph",
    [
        "Package: \nStatus: install ok installed\nVersion: 1\nArchitecture: amd64\n",
        "Package: unversioned\nStatus: install ok installed\nArchitecture: amd64\n",
        "Package: \x1b[2Jbad\nStatus: install ok installed\nVersion: 1\nArchitecture: amd64\n",
        f"Package: {'x' * 1025}\nStatus: install ok installed\nVersion: 1\nArchitecture: amd64\n",
        "Status: install ok installed\n",
        "no field at all\n",
        "Package: not-utf8-\udcff\nStatus: install ok installed\nVersion: 1\nArchitecture: amd64\n",
    ],
)
def test_what_is_no_package_is_left_out(paragraph: str, root: Path, guest: HostGuest, tmp_path: Path) -> None:
    (root / "var/lib/dpkg").mkdir(parents=True)
    (root / "var/lib/dpkg/status").write_text(f"{paragraph}\n{DPKG}", errors="surrogateescape")
    assert [package.name for package in packages.read(guest, tmp_path, "test")] == ["base-files", "bash"]


def test_a_list_without_an_end_is_left_out_with_a_warning(
    root: Path, guest: HostGuest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = "Package: p{}\nStatus: install ok installed\nVersion: 1\nArchitecture: all\n\n"
    lay(root, "var/lib/dpkg/status", "".join(entry.format(number) for number in range(100_001)))
    assert packages.read(guest, tmp_path, "test") == ()
    assert "warning: image test: packages are not listed, since /var/lib/dpkg/status" in capsys.readouterr().err


def test_a_list_that_is_too_large_to_be_one_is_left_out_with_a_warning(
    root: Path, guest: HostGuest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lay(root, "var/lib/dpkg/status", "")
    os.truncate(root / "var/lib/dpkg/status", 17 << 20)
    assert packages.read(guest, tmp_path, "test") == ()
    assert "larger than 16 MiB" in capsys.readouterr().err


def test_a_link_out_of_the_system_is_read_inside(root: Path, guest: HostGuest, tmp_path: Path) -> None:
    outside = tmp_path / "status"
    outside.write_text(DPKG)
    (root / "var/lib/dpkg").mkdir(parents=True)
    (root / "var/lib/dpkg/status").symlink_to(outside)
    assert packages.read(guest, tmp_path, "test") == ()


def test_the_list_is_read_as_it_was_written(root: Path, guest: HostGuest, tmp_path: Path) -> None:
    lay(root, "var/lib/dpkg/status", DPKG)
    found = packages.read(guest, tmp_path, "test")
    made = manifest(packages_crc32=packages.save(found, tmp_path))
    assert packages.load(tmp_path, made) == found


@pytest.mark.parametrize("content", [None, "", "[]", '{"packages": []}'])
def test_a_list_that_is_missing_or_damaged_is_said(content: str | None, tmp_path: Path) -> None:
    made = manifest(packages_crc32=packages.save((), tmp_path))
    path = tmp_path / packages.LIST
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(ImageError, match=r"packages\.json.*; osprovider image verify test removes it"):
        packages.load(tmp_path, made)
