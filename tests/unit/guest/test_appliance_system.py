"""What supermin is told to build the appliance of."""

from __future__ import annotations

import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from osprovider.guest import appliance_system
from osprovider.guest.appliance_system import make_system


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """What libguestfs brings, in a place beside one that is not there."""
    directory = tmp_path / "guestfs" / "supermin.d"
    directory.mkdir(parents=True)
    directory.joinpath("packages").write_text("e2fsprogs\nlibtsk19t64\nlvm2\nmdadm\nudev\n")
    directory.joinpath("packages-xfs").write_text("xfsprogs\n")
    for name in ("daemon.tar.gz", "hostfiles", "init.tar.gz", "udev-rules.tar.gz"):
        directory.joinpath(name).write_text(name)
    return directory


@pytest.fixture
def ours(theirs: Path, tmp_path: Path) -> Path:
    make_system(f"{tmp_path}/missing:{theirs.parent}", tmp_path)
    return tmp_path / "supermin.d"


def test_it_has_all_that_libguestfs_needs_and_no_program_that_assembles_disks(ours: Path) -> None:
    assert (ours / "packages").read_text().split() == ["e2fsprogs", "libtsk19t64"]
    assert (ours / "packages-xfs").read_text().split() == ["xfsprogs"]
    assert (ours / "daemon.tar.gz").read_text() == "daemon.tar.gz"
    assert (ours / "hostfiles").read_text() == "hostfiles"


def test_its_init_takes_the_place_of_libguestfs_own(ours: Path) -> None:
    assert {path.name for path in ours.iterdir()}.isdisjoint({"init.tar.gz", "udev-rules.tar.gz"})
    with tarfile.open(ours / "osprovider.tar") as archive:
        (init,) = archive.getmembers()
        script = archive.extractfile(init)
        assert script is not None
        subprocess.run(["sh", "-n"], input=script.read(), check=True)
    assert (init.name, init.mode) == ("init", 0o755)


def test_it_is_as_old_as_what_it_is_made_of_so_that_it_is_built_once(theirs: Path, tmp_path: Path) -> None:
    code = Path(appliance_system.__file__).stat().st_mtime_ns
    older, newer = code - 10**9, code + 10**9
    for path in (*theirs.iterdir(), theirs):
        os.utime(path, ns=(older, older))
    places = [tmp_path / "first", tmp_path / "second"]
    for place in places:
        place.mkdir()
    make_system(str(theirs.parent), places[0])
    os.utime(theirs / "daemon.tar.gz", ns=(newer, newer))
    make_system(str(theirs.parent), places[1])
    assert [(place / "supermin.d").stat().st_mtime_ns for place in places] == [code, newer]


def test_a_libguestfs_without_its_parts_is_told(tmp_path: Path) -> None:
    with pytest.raises(
        RuntimeError, match=r"has no supermin\.d in /.*: reinstall libguestfs0 \(Debian 13: libguestfs0t64\)"
    ):
        make_system(str(tmp_path), tmp_path / "place")
