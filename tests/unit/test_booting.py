"""How an instance boots: decided by the hypervisor, the variant and the image."""

from __future__ import annotations

import dataclasses

import pytest

from osprovider.booting import LEGACY_BOOT, firmware_of, marked_for, refuse_unbootable
from osprovider.config.model import Boot, BootPartition, Layout, Variant
from osprovider.division import lay_out
from osprovider.errors import RequestError
from osprovider.ganeti.environment import parse
from osprovider.ganeti.hypervisor import has_external_kernel, has_firmware
from osprovider.ganeti.request import Request, Script
from osprovider.ganeti.synthesis import synthesize
from osprovider.images.diskimage.mount_points import System, placed_in
from osprovider.layout import TYPES, DiskFacts, InstanceDisk, TablePlan
from osprovider.manifest import Filesystem, ImagePartition, ImageTable
from tests.support.boot_context import boot_context
from tests.support.manifests import manifest

PVGRUB = "/usr/lib/grub-xen/grub-x86_64-xen.bin"
UUID = "3f2a1c5e-0d4b-4c6a-9e8f-1a2b3c4d5e6f"
MANIFEST = boot_context().manifest
assert MANIFEST is not None
WITHOUT_KERNEL = dataclasses.replace(MANIFEST, kernels=())
EXTLINUX = Variant(layout=Layout(firmware=("bios",)), boot=Boot(loader="extlinux"))


def request(hypervisor: str = "kvm", **parameters: str) -> Request:
    """What Ganeti asks for an instance of this hypervisor's."""
    environ = synthesize("web1.example.org", "debian-12", disks=[{"path": "/dev/null"}], hypervisor=hypervisor)
    environ.update({f"INSTANCE_HV_{name}": value for name, value in parameters.items()})
    return parse(Script.CREATE, environ)


@pytest.mark.parametrize(
    ("made", "external", "firmware"),
    [
        (request("kvm", kernel_path=""), False, ("bios", "uefi")),
        (request("kvm", kernel_path="/boot/vmlinuz-3-kvmU"), True, ()),
        (request("xen-hvm"), False, ("bios", "uefi")),
        (request("xen-pvm", kernel_path="/boot/vmlinuz-3-xenU", use_bootloader="False"), True, ()),
        (request("xen-pvm", kernel_path=PVGRUB), False, ()),
        (request("xen-pvm", kernel_path="", use_bootloader="True"), False, ()),
        (request("lxc"), True, ()),
        (request("chroot"), True, ()),
    ],
)
def test_the_hypervisor_says_what_the_disk_is_started_by(
    made: Request, external: bool, firmware: tuple[str, ...]
) -> None:
    assert has_external_kernel(made) is external
    assert has_firmware(made) is bool(firmware)
    assert firmware_of(made, Variant(), MANIFEST) == firmware


def test_without_a_loader_nothing_is_made_for_any_firmware() -> None:
    assert firmware_of(request(kernel_path=""), Variant(boot=Boot(loader="none")), MANIFEST) == ()


@pytest.mark.parametrize(
    ("kind", "types", "firmware"),
    [
        ("gpt", (TYPES["bios_boot"], TYPES["root"]), ("bios",)),
        ("gpt", (TYPES["esp"], TYPES["root"]), ("uefi",)),
        ("gpt", (TYPES["bios_boot"], TYPES["esp"], TYPES["root"]), ("bios", "uefi")),
        ("msdos", ("83",), ("bios",)),
        ("msdos", ("ef", "83"), ("bios", "uefi")),
    ],
)
@pytest.mark.parametrize("place", ["/boot/efi", "/boot"])
def test_a_disk_image_boots_under_what_its_table_has_a_place_for(
    kind: str, types: tuple[str, ...], firmware: tuple[str, ...], place: str
) -> None:
    """An EFI system partition may be the system's /boot, as systemd-boot likes it."""
    held = Filesystem("vfat", "1234-ABCD", "", 512, 1 << 20, 1 << 20)
    roles = {TYPES["bios_boot"]: "bios_boot", TYPES["esp"]: "esp", "ef": "esp"}
    bare = [
        ImagePartition(number, roles.get(each, "other"), number << 20, 1 << 20, each, "", "", 0, held, None)
        for number, each in enumerate(types, start=1)
    ]
    bare[-1] = dataclasses.replace(bare[-1], filesystem=dataclasses.replace(held, type="ext4"))
    table = ImageTable(kind, "1234abcd", 512, tuple(bare))
    fstab = f"/dev/vda{len(types) - 1} {place} vfat defaults 0 0\n"
    parts = placed_in(bare, System(bare[-1], fstab=fstab), table)
    made = manifest(table=dataclasses.replace(table, partitions=parts))
    assert firmware_of(request(kernel_path=""), Variant(), made) == firmware


@pytest.mark.parametrize("made", [request("kvm", kernel_path=""), request("xen-pvm", kernel_path=PVGRUB)])
def test_a_tree_without_a_kernel_is_refused_where_its_own_is_to_be_booted(made: Request) -> None:
    with pytest.raises(RequestError, match="image small has no kernel to boot"):
        refuse_unbootable(made, Variant(), WITHOUT_KERNEL, "small")
    refuse_unbootable(made, Variant(), MANIFEST, "small")
    refuse_unbootable(made, Variant(boot=Boot(loader="none")), WITHOUT_KERNEL, "small")


@pytest.mark.parametrize("hypervisor", ["lxc", "chroot"])
def test_a_container_needs_neither_kernel_nor_loader(hypervisor: str) -> None:
    refuse_unbootable(request(hypervisor), Variant(), WITHOUT_KERNEL, "small")
    refuse_unbootable(request(hypervisor), EXTLINUX, WITHOUT_KERNEL, "small")


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (Layout(), r"set layout.firmware to \[bios\]"),
        (Layout(firmware=("bios",), table="none"), "set layout.table to gpt or msdos"),
        (Layout(firmware=("bios",), filesystem="btrfs"), "the root is btrfs: give it a boot partition"),
    ],
)
def test_extlinux_is_refused_where_it_cannot_start(layout: Layout, message: str) -> None:
    variant = dataclasses.replace(EXTLINUX, layout=layout)
    with pytest.raises(RequestError, match=message):
        refuse_unbootable(request(kernel_path=""), variant, None, "small")


def test_extlinux_starts_from_a_boot_partition_whatever_the_root_is() -> None:
    layout = Layout(firmware=("bios",), filesystem="btrfs", boot=BootPartition(size="1GiB"))
    refuse_unbootable(request(kernel_path=""), dataclasses.replace(EXTLINUX, layout=layout), MANIFEST, "small")


def test_a_paravirtual_xen_has_no_bios_for_extlinux() -> None:
    with pytest.raises(RequestError, match="starts from a BIOS alone"):
        refuse_unbootable(request("xen-pvm", kernel_path=PVGRUB), EXTLINUX, MANIFEST, "small")


def test_only_extlinux_has_its_partition_marked_in_a_gpt() -> None:
    table = lay_out(InstanceDisk(DiskFacts(3 << 30), UUID, "disk"), Layout(), ["bios"], 0)
    assert marked_for("grub", table) == table
    marked = marked_for("extlinux", table)
    assert [part.attributes for part in marked.partitions] == [0, LEGACY_BOOT]
    msdos = TablePlan("1234abcd", 512, table.partitions, type="msdos")
    assert marked_for("extlinux", msdos) == msdos


def test_the_mark_is_on_the_boot_partition_where_there_is_one() -> None:
    table = lay_out(InstanceDisk(DiskFacts(3 << 30), UUID, "disk"), Layout(), ["bios"], 0)
    first = dataclasses.replace(table.partitions[0], role="boot")
    marked = marked_for("extlinux", dataclasses.replace(table, partitions=(first, table.partitions[1])))
    assert [part.attributes for part in marked.partitions] == [LEGACY_BOOT, 0]
