"""``create`` of disk images in every layout: a disk of the instance's own, and nothing of the publisher's identity.

Starting an appliance costs seconds, so each image is installed once, or twice where two instances are compared, by a
fixture, and tests look at what lies there.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.system.create.cloud import (
    BIOS_BOOT,
    BOOT,
    BOOT_CODE,
    ESP,
    HOST_KEY,
    MACHINE_ID,
    MIB,
    ROOT,
    SWAP,
    Part,
    system,
)
from tests.system.create.published import FIRST, SECOND, Installed, Published, verify_gpt
from tests.system.create.site import attached
from tests.system.create.trees import differences, tree_of

ARGUMENTS = " quiet console=tty0 console=ttyS0,38400n8"
"""What the hook kernel-args adds wherever a kernel is started."""

ISOLATIONS = ("auto", "host", "appliance")
"""What others made is opened by programs in the sandbox, unless the site trusts them, or has a machine do it."""

# -- a cloud image with everything ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cloud(publish: Callable[..., Published]) -> Published:
    """Numbered as Debian's cloud images, with a /boot, an ESP and a swap partition beside the root, which is last.

    The directory /boot/efi is missing from /boot: systemd makes it at the first boot.
    """
    esp = Part(15, ESP, 40, "vfat", label="ESP")
    boot = Part(16, BOOT, 32, "ext4", label="BOOT")
    swap = Part(3, SWAP, 16, "swap", label="pages")
    root = Part(1, ROOT, 64, "ext4", label="cloudimg-rootfs")
    root.files = system(
        f"# UUID={root.uuid} was on /dev/vda1\n"
        f"UUID={root.uuid} / ext4 errors=remount-ro 0 1\n"
        f"LABEL=BOOT /boot ext4 defaults 0 2\n"
        f'PARTUUID="{esp.guid}" /boot/efi vfat umask=0077 0 1\n'
        f"/dev/disk/by-uuid/{swap.uuid} none swap sw 0 0\n"
        "/dev/vda3 none swap sw 0 0\n"
        "tmpfs /tmp tmpfs defaults 0 0\n"
        "nonsense\n",
        kernel=False,
        etc__kernel__cmdline=f"root=UUID={root.uuid} ro\n",
        etc__default__grub=f"GRUB_CMDLINE_LINUX=resume=UUID={swap.uuid}\n",
        boot__efi__hidden="",
    )
    boot.files = {
        "/vmlinuz-6.1.0-9-amd64": "a kernel\n",
        "/initrd.img-6.1.0-9-amd64": "an initrd\n",
        "/grub/grub.cfg": f"search --no-floppy --fs-uuid --set=root {boot.uuid}\n"
        f"linux /vmlinuz-6.1.0-9-amd64 root=PARTUUID={root.guid} ro\n",
        "/loader/entries/debian.conf": f"linux /vmlinuz-6.1.0-9-amd64\noptions root=UUID={root.uuid} ro\n",
        "/grub/grubenv": "# GRUB Environment Block\nkernelopts=root=/dev/vda1 ro\n".ljust(1024, "#"),
    }
    esp.files = {
        "/EFI/debian/grub.cfg": f"search.fs_uuid {boot.uuid} root\n",
        "/EFI/BOOT/BOOTX64.EFI": f"a loader with a name built in: {boot.uuid}\n",
        "/loader/random-seed": MACHINE_ID,
    }
    return publish(Part(14, BIOS_BOOT, 3, content=BOOT_CODE * 100), esp, boot, swap, root)


Pair = tuple[Installed, Installed]


@pytest.fixture(scope="module")
def pairs(cloud: Published) -> dict[str, Pair]:
    """Two instances of it, on disks of different sizes; installed in each way, by the same names."""
    return {
        isolation: (cloud.install(512, isolation=isolation), cloud.install(256, SECOND, isolation=isolation))
        for isolation in ISOLATIONS
    }


@pytest.fixture(params=ISOLATIONS)
def isolation(request: pytest.FixtureRequest) -> str:
    """Where it is opened."""
    return str(request.param)


@pytest.fixture
def instances(pairs: dict[str, Pair], isolation: str) -> Pair:
    """The two that were installed that way."""
    return pairs[isolation]


def test_both_have_the_images_partitions_and_a_sound_table(cloud: Published, instances: Pair) -> None:
    for each in instances:
        places = {number: part["start"] * 512 for number, part in each.partitions.items()}
        assert places == {14: 1 * MIB, 15: 4 * MIB, 16: 44 * MIB, 3: 76 * MIB, 1: 92 * MIB}
        assert {number: part["type"] for number, part in each.partitions.items()} == {
            number: part.type for number, part in cloud.parts.items()
        }
        verify_gpt(each.disk)


def test_the_root_takes_the_rest_of_the_disk_and_nothing_else_grows(cloud: Published, instances: Pair) -> None:
    for each, size in zip(instances, (512, 256), strict=True):
        root = each.partitions[1]
        assert (root["start"] + root["size"]) * 512 == (size - 1) * MIB
        assert each.partition(1).size_bytes > root["size"] * 512 * 0.85
        others = {number: part["size"] * 512 // MIB for number, part in each.partitions.items() if number != 1}
        assert others == {number: part.size_mib for number, part in cloud.parts.items() if number != 1}


def test_boot_code_stays(instances: Pair) -> None:
    for each in instances:
        with each.disk.open("rb") as file:
            assert file.read(440) == BOOT_CODE
            file.seek(MIB)
            assert file.read(3 * MIB) == (BOOT_CODE * 100).ljust(3 * MIB, b"\0")


def test_instances_share_no_name_with_each_other_or_the_publisher(cloud: Published, instances: Pair) -> None:
    identities = [each.identity(1, 3, 15, 16) for each in instances]
    assert all(len(names) == 10 for names in identities)  # the disk, five partitions, four file systems
    assert not identities[0] & identities[1]
    for names in identities:
        assert not names & cloud.old_names()


def test_nothing_on_any_file_system_says_the_publishers_names(cloud: Published, instances: Pair) -> None:
    old = {*cloud.old_names(), MACHINE_ID, HOST_KEY.split()[1].lower()}
    for each in instances:
        files = [path for number in (1, 15, 16) for path in each.partition(number).tree.rglob("*") if path.is_file()]
        said = {path: path.read_text(errors="replace").lower() for path in files}
        assert not [(path, name) for path, text in said.items() for name in old if name in text]


def test_files_name_the_new_file_systems_in_the_spellings_that_they_had(
    instances: Pair,
) -> None:
    for each in instances:
        root, swap, esp, boot = (each.partition(number) for number in (1, 3, 15, 16))
        guids = {number: part["uuid"].lower() for number, part in each.partitions.items()}
        assert root.text("/etc/fstab") == (
            f"# UUID={root.uuid} was on /dev/vda1\n"
            f"UUID={root.uuid} / ext4 errors=remount-ro 0 1\n"
            "LABEL=BOOT /boot ext4 defaults 0 2\n"
            f'PARTUUID="{guids[15]}" /boot/efi vfat umask=0077 0 1\n'
            f"/dev/disk/by-uuid/{swap.uuid} none swap sw 0 0\n"
            f"UUID={swap.uuid} none swap sw 0 0\n"
            "tmpfs /tmp tmpfs defaults 0 0\n"
            "nonsense\n"
        )
        assert "/etc/fstab of the guest: line 8 has less than three fields; it is kept" in each.outcome.said
        assert root.text("/etc/kernel/cmdline") == f"root=UUID={root.uuid} ro{ARGUMENTS}\n"
        assert f"resume=UUID={swap.uuid}" in root.text("/etc/default/grub")
        assert boot.text("/grub/grub.cfg") == (
            f"search --no-floppy --fs-uuid --set=root {boot.uuid}\n"
            f"linux /vmlinuz-6.1.0-9-amd64 root=PARTUUID={guids[1]} ro{ARGUMENTS}\n"
        )
        assert f"options root=UUID={root.uuid} ro{ARGUMENTS}\n" in boot.text("/loader/entries/debian.conf")
        assert esp.text("/EFI/debian/grub.cfg") == f"search.fs_uuid {boot.uuid} root\n"
        assert esp.text("/EFI/BOOT/BOOTX64.EFI") == f"a loader with a name built in: {boot.uuid}\n"
        environment = f"# GRUB Environment Block\nkernelopts=root=UUID={root.uuid} ro{ARGUMENTS}\n"
        assert boot.text("/grub/grubenv") == environment.ljust(1024, "#")
        assert (root.label, esp.label, boot.label, swap.label) == ("cloudimg-rootfs", "ESP", "BOOT", "pages")


def test_systems_are_made_unique_as_those_of_other_images_are(instances: Pair) -> None:
    roots = [each.partition(1) for each in instances]
    assert [root.text("/etc/hostname") for root in roots] == [f"{FIRST}\n", f"{SECOND}\n"]
    assert all("198.51.100.7" in root.text("/etc/network/interfaces") for root in roots)
    for path in ("/etc/machine-id", *(f"/etc/ssh/ssh_host_{kind}_key.pub" for kind in ("rsa", "ecdsa", "ed25519"))):
        one, other = (root.text(path) for root in roots)
        assert one != other


def test_nothing_of_what_was_on_the_disk_shows_through(instances: Pair) -> None:
    for each in instances:
        content = each.disk.read_bytes()
        assert b"\xa5" * 64 not in content


def test_a_second_create_does_not_look_into_the_image_again(pairs: dict[str, Pair]) -> None:
    said = {isolation: [each.outcome.said for each in pairs[isolation]] for isolation in ISOLATIONS}
    assert "look inside" in said["auto"][0]
    assert all("appliance" not in each for each in (*said["auto"], *said["host"]))
    assert [each.count("start the libguestfs appliance:") for each in said["appliance"]] == [1, 1]
    for each in (said["auto"][1], *said["host"], *said["appliance"]):
        assert not [word for word in ("verify", "to raw", "look inside", "checksums") if word in each]


def test_ext_file_systems_have_their_new_uuids_before_anything_opens_them(pairs: dict[str, Pair]) -> None:
    """So nothing checks them again: they were when the image was prepared."""
    for each in (each for pair in pairs.values() for each in pair):
        steps = ["copy image", "file system /boot: new UUID", "file system: new UUID"]  # as they lie on the disk
        is_in_a_machine = each in pairs["appliance"]
        steps += ["start the libguestfs appliance" if is_in_a_machine else "file system /boot/efi: new UUID"]
        places = [each.outcome.said.rindex(step) for step in steps]
        assert places == sorted(places)


@pytest.mark.parametrize("other", ["auto", "appliance"])
def test_every_way_leaves_the_same_files_and_names_as_the_host(pairs: dict[str, Pair], other: str) -> None:
    for one, host in zip(pairs[other], pairs["host"], strict=True):
        assert one.table["id"] == host.table["id"]
        assert one.identity(1, 3, 15, 16) == host.identity(1, 3, 15, 16)
        for number in (1, 15, 16):
            found, expected = one.partition(number), host.partition(number)
            assert found.size_bytes == expected.size_bytes
            assert differences(tree_of(found.tree), tree_of(expected.tree)) == {}


def test_the_plan_shows_what_create_writes(cloud: Published, instances: Pair, isolation: str) -> None:
    for each, name in zip(instances, (FIRST, SECOND), strict=True):
        plan = cloud.plan(each.disk, name, parameters={"isolation": isolation})
        assert plan["isolation"] == {"auto": "sandbox"}.get(isolation, isolation)
        assert plan["firmware"] == ["bios", "uefi"]
        table = plan["table"]
        assert table["guid"] == each.table["id"].lower()
        planned = {part["number"]: part for part in table["partitions"]}
        assert {
            number: (part["start_bytes"], part["size_bytes"], part["guid"], part["type"])
            for number, part in planned.items()
        } == {
            number: (part["start"] * 512, part["size"] * 512, part["uuid"].lower(), part["type"].lower())
            for number, part in each.partitions.items()
        }
        for number in (1, 3, 15, 16):
            assert planned[number]["filesystem_uuid"] == each.partition(number).uuid
        assert {number: part["mount"] for number, part in planned.items()} == {
            1: "/", 3: None, 14: None, 15: "/boot/efi", 16: "/boot"
        }  # fmt: skip


def test_a_disk_smaller_than_the_image_is_refused_with_both_sizes_and_not_touched(
    cloud: Published, instances: Pair
) -> None:
    disk = cloud.site.disk(156 * MIB, name="small.raw")
    outcome = cloud.create(disk, FIRST)
    assert outcome.status == 1
    assert "is too small: it has 156 MiB and the image needs 157 MiB;" in outcome.last_line
    assert disk.stat().st_blocks == 0


def test_sectors_of_another_size_are_refused_with_both_sizes_and_not_touched(cloud: Published, instances: Pair) -> None:
    disk = cloud.site.disk(256 * MIB, name="large-sectors.raw")
    with attached(disk, 4096) as device:
        cloud.site.write("variants/published.yaml", "image: published\nlayout: {firmware: [uefi]}\n")
        outcome = cloud.create(device, FIRST, hypervisor="xen-hvm")
    assert outcome.status == 1
    assert "has sectors of 4096 bytes, and the image's table counts in 512" in outcome.last_line
    assert disk.stat().st_blocks == 0


# -- other layouts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("isolation", ["auto", "host"])  # in an appliance, then
def test_a_btrfs_root_in_a_subvolume_with_its_boot_on_xfs(publish: Callable[..., Published], isolation: str) -> None:
    """As Fedora's: BIOS boot, ESP, /boot, and a btrfs with subvolumes; entries of the Boot Loader Specification."""
    esp, boot = Part(2, ESP, 40, "vfat"), Part(3, BOOT, 320, "xfs")
    root = Part(4, ROOT, 128, "btrfs", subvolumes=("root", "home", "var"), label="fedora")
    root.files = {
        **system(
            f"UUID={root.uuid} / btrfs compress=zstd:1,subvol=root 0 0\n"
            f"UUID={boot.uuid} /boot xfs defaults 0 0\n"
            f"UUID={esp.uuid} /boot/efi vfat umask=0077 0 2\n"
            f"UUID={root.uuid} /home btrfs subvol=home 0 0\n"
            f"UUID={root.uuid} /var btrfs subvol=var 0 0\n",
            kernel=False,
            top="/root",
            boot__empty="",
            home__empty="",
        ),
        "/root/var/empty": "",
        "/var/lib/systemd/catalog/x": "",
        "/var/lib/dbus/machine-id": "x\n",
    }
    entry = f"linux /vmlinuz-6.1.0-9-amd64\noptions root=UUID={root.uuid} ro rootflags=subvol=root\n"
    boot.files = {
        "/vmlinuz-6.1.0-9-amd64": "a kernel\n",
        "/grub2/grub.cfg": f"set boot={boot.uuid}\n",
        f"/loader/entries/{MACHINE_ID}.conf": entry,
        "/efi/.empty": "",
    }
    esp.files = {"/EFI/fedora/grub.cfg": f"search --fs-uuid --set=dev {boot.uuid}\n"}
    fedora = publish(Part(1, BIOS_BOOT, 1), esp, boot, root)
    installed = fedora.install(700, isolation=isolation)
    verify_gpt(installed.disk)
    root_now, boot_now = installed.partition(4), installed.partition(3)
    assert root_now.size_bytes == installed.partitions[4]["size"] * 512 == 337 * MIB
    assert not installed.identity(2, 3, 4) & fedora.old_names()
    assert root_now.text("/root/etc/hostname") == f"{FIRST}\n"
    assert f"UUID={root_now.uuid} / btrfs compress=zstd:1,subvol=root 0 0" in root_now.text("/root/etc/fstab")
    named = entry.replace(root.uuid, root_now.uuid).removesuffix("\n")
    assert boot_now.text(f"/loader/entries/{MACHINE_ID}.conf") == f"{named}{ARGUMENTS}\n"
    assert boot_now.text("/grub2/grub.cfg") == f"set boot={boot_now.uuid}\n"
    assert boot_now.uuid in installed.partition(2).text("/EFI/fedora/grub.cfg")
    # What lies in another subvolume of the root's is changed there, and not beneath the mount point.
    assert (root_now.tree / "var/lib/dbus/machine-id").is_symlink()
    assert (root_now.tree / "var/lib/systemd/random-seed").stat().st_size == 512
    assert not (root_now.tree / "root/var/lib").exists()
    # A rename has to find the subvolume as well.
    parameters = {"isolation": isolation}
    outcome = fedora.site.renamed(installed.disk, FIRST, SECOND, variant="published", parameters=parameters)
    assert outcome.status == 0, outcome.said
    renamed = replace(installed, scratch=installed.scratch / "renamed", _found={}).partition(4)
    assert renamed.text("/root/etc/hostname") == f"{SECOND}\n"
    assert not (renamed.tree / "etc").exists()


def test_a_logical_root_grows_with_the_extended_partition(publish: Callable[..., Published], isolation: str) -> None:
    boot, swap = Part(1, "ea", 16, "ext2"), Part(5, "82", 8, "swap")
    root = Part(6, "83", 32, "ext4")
    boot.files = {"/vmlinuz-6.1.0-9-amd64": "a kernel\n", "/grub/grub.cfg": f"root=UUID={root.uuid}\n"}
    fstab = "PARTUUID={0}-06 / ext4 defaults 0 1\n{2} /boot ext2 defaults 0 2\nUUID={1} none swap sw 0 0\n"
    root.files = system(fstab.format("1234abcd", swap.uuid, "/dev/sda1"), kernel=False, boot__empty="")
    old = publish(boot, Part(2, "f", 0), swap, root, label="dos", disk_id="0x1234abcd")
    installed = old.install(128, isolation=isolation)
    assert {number: part["type"] for number, part in installed.partitions.items()} == {
        1: "ea", 2: "f", 5: "82", 6: "83"
    }  # fmt: skip
    ends = {number: (part["start"] + part["size"]) * 512 // MIB for number, part in installed.partitions.items()}
    assert ends == {1: 17, 2: 128, 5: 26, 6: 128}
    checked = subprocess.run(["sfdisk", "--verify", installed.disk], capture_output=True, text=True, check=True)
    assert "No errors detected" in checked.stdout
    root_now = installed.partition(6)
    assert root_now.size_bytes > 85 * MIB
    assert not installed.identity(1, 5, 6) & old.old_names()
    signature = installed.table["id"].removeprefix("0x")
    boot_uuid = f"UUID={installed.partition(1).uuid}"
    assert root_now.text("/etc/fstab") == fstab.format(signature, installed.partition(5).uuid, boot_uuid)
    assert installed.partition(1).text("/grub/grub.cfg") == f"root=UUID={root_now.uuid}\n"
    assert installed.disk.read_bytes()[: 512 + 440] == BOOT_CODE + installed.disk.read_bytes()[440:512] + BOOT_CODE


def test_a_primary_root_grows_and_its_boot_on_vfat_follows(publish: Callable[..., Published], isolation: str) -> None:
    boot, root = Part(1, "c, bootable", 40, "vfat", label="FIRMWARE"), Part(3, "83", 32, "ext3")
    boot.files = {"/vmlinuz-6.1.0-9-amd64": "a kernel\n", "/extlinux/a.conf": f"append root=UUID={root.uuid}\n"}
    fstab = "UUID={} / ext3 defaults 0 1\n/dev/disk/by-uuid/{} /boot vfat defaults 0 2\n"
    root.files = system(fstab.format(root.uuid, boot.uuid), kernel=False, boot__empty="")
    old = publish(boot, root, label="dos")
    disk = old.site.disk(128 * MIB)
    unknown = old.plan(disk)
    assert unknown["table"] is None
    assert "known once the image is prepared (osprovider image build published)" in unknown["notes"][0]
    installed = old.install(128, isolation=isolation)
    assert old.plan(disk)["firmware"] == ["bios"]
    places = {number: (part["start"], part["size"]) for number, part in installed.partitions.items()}
    assert places == {1: (2048, 40 * 2048), 3: (41 * 2048, 87 * 2048)}
    assert [part.get("bootable", False) for part in installed.table["partitions"]] == [True, False]
    root_now, boot_now = installed.partition(3), installed.partition(1)
    assert root_now.size_bytes > 75 * MIB
    assert not installed.identity(1, 3) & old.old_names()
    assert root_now.text("/etc/fstab") == fstab.format(root_now.uuid, boot_now.uuid)
    assert boot_now.text("/extlinux/a.conf") == f"append root=UUID={root_now.uuid}\n"


def test_a_root_whose_own_blocks_are_between_pages_gets_its_uuid_when_it_is_opened(
    publish: Callable[..., Published], isolation: str
) -> None:
    """As disks were divided when they had 63 sectors a track."""
    root = Part(1, "83", 64, "ext4")
    root.files = system(f"UUID={root.uuid} / ext4 defaults 0 1\n")
    old = publish(root, label="dos", start=63 << 9)
    installed = old.install(128, isolation=isolation)
    assert installed.outcome.said.count("file system: new UUID") == (isolation != "appliance")  # which says less
    root_now = installed.partition(1)
    assert installed.partitions[1]["start"] == 63
    assert root_now.uuid not in ("", root.uuid)
    assert root_now.size_bytes > 100 * MIB
    assert root_now.text("/etc/fstab") == f"UUID={root_now.uuid} / ext4 defaults 0 1\n"


@pytest.mark.parametrize("isolation", ["auto", "host"])  # in an appliance, then
def test_a_file_system_without_a_table_gets_a_table_and_a_boot_loader_of_ours(
    publish: Callable[..., Published], isolation: str
) -> None:
    root = Part(1, "", 320, "xfs", files=system("LABEL=whole / xfs defaults 0 0\n"), label="whole")
    installed = publish(root, label="none").install(1024, isolation=isolation)
    verify_gpt(installed.disk)
    assert [part["type"] for part in installed.table["partitions"]] == [BIOS_BOOT, ESP, ROOT]
    root_now = installed.partition(3)
    assert root_now.uuid != root.uuid
    assert root_now.size_bytes > 600 * MIB
    assert f"UUID={root_now.uuid}" in root_now.text("/etc/fstab")
    assert root_now.uuid in root_now.text("/boot/grub/grub.cfg")
    assert installed.partition(2).tree.joinpath("EFI/BOOT/BOOTX64.EFI").stat().st_size > 100_000


# -- what is refused --------------------------------------------------------------------------------------------------


def refused(published: Published) -> str:
    """The last line of what is said of an image that cannot be installed, of which nothing is kept or written."""
    disk = published.site.disk(512 * MIB)
    outcome = published.create(disk, FIRST)
    assert outcome.status == 1, outcome.said
    assert disk.stat().st_blocks == 0
    assert not list((published.site.cache / "templates").iterdir())
    return outcome.last_line


def test_an_encrypted_root_leaves_no_trace(publish: Callable[..., Published]) -> None:
    luks2 = b"LUKS\xba\xbe\x00\x02" + (16384).to_bytes(8, "big")
    published = publish(Part(1, ESP, 40, "vfat"), Part(2, ROOT, 32, content=luks2.ljust(4096, b"\0") * 2))
    assert "image published: partition 2 is LUKS (crypto_LUKS), which is not supported" in refused(published)


def test_a_broken_table_leaves_no_trace(publish: Callable[..., Published]) -> None:
    published = publish(Part(1, ROOT, 32, "ext4", files=system("")))
    with published.image.open("r+b") as file:
        file.seek(1024 + 8)
        file.write(b"?")
    assert "image published: its partition table is broken: the GPT's entries are damaged" in refused(published)
