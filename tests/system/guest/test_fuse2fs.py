"""An ext file system that fuse2fs reads in the sandbox: what the kernel would show, and nothing left of it."""

from __future__ import annotations

import dataclasses
import os
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from osprovider import linux
from osprovider.disk.loop import loop_device
from osprovider.errors import GuestError
from osprovider.guest import fuse2fs
from osprovider.guest.confined import read_together, why_not_readable
from osprovider.guest.host import HostGuest
from osprovider.guest.mounting import Volume
from osprovider.run import BASE_ENVIRONMENT
from tests.support import processes
from tests.support.leftovers import no_leftovers
from tests.support.mounts import mounted
from tests.support.sparse import sparse_file
from tests.support.trees import Entry, populate, read_tree
from tests.system.guest.backends import make_image
from tests.system.guest.namespace import in_namespace

MIB = 1 << 20
KINDS = {
    "ext4": ("mkfs.ext4",),
    "ext4, small blocks": ("mkfs.ext4", "-b", "1024", "-I", "256"),
    "ext4, newest": ("mkfs.ext4", "-O", "orphan_file,metadata_csum_seed,inline_data,ea_inode", "-I", "512"),
    "ext3": ("mkfs.ext3",),
    "ext2": ("mkfs.ext2",),
}


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path) -> Iterator[None]:
    """Whatever a test does, no mount, loop device or process of it stays."""
    with no_leftovers([tmp_path]):
        yield


@contextmanager
def confined(*images: tuple[Path, str, str]) -> Iterator[HostGuest]:
    """A guest of file systems in files, with their types and places."""
    with ExitStack() as stack:
        volumes = [
            Volume(stack.enter_context(loop_device(image, read_only=True)), filesystem, place)
            for image, filesystem, place in images
        ]
        assert why_not_readable(volumes) is None
        run = images[0][0].parent / "run"
        yield stack.enter_context(read_together(volumes, run))


def server() -> int:
    """This process's fuse2fs."""
    (pid,) = (each for each in processes.family(os.getpid()) if processes.name(each) == "fuse2fs")
    return pid


@pytest.mark.parametrize("kind", KINDS)
def test_it_shows_what_the_kernel_shows(kind: str, tmp_path: Path) -> None:
    """All that a tree may have; but for holes, hard links and parts of a second, of which it says nothing."""
    program, *options = KINDS[kind]
    image = sparse_file(tmp_path / "image", 64 * MIB)
    subprocess.run([program, "-q", *options, image], check=True, capture_output=True)

    def lay() -> None:
        linux.private_mount_namespace()
        with loop_device(image) as loop:
            top = tmp_path / "top"
            top.mkdir()
            linux.mount(str(loop), str(top), program.removeprefix("mkfs."), linux.MountFlag.NOATIME)
            populate(top)
            linux.umount(str(top))

    def by_the_kernel() -> list[tuple[bytes, Entry]]:
        with mounted(image, tmp_path / "mnt") as root:
            return told(root)

    def by_fuse2fs() -> list[tuple[bytes, Entry]]:
        with confined((image, kind[:4], "/")) as guest:
            assert guest.mountpoint is not None
            return told(guest.mountpoint)

    in_namespace(lay)
    expected, found = in_namespace(by_the_kernel), in_namespace(by_fuse2fs)
    assert found == expected


def told(root: Path) -> list[tuple[bytes, Entry]]:
    """What FUSE and fuse2fs tell of a tree. Of a small file with inline_data, that it is in an attribute, too."""
    return [
        (
            name,
            dataclasses.replace(
                entry,
                data=(),
                links=(),
                xattrs=tuple(each for each in entry.xattrs if each[0] != "system.data"),
                mtime_ns=entry.mtime_ns // 10**9,
            ),
        )
        for name, entry in read_tree(root).items()
    ]


def test_a_guest_of_several_is_one_tree_and_cannot_be_written(tmp_path: Path) -> None:
    root, boot, esp = make_image(tmp_path / "root", 8), make_image(tmp_path / "boot", 8), tmp_path / "esp"
    for image, command in (
        (root, "mkdir boot"),
        (root, "symlink kernel boot/vmlinuz"),
        (boot, "mkdir efi"),
        (boot, "write /dev/null vmlinuz"),
    ):
        subprocess.run(["debugfs", "-w", "-R", command, image], check=True, capture_output=True)
    subprocess.run(["mkfs.vfat", "-C", esp, "4096"], check=True, capture_output=True)
    subprocess.run(["mmd", "-i", esp, "::/EFI"], check=True)

    def look() -> list[str]:
        with confined((root, "ext4", "/"), (boot, "ext4", "/boot"), (esp, "vfat", "/boot/efi")) as guest:
            for write in (partial(guest.mkdir, "/new"), partial(guest.write, "/boot/efi/new", "text")):
                with pytest.raises(GuestError, match="read-only"):
                    write()
            assert guest.exists("/kernel")
            return guest.glob("/boot/*") + guest.glob("/boot/efi/*")

    assert in_namespace(look) == ["/boot/efi", "/boot/lost+found", "/boot/vmlinuz", "/boot/efi/EFI"]


def test_the_node_need_not_have_what_libfuse_asks_to_mount_it(tmp_path: Path) -> None:
    image = make_image(tmp_path / "image", 8)

    def look() -> list[str]:
        layers = tmp_path / "layers"
        layers.mkdir()
        linux.mount("tmpfs", str(layers), "tmpfs", linux.MountFlag.NOATIME)
        upper, work = layers / "upper", layers / "work"
        for made in (upper, work):
            made.mkdir()
        for name in ("fusermount", "fusermount3"):
            os.mknod(upper / name, stat.S_IFCHR)  # overlayfs: it is not there
        options = f"lowerdir=/usr/bin,upperdir={upper},workdir={work}"
        linux.mount("overlay", "/usr/bin", "overlay", linux.MountFlag.NOATIME, options)
        with confined((image, "ext4", "/")) as guest:
            return guest.glob("/*")

    assert in_namespace(look) == ["/lost+found"]


def test_nothing_on_it_has_rights_here(tmp_path: Path) -> None:
    image = make_image(tmp_path / "image", 8)

    def look() -> str:
        with confined((image, "ext4", "/")) as guest:
            lines = Path("/proc/self/mountinfo").read_text().splitlines()
            (line,) = (each for each in lines if each.split()[4] == str(guest.mountpoint))
            return line.split()[5]

    assert in_namespace(look) == "ro,nosuid,nodev,noexec,noatime"


@pytest.mark.parametrize(
    ("ending", "seconds"), [(signal.SIGKILL, 900.0), (signal.SIGSTOP, 1.0)], ids=["killed", "hanging"]
)
def test_a_program_that_ends_or_hangs_ends_the_look(
    ending: signal.Signals, seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = make_image(tmp_path / "image", 8)
    monkeypatch.setattr(fuse2fs, "_MOST_SECONDS", seconds)

    def look() -> None:
        with confined((image, "ext4", "/")) as guest:
            os.kill(server(), ending)
            guest.read("/lost+found/nothing")

    with pytest.raises(GuestError, match=r"^fuse2fs with /dev/loop\d+ ended: it said nothing$"):
        in_namespace(look)


def test_one_that_ended_is_told_of_where_what_looked_took_it_for_a_missing_file(tmp_path: Path) -> None:
    image = make_image(tmp_path / "image", 8)

    def look() -> None:
        with confined((image, "ext4", "/")) as guest:
            os.kill(server(), signal.SIGKILL)
            with suppress(GuestError):
                guest.read("/lost+found/nothing")

    with pytest.raises(GuestError, match=r"^fuse2fs with /dev/loop\d+ ended: it said nothing$"):
        in_namespace(look)


def test_what_is_mounted_in_a_guest_that_is_gone_goes_with_it(tmp_path: Path) -> None:
    root, esp = make_image(tmp_path / "root", 8), tmp_path / "esp"
    subprocess.run(["debugfs", "-w", "-R", "mkdir boot", root], check=True, capture_output=True)
    subprocess.run(["mkfs.vfat", "-C", esp, "4096"], check=True, capture_output=True)

    def use() -> None:
        with confined((root, "ext4", "/"), (esp, "vfat", "/boot")) as guest:
            os.kill(server(), signal.SIGKILL)
            guest.read("/lost+found/nothing")

    def look() -> list[str]:
        with pytest.raises(GuestError, match=r"^fuse2fs with /dev/loop\d+ ended: it said nothing$"):
            use()
        return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(tmp_path) in line]

    assert in_namespace(look) == []


def refuse_to_open(image: Path, message: str) -> None:
    """See that an ext4 cannot be read, and why."""

    def look() -> None:
        with confined((image, "ext4", "/")):
            pytest.fail("it was opened")

    with pytest.raises(GuestError, match=message):
        in_namespace(look)


def test_a_damaged_root_directory_is_the_guests_fault(tmp_path: Path) -> None:
    image = make_image(tmp_path / "image", 8)
    subprocess.run(["debugfs", "-w", "-R", "clri <2>", image], check=True, capture_output=True)

    refuse_to_open(image, r"^cannot open / in the guest: ")


def test_why_it_does_not_take_a_file_system_is_told_in_its_words(tmp_path: Path) -> None:
    image = make_image(tmp_path / "image", 8)
    with image.open("r+b") as file:
        file.seek(1024 + 0x60)
        file.write(b"\0")  # the first byte of s_feature_incompat

    refuse_to_open(image, r"^fuse2fs with /dev/loop\d+ ended: .*Superblock checksum does not match")


def unclean(image: Path) -> None:
    """Mounted, and the machine gone."""
    subprocess.run(["debugfs", "-w", "-R", "ssv state 0", image], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda image: subprocess.run(["mkfs.xfs", "-q", "-f", image], check=True), "xfs is not read by fuse2fs"),
        (unclean, "it is not marked clean"),
    ],
)
def test_what_it_does_not_read_is_known_before(make: Callable[[Path], object], why: str, tmp_path: Path) -> None:
    image = make_image(tmp_path / "image", 320)
    make(image)
    with loop_device(image, read_only=True) as loop:
        assert why_not_readable([Volume(loop, "xfs" if "xfs" in why else "ext4")]) == why


def test_a_node_without_fuse2fs_or_fuse_is_told_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with loop_device(make_image(tmp_path / "image", 8), read_only=True) as loop:
        monkeypatch.setattr(fuse2fs, "CONNECTION", tmp_path / "fuse")
        assert why_not_readable([Volume(loop, "ext4")]) == f"there is no {tmp_path}/fuse"
        monkeypatch.setitem(BASE_ENVIRONMENT, "PATH", str(tmp_path))
        assert why_not_readable([Volume(loop, "ext4")]) == "fuse2fs is missing"
