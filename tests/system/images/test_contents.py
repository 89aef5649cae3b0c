"""What is found in disk images, and how those are refused that hold nothing to install, or what is not supported."""

from __future__ import annotations

import importlib.util
import re
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from osprovider.errors import ImageError, NodeError
from osprovider.guest import fuse2fs
from osprovider.guest.host import HostGuest
from osprovider.guest.protocol import Guest
from osprovider.images.diskimage import contents
from osprovider.images.diskimage.contents import Contents, examine, find_partitions, settle
from osprovider.manifest import ImagePartition
from osprovider.paths import Directories
from osprovider.sandbox import confine
from tests.support.leftovers import no_leftovers
from tests.support.sparse import sparse_file
from tests.system.create.cloud import (
    BIOS_BOOT,
    BOOT,
    ESP,
    LINUX,
    MIB,
    ROOT,
    SWAP,
    Part,
    install_filesystem,
    make_disk,
    make_filesystem,
    mounted_by_the_host,
    system,
)
from tests.system.create.site import attached


@pytest.fixture
def scratch(run_directory: Path) -> Iterator[Path]:
    """A directory of the test's own; nothing else may be left."""
    with tempfile.TemporaryDirectory(dir=run_directory, prefix="contents-") as name:
        path = Path(name)
        with no_leftovers([path]):
            yield path


@pytest.fixture
def directories(run_directory: Path) -> Directories:
    """The run's appliance, which takes long to build."""
    found = Directories(cache=run_directory, run=run_directory / "run")
    found.run.mkdir(exist_ok=True)
    return found


@pytest.fixture
def disk(scratch: Path) -> Callable[..., Path]:
    """Make a disk image, or (label ``none``) a file system by itself."""

    def make(*parts: Part, label: str = "gpt") -> Path:
        path = scratch / "image"
        if label == "none":
            make_filesystem(path, parts[0])
        else:
            make_disk(path, parts, label=label)
        return path

    return make


@pytest.fixture(params=["host", "appliance", "auto"])
def isolation(request: pytest.FixtureRequest) -> str:
    """Where it is opened."""
    return str(request.param)


def examined(
    image: Path, directories: Directories, isolation: str, look: Callable[[HostGuest], list[str]]
) -> tuple[Contents, list[str]]:
    """What is found on an image, and in it."""
    return examine(image, "x", settle(image, "x"), directories, isolation, look)


def kernels(guest: Guest) -> list[str]:
    return guest.glob("/boot/vmlinuz-*") + guest.glob("/boot/efi/EFI/*")


def places(contents: Contents) -> dict[int, tuple[str, str, str | None]]:
    """Role, type of the file system and mount point of each partition."""
    assert contents.table is not None
    return {part.number: (part.role, _type(part), part.mount) for part in contents.table.partitions}


def _type(part: ImagePartition) -> str:
    return part.filesystem.type if part.filesystem else ""


# -- what is found ----------------------------------------------------------------------------------------------------


def test_an_fstab_says_where_file_systems_are_and_the_root_is_what_holds_a_system(
    disk: Callable[..., Path], directories: Directories, isolation: str
) -> None:
    """Every line names its partition in another way, and some lie."""
    boot, root = Part(5, BOOT, 16, "ext4", label="boot"), Part(4, LINUX, 32, "ext4")
    esp, swap = Part(2, ESP, 40, "vfat"), Part(3, LINUX, 8, "swap")
    boot.files = {"/vmlinuz-6.1.0-9-amd64": "", "/efi/.empty": ""}
    esp.files = {"/EFI/debian/grub.cfg": ""}
    root.files = system(
        f"/dev/vda4 / ext4 defaults 0 1\n"
        f"LABEL=boot /boot ext4 defaults 0 2\n"
        f"UUID={esp.uuid.lower()} /boot/efi vfat noauto 0 2\n"
        f"UUID={boot.uuid} / ext4 defaults 0 0\n"
        f"UUID={root.uuid} /data ext4 noauto 0 0\n"
        f"UUID={swap.uuid} /swap ext4 defaults 0 0\n",
        kernel=False,
        boot__empty="",
    )
    contents, found = examined(disk(esp, boot, swap, root), directories, isolation, kernels)
    assert found == ["/boot/vmlinuz-6.1.0-9-amd64", "/boot/efi/EFI/debian"]
    assert places(contents) == {
        2: ("esp", "vfat", "/boot/efi"),
        5: ("boot", "ext4", "/boot"),
        3: ("swap", "swap", None),
        4: ("root", "ext4", "/"),
    }
    assert contents.filesystem.uuid == root.uuid


def test_an_fstab_that_cannot_be_read_keeps_no_image_from_being_used(
    disk: Callable[..., Path], directories: Directories, isolation: str
) -> None:
    """What boots is found by the types of partitions."""
    esp, root = Part(1, ESP, 40, "vfat"), Part(2, LINUX, 32, "ext4", label="root")
    root.files = {**system(""), "/etc/fstab/empty": "", "/efi/.empty": ""}
    del root.files["/etc/fstab"]
    contents, _ = examined(disk(esp, root), directories, isolation, kernels)
    assert places(contents) == {1: ("esp", "vfat", "/efi"), 2: ("root", "ext4", "/")}


def test_a_default_subvolume_is_the_root_and_others_are_mounted_in_it(
    disk: Callable[..., Path], scratch: Path, directories: Directories, isolation: str
) -> None:
    """As openSUSE has it; the EFI system partition is where there is a directory for it."""
    esp, root = Part(1, ESP, 40, "vfat"), Part(2, ROOT, 128, "btrfs", subvolumes=("@", "@/root", "@/snap"))
    esp.files = {"/EFI/opensuse/grub.cfg": ""}
    flood = "".join(f"UUID={root.uuid} /x{number} btrfs subvol=/@/x{number} 0 0\n" for number in range(2000))
    fstab = f"UUID={root.uuid} / btrfs defaults 0 0\nUUID={root.uuid} /root btrfs subvol=/@/root 0 0\n{flood}"
    root.files = system(fstab)
    root.files = {f"/@/snap{path}": text for path, text in root.files.items() if not path.startswith("/root")} | {
        "/@/snap/root/.empty": "",
        "/@/snap/efi/.empty": "",
        "/@/root/.profile": "",
    }
    image = disk(esp, root)
    place = f"loop,offset={41 * MIB},sizelimit={128 * MIB}"
    install_filesystem(image, "btrfs subvolume set-default root/@/snap", place)

    def look(guest: Guest) -> list[str]:
        return guest.glob("/root/.*") + guest.glob("/efi/EFI/*")

    contents, found = examined(image, directories, isolation, look)
    assert found == ["/root/.profile", "/efi/EFI/opensuse"]
    assert contents.filesystem.subvolumes[:3] == (("/", ""), ("/root", "@/root"), ("/x0", "@/x0"))
    assert len(contents.filesystem.subvolumes) == 32
    assert places(contents) == {1: ("esp", "vfat", "/efi"), 2: ("root", "btrfs", "/")}


def test_what_fuse2fs_reads_needs_no_appliance(disk: Callable[..., Path], scratch: Path) -> None:
    """There is no place for one."""
    root = Part(1, ROOT, 32, "ext3", files=system(""))
    directories = Directories(cache=Path("/dev/null/cache"), run=scratch / "run")
    image = disk(Part(15, ESP, 40, "vfat"), root)
    assert [part.role for part in find_partitions(image, "x", directories)[1]] == ["esp", "root"]
    with pytest.raises(OSError, match="/dev/null/cache"):
        find_partitions(image, "x", directories, "appliance")
    contents, found = examined(image, directories, "auto", kernels)
    assert contents.filesystem.uuid == root.uuid
    assert found


@pytest.mark.parametrize("program", ["false", "sleep"])
def test_where_fuse2fs_fails_the_appliance_looks(
    program: str, disk: Callable[..., Path], directories: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuse2fs, "_PROGRAM", program)
    root = Part(1, ROOT, 32, "ext4", files=system(""))
    contents, found = examined(disk(root), directories, "auto", kernels)
    assert contents.filesystem.uuid == root.uuid
    assert found


def test_a_node_that_has_neither_is_told_what_either_lacks(
    disk: Callable[..., Path],
    directories: Directories,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(fuse2fs, "_PROGRAM", "fuse2fs-of-no-node")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    image = disk(Part(1, ROOT, 32, "ext4", files=system("")))
    with pytest.raises(NodeError, match=r"^image x: partition 1: the libguestfs appliance needs python3-guestfs"):
        find_partitions(image, "x", directories)
    lacking = "warning: image x: partition 1: cannot be read in the sandbox: fuse2fs-of-no-node is missing\n"
    assert lacking in capsys.readouterr().err


# -- what is refused --------------------------------------------------------------------------------------------------


def refusal(image: Path, directories: Directories) -> str:
    """What is said of an image that is refused, in one line."""
    with pytest.raises(ImageError) as caught:
        examined(image, directories, "appliance", kernels)
    (line,) = str(caught.value).splitlines()
    return line


NO_SYSTEM = "no file system holds a system (/etc/os-release or /usr/lib/os-release or /etc/fstab)"

NOWHERE = Directories(cache=Path("/dev/null/cache"), run=Path("/dev/null/run"))
"""What is refused by its superblocks alone never starts an appliance, which has no place to run here."""


def luks(part: Path) -> None:
    words = ["cryptsetup", "luksFormat", "--batch-mode", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"]
    subprocess.run([*words, part], input=b"secret", check=True, capture_output=True)


def lvm(part: Path) -> None:
    with attached(part) as device:
        subprocess.run(["pvcreate", "--devices", device, device], check=True, capture_output=True)


def raid(part: Path) -> None:
    """A superblock of version 1.2 (the kernel's raid/md_p.h); making one takes a kernel that knows RAID."""
    superblock = struct.pack("<IIII16s32sQIIQII", 0xA92B4EFC, 1, 0, 0, b"\x11" * 16, b"node:0", 0, 1, 0, 8, 0, 2)
    superblock = superblock.ljust(128, b"\0") + struct.pack("<QQQ", 2048, 8192, 8)
    checksum = sum(struct.unpack("<64I", superblock.ljust(256, b"\0")))
    superblock = superblock.ljust(216, b"\0") + struct.pack("<I", (checksum & 0xFFFFFFFF) + (checksum >> 32))
    write(part, 4096, superblock)


def zfs(part: Path) -> None:
    """The überblocks of a label (OpenZFS' uberblock_impl.h, vdev_impl.h)."""
    for number in range(8):
        write(part, 128 * 1024 + number * 1024, struct.pack("<QQQQQ", 0x00BAB10C, 5000, number, 0, 0))


def bitlocker(part: Path) -> None:
    """A volume of Windows 7 and later, as libblkid's superblocks/bitlocker.c knows it."""
    write(part, 0, b"\xeb\x58\x90-FVE-FS-".ljust(176, b"\0") + struct.pack("<Q", 64 << 10))
    write(part, 64 << 10, b"-FVE-FS-" + struct.pack("<HH", 64, 2))


def minix(part: Path) -> None:
    subprocess.run(["mkfs.minix", "-3", part], check=True, capture_output=True)


def swap(part: Path) -> None:
    subprocess.run(["mkswap", "-q", part], check=True)


def f2fs(part: Path) -> None:
    subprocess.run(["mkfs.f2fs", "-q", part], check=True, capture_output=True)


def nothing(part: Path) -> None:
    """Zeros."""


def iso(part: Path) -> None:
    write(part, 32768, b"\x01CD001\x01\x00" + bytes(32) + b"A DISC".ljust(32))


def write(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


UNSUPPORTED = [
    (luks, "is LUKS (crypto_LUKS), which is not supported"),
    (lvm, "is LVM (LVM2_member), which is not supported"),
    (raid, "is Linux RAID (linux_raid_member), which is not supported"),
    (zfs, "is ZFS (zfs_member), which is not supported"),
    (f2fs, "is F2FS (f2fs), which is not supported"),
    (bitlocker, "is BitLocker (BitLocker), which is not supported"),
]


@pytest.mark.parametrize(("fill", "message"), UNSUPPORTED)
def test_what_is_not_supported_is_named_with_its_partition(
    fill: Callable[[Path], None], message: str, disk: Callable[..., Path], scratch: Path
) -> None:
    image = disk(Part(14, BIOS_BOOT, 1), Part(15, ESP, 40, "vfat"), Part(1, ROOT, 64))
    inner = sparse_file(scratch / "inner", 64 * MIB)
    fill(inner)
    write(image, 42 * MIB, inner.read_bytes())
    said = refusal(image, NOWHERE)
    assert said.startswith(f"image x: partition 1 {message}")
    assert "ext4" in said


@pytest.mark.parametrize(("fill", "message"), UNSUPPORTED)
def test_what_is_not_supported_is_named_without_a_table_too(
    fill: Callable[[Path], None], message: str, scratch: Path
) -> None:
    image = sparse_file(scratch / "image", 64 * MIB)
    fill(image)
    assert refusal(image, NOWHERE).startswith(f"image x: its file system {message}")


def another(part: Path, size_bytes: int) -> Path:
    """A second device, as a file."""
    return sparse_file(part.with_name("another"), size_bytes)


def ext4_journal(part: Path) -> None:
    with attached(another(part, 16 * MIB)) as journal:
        subprocess.run(["mke2fs", "-q", "-O", "journal_dev", "-b", "4096", journal], check=True)
        subprocess.run(["mkfs.ext4", "-q", "-b", "4096", "-J", f"device={journal}", part], check=True)


def xfs_log(part: Path) -> None:
    subprocess.run(["mkfs.xfs", "-q", "-l", f"logdev={another(part, 64 * MIB)},size=64m", part], check=True)


def xfs_realtime(part: Path) -> None:
    subprocess.run(["mkfs.xfs", "-q", "-r", f"rtdev={another(part, 64 * MIB)}", part], check=True)


def btrfs_pair(part: Path) -> None:
    subprocess.run(["mkfs.btrfs", "-q", part, another(part, 300 * MIB)], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("fill", "message"),
    [
        (ext4_journal, "its journal is on another device"),
        (xfs_log, "its log is on another device"),
        (xfs_realtime, "its realtime section is on another device"),
        (btrfs_pair, "it is one of 2 devices of a btrfs"),
    ],
)
def test_a_file_system_that_needs_another_device_is_refused(
    fill: Callable[[Path], None], message: str, scratch: Path
) -> None:
    image = sparse_file(scratch / "image", 300 * MIB)
    fill(image)
    assert refusal(image, NOWHERE).startswith(f"image x: its file system: {message}, which is not supported: put the")


@pytest.mark.parametrize(
    ("fill", "message"),
    [
        (nothing, "image x: has no partition table, and no file system that is known"),
        (swap, f"image x: {NO_SYSTEM}; its file system: swap"),
        (iso, f"image x: {NO_SYSTEM}; its file system: iso9660"),
    ],
)
def test_what_can_be_no_root_is_refused(fill: Callable[[Path], None], message: str, scratch: Path) -> None:
    image = sparse_file(scratch / "image", 64 * MIB)
    fill(image)
    assert refusal(image, NOWHERE) == message


@pytest.mark.parametrize(("fill", "held"), [(minix, "minix"), (swap, "swap"), (nothing, "nothing that is known")])
def test_what_is_in_the_roots_place_is_named(
    fill: Callable[[Path], None], held: str, disk: Callable[..., Path], scratch: Path
) -> None:
    image = disk(Part(1, LINUX, 16, "ext4", files=system("")), Part(2, ROOT, 16))
    inner = sparse_file(scratch / "inner", 16 * MIB)
    fill(inner)
    write(image, 17 * MIB, inner.read_bytes())
    said = refusal(image, NOWHERE)
    assert said.startswith(f"image x: partition 2 is the root by its type and holds {held}: put the root on a file")


def test_a_disk_of_swap_and_an_esp_has_no_root(disk: Callable[..., Path]) -> None:
    image = disk(Part(1, ESP, 40, "vfat"), Part(2, SWAP, 16, "swap"), Part(3, LINUX, 16))
    held = "partition 1: vfat, partition 2: swap, partition 3: nothing known"
    assert refusal(image, NOWHERE) == f"image x: {NO_SYSTEM}; {held}"


def test_a_system_that_hibernates_is_refused(disk: Callable[..., Path]) -> None:
    image = disk(Part(1, ROOT, 16, "ext4", files=system("")), Part(2, SWAP, 16, "swap"))
    write(image, 17 * MIB + 4096 - 10, b"S1SUSPEND\0")
    assert refusal(image, NOWHERE) == (
        "image x: partition 2 holds a system that hibernates (swsuspend): wake it up and shut it down"
    )


def test_a_partition_with_two_superblocks_is_refused_with_the_byte(disk: Callable[..., Path]) -> None:
    image = disk(Part(1, ROOT, 64, "ext4", files=system("")))
    write(image, MIB + 65536 + 64, b"_BHRfS_M")
    assert refusal(image, NOWHERE).startswith(
        f"image x: what begins at byte {MIB} looks like more than one file system"
    )


@pytest.mark.parametrize(
    ("failing", "why"),
    [
        (
            lambda: confine(["blkid"], read={Path("/nonexistent"): "/image"}),
            "bwrap: .*No such file or directory; see what this node is short of",
        ),
        (
            lambda: confine(["sh", "-c", "kill -SEGV $$"]),
            "blkid ended with 139; it is damaged, or this node is short of memory",
        ),
        (
            lambda: confine(["blkid", "--no-such-option"]),
            "Try 'blkid --help' for more information.; it is damaged, or this node is short of memory",
        ),
    ],
)
def test_what_cannot_be_probed_is_not_taken_for_empty(
    failing: Callable[[], list[str]], why: str, disk: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = disk(Part(1, ROOT, 16, "ext4", files=system("")))
    monkeypatch.setattr(contents, "confine", lambda *_, **__: failing())
    with pytest.raises(ImageError) as failure:
        settle(image, "x")
    assert re.fullmatch(f"image x: what begins at byte 0 cannot be looked at: {why}", str(failure.value))
    # else what was fetched would go, and be fetched once more
    assert isinstance(failure.value, NodeError) == ("bwrap" in why)


def test_an_encrypted_root_beside_a_boot_partition_is_named(
    disk: Callable[..., Path], scratch: Path, directories: Directories
) -> None:
    image = disk(Part(1, LINUX, 16, "ext4", files={"/vmlinuz-1": ""}), Part(2, LINUX, 64), label="gpt")
    inner = sparse_file(scratch / "inner", 64 * MIB)
    luks(inner)
    write(image, 17 * MIB, inner.read_bytes())
    assert refusal(image, directories).startswith("image x: partition 2 is LUKS (crypto_LUKS), which is not supported")


def test_two_roots_are_both_named(disk: Callable[..., Path], directories: Directories) -> None:
    one, other = Part(2, LINUX, 16, "ext4", files=system("")), Part(1, "83", 128, "btrfs", subvolumes=("@", "@old"))
    other.files = system("", top="/@") | system("", top="/@old")
    other.type = LINUX
    said = refusal(disk(other, one), directories)
    assert said.startswith("image x: partition 1 @ and partition 1 @old and partition 2 could both be the root")


def test_of_two_subvolumes_with_a_system_the_default_one_is_the_root(
    disk: Callable[..., Path], directories: Directories
) -> None:
    """As a snapshot beside the system that is in use."""
    root = Part(1, ROOT, 128, "btrfs", subvolumes=("@", "@old"), files=system("", top="/@") | system("", top="/@old"))
    image = disk(root)
    way = "make one the default subvolume (btrfs subvolume set-default)"
    assert refusal(image, directories) == f"image x: partition 1 @ and partition 1 @old could both be the root: {way}"
    image = disk(root)
    place = f"loop,offset={MIB},sizelimit={128 * MIB}"
    install_filesystem(image, "btrfs subvolume set-default root/@", place)
    contents, _ = examined(image, directories, "auto", kernels)
    assert contents.filesystem.subvolumes == ()


def test_a_root_in_a_subvolume_needs_a_boot_loader_of_the_images(
    disk: Callable[..., Path], directories: Directories
) -> None:
    root = Part(1, "", 128, "btrfs", subvolumes=("@",), files=system("", top="/@"))
    said = refusal(disk(root, label="none"), directories)
    assert said.startswith("image x: its file system has the root in a subvolume, which the boot loader that it would")


def test_a_damaged_file_system_is_refused_in_one_line_and_never_by_the_hosts_kernel(
    disk: Callable[..., Path], directories: Directories
) -> None:
    image = disk(Part(15, ESP, 40, "vfat"), Part(1, ROOT, 320, "xfs", files=system("")))
    write(image, 41 * MIB + 2 * 512, b"XAGI" + bytes(508))
    with mounted_by_the_host(image.parent) as mounted:
        said = refusal(image, directories)
    assert not mounted
    assert said.startswith("image x: partition 1: the libguestfs appliance with /dev/loop")
    assert re.search(r": its xfs cannot be mounted at /: ", said)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("superblock", "holds a damaged ext file system: its block size makes no sense"),
        ("feature", r"e2fsck could not repair it and ended with 8: .*"),
        ("cut off", "it has 67108864 bytes, of which only 4194304 are there"),
    ],
)
def test_an_ext_that_nothing_repairs_is_refused_before_anything_opens_it(
    damage: str, message: str, disk: Callable[..., Path]
) -> None:
    kind = "ext3" if damage == "feature" else "ext4"  # without a checksum
    image = disk(Part(15, ESP, 40, "vfat"), Part(1, ROOT, 64, kind, files=system("")))
    if damage == "superblock":
        write(image, 41 * MIB + 1024 + 0x18, struct.pack("<I", 9))  # a block size that blkid takes for one
    elif damage == "feature":
        write(image, 41 * MIB + 1024 + 0x60, struct.pack("<I", 1 << 31))  # one that nobody knows
    else:
        subprocess.run(
            ["sgdisk", "--delete=1", "--new=1:0:+4M", "--typecode=1:8304", image], check=True, capture_output=True
        )
    said = refusal(image, NOWHERE)
    assert re.fullmatch(f"image x: partition 1: {message}; fetch or make it again", said)
