"""What a plan makes of a layout: swap as large as the memory, the root where Ganeti looks for it, images' tables."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import pytest

from osprovider.config.load import Settings, load
from osprovider.errors import RequestError
from osprovider.ganeti.environment import parse
from osprovider.ganeti.request import Request, Script
from osprovider.ganeti.synthesis import synthesize
from osprovider.layout import TYPES, DiskFacts
from osprovider.manifest import Filesystem, ImagePartition, ImageTable
from osprovider.paths import Directories
from osprovider.plan import Plan, make_plan
from tests.support.boot_context import boot_context
from tests.support.documents import CHECKOUT

MIB = 1 << 20
GIB = 1 << 30
FACTS = DiskFacts(20 * GIB)
KERNEL = {"kernel_path": "/boot/vmlinuz", "root_path": "/dev/vda1"}
TREE = boot_context().manifest
assert TREE is not None
ROOT = Filesystem("ext4", "0b6c5a42-7f3e-5d4e-9a11-3c5d7e9f1b23", "", 4096, GIB, GIB)
IMAGE = dataclasses.replace(
    TREE,
    size_bytes=2 * GIB,
    built_here=False,
    table=ImageTable(
        "gpt",
        "d0000000-0000-4000-8000-000000000000",
        512,
        (ImagePartition(3, "root", MIB, GIB, TYPES["root"], "d0000000-0000-4000-8000-000000000003", "", 0, ROOT, "/"),),
    ),
)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A variant with all that disk 0 may have."""
    (tmp_path / "variants").mkdir()
    (tmp_path / "variants/full.yaml").write_text(
        "image: debian-12\nlayout: {boot: {size: 512MiB}, swap: memory, mount_options: [noatime]}\n"
    )
    directories = Directories(tmp_path, tmp_path / "cache", tmp_path / "run", CHECKOUT)
    return load(directories, "full", instance=None, parameters={})


def request(**parameters: str) -> Request:
    """Of an instance with these hypervisor parameters."""
    environ = synthesize(
        "web1.example.org",
        "full",
        disks=[{"path": "/dev/x"}],
        backend={"maxmem": "768", "minmem": "128"},
        hypervisor_parameters=parameters,
    )
    return parse(Script.CREATE, environ)


def sizes(plan: Plan) -> dict[str, tuple[int, int]]:
    """Numbers and sizes in MiB, by role."""
    assert plan.table is not None
    return {part.role: (part.number, part.size_bytes // MIB) for part in plan.table.partitions}


def test_swap_is_as_large_as_the_memory_at_most(settings: Settings) -> None:
    assert sizes(make_plan(request(), settings, [], FACTS))["swap"] == (4, 768)


def test_a_memory_that_ganeti_does_not_say_is_asked_for(settings: Settings) -> None:
    asked = request()
    assert asked.instance is not None
    asked = dataclasses.replace(asked, instance=dataclasses.replace(asked.instance, backend={}))
    with pytest.raises(RequestError, match=r"INSTANCE_BE_maxmem is not set, .*: set layout\.swap to a size"):
        make_plan(asked, settings, [], FACTS)


def test_an_external_kernel_has_its_root_where_it_looks_and_no_boot_partition(settings: Settings) -> None:
    plan = make_plan(request(**KERNEL), settings, [], FACTS)
    assert sizes(plan) == {"swap": (2, 768), "root": (1, 20 * 1024 - 770)}
    assert plan.firmware == ()


def test_what_contradicts_root_path_is_refused_without_a_disk_to_look_at(settings: Settings) -> None:
    with pytest.raises(RequestError, match="set it to /dev/vda1"):
        make_plan(request(kernel_path="/boot/vmlinuz", root_path="/dev/vda"), settings, [], None)


@pytest.mark.parametrize(("said", "is_told"), [(20 * 1024 + 1, True), (20 * 1024, False), (1024, False), (None, False)])
def test_a_disk_smaller_than_ganeti_says_is_planned_as_it_is(
    settings: Settings, said: int | None, is_told: bool
) -> None:
    asked = request()
    disk = dataclasses.replace(asked.disks[0], size_mib=said)
    plan = make_plan(dataclasses.replace(asked, disks=(disk,)), settings, [], FACTS, key="k", manifest=TREE)
    told = ("disk 0 has 20480 MiB, and Ganeti says 20481 MiB (DISK_0_SIZE)",)
    assert plan.notes == (told if is_told else ())
    assert plan.disk_size_bytes == FACTS.size_bytes


def test_a_disk_image_keeps_its_partitions_which_is_said(settings: Settings) -> None:
    plan = make_plan(request(), settings, [], FACTS, key="k", manifest=IMAGE)
    assert list(sizes(plan)) == ["root"]
    assert "the image brings its own partitions: nothing is made for layout.boot and layout.swap (memory)" in plan.notes
    assert "the image brings its own fstab: layout.mount_options (noatime) are not in it" in plan.notes


def test_a_disk_image_that_holds_what_keeps_its_uuid_is_planned_with_a_note(settings: Settings) -> None:
    assert IMAGE.table is not None
    luks = dataclasses.replace(ROOT, type="crypto_LUKS")
    data = dataclasses.replace(
        IMAGE.table.partitions[0], number=4, role="other", start_bytes=GIB + MIB, filesystem=luks
    )
    table = dataclasses.replace(IMAGE.table, partitions=(*IMAGE.table.partitions, data))
    plan = make_plan(request(), settings, [], FACTS, key="k", manifest=dataclasses.replace(IMAGE, table=table))
    assert "partition 4 holds crypto_LUKS and keeps its UUID, as in every instance of the image" in plan.notes


def test_a_disk_image_whose_root_an_external_kernel_does_not_find_is_refused(settings: Settings) -> None:
    with pytest.raises(RequestError, match="the image's is partition 3: set the one to the other"):
        make_plan(request(**KERNEL), settings, [], FACTS, key="k", manifest=IMAGE)
    named = request(kernel_path="/boot/vmlinuz", root_path="/dev/vda3")
    assert sizes(make_plan(named, settings, [], FACTS, key="k", manifest=IMAGE))["root"][0] == 3


@pytest.mark.parametrize(
    ("configured", "held", "where"),
    [
        ("auto", "ext4", "sandbox"),
        ("auto", "ext2", "sandbox"),
        ("auto", "xfs", "appliance"),
        ("auto", "btrfs", "appliance"),
        ("host", "xfs", "host"),
        ("appliance", "ext4", "appliance"),
    ],
)
def test_what_others_made_is_opened_by_its_file_systems(
    settings: Settings, configured: Literal["auto", "host", "appliance"], held: str, where: str
) -> None:
    assert IMAGE.table is not None
    settings = dataclasses.replace(settings, variant=dataclasses.replace(settings.variant, isolation=configured))
    part = dataclasses.replace(IMAGE.table.partitions[0], filesystem=dataclasses.replace(ROOT, type=held))
    image = dataclasses.replace(IMAGE, table=dataclasses.replace(IMAGE.table, partitions=(part,)))
    assert make_plan(request(), settings, [], FACTS, key="k", manifest=image).isolation == where


def test_what_was_made_here_is_opened_on_the_node(settings: Settings) -> None:
    assert make_plan(request(), settings, [], FACTS, key="k", manifest=TREE).isolation == "host"
