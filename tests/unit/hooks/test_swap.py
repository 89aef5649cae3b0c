"""The hook swap."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import pytest

from osprovider.config.model import Layout, Swap, Variant
from osprovider.customize.context import Context
from osprovider.disk.raw import data_ranges
from osprovider.layout import derived_uuid
from osprovider.manifest import Distribution
from tests.support.boot_context import run_hook
from tests.unit.hooks.trees import context, snapshot

MIB = 1 << 20


def asked(scratch: Path, size: str = "8MiB") -> Context:
    scratch.mkdir()
    return dataclasses.replace(context(variant=Variant(layout=Layout(swap=Swap("file", size=size)))), scratch=scratch)


def test_the_file_is_swap_whole_and_for_root_alone(tmp_path: Path) -> None:
    (root := tmp_path / "root").mkdir()
    made = asked(tmp_path / "scratch")
    for _ in range(2):
        run_hook("swap", root, made)
        status = (root / "swapfile").stat()
        assert (status.st_size, status.st_mode & 0o7777) == (8 * MIB, 0o600)
        assert status.st_blocks * 512 >= 8 * MIB
    blkid = ["blkid", "-p", "-o", "export", str(root / "swapfile")]
    said = subprocess.run(blkid, capture_output=True, text=True, check=True).stdout.splitlines()
    assert {"TYPE=swap", f"UUID={derived_uuid(made.instance.uuid, 'swap file')}"} <= set(said)
    assert list(snapshot(root)) == ["/swapfile"]


@pytest.mark.parametrize("swap", [Swap(), Swap("memory"), Swap("partition", size="1GiB"), Swap("disk", disk="1")])
def test_without_one_in_the_variant_there_is_none(tmp_path: Path, swap: Swap) -> None:
    run_hook("swap", tmp_path, context(variant=Variant(layout=Layout(swap=swap))))
    assert snapshot(tmp_path) == {}


@pytest.mark.parametrize("hypervisor", ["lxc", "chroot"])
def test_a_container_gets_none(tmp_path: Path, hypervisor: str) -> None:
    (root := tmp_path / "root").mkdir()
    made = asked(tmp_path / "scratch")
    instance = dataclasses.replace(made.instance, hypervisor=hypervisor)
    run_hook("swap", root, dataclasses.replace(made, instance=instance))
    assert snapshot(root) == {}


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (root := tmp_path / "root").mkdir()
    (root / "target").write_text("stays\n")
    (root / "swapfile").symlink_to("target")
    run_hook("swap", root, asked(tmp_path / "scratch"))
    assert (root / "target").read_text() == "stays\n"
    assert not (root / "swapfile").is_symlink()


@pytest.mark.parametrize(
    ("filesystem", "distribution", "written"),
    [("xfs", ("centos", "7"), True), ("xfs", ("debian", "12"), False), ("ext4", ("centos", "7"), False)],
)
def test_an_old_kernel_gets_it_written_where_it_takes_what_is_not_for_holes(
    tmp_path: Path, filesystem: str, distribution: tuple[str, str], written: bool
) -> None:
    made = asked(tmp_path / "scratch")
    assert made.manifest is not None
    manifest = dataclasses.replace(made.manifest, distribution=Distribution(*distribution, "", ""))
    parts = tuple(dataclasses.replace(part, filesystem=filesystem) for part in made.disks[0].partitions)
    disk = dataclasses.replace(made.disks[0], partitions=parts)
    (root := tmp_path / "root").mkdir()
    run_hook("swap", root, dataclasses.replace(made, manifest=manifest, disks=(disk,)))
    with (root / "swapfile").open("rb") as file:
        assert (list(data_ranges(file.fileno(), 4096, 8 * MIB)) == [(4096, 8 * MIB - 4096)]) is written
