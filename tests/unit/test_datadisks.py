"""What becomes of swap and data disks: arithmetic and rules alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from osprovider.config.model import DataDisk, Layout, Swap, Variant
from osprovider.datadisks import DiskPlan, Signature, plan_disks, settle
from osprovider.errors import DeviceError, OsproviderError, RequestError
from osprovider.ganeti.request import Disk, Instance, Request, Script
from osprovider.layout import derived_uuid

MIB = 1 << 20
INSTANCE = "2d3e4c5b-0000-4000-8000-000000000001"
ACTUAL = "9f2bd3ca-6b6a-4c12-9b2c-0f6f5b0a7c11"
EXT4 = Signature("ext4", "filesystem", ACTUAL, "old")


def disk(index: int, **changes: Any) -> Disk:
    return Disk(**{"index": index, "path": Path(f"/dev/drbd{index}"), "size_mib": 4096, **changes})


def request(*disks: Disk, reinstall: bool = False, hypervisor: str = "kvm", **parameters: str) -> Request:
    return Request(
        Script.CREATE,
        20,
        "osprovider",
        instance=Instance("web1.example.org", INSTANCE, "osprovider+x", hypervisor),
        disks=disks or (disk(0), disk(1), disk(2, name="db")),
        reinstall=reinstall,
        parameters=parameters,
    )


def variant(swap: Swap | None = None, **disks: DataDisk) -> Variant:
    return Variant(layout=Layout(swap=swap or Swap()), disks={name.lstrip("_"): each for name, each in disks.items()})


def renewing(what: Variant) -> Variant:
    return dataclasses.replace(what, data_disks="renew")


def planned(asked: Request, what: Variant) -> DiskPlan:
    (plan,) = plan_disks(asked, what)
    return plan


def test_disks_are_found_by_index_and_by_name_and_the_rest_is_left_alone() -> None:
    asked = request(disk(0), disk(1), disk(2, name="db"), disk(3))
    spec = DataDisk("xfs", "/srv", "data", ("noatime",))
    plans = plan_disks(asked, variant(Swap("disk", disk="1"), db=spec))
    assert plans == (
        DiskPlan(
            *(1, "/dev/drbd1", 4096 * MIB, "swap", "swap", derived_uuid(INSTANCE, "disk 1 file system")),
            *("", None, (), False),
        ),
        DiskPlan(
            *(2, "/dev/drbd2", 4096 * MIB, "data", "xfs", derived_uuid(INSTANCE, "disk 2 file system")),
            *("data", "/srv", ("noatime",), False),
        ),
    )


def test_swap_may_be_named_as_well() -> None:
    assert planned(request(), variant(Swap("disk", disk="db"))).index == 2


def test_a_variant_without_other_disks_leaves_all_alone() -> None:
    assert plan_disks(request(), variant(Swap("file", size="1GiB"))) == ()


@pytest.mark.parametrize(
    ("disks", "what", "message"),
    [
        (
            [disk(0)],
            variant(_1=DataDisk()),
            r"disks\.1: the instance has no disk 1, but 0: add one \(gnt-instance modify --disk add:size=10g\)",
        ),
        (
            [disk(0), disk(1, name="logs")],
            variant(data=DataDisk()),
            r"disks\.data: the instance has no disk data, but 0, 1 \(logs\): name one of its disks so",
        ),
        ([disk(0)], variant(Swap("disk", disk="swap")), r"layout\.swap: the instance has no disk swap, but 0: name"),
        ([disk(0, name="data")], variant(data=DataDisk()), r"disks\.data: disk data is disk 0, which is the system's"),
        (
            [disk(0), disk(1, name="x")],
            variant(_1=DataDisk(), x=DataDisk()),
            r"disks\.x and disks\.1 are both disk 1: one disk is for one thing; take one of them out",
        ),
        (
            [disk(0), disk(1)],
            variant(Swap("disk", disk="1"), _1=DataDisk()),
            r"disks\.1 and layout\.swap are both disk 1",
        ),
        (
            [disk(0), disk(1, access="ro")],
            variant(_1=DataDisk()),
            r"DISK_1_ACCESS is 'ro', and disks\.1 is to be written: set its access mode to rw",
        ),
        (
            [disk(0), disk(1, path=None, uri="rbd:x/y")],
            variant(_1=DataDisk()),
            r"DISK_1_PATH is not set: disks\.1 is reached by userspace only \(rbd:x/y\).*set the disk template's",
        ),
        (
            [disk(0), disk(1), disk(2)],
            variant(_1=DataDisk(mount="/srv"), _2=DataDisk(mount="/srv")),
            r"disks\.2\.mount and disks\.1\.mount are both /srv: give one another place",
        ),
        (
            [disk(0), disk(1)],
            variant(_1=DataDisk("xfs", label="fourteen-bytes")),
            r"disks\.1\.label: fourteen-bytes has 14 bytes, and xfs takes 12 at most: shorten it",
        ),
        (
            [disk(0), disk(1, size_mib=299)],
            variant(_1=DataDisk("xfs")),
            r"disk 1 \(/dev/drbd1\) is too small: it has 299 MiB, and xfs needs 300 MiB; give the instance a larger",
        ),
        ([disk(0), disk(1, size_mib=127)], variant(_1=DataDisk("btrfs")), "has 127 MiB, and btrfs needs 128 MiB"),
        (
            [disk(0), disk(1, size_mib=16 << 20)],
            variant(_1=DataDisk("ext3")),
            r"disk 1 \(/dev/drbd1\) is too large: it has 16 TiB, and ext3 takes less than 16 TiB: make it ext4, xfs or",
        ),
        ([disk(0), disk(1, size_mib=15)], variant(_1=DataDisk("ext2")), "has 15 MiB, and ext2 needs 16 MiB"),
    ],
)
def test_what_cannot_be_is_refused_with_the_way_out(disks: list[Disk], what: Variant, message: str) -> None:
    with pytest.raises(OsproviderError, match=message) as caught:
        plan_disks(request(*disks), what)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "mount", ["/usr", "/usr/lib", "/var", "/lib64", "/boot", "/boot/efi", "/etc/ssl", "/run/x", "/proc"]
)
def test_no_disk_hides_the_system(mount: str) -> None:
    with pytest.raises(RequestError, match=rf"disks\.1\.mount: {mount} is the system's own.*mount it elsewhere"):
        plan_disks(request(), variant(_1=DataDisk(mount=mount)))


@pytest.mark.parametrize(
    "mount", ["/srv", "/var/lib/postgresql", "/home", "/usr/local/share/x", "/opt/etc", "/bootable"]
)
def test_all_other_places_are_free(mount: str) -> None:
    assert planned(request(), variant(_1=DataDisk(mount=mount))).mount == mount


@pytest.mark.parametrize(
    ("reinstall", "wipe", "renew", "keep"),
    [
        (False, None, False, False),
        (False, None, True, False),
        (True, None, False, True),
        (True, "auto", False, True),
        (True, "zero", False, True),
        (True, "discard", False, True),
        (True, None, True, False),
    ],
)
def test_what_is_there_is_kept_at_a_reinstall_unless_its_loss_is_asked_for_by_name(
    reinstall: bool, wipe: str | None, renew: bool, keep: bool
) -> None:
    asked = request(reinstall=reinstall, **({"wipe": wipe} if wipe else {}))
    what = variant(_1=DataDisk("xfs", "/srv", "new"))
    plan = planned(asked, renewing(what) if renew else what)
    found = settle(plan, 4096 * MIB, [EXT4])
    assert found.keep is keep
    assert (found.filesystem, found.uuid, found.label) == (
        ("ext4", ACTUAL, "old") if keep else ("xfs", plan.uuid, "new")
    )
    assert found.mount == "/srv"


def test_an_empty_disk_gets_its_file_system_at_a_reinstall() -> None:
    plan = planned(request(reinstall=True), variant(_1=DataDisk("xfs")))
    assert settle(plan, 4096 * MIB, []).keep is False


def test_a_small_disk_that_holds_a_file_system_is_kept_and_an_empty_one_refused() -> None:
    plan = planned(request(disk(0), disk(1, size_mib=64), reinstall=True), variant(_1=DataDisk("xfs")))
    assert settle(plan, 64 * MIB, [EXT4]).keep
    with pytest.raises(DeviceError, match="has 64 MiB, and xfs needs 300 MiB"):
        settle(plan, 64 * MIB, [])


def test_the_device_says_its_size_where_ganeti_does_not() -> None:
    plan = planned(request(disk(0), disk(1, size_mib=None)), variant(_1=DataDisk("xfs")))
    assert plan.size_bytes is None
    assert settle(plan, 301 * MIB, []).size_bytes == 301 * MIB
    with pytest.raises(DeviceError, match="has 299 MiB, and xfs needs 300 MiB"):
        settle(plan, 299 * MIB, [])


@pytest.mark.parametrize(
    ("signatures", "holds"),
    [
        ([Signature("gpt", "partition-table"), Signature("PMBR", "partition-table")], "holds PMBR and gpt"),
        ([Signature("LVM2_member", "raid", "abcdef")], "holds LVM2_member"),
        ([Signature("crypto_LUKS", "crypto", ACTUAL)], "holds crypto_LUKS"),
        ([Signature("swap", "other", ACTUAL)], "holds swap"),
        ([EXT4, Signature("xfs", "filesystem", ACTUAL)], "holds ext4 and xfs"),
        ([Signature("squashfs", "filesystem")], "holds squashfs, which has no UUID"),
        ([Signature("ext4", "filesystem", "a\nb")], "holds ext4, which has no UUID"),
    ],
)
def test_what_is_no_file_system_is_neither_mounted_nor_lost(signatures: list[Signature], holds: str) -> None:
    what = variant(_1=DataDisk(mount="/srv"))
    with pytest.raises(
        DeviceError, match=rf"disk 1 .*{holds}: take it out of the variant, or have it made anew"
    ) as told:
        settle(planned(request(reinstall=True), what), 4096 * MIB, signatures)
    assert "--os-parameters-secret data_disks=renew" in str(told.value)
    assert not settle(planned(request(reinstall=True), renewing(what)), 4096 * MIB, signatures).keep


@pytest.mark.parametrize("reinstall", [False, True])
@pytest.mark.parametrize("what", [variant(_1=DataDisk()), variant(Swap("disk", disk="1"))], ids=["data", "swap"])
def test_the_firmwares_disk_is_never_written(what: Variant, reinstall: bool) -> None:
    plan = planned(request(reinstall=reinstall), renewing(what))
    with pytest.raises(DeviceError, match=r"disk 1 .*the variables of the instance's UEFI firmware.*: take it out"):
        settle(plan, 4096 * MIB, [Signature("firmware volume", "firmware")])


def test_swap_is_made_again_and_never_over_data() -> None:
    plan = planned(request(reinstall=True), variant(Swap("disk", disk="1")))
    assert not settle(plan, 4096 * MIB, [Signature("swap", "other", ACTUAL)]).keep
    assert not settle(plan, 4096 * MIB, []).keep
    with pytest.raises(DeviceError, match="is to be swap, and holds ext4: take it out of the variant"):
        settle(plan, 4096 * MIB, [EXT4])


@pytest.mark.parametrize("hypervisor", ["lxc", "chroot"])
def test_a_container_has_no_disk_but_the_first(hypervisor: str) -> None:
    asked = request(hypervisor=hypervisor)
    with pytest.raises(RequestError, match=rf"disks\.db\.mount: the hypervisor {hypervisor} mounts disk 0 alone.*/srv"):
        plan_disks(asked, variant(db=DataDisk(mount="/srv")))
    with pytest.raises(RequestError, match=rf"layout\.swap: a guest of the hypervisor {hypervisor} swaps to what"):
        plan_disks(asked, variant(Swap("disk", disk="1")))
    assert planned(asked, variant(_1=DataDisk())).mount is None  # the node may mount it
