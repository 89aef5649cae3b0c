"""What a guest is taken to know of file systems, by its os-release(5)."""

from __future__ import annotations

import pytest
import yaml

from osprovider.disk.features import unknown_to
from osprovider.manifest import Distribution
from tests.support.template import CHECKOUT

OLDER_THAN_64BIT = {"metadata_csum", "64bit"}
XFS = {"bigtime", "inobtcount", "reflink", "sparse"}


def unknown(name: str, version: str, filesystem: str) -> set[str]:
    return set(unknown_to(Distribution(name, version, "", ""), filesystem))


@pytest.mark.parametrize(
    ("name", "version", "ext4"),
    [
        ("debian", "6", OLDER_THAN_64BIT),
        ("debian", "7", {"metadata_csum"}),
        ("debian", "8", {"metadata_csum"}),
        ("debian", "9", set()),
        ("debian", "13", set()),
        ("debian", "", set()),
        ("ubuntu", "10.04", OLDER_THAN_64BIT),
        ("ubuntu", "14.04", {"metadata_csum"}),
        ("ubuntu", "16.04", {"metadata_csum"}),
        ("ubuntu", "18.04", set()),
        ("ubuntu", "24.04", set()),
        ("centos", "6.10", OLDER_THAN_64BIT),
        ("centos", "7", {"metadata_csum"}),
        ("rhel", "7.9", {"metadata_csum"}),
        ("rocky", "8.10", set()),
        ("almalinux", "10.1", set()),
        ("amzn", "2", {"metadata_csum"}),
        ("amzn", "2023", set()),
        ("sles", "12.5", {"metadata_csum"}),
        ("opensuse", "42.3", {"metadata_csum"}),
        ("opensuse-leap", "15.6", set()),
        ("arch", "", set()),
        ("alpine", "3.23.4", set()),
        ("linux", "", OLDER_THAN_64BIT),
    ],
)
def test_an_ext4_has_what_the_guests_own_checker_knows(name: str, version: str, ext4: set[str]) -> None:
    assert unknown(name, version, "ext4") == ext4


@pytest.mark.parametrize(
    ("name", "version", "xfs"),
    [
        ("centos", "7", XFS),
        ("debian", "9", XFS),
        ("debian", "10", XFS - {"reflink"}),
        ("debian", "11", set()),
        ("ubuntu", "16.04", XFS),
        ("ubuntu", "20.04", {"bigtime", "inobtcount"}),
        ("ubuntu", "22.04", set()),
        ("rocky", "8.10", {"bigtime", "inobtcount"}),
        ("rocky", "9.6", set()),
        ("opensuse-leap", "15.3", {"bigtime", "inobtcount"}),
        ("fedora", "43", set()),
    ],
)
def test_an_xfs_has_what_the_guests_kernel_and_grub_know(name: str, version: str, xfs: set[str]) -> None:
    assert unknown(name, version, "xfs") == xfs


def test_a_btrfs_has_the_free_space_tree_where_the_kernel_keeps_it_well() -> None:
    assert unknown("ubuntu", "16.04", "btrfs") == {"free-space-tree"}
    assert unknown("debian", "9", "btrfs") == set()


@pytest.mark.parametrize("filesystem", ["ext3", "ext2", "vfat", "swap"])
def test_other_file_systems_have_nothing_that_came_late(filesystem: str) -> None:
    assert unknown("debian", "6", filesystem) == set()


def test_every_image_that_is_built_from_the_shipped_definitions_knows_all() -> None:
    suites = {"bullseye": "11", "bookworm": "12", "trixie": "13", "jammy": "22.04", "noble": "24.04"}
    builds = [yaml.safe_load(path.read_text()).get("build") for path in (CHECKOUT / "images").glob("*.yaml")]
    found = {build["suite"] for build in builds if build}
    assert found == set(suites)
    for suite in found:
        name = "ubuntu" if "." in suites[suite] else "debian"
        assert not any(unknown(name, suites[suite], filesystem) for filesystem in ("ext4", "xfs", "btrfs"))
