"""What is asked of the tools before they lay a system."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.system.disk.support import in_mount_namespace

ASK = """
from pathlib import Path
from osprovider.config.model import BootstrapBuild, Image
from osprovider.images.builder.base import _default_mirrors
from osprovider.images.builder.build import Build
from osprovider.images.builder.isolation import Fetching
from osprovider.images.builder.watch import Watch
from osprovider.images.recipe import Recipe
place = Path(sys.argv[1])
recipe = Recipe("test", Image(build=BootstrapBuild(suite=sys.argv[2], distribution=sys.argv[3])), "ext4")
build = Build(recipe, None, place / "root", place, Fetching(place / "network"), Watch("test"), (), ())
print(*_default_mirrors(build))
"""

FURTHER = ("/usr/share/debootstrap/scripts", "/usr/share/distro-info")


def test_the_default_mirrors_are_known_without_keys_of_the_nodes_own_and_nothing_in_its_tmp(
    run_directory: Path,
) -> None:
    """Debian 13 has no keys in trusted.gpg.d; and what a build that is killed has left in /tmp, nobody removes."""
    without = "mount -t tmpfs none /etc/apt/trusted.gpg.d; mount --bind /tmp /tmp; mount -o remount,bind,ro /tmp"
    with tempfile.TemporaryDirectory(dir=run_directory) as place:
        said = in_mount_namespace(without, ASK, place, "bookworm", "auto").splitlines()[-1]
    assert [url.rpartition("/")[2] for url in said.split()] == ["debian", "debian-security"]


@pytest.mark.parametrize(("suite", "distribution"), [("noble", "auto"), ("yggdrasil", "ubuntu")])
def test_the_default_mirror_of_an_ubuntu_is_known_where_mmdebstrap_stands_alone(
    suite: str, distribution: str, run_directory: Path
) -> None:
    """Its list of Ubuntu's suites ends in 2018; files of debootstrap and of distro-info-data bring the later ones."""
    alone = "\n".join(f"[ ! -d {each} ] || mount -t tmpfs none {each}" for each in FURTHER)
    with tempfile.TemporaryDirectory(dir=run_directory) as place:
        said = in_mount_namespace(alone, ASK, place, suite, distribution).splitlines()[-1]
    assert [url.rpartition("/")[2] for url in said.split()] == ["ubuntu", "ubuntu"]
