"""``create`` of a tree on each layout of disk 0, judged by util-linux and e2fsprogs.

The system is a small one that boots nowhere; :mod:`tests.system.boot` boots a real one.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from tests.support.leftovers import no_leftovers
from tests.support.runs import locked
from tests.support.small_system import make_image
from tests.system.create.site import Site, attached, sfdisk

MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40
KERNEL = {"kernel_path": "/boot/vmlinuz"}


@pytest.fixture(scope="session")
def small(run_directory: Path) -> Path:
    """A directory with a small system's archive and a cache of its template."""
    directory = run_directory / "small"
    with locked(run_directory / "small.lock"):
        if not directory.exists():
            directory.mkdir()
            make_image("tar.gz", directory)
            (directory / "cache").mkdir()
    return directory


@pytest.fixture
def place(tmp_path: Path, small: Path) -> Iterator[Site]:
    """A site with the image ``small``."""
    with no_leftovers([tmp_path]):
        site = Site(tmp_path, small / "cache")
        site.write("defaults.yaml", "network: {renderer: none}\nhooks: {disable: [users, ssh]}\n")
        site.write("images/small.yaml", f"source: {small / 'small.tar.gz'}\n")
        prepared = site.command("image", "build", "small")
        assert prepared.status == 0, prepared.said
        yield site


def lay_out(site: Site, layout: str, **more: str) -> None:
    """Have the variant ``small`` lay disks out so."""
    further = "".join(f"{key}: {value}\n" for key, value in more.items())
    site.write("variants/small.yaml", f"image: small\nlayout: {layout}\n{further}")


def probed(path: Path, offset: int = 0, size: int | None = None) -> dict[str, str]:
    """What blkid(8) finds on a range of a disk."""
    words = ["blkid", "-p", "-o", "export", "-O", str(offset), *(["-S", str(size)] if size else []), str(path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)


def read(path: Path, offset: int, name: str) -> str:
    """A file of the ext file system at this byte of a disk."""
    words = ["debugfs", "-R", f"cat {name}", f"{path}?offset={offset}"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def check(path: Path, offset: int) -> None:
    """The ext file system at this byte is sound."""
    done = subprocess.run(["e2fsck", "-fn", f"{path}?offset={offset}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def planned(site: Site, environment: dict[str, str]) -> dict[str, Any]:
    """The plan for an instance."""
    variables = site.directory / "environment"
    variables.write_text("".join(f"{name}={value}\n" for name, value in environment.items()))
    outcome = site.command("plan", "--json", "--environment", str(variables))
    assert outcome.status == 0, outcome.said
    plan: dict[str, Any] = json.loads(outcome.said)
    return plan


def used(site: Site, size: int) -> Path:
    """A disk full of something else."""
    disk = site.disk(size)
    with disk.open("r+b") as file:
        for _ in range(size // MIB):
            file.write(b"\xa5" * MIB)
    return disk


@pytest.mark.parametrize(("hypervisor", "sector_size"), [("kvm", None), ("kvm", 4096), ("xen-hvm", 4096)])
def test_an_msdos_table_has_an_active_root(place: Site, hypervisor: str, sector_size: int | None) -> None:
    seen = 4096 if hypervisor == "xen-hvm" else 512
    lay_out(place, f"{{table: msdos, firmware: [{'bios' if seen == 512 else ''}]}}")
    file = used(place, 512 * MIB)
    with attached(file, sector_size) if sector_size else nullcontext(file) as disk:
        environment = place.environment(disk, variant="small", hypervisor=hypervisor)
        (part,) = planned(place, environment)["table"]["partitions"]
        outcome = place.call("create", environment)
        assert outcome.status == 0, outcome.said
    with attached(file, seen) as disk:
        table = sfdisk(disk)
    assert table["label"] == "dos"
    (found,) = table["partitions"]
    assert (found["start"] * seen, found["size"] * seen, found["type"]) == (MIB, 510 * MIB, "83")
    assert found["bootable"] is True
    assert f"{table['id'].removeprefix('0x')}-01" == part["guid"]
    assert probed(file, MIB)["UUID"] == part["filesystem_uuid"]
    assert f"UUID={part['filesystem_uuid']} / ext4" in read(file, MIB, "/etc/fstab")
    check(file, MIB)


@pytest.mark.parametrize("sector_size", [None, 4096])
def test_without_a_table_the_root_fills_the_disk(place: Site, sector_size: int | None) -> None:
    lay_out(place, "{table: none}", boot="{loader: none}")
    file = used(place, 512 * MIB)
    with attached(file, sector_size) if sector_size else nullcontext(file) as disk:
        environment = place.environment(disk, variant="small", hypervisor="xen-pvm")
        (part,) = planned(place, environment)["table"]["partitions"]
        outcome = place.call("create", environment)
    assert outcome.status == 0, outcome.said
    found = probed(file)
    assert (found["TYPE"], found["UUID"]) == ("ext4", part["filesystem_uuid"])
    assert f"UUID={found['UUID']} / ext4" in read(file, 0, "/etc/fstab")
    check(file, 0)
    size = subprocess.run(["dumpe2fs", "-h", file], capture_output=True, text=True, check=True).stdout
    assert f"{512 * MIB // 4096}\n" in size
