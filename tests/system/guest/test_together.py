"""A guest of several file systems on this machine: one tree, moved to its partitions, and nothing else's."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from osprovider import linux
from osprovider.disk.loop import loop_device
from osprovider.errors import GuestError
from osprovider.guest.host import HostGuest
from osprovider.guest.mounting import Volume, mounted, mounted_together
from osprovider.linux import MountFlag
from tests.support.leftovers import no_leftovers
from tests.system.guest.backends import fsck, make_image
from tests.system.guest.namespace import in_namespace


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path) -> Iterator[None]:
    """Whatever a test does, no mount, loop device or process of it stays."""
    with no_leftovers([tmp_path]):
        yield


@pytest.fixture
def images(tmp_path: Path) -> tuple[Path, Path]:
    """A root with a kernel in /boot, and an empty file system."""
    root, boot = make_image(tmp_path / "root", size_mib=16), make_image(tmp_path / "boot", size_mib=8)

    def lay() -> None:
        with loop_device(root) as loop, mounted(loop, "ext4", tmp_path / "run") as guest:
            guest.mkdir("/boot/grub", mode=0o700, owner=(5, 6))
            guest.write("/boot/vmlinuz", b"a kernel\n", mode=0o640, owner=(7, 8))
            guest.symlink("vmlinuz", "/boot/newest")
            guest.write("/boot/.hidden", "x")
            guest.symlink("/boot/vmlinuz", "/vmlinuz")
            top = f"/proc/self/fd/{guest.root_fd}"
            os.link(f"{top}/boot/vmlinuz", f"{top}/boot/grub/same")
            os.setxattr(f"{top}/boot/vmlinuz", "user.x", b"1")

    in_namespace(lay)
    return root, boot


@contextmanager
def opened_together(images: tuple[Path, Path], run: Path) -> Iterator[HostGuest]:
    """The guest, its /boot to be filled."""
    with loop_device(images[0]) as root, loop_device(images[1]) as boot:
        volumes = [Volume(root, "ext4"), Volume(boot, "ext4", "/boot", fill=True)]
        with mounted_together(volumes, run) as guest:
            yield guest


def debugfs(image: Path, command: str) -> str:
    """What debugfs(8) answers."""
    return subprocess.run(["debugfs", "-R", command, image], check=True, capture_output=True, text=True).stdout


def test_what_is_in_boot_moves_to_its_partition_with_all_that_it_is(images: tuple[Path, Path], tmp_path: Path) -> None:
    def use() -> tuple[object, ...]:
        with opened_together(images, tmp_path / "run") as guest:
            assert guest.mountpoint is not None
            kernel = guest.mountpoint / "boot/vmlinuz"
            status = kernel.stat()
            guest.write("/boot/grub/grub.cfg", "menu\n")
            guest.write("/etc/fstab", "lines\n")
            guest.mkdir("/boot/efi")
            guest.remove("/boot/.hidden")
            return (
                guest.read("/vmlinuz"),
                guest.read_text("/boot/../boot/newest"),
                (status.st_mode & 0o777, status.st_uid, status.st_gid, status.st_nlink),
                os.getxattr(kernel, "user.x"),
                (guest.mountpoint / "boot/grub/same").stat().st_ino == status.st_ino,
                guest.glob("/boot/*"),
                guest.glob("/*/grub/*"),
            )

    assert in_namespace(use) == (
        b"a kernel\n",
        "a kernel\n",
        (0o640, 7, 8, 2),
        b"1",
        True,
        ["/boot/efi", "/boot/grub", "/boot/lost+found", "/boot/newest", "/boot/vmlinuz"],
        ["/boot/grub/grub.cfg", "/boot/grub/same"],
    )
    for image in images:
        fsck(image)
    assert debugfs(images[1], "cat /grub/grub.cfg") == "menu\n"
    assert debugfs(images[0], "cat /etc/fstab") == "lines\n"
    assert "vmlinuz" not in debugfs(images[0], "ls -p /boot")


def test_what_somebody_else_mounts_in_there_is_not_entered(images: tuple[Path, Path], tmp_path: Path) -> None:
    def use() -> None:
        with opened_together(images, tmp_path / "run") as guest:
            for place in ("/boot/grub", "/lost+found"):
                linux.mount("tmpfs", f"{guest.mountpoint}{place}", "tmpfs", MountFlag.NODEV)
                with pytest.raises(GuestError, match="something is mounted there, and a guest is one file system"):
                    guest.write(f"{place}/x", "x")
                linux.umount(f"{guest.mountpoint}{place}")
                guest.write(f"{place}/x", "x")

    in_namespace(use)


@pytest.mark.parametrize("target", ["/srv/kernels", "../srv/kernels", "/../srv/kernels"])
def test_a_boot_that_is_a_link_is_the_place_that_it_leads_to(
    images: tuple[Path, Path], tmp_path: Path, target: str
) -> None:
    def use() -> None:
        with loop_device(images[0]) as loop, mounted(loop, "ext4", tmp_path / "run") as guest:
            guest.mkdir("/srv/kernels")
            guest.write("/srv/kernels/vmlinuz", "a kernel\n")
            guest.remove("/boot")
            guest.symlink(target, "/boot")
        with opened_together(images, tmp_path / "run") as guest:
            guest.write("/boot/x", "x")
            assert guest.read("/srv/kernels/x") == b"x"

    in_namespace(use)
    assert debugfs(images[1], "cat /vmlinuz") == "a kernel\n"
    assert not Path("/srv/kernels").exists()
    for image in images:
        fsck(image)


def test_a_boot_that_can_be_no_directory_is_refused(images: tuple[Path, Path], tmp_path: Path) -> None:
    def use() -> None:
        with loop_device(images[0]) as loop, mounted(loop, "ext4", tmp_path / "run") as guest:
            guest.remove("/boot")
            guest.write("/boot", "a file")
        with (
            pytest.raises(GuestError, match="cannot make the directory /boot in the guest"),
            opened_together(images, tmp_path / "run"),
        ):
            pass

    in_namespace(use)
    fsck(images[0])


def test_a_partition_that_is_too_small_is_named(images: tuple[Path, Path], tmp_path: Path) -> None:
    def use() -> None:
        with loop_device(images[0]) as loop, mounted(loop, "ext4", tmp_path / "run") as guest:
            guest.write("/boot/initrd", os.urandom(8 << 20))
        with (
            pytest.raises(GuestError, match=r"/boot cannot be copied to its own partition: .*No space left on device"),
            opened_together(images, tmp_path / "run"),
        ):
            pass

    in_namespace(use)


def test_a_file_that_is_still_open_is_said_with_who_has_it(images: tuple[Path, Path], tmp_path: Path) -> None:
    def use() -> None:
        with loop_device(images[0]) as root, loop_device(images[1]) as boot:
            volumes = [Volume(root, "ext4"), Volume(boot, "ext4", "/boot", fill=True)]
            held = -1

            def hold() -> None:
                nonlocal held
                with mounted_together(volumes, tmp_path / "run") as guest:
                    held = os.open(f"{guest.mountpoint}/boot/vmlinuz", os.O_RDONLY)

            with pytest.raises(GuestError, match=r"cannot unmount .*/mnt/boot: it is in use by .*\(process \d+\)"):
                hold()
            os.close(held)

    in_namespace(use)
