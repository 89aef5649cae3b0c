"""A guest's file system mounted by the host's kernel: out of sight, without rights, and given back on every path."""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from osprovider import linux
from osprovider.disk.loop import loop_device
from osprovider.errors import GuestError, HookError
from osprovider.guest import mounting
from osprovider.guest.mounting import mounted
from tests.support.leftovers import no_leftovers
from tests.support.runs import loop_devices
from tests.support.sparse import sparse_file
from tests.system.guest.backends import fsck, make_image, make_nested
from tests.system.guest.namespace import in_namespace


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path) -> Iterator[None]:
    """Whatever a test does, no mount, loop device or process of it stays."""
    with no_leftovers([tmp_path]):
        yield


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return make_image(tmp_path / "image", size_mib=8)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run/not/made/yet"


def mounts_of(mountpoint: Path) -> list[str]:
    """The options of what this process sees mounted there."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line.split(" ")[5] for line in lines if line.split(" ")[4] == str(mountpoint)]


def test_a_guest_is_mounted_without_rights_for_this_process_alone(image: Path, run: Path) -> None:
    def use() -> tuple[list[str], list[str]]:
        with loop_device(image) as loop, mounted(loop, "ext4", run) as guest:
            assert guest.mountpoint == run / "mnt"
            guest.write("/etc/hostname", "web1\n")
            during = mounts_of(run / "mnt")
            seen = subprocess.run(
                ["nsenter", f"--mount=/proc/{os.getppid()}/ns/mnt", "cat", "/proc/self/mountinfo"],
                check=True,
                capture_output=True,
                text=True,
            )
            assert str(run) not in seen.stdout
        return during, mounts_of(run / "mnt")

    during, after = in_namespace(use)
    assert [sorted(options.split(",")) for options in during] == [["noatime", "nodev", "noexec", "nosuid", "rw"]]
    assert after == []
    fsck(image)


def test_the_kernel_does_not_begin_to_zero_inode_tables(image: Path, run: Path) -> None:
    def use() -> list[str]:
        with loop_device(image) as loop, mounted(loop, "ext4", run):
            lines = Path("/proc/self/mountinfo").read_text().splitlines()
            return [line.rpartition(" ")[2] for line in lines if line.split(" ")[4] == str(run / "mnt")]

    (options,) = in_namespace(use)
    assert "noinit_itable" in options.split(",")


def test_a_read_only_guest_is_not_written(image: Path, run: Path) -> None:
    before = image.read_bytes()

    def use() -> None:
        with loop_device(image) as loop, mounted(loop, "ext4", run, read_only=True) as guest:
            assert guest.is_directory("/lost+found")
            with pytest.raises(GuestError, match=r"cannot write /x in the guest: .* read-only"):
                guest.write("/x", "x")

    in_namespace(use)
    assert image.read_bytes() == before


@pytest.mark.parametrize("kind", ["ext2", "ext3"])
def test_older_file_systems_are_mounted_as_well(tmp_path: Path, run: Path, kind: str) -> None:
    image = tmp_path / "old"
    subprocess.run([f"mkfs.{kind}", "-q", str(image), "8M"], check=True, capture_output=True)

    def use() -> bytes:
        with loop_device(image) as loop:
            with mounted(loop, kind, run) as guest:
                guest.write("/etc/hostname", "web1\n")
            with mounted(loop, kind, run, read_only=True) as guest:
                return guest.read("/etc/hostname")

    assert in_namespace(use) == b"web1\n"
    fsck(image)


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_xfs_and_btrfs_are_mounted_and_read_without_a_change(tmp_path: Path, run: Path, kind: str) -> None:
    image = sparse_file(tmp_path / "image", 320 << 20)
    subprocess.run([f"mkfs.{kind}", "-q", str(image)], check=True, capture_output=True)

    def use() -> tuple[bytes, bool]:
        with loop_device(image) as loop, mounted(loop, kind, run) as guest:
            guest.write("/etc/hostname", "web1\n")
        before = image.read_bytes()
        with loop_device(image) as loop, mounted(loop, kind, run, read_only=True, place="other") as guest:
            assert guest.mountpoint == run / "other"
            with pytest.raises(GuestError, match="read-only"):
                guest.write("/x", "x")
            return guest.read("/etc/hostname"), image.read_bytes() == before

    assert in_namespace(use) == (b"web1\n", True)


@pytest.mark.parametrize(
    ("kind", "reason"), [("ext4", "cannot mount /dev/loop.* as ext4: invalid argument"), ("vfat", "vfat, is none of")]
)
def test_what_cannot_be_mounted_is_told(tmp_path: Path, run: Path, kind: str, reason: str) -> None:
    image = tmp_path / "zeros"
    image.write_bytes(bytes(1 << 20))

    def use() -> None:
        with loop_device(image) as loop, pytest.raises(GuestError, match=reason), mounted(loop, kind, run):
            raise AssertionError

    in_namespace(use)


def test_the_first_error_is_shown_and_the_guest_unmounted(image: Path, run: Path) -> None:
    def use() -> list[str]:
        with loop_device(image) as loop, pytest.raises(HookError, match="the hook's own"), mounted(loop, "ext4", run):
            raise HookError("the hook's own")
        return mounts_of(run / "mnt")

    assert in_namespace(use) == []
    fsck(image)


def test_who_keeps_a_guest_busy_is_waited_for(image: Path, run: Path) -> None:
    def use() -> None:
        with loop_device(image) as loop, mounted(loop, "ext4", run):
            fd = os.open(run / "mnt", os.O_RDONLY)
            threading.Timer(0.2, os.close, [fd]).start()

    in_namespace(use)
    fsck(image)


def test_who_keeps_a_guest_busy_for_long_is_named(image: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounting, "_BUSY_SECONDS", 0.1)

    def use() -> tuple[str, int, list[str]]:
        with loop_device(image) as loop:
            with pytest.raises(GuestError) as caught, mounted(loop, "ext4", run):
                sleeper = subprocess.Popen(["sleep", "600"], cwd=run / "mnt")
            left = mounts_of(run / "mnt")
            sleeper.kill()
            sleeper.wait()
        return str(caught.value), sleeper.pid, left

    message, pid, left = in_namespace(use)
    assert f"it is in use by sleep (process {pid})" in message
    assert left == []


def test_a_full_guest_is_told_with_the_way_out(image: Path, run: Path) -> None:
    def use() -> list[str]:
        with loop_device(image) as loop, mounted(loop, "ext4", run) as guest:
            with pytest.raises(GuestError, match=r"cannot write /big .* is full; make the disk larger"):
                guest.write("/big", bytes(16 << 20))
            return guest.glob("/.*") + guest.glob("/*")

    assert in_namespace(use) == ["/lost+found"]
    fsck(image)


def test_a_file_that_may_not_be_changed_is_told_with_the_way_out(image: Path, run: Path) -> None:
    def use() -> None:
        with loop_device(image) as loop, mounted(loop, "ext4", run) as guest:
            guest.write("/etc/resolv.conf", "nameserver 198.51.100.53\n")
            path = run / "mnt/etc/resolv.conf"
            subprocess.run(["chattr", "+i", path], check=True)
            for change in (guest.remove, partial(guest.write, content="")):
                with pytest.raises(GuestError, match=r"/etc/resolv\.conf in the guest: .*chattr -i -a"):
                    change("/etc/resolv.conf")
            subprocess.run(["chattr", "-i", path], check=True)

    in_namespace(use)


def test_what_the_device_lost_is_told(tmp_path: Path, run: Path) -> None:
    """The device is a file on a file system that has no room for it, as a thin pool may have none."""

    def use() -> None:
        linux.mount("tmpfs", str(tmp_path), "tmpfs", linux.MountFlag(0), "size=6m")
        image = make_image(tmp_path / "image", size_mib=64)
        with (
            pytest.raises(GuestError, match="lost what was written"),
            loop_device(image) as loop,
            mounted(loop, "ext4", run) as guest,
        ):
            guest.write("/big", os.urandom(16 << 20))

    in_namespace(use)


def test_a_killed_process_leaves_nothing(image: Path, run: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from osprovider import linux\n"
        "from osprovider.disk.loop import loop_device; from osprovider.guest.mounting import mounted\n"
        "linux.private_mount_namespace()\n"
        "with loop_device(Path(sys.argv[1])) as loop, mounted(loop, 'ext4', Path(sys.argv[2])):\n"
        "    print('mounted', flush=True); time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, image, run], stdout=subprocess.PIPE, cwd=Path.cwd()) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"mounted\n"
        assert str(image) in loop_devices().values()
        process.kill()
    end = time.monotonic() + 60
    while str(image) in loop_devices().values() and time.monotonic() < end:
        time.sleep(0.01)


def test_a_tree_deeper_than_a_process_can_have_directories_open_is_removed(image: Path, run: Path) -> None:
    def use() -> list[str]:
        with loop_device(image) as loop, mounted(loop, "ext4", run) as guest:
            make_nested(run / "mnt", "d", levels=600)
            limit = (len(os.listdir("/proc/self/fd")) + 20,) * 2  # noqa: PTH208
            resource.setrlimit(resource.RLIMIT_NOFILE, limit)
            guest.remove("/d")
            return guest.glob("/*")

    assert in_namespace(use) == ["/lost+found"]
    fsck(image)


def exchange(one: Path, other: Path) -> None:
    """Give two files each other's names at once; see renameat2(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    at_cwd, rename_exchange = -100, 2
    if libc.renameat2(at_cwd, bytes(one), at_cwd, bytes(other), rename_exchange) != 0:
        raise OSError(ctypes.get_errno(), "renameat2")


def test_a_directory_swapped_for_a_link_meanwhile_leads_nowhere(image: Path, run: Path, outside: Path) -> None:
    """Nothing of a guest runs while we work in it, and yet nobody who could swap its files gets at the host's."""

    def use() -> tuple[int, list[str]]:
        done = 0
        refused = []
        with loop_device(image) as loop, mounted(loop, "ext4", run) as guest:
            root = run / "mnt"
            (root / "etc").mkdir()
            (root / "link").symlink_to(outside)
            is_over = threading.Event()

            def swap() -> None:
                while not is_over.is_set():
                    exchange(root / "etc", root / "link")

            swapper = threading.Thread(target=swap)
            swapper.start()
            for number in range(3000):
                for action in (
                    partial(guest.write, "/etc/secret", "harm"),
                    partial(guest.write, f"/etc/made/{number % 9}", "harm"),
                    partial(guest.read, "/etc/../etc/secret"),
                    partial(guest.remove, "/etc/secret"),
                ):
                    try:
                        action()
                        done += 1
                    except GuestError as error:
                        refused.append(str(error))
            is_over.set()
            swapper.join()
        return done, refused

    done, refused = in_namespace(use)
    assert done > 3000
    # The link leads nowhere in the guest; or it is the directory again when one is to be made where it leads.
    assert not [message for message in refused if not message.endswith(("no such file or directory", "file exists"))]
    assert [path.name for path in outside.iterdir()] == ["secret"]
    assert (outside / "secret").read_text() == "the host's\n"
