"""Claiming a disk: what is refused, who is named, and that a claim keeps others away and ends with its process."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from osprovider.disk.device import claim, probe
from osprovider.disk.loop import loop_device
from osprovider.errors import DeviceError
from osprovider.layout import DiskFacts
from tests.support.runs import loop_devices
from tests.support.sparse import sparse_file
from tests.system.disk.support import DISK_SIZE, MIB, attached, in_mount_namespace, python, used_disk

CLAIM = """
from pathlib import Path
from osprovider.disk.device import claim
from osprovider.errors import DeviceError
try:
    with claim(Path(sys.argv[1]), Path(sys.argv[2])):
        print("claimed")
except DeviceError as error:
    print(error)
"""

CLAIM_AND_WAIT = """
from pathlib import Path
from osprovider.disk.device import claim
with claim(Path(sys.argv[1]), Path(sys.argv[2])):
    print("claimed", flush=True)
    sys.stdin.read()
"""


@contextmanager
def child(argv: list[str], *, until: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has printed `until`; ended at the end."""
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            while until not in process.stdout.readline():
                assert process.poll() is None
            yield process
        finally:
            process.kill()


def refusal(path: Path, run_dir: Path) -> str:
    with pytest.raises(DeviceError) as caught, claim(path, run_dir):
        pass
    assert str(path) in str(caught.value)
    return str(caught.value)


def wait_for_a_record_lock(path: Path) -> None:
    inode = f":{path.stat().st_ino} "
    deadline = time.monotonic() + 30
    while not any("OFDLCK" in line and inode in line for line in Path("/proc/locks").read_text().splitlines()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_facts_of_a_disk_are_its_own(disk: Path, run_dir: Path, request: pytest.FixtureRequest) -> None:
    sector_size = 4096 if "loop-4096" in request.node.name else 512
    assert probe(disk) == DiskFacts(DISK_SIZE, sector_size, MIB)
    with claim(disk, run_dir) as device:
        assert device.facts == DiskFacts(DISK_SIZE, sector_size, MIB)
        assert device.is_block == disk.is_block_device()
        os.pwrite(device.fd, bytes(4096), 0)
    assert disk.open("rb").read(4097) == bytes(4096) + b"\xa5"


def test_a_link_leads_to_its_disk(disk: Path, scratch: Path, run_dir: Path) -> None:
    link = scratch / "link"
    link.symlink_to(disk)
    with claim(link, run_dir) as device:
        assert device.path == link
        assert "is another disk of the instance as well: give each a path of its own" in refusal(disk, run_dir)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: None, "does not exist"),
        (lambda path: path.mkdir(), "neither a block device nor a plain file"),
        (os.mkfifo, "neither a block device nor a plain file"),
        (lambda path: path.symlink_to("/dev/null"), "neither a block device nor a plain file"),
        (lambda path: path.symlink_to("nowhere"), "does not exist"),
        (lambda path: path.touch(), "has 0 bytes, less than a sector: create the disk first, or activate it"),
        (lambda path: path.write_bytes(bytes(511)), "has 511 bytes, less than a sector: "),
    ],
)
def test_what_is_no_disk_is_refused(make: object, message: str, scratch: Path, run_dir: Path) -> None:
    path = scratch / "disk"
    assert callable(make)
    make(path)
    assert message in refusal(path, run_dir)
    with pytest.raises(DeviceError, match=message):
        probe(path)


def test_a_read_only_device_is_refused(scratch: Path, run_dir: Path) -> None:
    with attached(used_disk(scratch / "disk"), "--read-only") as device:
        assert "read-only" in refusal(device, run_dir)
        assert probe(device).size_bytes == DISK_SIZE


def test_a_file_on_a_read_only_file_system_is_refused(scratch: Path, run_dir: Path) -> None:
    mount = 'mount -t tmpfs none "$3"; echo data > "$1"; mount -o remount,ro "$3"'
    path = scratch / "mnt" / "disk"
    path.parent.mkdir()
    assert "is read-only" in in_mount_namespace(mount, CLAIM, path, run_dir, path.parent)


def test_a_mounted_device_is_refused_with_its_place(scratch: Path, run_dir: Path) -> None:
    file = used_disk(scratch / "disk")
    place = scratch / "a place"
    place.mkdir()
    subprocess.run(["mke2fs", "-q", "-F", file], check=True)
    with attached(file) as device:
        said = in_mount_namespace('mount "$1" "$3"', CLAIM, device, run_dir, place)
        assert f"{device}: is in use: mounted on {place};" in said
        # The file beneath is as much in use.
        said = in_mount_namespace('mount "$4" "$3"', CLAIM, file, run_dir, place, device)
        assert f"{file}: is in use: {device}, mounted on {place};" in said


def test_a_disk_with_a_mounted_partition_is_refused_with_its_place(disk: Path, scratch: Path, run_dir: Path) -> None:
    place = scratch / "place"
    place.mkdir()
    with attached(disk, "--offset", str(MIB)) as partition:
        subprocess.run(["mke2fs", "-q", "-F", partition], check=True)
        said = in_mount_namespace('mount "$4" "$3"', CLAIM, disk, run_dir, place, partition)
        assert f"{disk}: is in use: {partition}, mounted on {place};" in said


def test_a_mount_in_another_namespace_is_noticed(scratch: Path, run_dir: Path) -> None:
    file = used_disk(scratch / "disk")
    place = scratch / "place"
    place.mkdir()
    subprocess.run(["mke2fs", "-q", "-F", file], check=True)
    mount = [
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-c",
        'mount "$1" "$2"; echo mounted; read _',
        "sh",
    ]
    with attached(file) as device, child([*mount, str(device), str(place)], until="mounted"):
        assert "another mount namespace" in refusal(device, run_dir)


def test_a_disk_behind_a_loop_device_is_refused(disk: Path, run_dir: Path) -> None:
    with attached(disk) as above:
        assert f"is in use: {above};" in refusal(disk, run_dir)


def test_a_loop_device_of_somebody_elses_may_have_any_name_and_no_node(disk: Path, run_dir: Path) -> None:
    other = sparse_file(disk.with_name(os.fsdecode(b"other\xff")), MIB)
    with attached(other) as device:
        said = in_mount_namespace('mount --bind /dev/null "$3"', CLAIM, disk, run_dir, device)
    assert said == "claimed\n"


def test_a_disk_that_qemu_has_open_is_refused(disk: Path, run_dir: Path) -> None:
    with subprocess.Popen(["qemu-io", "-f", "raw", disk], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as qemu:
        try:
            wait_for_a_record_lock(disk)
            assert f"qemu-io (process {qemu.pid})" in refusal(disk, run_dir)
        finally:
            qemu.kill()


def test_a_device_that_somebody_else_holds_exclusively_is_refused(scratch: Path, run_dir: Path) -> None:
    hold = 'import os; os.open(sys.argv[1], os.O_RDONLY | os.O_EXCL); print("held", flush=True); sys.stdin.read()'
    with attached(used_disk(scratch / "disk")) as device, child(python(hold, device), until="held") as process:
        assert f"(process {process.pid})" in refusal(device, run_dir)


def test_a_second_claim_is_refused_and_names_the_first(disk: Path, run_dir: Path) -> None:
    with child(python(CLAIM_AND_WAIT, disk, run_dir), until="claimed") as process:
        assert f"another osprovider (process {process.pid})" in refusal(disk, run_dir)


def test_a_lock_that_cannot_be_made_is_told_with_the_way_out(disk: Path, scratch: Path) -> None:
    (scratch / "file").touch()
    said = refusal(disk, scratch / "file")
    assert f"cannot be locked: {scratch}/file/locks/disk-" in said
    assert "not a directory; what that lies in has to be a directory, writable and not full" in said


def test_a_claim_ends_with_its_process(disk: Path, run_dir: Path) -> None:
    with child(python(CLAIM_AND_WAIT, disk, run_dir), until="claimed") as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        with claim(disk, run_dir):
            pass
    assert list((run_dir / "locks").iterdir()) == []


def test_what_a_killed_run_leaves_to_the_kernel_is_waited_for(disk: Path, run_dir: Path) -> None:
    with child(python(CLAIM_AND_WAIT, disk, run_dir), until="claimed") as process, ExitStack() as stack:
        stack.enter_context(attached(disk, sector_size=4096))
        assert str(disk) in loop_devices().values()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        threading.Timer(0.5, stack.pop_all().close).start()  # as the kernel does, in its own time
        with claim(disk, run_dir):
            assert str(disk) not in loop_devices().values()


def test_many_claims_at_once_come_one_after_the_other(scratch: Path, run_dir: Path) -> None:
    disk = used_disk(scratch / "disk", MIB)
    claimed = 0
    at_once: list[int] = []

    def try_to_claim() -> None:
        nonlocal claimed
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                with claim(disk, run_dir):
                    claimed += 1
                    at_once.append(claimed)
                    time.sleep(0.001)
                    claimed -= 1
                    return
            except DeviceError:
                time.sleep(0.002)

    threads = [threading.Thread(target=try_to_claim) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert at_once == [1] * 16


def test_a_claim_waits_for_udev_and_then_keeps_it_away(disk: Path, run_dir: Path) -> None:
    fd = os.open(disk, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        threading.Timer(0.3, fcntl.flock, [fd, fcntl.LOCK_UN]).start()
        with claim(disk, run_dir), pytest.raises(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    finally:
        os.close(fd)


def test_a_claimed_disk_is_reached_by_its_partitions(disk: Path, run_dir: Path) -> None:
    with claim(disk, run_dir) as device, loop_device(device.path, offset_bytes=MIB, size_bytes=MIB) as partition:
        partition.write_bytes(b"p" * 8192)
    assert disk.open("rb").read(MIB + 8193)[MIB - 1 :] == b"\xa5" + b"p" * 8192 + b"\xa5"


def test_a_read_only_device_may_be_claimed_to_be_read(scratch: Path, run_dir: Path) -> None:
    with (
        attached(used_disk(scratch / "used"), "--read-only") as device,
        claim(device, run_dir, read_only=True) as found,
    ):
        assert os.pread(found.fd, 4, 0) == b"\xa5" * 4
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.pwrite(found.fd, b"x", 0)


@pytest.mark.parametrize(("options", "starts"), [([], False), (["-r"], True)])
def test_qemu_does_not_write_to_a_disk_that_is_claimed_to_be_read(
    disk: Path, run_dir: Path, options: list[str], starts: bool
) -> None:
    with claim(disk, run_dir, read_only=True):
        words = ["qemu-io", *options, "-f", "raw", "-c", "read 0 512", str(disk)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ('Failed to get "write" lock' not in done.stdout + done.stderr) == starts, done
    assert (done.returncode == 0) == starts


def test_a_disk_that_qemu_has_open_is_not_claimed_to_be_read_either(disk: Path, run_dir: Path) -> None:
    with subprocess.Popen(["qemu-io", "-f", "raw", disk], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as qemu:
        try:
            wait_for_a_record_lock(disk)
            with (
                pytest.raises(DeviceError, match=rf"qemu-io \(process {qemu.pid}\)"),
                claim(disk, run_dir, read_only=True),
            ):
                pass
        finally:
            qemu.kill()
