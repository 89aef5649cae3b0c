"""What is asked of the tools before they lay a system."""

from __future__ import annotations

import tempfile
from pathlib import Path

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
recipe = Recipe("test", Image(build=BootstrapBuild(suite="bookworm")), "ext4")
build = Build(recipe, None, place / "root", place, Fetching(place / "network"), Watch("test"), (), ())
print(*_default_mirrors(build))
"""


def test_the_default_mirrors_are_known_without_keys_of_the_nodes_own_and_nothing_in_its_tmp(
    run_directory: Path,
) -> None:
    """Debian 13 has no keys in trusted.gpg.d; and what a build that is killed has left in /tmp, nobody removes."""
    without = "mount -t tmpfs none /etc/apt/trusted.gpg.d; mount --bind /tmp /tmp; mount -o remount,bind,ro /tmp"
    with tempfile.TemporaryDirectory(dir=run_directory) as place:
        said = in_mount_namespace(without, ASK, place).splitlines()[-1]
    assert [url.rpartition("/")[2] for url in said.split()] == ["debian", "debian-security"]
