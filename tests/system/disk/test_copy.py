"""The copy engine on used disks: what is copied, what must be zero, what must stay, and what failing looks like."""

from __future__ import annotations

import os
import random
import re
import subprocess
from collections.abc import Container
from pathlib import Path

import pytest

from osprovider.disk.copy import DamagedTemplate, copy_extents
from osprovider.disk.device import claim
from osprovider.disk.raw import sync, write_all
from osprovider.disk.scan import scan_extents
from osprovider.disk.zero import Zeroing
from osprovider.errors import DeviceError
from osprovider.layout import Placement
from osprovider.manifest import Extent
from tests.support.sparse import sparse_file
from tests.system.disk.support import DISK_SIZE, MIB, attached, in_mount_namespace, python, run_child, used_disk

TEMPLATE_SIZE = 24 * MIB
OFFSET = 3 * MIB
WHOLE = [Placement(0, TEMPLATE_SIZE, OFFSET)]


@pytest.fixture
def template(scratch: Path) -> Path:
    """24 MiB, sparse: data at the start, in the middle (several extents, oddly placed), and in the last block."""
    path = scratch / "template"
    chance = random.Random(2)
    with path.open("wb") as file:
        for offset, length in ((0, 5000), (5 * MIB + 4096, 9 * MIB), (TEMPLATE_SIZE - 4096, 4096)):
            file.seek(offset)
            file.write(chance.randbytes(length))
    return path


def copy(
    template: Path,
    fd: int,
    *,
    gaps_are_zero: bool = False,
    size: int = TEMPLATE_SIZE,
    offset: int = OFFSET,
) -> int:
    """Copy a template as deployment does, and return how much `advance` was told."""
    told: list[int] = []
    with template.open("rb") as source:
        extents = scan_extents(source.fileno(), size)
        whole, zeroing = [Placement(0, size, offset)], None if gaps_are_zero else Zeroing(fd)
        copy_extents(source.fileno(), fd, whole, extents, told.append, zeroing=zeroing)
    sync(fd)
    assert sum(told) == sum(extent.length for extent in extents)
    return sum(told)


def test_a_used_disk_holds_the_template_its_holes_too_and_nothing_else_changes(
    disk: Path, run_dir: Path, template: Path
) -> None:
    with claim(disk, run_dir) as device:
        copied = copy(template, device.fd)
    assert copied < 10 * MIB
    data = disk.read_bytes()
    assert data[OFFSET : OFFSET + TEMPLATE_SIZE] == template.read_bytes()
    assert data[:OFFSET] == b"\xa5" * OFFSET
    assert data[OFFSET + TEMPLATE_SIZE :] == b"\xa5" * (DISK_SIZE - OFFSET - TEMPLATE_SIZE)


def test_gaps_that_are_zero_already_are_left_alone(disk: Path, run_dir: Path, template: Path) -> None:
    with claim(disk, run_dir) as device:
        copy(template, device.fd, gaps_are_zero=True)
    assert disk.read_bytes()[OFFSET + 2 * MIB : OFFSET + 3 * MIB] == b"\xa5" * MIB


def test_a_gap_on_a_file_is_not_written(scratch: Path, run_dir: Path, template: Path) -> None:
    disk = used_disk(scratch / "disk")
    with claim(disk, run_dir) as device:
        copy(template, device.fd)
        # What the file system only notes as zeros, it tells as a hole.
        assert os.lseek(device.fd, OFFSET + 2 * MIB, os.SEEK_HOLE) == OFFSET + 2 * MIB
    assert disk.stat().st_size == DISK_SIZE


@pytest.mark.parametrize("on_a_device", [False, True])
def test_zeros_are_written_where_no_hole_can_be_punched(on_a_device: bool, scratch: Path, template: Path) -> None:
    # ramfs has no fallocate(2), and so neither has a loop device on it.
    place = scratch / "ramfs"
    place.mkdir()
    mount = 'mount -t ramfs none "$1"'
    code = """
from pathlib import Path
from osprovider.linux import Fallocate, fallocate
from tests.system.disk.support import MIB, attached, used_disk
from tests.system.disk.test_copy import OFFSET, TEMPLATE_SIZE, copy
from contextlib import nullcontext
import errno
import os
file = used_disk(Path(sys.argv[1]) / "disk", 32 * MIB)
with (attached(file) if sys.argv[3] == "True" else nullcontext(file)) as disk:
    fd = os.open(disk, os.O_RDWR)
    try:
        fallocate(fd, Fallocate.PUNCH_HOLE | Fallocate.KEEP_SIZE, 0, 4096)
    except OSError as error:
        assert error.errno == errno.EOPNOTSUPP
    else:
        raise AssertionError
    template = Path(sys.argv[2])
    copy(template, fd)
    data = disk.read_bytes()
    assert data[OFFSET : OFFSET + TEMPLATE_SIZE] == template.read_bytes()
    assert data[:OFFSET] == b"\\xa5" * OFFSET
    assert data[OFFSET + TEMPLATE_SIZE :] == b"\\xa5" * (32 * MIB - OFFSET - TEMPLATE_SIZE)
    os.close(fd)
"""
    in_mount_namespace(mount, code, place, template, str(on_a_device))


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_a_file_beside_the_template_shares_its_blocks_where_the_file_system_can(
    kind: str, scratch: Path, template: Path
) -> None:
    image, place = scratch / "image", scratch / kind
    sparse_file(image, 512 * MIB)
    subprocess.run([f"mkfs.{kind}", "-q", image], check=True)
    place.mkdir()
    code = """
import os
import shutil
from pathlib import Path
from tests.system.disk.support import MIB
from tests.system.disk.test_copy import OFFSET, TEMPLATE_SIZE, copy
place = Path(sys.argv[1])
template = Path(shutil.copy(sys.argv[2], place / "template"))
(place / "disk").touch()
os.truncate(place / "disk", 64 * MIB)
fd = os.open(place / "disk", os.O_RDWR)
os.sync()
before = shutil.disk_usage(place).free
copy(template, fd)
os.sync()
assert before - shutil.disk_usage(place).free < 2 * MIB
was = template.read_bytes()
assert os.pread(fd, TEMPLATE_SIZE, OFFSET) == was
os.pwrite(fd, b"x" * MIB, OFFSET + 6 * MIB)
os.fsync(fd)
assert template.read_bytes() == was
os.close(fd)
"""
    in_mount_namespace(f'mount -o loop "{image}" "$1"', code, place, template)


def test_damage_is_found_before_it_is_written(disk: Path, run_dir: Path, template: Path) -> None:
    with template.open("r+b") as source:
        extents = scan_extents(source.fileno(), TEMPLATE_SIZE)
        damaged = extents[-1]
        source.seek(damaged.offset)
        source.write(b"\0")
        source.flush()
        with claim(disk, run_dir) as device, pytest.raises(DamagedTemplate, match=f"damaged at byte {damaged.offset}"):
            copy_extents(source.fileno(), device.fd, WHOLE, extents, lambda _: None, zeroing=device.zeroing)
    place = OFFSET + damaged.offset
    assert disk.read_bytes()[place : place + damaged.length] == b"\xa5" * damaged.length


def test_a_template_that_is_too_short_is_damaged(disk: Path, run_dir: Path, template: Path) -> None:
    with template.open("r+b") as source:
        extents = scan_extents(source.fileno(), TEMPLATE_SIZE)
        source.truncate(TEMPLATE_SIZE - 4096)
        with claim(disk, run_dir) as device, pytest.raises(DamagedTemplate, match="the file ends there"):
            copy_extents(source.fileno(), device.fd, WHOLE, extents, lambda _: None, zeroing=device.zeroing)


def test_an_error_in_between_stops_the_copy_and_is_the_one_that_is_shown(scratch: Path, template: Path) -> None:
    def interrupt(_count: int) -> None:
        raise KeyboardInterrupt

    with template.open("rb") as source, used_disk(scratch / "disk").open("r+b") as target:
        extents = scan_extents(source.fileno(), TEMPLATE_SIZE)
        zeroing = Zeroing(target.fileno())
        with pytest.raises(KeyboardInterrupt):
            copy_extents(source.fileno(), target.fileno(), WHOLE, extents, interrupt, zeroing=zeroing)


def on_small_ext4(code: str, scratch: Path, *arguments: str | Path) -> str:
    """Run Python with ``place``, the top of a new ext4 of 48 MiB, and the arguments from ``sys.argv[3]`` on."""
    ext4, place = scratch / "ext4", scratch / "small"
    subprocess.run(["mke2fs", "-q", "-t", "ext4", ext4, "48m"], check=True)
    place.mkdir()
    before = "from pathlib import Path\nimport os\nplace = Path(sys.argv[1])\n"
    return in_mount_namespace('mount -o loop "$2" "$1"', before + code, place, ext4, *arguments)


def test_a_file_without_room_for_all_is_refused_before_the_first_write(scratch: Path, template: Path) -> None:
    code = """
from osprovider.errors import DeviceError
from tests.system.disk.test_copy import copy
disk = place / "disk"
disk.touch()
os.truncate(disk, 64 << 20)
(place / "other").write_bytes(bytes(30 << 20))
try:
    copy(Path(sys.argv[3]), os.open(disk, os.O_RDWR), gaps_are_zero=True)
except DeviceError as error:
    print(error)
print(any(disk.read_bytes()))
"""
    message, is_written = on_small_ext4(code, scratch, template).splitlines()
    assert re.search(r"/disk: has no room for \d+ bytes at byte \d+: no space left on device; .*make room", message)
    assert is_written == "False"


@pytest.mark.parametrize(
    ("odd", "cached"), [(0, [0]), (512, range(8 * MIB, TEMPLATE_SIZE))], ids=["whole blocks", "odd sectors"]
)
def test_a_file_in_whole_blocks_takes_none_of_the_nodes_memory(
    scratch: Path, template: Path, odd: int, cached: Container[int]
) -> None:
    code = """
import subprocess
from tests.system.disk.test_copy import OFFSET, copy
disk, template, offset = place / "disk", Path(sys.argv[3]), OFFSET + int(sys.argv[4])
disk.write_bytes(bytes(28 << 20))
fd = os.open(disk, os.O_RDWR)
os.fsync(fd)
os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
copy(template, fd, offset=offset)
print(subprocess.check_output(["fincore", "--bytes", "--noheadings", "--output=RES", disk], text=True))
data = disk.read_bytes()
assert data == bytes(offset) + template.read_bytes() + bytes((28 << 20) - offset - (24 << 20))
"""
    assert int(on_small_ext4(code, scratch, template, str(odd))) in cached


def test_a_full_file_system_is_told_with_the_disk_and_the_byte(scratch: Path, template: Path) -> None:
    place = scratch / "small"
    place.mkdir()
    code = """
from pathlib import Path
from osprovider.errors import DeviceError
from tests.system.disk.test_copy import OFFSET, copy
import os
disk = Path(sys.argv[1]) / "disk"
disk.touch()
os.truncate(disk, 64 << 20)
try:
    copy(Path(sys.argv[2]), os.open(disk, os.O_RDWR), offset=OFFSET + 512)
except DeviceError as error:
    print(error)
"""
    said = in_mount_namespace('mount -t tmpfs -o size=4m none "$1"', code, place, template)
    assert f"{place}/disk: cannot be written at byte" in said
    assert "no space left on device" in said


def test_a_device_that_is_shorter_than_it_says_is_told_at_the_latest_by_the_sync(scratch: Path, template: Path) -> None:
    place = scratch / "small"
    place.mkdir()
    code = """
from pathlib import Path
from osprovider.errors import DeviceError
from tests.system.disk.support import attached
from tests.system.disk.test_copy import OFFSET, copy
import os
disk = Path(sys.argv[1]) / "disk"
disk.touch()
os.truncate(disk, 64 << 20)
with attached(disk) as device:
    fd = os.open(device, os.O_RDWR)
    try:
        copy(Path(sys.argv[2]), fd)
    except DeviceError as error:
        print(device, error)
    os.close(fd)
"""
    said = in_mount_namespace('mount -t tmpfs -o size=4m none "$1"', code, place, template)
    device, message = said.strip().split(" ", 1)
    assert message.startswith(f"{device}: ")
    assert "could not be stored" in message or "cannot be written at byte" in message


def test_a_device_that_ends_too_soon_is_told(scratch: Path) -> None:
    with (
        attached(used_disk(scratch / "disk")) as device,
        device.open("r+b") as target,
        pytest.raises(DeviceError, match=rf"{device}: cannot be written at byte {DISK_SIZE}: no space left"),
    ):
        write_all(target.fileno(), bytes(2 * MIB), DISK_SIZE - MIB)


def test_memory_does_not_grow_with_the_disk(scratch: Path) -> None:
    template = scratch / "template"
    with template.open("wb") as file:
        for number in range(192):
            file.write(bytes([number + 1]) * MIB)
        file.truncate(512 * MIB)
    disk = sparse_file(scratch / "disk", 1024 * MIB)
    code = """
from pathlib import Path
from tests.system.disk.test_copy import copy
import os, resource
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
fd = os.open(sys.argv[2], os.O_RDWR)
assert copy(Path(sys.argv[1]), fd, size=512 << 20) == 192 << 20
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10)
"""
    assert int(run_child(python(code, template, disk))) < 32 * MIB


def test_a_disk_of_five_tebibytes_takes_no_longer(scratch: Path, run_dir: Path, template: Path) -> None:
    disk = sparse_file(scratch / "disk", 5 << 40)
    with claim(disk, run_dir) as device:
        device.zeroing.zero(0, 5 << 40)
        copy(template, device.fd)
    assert disk.stat().st_blocks * 512 < TEMPLATE_SIZE
    with disk.open("rb") as file:
        file.seek(OFFSET)
        assert file.read(TEMPLATE_SIZE) == template.read_bytes()


def test_a_scan_leaves_out_holes_and_written_zeros(scratch: Path) -> None:
    path = scratch / "template"
    with path.open("wb") as file:
        file.write(bytes(9 * MIB))
        file.write(b"x" * 10)
        file.truncate(32 * MIB)
    with path.open("rb") as file:
        (extent,) = scan_extents(file.fileno(), 32 * MIB)
    assert isinstance(extent, Extent)
    assert extent.offset == 9 * MIB
    assert extent.length <= 64 << 10
