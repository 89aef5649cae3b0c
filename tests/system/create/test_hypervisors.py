"""``create`` for hypervisors that start an instance otherwise than by a firmware: Xen's PV guests, and containers."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.leftovers import no_leftovers
from tests.support.runs import locked
from tests.support.small_system import lay_out
from tests.system.create.site import Site, debugfs, sfdisk

MIB = 1 << 20
PVGRUB = "/usr/lib/grub-xen/grub-x86_64-xen.bin"


@pytest.fixture(scope="session")
def prepared(run_directory: Path) -> Path:
    """A directory with two small systems, of which one has no kernel, and a cache of their templates."""
    directory = run_directory / "hypervisors"
    with locked(run_directory / "hypervisors.lock"):
        if not (directory / "ready").exists():
            directory.mkdir()
            lay_out(directory / "tree")
            _pack(directory, "kernel")
            for path in (directory / "tree/boot").iterdir():
                path.unlink()
            _pack(directory, "bare")
            site = _site(directory, directory)
            for name in ("kernel", "bare"):
                outcome = site.command("image", "build", name)
                assert outcome.status == 0, outcome.said
            (directory / "ready").touch()
    return directory


def _pack(directory: Path, name: str) -> None:
    subprocess.run(["tar", "-czf", str(directory / f"{name}.tar.gz"), "-C", str(directory / "tree"), "."], check=True)


def _site(directory: Path, prepared: Path) -> Site:
    site = Site(directory, prepared / "cache")
    site.write("defaults.yaml", "network: {renderer: none}\nhooks: {disable: [users, ssh]}\n")
    for name in ("kernel", "bare"):
        site.write(f"images/{name}.yaml", f"source: {prepared / name}.tar.gz\n")
        for table in ("gpt", "none"):
            site.write(f"variants/{name}-{table}.yaml", f"image: {name}\nlayout: {{table: {table}}}\n")
    return site


@pytest.fixture
def place(tmp_path: Path, prepared: Path) -> Iterator[Site]:
    """A site with the images ``kernel`` and ``bare``."""
    with no_leftovers([tmp_path]):
        yield _site(tmp_path, prepared)


def bare(disk: Path, command: str) -> str:
    """What debugfs(8) answers for the file system that fills a disk."""
    return subprocess.run(["debugfs", "-R", command, disk], capture_output=True, text=True, check=True).stdout


def assert_no_boot_code(disk: Path) -> None:
    """Nothing is there for a BIOS to start."""
    with disk.open("rb") as file:
        assert file.read(440) == bytes(440)


def test_a_grub_for_xen_finds_a_menu_and_nothing_that_a_firmware_would_need(place: Site) -> None:
    disk = place.disk(512 * MIB)
    place.created(disk, variant="kernel-gpt", hypervisor="xen-pvm", hypervisor_parameters={"kernel_path": PVGRUB})
    (root,) = sfdisk(disk)["partitions"]
    assert root["name"] == "root"
    assert_no_boot_code(disk)
    menu = debugfs(disk, "cat /boot/grub/grub.cfg")
    assert "console=tty0 console=hvc0 quiet\n" in menu
    assert "serial" not in menu
    assert [word for word in ("xvd", "vda", "sda", "hd0") if word in menu] == []


def test_a_grub_for_xen_finds_its_menu_on_a_disk_without_a_table(place: Site) -> None:
    disk = place.disk(512 * MIB)
    place.created(disk, variant="kernel-none", hypervisor="xen-pvm", hypervisor_parameters={"kernel_path": PVGRUB})
    menu = bare(disk, "cat /boot/grub/grub.cfg")
    assert "root=UUID=" in menu
    assert "console=hvc0" in menu


def test_a_system_without_a_kernel_is_refused_where_its_own_would_be_started(place: Site) -> None:
    outcome = place.create(
        place.disk(512 * MIB),
        variant="bare-gpt",
        hypervisor="xen-pvm",
        hypervisor_parameters={"kernel_path": PVGRUB},
    )
    assert outcome.status != 0
    assert "image bare has no kernel to boot" in outcome.last_line


def test_a_container_gets_a_tree_without_loader_fstab_or_kernel(place: Site) -> None:
    disk = place.disk(512 * MIB)
    place.created(disk, variant="bare-gpt", hypervisor="lxc")
    (root,) = sfdisk(disk)["partitions"]
    assert root["name"] == "root"
    assert_no_boot_code(disk)
    assert debugfs(disk, "cat /etc/hostname") == "web1.example.org\n"
    assert debugfs(disk, "cat /etc/fstab") == "# nothing\n"
    assert "grub" not in debugfs(disk, "ls /boot")


@pytest.mark.parametrize("hypervisor", ["lxc", "chroot"])
def test_a_container_may_have_a_disk_without_a_table(place: Site, hypervisor: str) -> None:
    disk = place.disk(512 * MIB)
    place.created(disk, variant="bare-none", hypervisor=hypervisor)
    assert bare(disk, "cat /etc/hostname") == "web1.example.org\n"


def test_a_chroot_is_refused_on_a_partition_which_nobody_would_mount(place: Site) -> None:
    disk = place.disk(512 * MIB)
    outcome = place.create(disk, variant="bare-gpt", hypervisor="chroot")
    assert outcome.status == 2
    assert outcome.last_line.endswith("set layout.table to none")
    assert disk.stat().st_blocks == 0
