"""Loop devices: the range that they show, and that none is left, however its owner ends."""

from __future__ import annotations

import fcntl
import mmap
import os
import signal
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from osprovider.disk.device import probe
from osprovider.disk.loop import loop_device
from osprovider.errors import DeviceError
from tests.support.runs import loop_devices
from tests.support.sparse import sparse_file
from tests.system.disk.support import DISK_SIZE, MIB, attached, python, used_disk

# linux/loop.h
LOOP_SET_STATUS64, LOOP_GET_STATUS64, LO_FLAGS_AUTOCLEAR = 0x4C04, 0x4C05, 4
STATUS_BYTES, FLAGS_AT = 232, 52

ATTACH_AND_WAIT = """
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from osprovider.disk.loop import loop_device
with loop_device(Path(sys.argv[1]), offset_bytes=1 << 20) as loop:
    print(loop, flush=True)
    time.sleep(60)
"""


def loops_on(path: Path) -> list[str]:
    return [name for name, backing in loop_devices().items() if backing == str(path.resolve())]


def test_it_shows_its_range_only(disk: Path) -> None:
    with disk.open("r+b") as file:
        file.seek(3 * MIB)
        file.write(b"x" * MIB)
    with loop_device(disk, offset_bytes=3 * MIB, size_bytes=MIB) as loop:
        assert loop.read_bytes() == b"x" * MIB
    with loop_device(disk, offset_bytes=3 * MIB) as loop:
        assert probe(loop).size_bytes == DISK_SIZE - 3 * MIB
    assert loops_on(disk) == []


def test_what_is_written_through_it_arrives(disk: Path) -> None:
    with loop_device(disk, offset_bytes=MIB, size_bytes=MIB) as loop:
        loop.write_bytes(b"y" * MIB)
    data = disk.read_bytes()
    assert data[MIB - 1 : MIB + 1] == b"\xa5y"
    assert data[2 * MIB - 1 : 2 * MIB + 1] == b"y\xa5"


def test_it_has_the_sectors_of_what_is_beneath_or_those_asked_for(scratch: Path) -> None:
    file = used_disk(scratch / "disk", MIB)
    with attached(file, sector_size=4096) as device, loop_device(device) as loop:
        assert probe(loop).sector_size == 4096
    with loop_device(file) as loop:
        assert probe(loop).sector_size == 512
    with loop_device(file, sector_size=4096) as loop:
        assert probe(loop).sector_size == 4096


def test_a_read_only_one_takes_no_writes(scratch: Path) -> None:
    file = used_disk(scratch / "disk", MIB)
    with loop_device(file, read_only=True) as loop, pytest.raises(PermissionError):
        loop.write_bytes(bytes(4096))
    assert file.read_bytes() == b"\xa5" * MIB


def test_killed_it_leaves_none(disk: Path) -> None:
    with subprocess.Popen(python(ATTACH_AND_WAIT, disk), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        assert Path(name).name in loops_on(disk)
        os.kill(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while loops_on(disk) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert loops_on(disk) == []


def test_an_error_of_the_body_is_the_one_that_is_shown(scratch: Path) -> None:
    file = used_disk(scratch / "disk", MIB)
    with pytest.raises(ZeroDivisionError), loop_device(file):
        _ = 1 / 0
    assert loops_on(file) == []


@contextmanager
def held(device: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has it open until the end, however long that is."""
    hold = 'file = open(sys.argv[1], "rb"); print("held", flush=True); sys.stdin.read()'
    with subprocess.Popen(python(hold, device), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            yield holder
        finally:
            holder.kill()


def test_who_keeps_it_busy_is_named(scratch: Path) -> None:
    file = used_disk(scratch / "disk", MIB)
    attachment = loop_device(file)
    loop = attachment.__enter__()
    with (
        held(loop) as holder,
        pytest.raises(DeviceError, match=rf"{loop} is still in use by .*\(process {holder.pid}\)"),
    ):
        attachment.__exit__(None, None, None)


def test_one_who_ends_while_it_is_looked_for_keeps_nothing_busy(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nobody to be named then, and nothing to be told."""
    file = used_disk(scratch / "disk", MIB)
    attachment = loop_device(file)
    loop = attachment.__enter__()
    with held(loop) as holder:

        def look(_: Path) -> list[str]:
            holder.kill()
            holder.wait()
            return []

        monkeypatch.setattr("osprovider.disk.loop._DETACH_SECONDS", 0.1)
        monkeypatch.setattr("osprovider.disk.loop.openers", look)
        attachment.__exit__(None, None, None)
    assert loops_on(file) == []


def test_one_that_was_told_to_stay_is_detached_all_the_same(scratch: Path) -> None:
    """A program that has the node, though it cannot write, may have set its status."""
    file = sparse_file(scratch / "disk", MIB)
    with loop_device(file, read_only=True) as loop:
        fd = os.open(loop, os.O_RDWR)
        try:
            status = bytearray(STATUS_BYTES)
            fcntl.ioctl(fd, LOOP_GET_STATUS64, status)
            (flags,) = struct.unpack_from("=I", status, FLAGS_AT)
            struct.pack_into("=I", status, FLAGS_AT, flags & ~LO_FLAGS_AUTOCLEAR)
            fcntl.ioctl(fd, LOOP_SET_STATUS64, status)
        finally:
            os.close(fd)
    assert loops_on(file) == []


def test_many_at_once_do_not_get_in_each_others_way(scratch: Path) -> None:
    errors: list[BaseException] = []

    def use(number: int) -> None:
        try:
            file = scratch / f"disk-{number}"
            file.write_bytes(bytes([number]) * MIB)
            for _ in range(10):
                with loop_device(file) as loop:
                    assert loop.read_bytes() == bytes([number]) * MIB
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=use, args=[number]) for number in range(1, 17)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert not [file for file in scratch.iterdir() if loops_on(file)]


def test_a_missing_file_is_named(scratch: Path) -> None:
    with (
        pytest.raises(DeviceError, match=r"nothing: cannot be opened for a loop device: no such file"),
        loop_device(scratch / "nothing"),
    ):
        pass


@contextmanager
def tmpfs(place: Path, size: int) -> Iterator[Path]:
    """A file system with room for ``size`` bytes."""
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def write_directly(device: Path, size: int, offset: int = 0) -> None:
    """Write to a block device past the page cache, in one go, and store it."""
    fd = os.open(device, os.O_WRONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, size) as buffer:
            buffer.write(b"z" * size)
            assert os.pwrite(fd, buffer, offset) == size
        os.fsync(fd)
    finally:
        os.close(fd)


def test_what_a_full_file_system_has_lost_is_told(scratch: Path) -> None:
    with tmpfs(scratch / "full", 2 * MIB + 64 * 1024) as full:
        disk = used_disk(full / "disk", 2 * MIB)
        os.truncate(disk, 8 * MIB)
        # Either the write fails, or the kernel takes it for done, though half of it is lost.
        with pytest.raises((DeviceError, OSError)) as caught, loop_device(disk) as loop:
            write_directly(loop, 128 * 1024, 4 * MIB)
        assert "full" in str(caught.value) or "no space left" in str(caught.value)
        assert loops_on(disk) == []


def test_a_file_that_is_whole_needs_no_room(scratch: Path) -> None:
    with tmpfs(scratch / "full", 8 * MIB) as full:
        disk = used_disk(full / "disk", 8 * MIB)
        with loop_device(disk) as loop:
            write_directly(loop, MIB)
        assert disk.read_bytes() == b"z" * MIB + b"\xa5" * 7 * MIB


def test_a_file_system_that_does_not_say_what_room_it_has_is_no_full_one(scratch: Path) -> None:
    place = scratch / "ramfs"
    place.mkdir()
    subprocess.run(["mount", "-t", "ramfs", "ramfs", place], check=True)
    try:
        disk = sparse_file(place / "disk", 8 * MIB)
        with loop_device(disk) as loop:
            write_directly(loop, MIB)
        assert disk.read_bytes() == b"z" * MIB + bytes(7 * MIB)
    finally:
        subprocess.run(["umount", place], check=True)
