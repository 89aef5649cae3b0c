"""A FAT's files on this machine: what changes in them is put back, and nothing that a FAT cannot hold."""

from __future__ import annotations

import resource
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from osprovider.disk.loop import loop_device
from osprovider.errors import GuestError
from osprovider.guest import fat
from osprovider.guest.host import HostGuest
from osprovider.guest.mounting import Volume, mounted, mounted_together
from tests.support.sparse import sparse_file
from tests.system.guest.backends import make_image
from tests.system.guest.namespace import in_namespace

MIB = 1 << 20
ESP = "/boot/efi"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A FAT32 with files that are as they are on EFI system partitions."""
    path, tree = tmp_path / "esp", tmp_path / "tree"
    sparse_file(path, 40 * MIB)
    subprocess.run(["mkfs.vfat", "-F", "32", "-n", "ESP", path], check=True, capture_output=True)
    for name, text in {
        "EFI/BOOT/BOOTX64.EFI": "a loader\n",
        "EFI/debian/grub.cfg": "search.fs_uuid old root\n",
        "EFI/debian/old/list": "x\n",
        "EFI/Grüße, lange Namen.txt": "ü\n",
        "loader/random-seed": "seed",
    }.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    subprocess.run(["mcopy", "-s", "-i", path, *tree.iterdir(), "::/"], check=True)
    return path


@pytest.fixture
def use(image: Path, tmp_path: Path) -> Callable[..., object]:
    """Have a body use a guest that has the FAT at /boot/efi."""
    root = make_image(tmp_path / "root", size_mib=16)

    def lay() -> None:
        with loop_device(root) as device, mounted(device, "ext4", tmp_path / "run") as guest:
            guest.mkdir(ESP)

    in_namespace(lay)

    @contextmanager
    def opened(*, read_only: bool) -> Iterator[HostGuest]:
        with (
            loop_device(root) as device,
            loop_device(image, read_only=read_only) as esp,
            mounted_together(
                [Volume(device, "ext4"), Volume(esp, "vfat", ESP)], tmp_path / "run", read_only=read_only
            ) as guest,
        ):
            yield guest

    def using(body: Callable[[HostGuest], object], *, read_only: bool = False) -> object:
        def inside() -> object:
            with opened(read_only=read_only) as guest:
                return body(guest)

        return in_namespace(inside)

    return using


def have_empty_files(image: Path, count: int) -> None:
    """Give an empty FAT32 of clusters of a sector so many of them in its root, which begins with the first cluster."""
    with image.open("r+b") as file:
        reserved, fats = struct.unpack_from("<HB", file.read(512), 14)
        file.seek(36)
        fat_sectors = struct.unpack("<I", file.read(4))[0]
        clusters = count * 32 // 512
        for number in range(fats):
            file.seek((reserved + number * fat_sectors) * 512 + 8)
            file.write(struct.pack(f"<{clusters}I", *range(3, clusters + 2), 0x0FFFFFFF))
        file.seek((reserved + fats * fat_sectors) * 512)
        file.writelines(b"%08d   \x20" % each + bytes(20) for each in range(count))


def listed(image: Path) -> dict[str, str]:
    """The files of a FAT, as mtools has them now, after fsck.vfat(8) has found it sound."""
    subprocess.run(["fsck.vfat", "-n", image], check=True, capture_output=True)
    with tempfile.TemporaryDirectory() as name:
        subprocess.run(["mcopy", "-s", "-n", "-i", image, "::/", name], check=True, capture_output=True)
        return {str(path.relative_to(name)): path.read_text() for path in Path(name).rglob("*") if path.is_file()}


def test_what_changes_is_put_back_and_all_else_stays_as_it_is(image: Path, use: Callable[..., object]) -> None:
    def change(guest: HostGuest) -> None:
        guest.write(f"{ESP}/EFI/debian/grub.cfg", "search.fs_uuid new root\n")
        guest.write(f"{ESP}/EFI/fedora/deep/grub.cfg", "made\n", mode=0o600, owner=(1, 2))
        guest.write(f"{ESP}/EFI/new (1) + a~.b-c_d.txt", "new\n")
        guest.remove(f"{ESP}/loader/random-seed")
        guest.remove(f"{ESP}/EFI/debian/old")
        guest.mkdir(f"{ESP}/efi/empty")

    before = listed(image)
    use(change)
    after = listed(image)
    assert after == {
        "EFI/BOOT/BOOTX64.EFI": "a loader\n",
        "EFI/debian/grub.cfg": "search.fs_uuid new root\n",
        "EFI/fedora/deep/grub.cfg": "made\n",
        "EFI/Grüße, lange Namen.txt": before["EFI/Grüße, lange Namen.txt"],
        "EFI/new (1) + a~.b-c_d.txt": "new\n",
    }
    directories = subprocess.run(["mdir", "-b", "-i", image, "::/EFI"], check=True, capture_output=True, text=True)
    assert "::/EFI/empty/" in directories.stdout


def test_a_file_and_a_directory_change_places(image: Path, use: Callable[..., object]) -> None:
    def change(guest: HostGuest) -> None:
        guest.remove(f"{ESP}/EFI/debian")
        guest.write(f"{ESP}/EFI/debian", "a file\n")
        guest.remove(f"{ESP}/loader/random-seed")
        guest.write(f"{ESP}/loader/random-seed/new", "x\n")

    use(change)
    after = listed(image)
    assert after["EFI/debian"] == "a file\n"
    assert after["loader/random-seed/new"] == "x\n"


def test_what_only_reads_changes_nothing(image: Path, use: Callable[..., object]) -> None:
    before = image.read_bytes()

    def look(guest: HostGuest) -> str:
        with pytest.raises(GuestError, match="read-only"):
            guest.write(f"{ESP}/EFI/x", "x")
        return guest.read_text(f"{ESP}/EFI/debian/grub.cfg")

    assert use(look, read_only=True) == "search.fs_uuid old root\n"
    assert image.read_bytes() == before


def test_an_empty_one_and_what_fails_leave_it_as_it_was(image: Path, use: Callable[..., object]) -> None:
    before = image.read_bytes()

    def fail(guest: HostGuest) -> None:
        guest.write(f"{ESP}/EFI/debian/grub.cfg", "half")
        raise GuestError("a hook failed")

    with pytest.raises(GuestError, match="a hook failed"):
        use(fail)
    assert image.read_bytes() == before
    subprocess.run(["mkfs.vfat", "-F", "32", image], check=True, capture_output=True)
    assert use(lambda guest: guest.glob(f"{ESP}/*")) == []
    assert listed(image) == {}


@pytest.mark.parametrize(
    "name",
    [
        *("EFI/[x]", "EFI/a:b", "x*/y", "EFI/a\\b", 'EFI/"x"', "EFI/a\nb"),
        *("EFI/dot.", "EFI/space ", "EFI/Con", "com1/x"),
        *("EFI/ŵ", "EFI/\N{GRINNING FACE}", "EFI/\udcff"),
    ],
)
def test_names_that_mtools_would_misread_are_refused(use: Callable[..., object], name: str) -> None:
    with pytest.raises(GuestError, match="cannot be put into the EFI system partition: choose a name of plain letters"):
        use(lambda guest: guest.write(f"{ESP}/{name}", "x"))


def test_names_of_two_cases_are_one_and_others_are_not(image: Path, use: Callable[..., object]) -> None:
    subprocess.run(["mmd", "-i", image, "::/Große"], check=True)

    def change(guest: HostGuest) -> None:
        guest.write(f"{ESP}/EFI/DEBIAN/GRUB.CFG", "other case\n")
        guest.write(f"{ESP}/grosse/x", "in a directory of its own\n")
        guest.mkdir(f"{ESP}/new")
        guest.write(f"{ESP}/New/y", "made once\n")

    use(change)
    after = listed(image)
    assert after["EFI/debian/GRUB.CFG"] == "other case\n"
    assert after["grosse/x"] == "in a directory of its own\n"
    assert [text for path, text in after.items() if path.lower() == "new/y"] == ["made once\n"]


def test_a_link_is_refused(image: Path, use: Callable[..., object]) -> None:
    before = listed(image)
    with pytest.raises(GuestError, match=r"^EFI/link cannot be put .*: FAT has files and directories alone$"):
        use(lambda guest: guest.symlink("debian", f"{ESP}/EFI/link"))
    assert listed(image) == before


def test_more_files_than_memory_are_refused(tmp_path: Path, image: Path, use: Callable[..., object]) -> None:
    large = tmp_path / "large"
    large.write_bytes(bytes(fat.MOST_BYTES + MIB))
    sparse_file(image, fat.MOST_BYTES + 8 * MIB)
    subprocess.run(["mkfs.vfat", "-F", "32", image], check=True, capture_output=True)
    subprocess.run(["mcopy", "-i", image, large, "::/"], check=True)
    with pytest.raises(
        GuestError, match=r"its vfat has too many files \(more than 128 MiB, 65536 files\): set isolation to appliance"
    ):
        use(lambda guest: guest.glob("/*"))


@pytest.mark.parametrize("name", ["EFI/new", "EFI/debian/grub.cfg"])
def test_what_it_has_no_room_for_is_told(use: Callable[..., object], name: str) -> None:
    with pytest.raises(GuestError, match=rf"^{name} cannot be put .*: /dev/loop\d+ took only a part of it; make"):
        use(lambda guest: guest.write(f"{ESP}/{name}", bytes(45 * MIB)))
    use(lambda guest: guest.write(f"{ESP}/{name}", bytes(35 * MIB)))


def test_the_first_file_that_is_too_much_ends_it(tmp_path: Path, image: Path) -> None:
    """What mcopy says of each further one would be kept in memory."""
    sparse_file(image, 100 * MIB)
    subprocess.run(["mkfs.vfat", "-F", "32", "-s", "1", image], check=True, capture_output=True)
    have_empty_files(image, 400_000)

    def memory_taken() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with (
            pytest.raises(GuestError, match="its vfat has too many files"),
            loop_device(image) as esp,
            mounted_together([Volume(esp, "vfat")], tmp_path / "run", read_only=True),
        ):
            pass
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before

    assert in_namespace(memory_taken) < 8 << 10


def test_a_fat32_that_mtools_takes_for_a_fat16_is_refused(image: Path, use: Callable[..., object]) -> None:
    sparse_file(image, 100 * MIB)
    subprocess.run(["mkfs.vfat", "-F", "32", "-s", "8", image], check=True, capture_output=True)
    with pytest.raises(
        GuestError, match=r"^/dev/loop\d+: its vfat .*: a FAT32 of less than 65525 clusters, in which mtools"
    ):
        use(lambda guest: guest.glob("/*"))


@pytest.mark.parametrize("words", [["-F", "12", "-s", "64"], ["-F", "16"], ["-F", "32", "-S", "4096", "-s", "1"]])
def test_every_kind_of_fat_is_taken(image: Path, use: Callable[..., object], words: list[str]) -> None:
    sparse_file(image, 300 * MIB if "4096" in words else 100 * MIB)
    subprocess.run(["mkfs.vfat", *words, image], check=True, capture_output=True)
    use(lambda guest: guest.write(f"{ESP}/EFI/x", "x\n"))
    assert listed(image) == {"EFI/x": "x\n"}


def test_a_damaged_one_is_named(image: Path, use: Callable[..., object]) -> None:
    with image.open("r+b") as file:
        file.seek(11)
        file.write(b"\xff\xff")  # the size of its sectors
    with pytest.raises(
        GuestError, match=r"/dev/loop\d+: its vfat cannot be used: mcopy: init: sector size too big; have fsck"
    ):
        use(lambda guest: guest.glob("/*"))


def test_a_circle_of_directories_ends(image: Path, use: Callable[..., object]) -> None:
    """A directory whose first cluster is its parent's."""
    content = bytearray(image.read_bytes())
    place = content.index(b"DEBIAN     ")
    parent = content.index(b"EFI        ")
    content[place + 20 : place + 22], content[place + 26 : place + 28] = (
        content[parent + 20 : parent + 22],
        content[parent + 26 : parent + 28],
    )
    image.write_bytes(content)
    with pytest.raises(GuestError, match="its vfat"):
        use(lambda guest: guest.glob("/*"))


def test_the_kernel_mounts_none(use: Callable[..., object]) -> None:
    def look(guest: HostGuest) -> str:
        assert guest.mountpoint is not None
        mounts = Path("/proc/self/mounts").read_text().splitlines()
        return next(line.split()[2] for line in mounts if line.split()[1] == f"{guest.mountpoint}{ESP}")

    assert use(look) == "tmpfs"
