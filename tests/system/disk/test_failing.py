"""Disks that fail: each error names the disk, the byte and what to do, and nothing is held afterwards."""

from __future__ import annotations

import errno
import os
import random
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from osprovider.disk import zero as zero_module
from osprovider.disk.bootsector import tell_moved
from osprovider.disk.copy import copy_extents, verify_extents
from osprovider.disk.device import claim
from osprovider.disk.raw import sync
from osprovider.disk.scan import scan_extents
from osprovider.disk.wipe import clear_signatures, wipe
from osprovider.errors import DeviceError
from osprovider.layout import PartitionPlan, Placement, TablePlan
from osprovider.linux import Fallocate, fallocate
from osprovider.manifest import Extent
from tests.support.served_disks import device_on, failing, forgetful
from tests.support.sparse import sparse_file
from tests.system.disk.support import DISK_SIZE, MIB, attached, in_mount_namespace, used_disk

TEMPLATE_SIZE = 24 * MIB
OFFSET = 3 * MIB
WHOLE = [Placement(0, TEMPLATE_SIZE, OFFSET)]
BAD = OFFSET + 9 * MIB + 3 * 4096  # in the second piece of the middle data
GAP = OFFSET + 2 * MIB  # what the template has no data for

# QEMU before 8.1 discards where a hole is punched in what it serves, and a loop device is such a file's.
ZEROING = ("write-zeroes", "discard")
DATA = ((0, 5000), (5 * MIB, 9 * MIB), (TEMPLATE_SIZE - 4096, 4096))


@pytest.fixture
def template(scratch: Path) -> Path:
    """24 MiB, sparse: data at the start, in the middle, and in the last block."""
    path = scratch / "template"
    chance = random.Random(2)
    with path.open("wb") as file:
        for offset, length in DATA:
            file.seek(offset)
            file.write(chance.randbytes(length))
    return path


@pytest.fixture(params=["file", "device"])
def kind(request: pytest.FixtureRequest) -> str:
    """How the failing disk shows: as the file that is served, or as a block device on it."""
    return str(request.param)


@contextmanager
def as_kind(kind: str, disk: Path) -> Iterator[Path]:
    with ExitStack() as stack:
        yield stack.enter_context(device_on(disk)) if kind == "device" else disk


def copy(template: Path, disk: Path, run_dir: Path, *, verify: bool = False) -> None:
    with template.open("rb") as source, claim(disk, run_dir) as device:
        fd = source.fileno()
        extents = scan_extents(fd, TEMPLATE_SIZE)
        copy_extents(fd, device.fd, WHOLE, extents, lambda _: None, zeroing=device.zeroing)
        sync(device.fd)
        if verify:
            verify_template(fd, device.fd, extents)


def verify_template(source_fd: int, fd: int, extents: tuple[Extent, ...]) -> None:
    told: list[int] = []
    verify_extents(source_fd, fd, WHOLE, extents, told.append)
    assert sum(told) == TEMPLATE_SIZE


def test_an_io_error_in_the_middle_is_told_with_its_byte_and_the_next_run_works(
    kind: str, scratch: Path, run_dir: Path, template: Path
) -> None:
    backing = used_disk(scratch / "backing")
    with failing(backing, scratch / "disk", at=BAD) as disk, as_kind(kind, disk) as target:
        with pytest.raises(DeviceError) as caught:
            copy(template, target, run_dir)
        # What is read-modify-written by a sector's neighbour is a block of 4096 bytes.
        assert str(caught.value).startswith(f"{target}: cannot be written at byte {BAD}: input/output error; ")
        assert "see the kernel's log (dmesg)" in str(caught.value)
        assert list((run_dir / "locks").iterdir()) == []
    copy(template, backing, run_dir, verify=True)
    assert backing.read_bytes()[OFFSET : OFFSET + TEMPLATE_SIZE] == template.read_bytes()


def test_an_io_error_where_the_signatures_are_is_told(kind: str, scratch: Path, run_dir: Path) -> None:
    backing = used_disk(scratch / "backing")
    with (
        failing(backing, scratch / "disk", at=DISK_SIZE - 8192) as disk,
        as_kind(kind, disk) as target,
        claim(target, run_dir) as device,
        pytest.raises(DeviceError, match=rf"{target}: .*: input/output error; .* failing"),
    ):
        clear_signatures(device)
    assert backing.read_bytes()[:MIB] == bytes(MIB)  # the end that can be written is


def test_an_io_error_while_zeroing_is_no_reason_to_believe_in_zeros(
    kind: str, scratch: Path, run_dir: Path, template: Path
) -> None:
    backing = used_disk(scratch / "backing")
    with failing(backing, scratch / "disk", at=GAP, on=ZEROING) as disk, as_kind(kind, disk) as target:
        with pytest.raises(DeviceError, match=rf"{target}: cannot be zeroed at byte .*: input/output error; "):
            copy(template, target, run_dir)
        with claim(target, run_dir) as device, pytest.raises(DeviceError, match="cannot be zeroed at byte 0: "):
            wipe(device, "auto")


def test_a_cache_that_the_disk_cannot_store_is_told(kind: str, scratch: Path, run_dir: Path, template: Path) -> None:
    backing = used_disk(scratch / "backing")
    with (
        failing(backing, scratch / "disk", on=["flush"]) as disk,
        as_kind(kind, disk) as target,
        pytest.raises(DeviceError, match=rf"{target}: what was written could not be stored: input/output error; "),
    ):
        copy(template, target, run_dir)


def first_byte(error: DeviceError, words: str, *, until: str = ":") -> int:
    """The byte that an error names after ``words``; of several threads' the first to fail is told."""
    assert str(error).startswith(words)
    return int(str(error).removeprefix(words).partition(until)[0])


def test_a_disk_that_is_shorter_than_it_said_is_told_with_a_byte_beyond_its_end(
    scratch: Path, run_dir: Path, template: Path
) -> None:
    backing = used_disk(scratch / "backing")
    end = OFFSET + 7 * MIB
    with (
        failing(backing, scratch / "disk", on=[]) as disk,
        device_on(disk) as target,
        template.open("rb") as source,
        claim(target, run_dir) as device,
    ):
        extents = scan_extents(source.fileno(), TEMPLATE_SIZE)
        os.truncate(disk, end)  # the loop device goes on saying 64 MiB
        with pytest.raises(DeviceError) as caught:
            copy_extents(source.fileno(), device.fd, WHOLE, extents, lambda _: None, zeroing=None)
        assert first_byte(caught.value, f"{target}: cannot be written at byte ") >= end


def test_a_file_that_is_shortened_meanwhile_is_told(scratch: Path, run_dir: Path, template: Path) -> None:
    with (
        failing(used_disk(scratch / "backing"), scratch / "disk", on=[]) as disk,
        template.open("rb") as source,
        claim(disk, run_dir) as device,
    ):
        extents = scan_extents(source.fileno(), TEMPLATE_SIZE)
        os.truncate(disk, OFFSET + 7 * MIB)
        with pytest.raises(DeviceError) as caught:
            copy_extents(source.fileno(), device.fd, WHOLE, extents, lambda _: None, zeroing=None)
        assert first_byte(caught.value, f"{disk}: cannot be written at byte ") >= OFFSET + 7 * MIB


def test_a_disk_that_becomes_read_only_is_told(scratch: Path, run_dir: Path, template: Path) -> None:
    backing = used_disk(scratch / "backing")
    with (
        failing(backing, scratch / "disk", at=BAD, error=errno.EROFS) as disk,
        pytest.raises(DeviceError, match=rf"{disk}: cannot be written at byte {BAD}: .*blockdev --setrw"),
    ):
        copy(template, disk, run_dir)


def test_a_disk_that_goes_away_is_told(scratch: Path, run_dir: Path, template: Path) -> None:
    with (
        failing(used_disk(scratch / "backing"), scratch / "disk", on=[]) as disk,
        template.open("rb") as source,
        claim(disk, run_dir) as device,
    ):
        extents = scan_extents(source.fileno(), TEMPLATE_SIZE)
        os.kill(int(disk.with_name("disk.pid").read_text()), signal.SIGKILL)
        with pytest.raises(DeviceError, match=rf"{disk}: .*; it has gone away: activate it again"):
            copy_extents(source.fileno(), device.fd, WHOLE, extents, lambda _: None, zeroing=None)


def test_what_is_as_it_was_written_is_verified(disk: Path, run_dir: Path, template: Path) -> None:
    copy(template, disk, run_dir, verify=True)


@pytest.mark.parametrize("wrong", [OFFSET, BAD + 17, GAP + 5, OFFSET + TEMPLATE_SIZE - 1])
def test_the_first_byte_that_differs_is_named(wrong: int, disk: Path, run_dir: Path, template: Path) -> None:
    with template.open("rb") as source, claim(disk, run_dir) as device:
        extents = scan_extents(source.fileno(), TEMPLATE_SIZE)
        copy_extents(source.fileno(), device.fd, WHOLE, extents, lambda _: None, zeroing=device.zeroing)
        (byte,) = os.pread(device.fd, 1, wrong)
        os.pwrite(device.fd, bytes([byte ^ 1]), wrong)
        with pytest.raises(DeviceError, match=rf"{disk}: byte {wrong} is not read back as it was written: .*replace"):
            verify_extents(source.fileno(), device.fd, WHOLE, extents, lambda _: None)


@pytest.mark.parametrize("sector_size", [None, 512, 4096], ids=["file", "512", "4096"])
def test_a_byte_that_differs_in_a_part_that_has_moved_is_named_by_its_place(
    sector_size: int | None, scratch: Path, run_dir: Path, template: Path
) -> None:
    """All borders lie in the midst of extents, one sector from where a page begins; between the last two is a rest."""
    sector = sector_size or 512
    first, second, third = 6 * MIB + sector, 11 * MIB - sector, 13 * MIB + sector
    moved, last = 30 * MIB + sector, 50 * MIB
    parts = [
        Placement(0, first, 0),
        Placement(first, second - first, moved),
        Placement(third, 22 * MIB - third, last),
    ]
    in_gap = last + 16 * MIB - third
    with ExitStack() as stack:
        target = used_disk(scratch / "disk")
        if sector_size is not None:
            target = stack.enter_context(attached(target, sector_size=sector_size))
        source, device = stack.enter_context(template.open("rb")), stack.enter_context(claim(target, run_dir))
        fd, extents = source.fileno(), scan_extents(source.fileno(), TEMPLATE_SIZE)
        assert any(extent.offset < first < extent.offset + extent.length for extent in extents)
        for wrong in (first - 1, moved, moved + 2 * MIB, moved + second - first - 1, last, in_gap):
            copy_extents(fd, device.fd, parts, extents, lambda _: None, zeroing=device.zeroing)
            told: list[int] = []
            verify_extents(fd, device.fd, parts, extents, told.append)
            assert sum(told) == sum(part.size_bytes for part in parts)
            (byte,) = os.pread(device.fd, 1, wrong)
            os.pwrite(device.fd, bytes([byte ^ 1]), wrong)
            with pytest.raises(DeviceError, match=rf"{target}: byte {wrong} is not read back as it was written: "):
                verify_extents(fd, device.fd, parts, extents, lambda _: None)


def test_a_boot_sector_of_a_moved_partition_that_cannot_be_read_is_told(scratch: Path, run_dir: Path) -> None:
    part = PartitionPlan(1, "esp", BAD, 4 * MIB, "", "", "", filesystem="vfat", source_bytes=MIB)
    with (
        failing(used_disk(scratch / "backing"), scratch / "disk", at=BAD, on=["read"]) as disk,
        claim(disk, run_dir) as device,
        pytest.raises(DeviceError, match=rf"{disk}: cannot be read at byte {BAD}: input/output error; "),
    ):
        tell_moved(device.fd, TablePlan("", 512, (part,)))


def test_a_disk_that_forgets_is_found_out_behind_the_page_cache(scratch: Path, run_dir: Path, template: Path) -> None:
    with forgetful(scratch / "disk", DISK_SIZE) as disk:
        copy(template, disk, run_dir)
        with pytest.raises(DeviceError, match="is not read back as it was written: ") as caught:
            copy(template, disk, run_dir, verify=True)
        assert first_byte(caught.value, f"{disk}: byte ", until=" ") in beginnings(template)


def test_a_device_that_forgets_is_found_out(scratch: Path, run_dir: Path, template: Path) -> None:
    with forgetful(scratch / "disk", DISK_SIZE) as disk, device_on(disk) as target, template.open("rb") as source:
        copy(template, target, run_dir)
        forget_cached(disk)
        extents = scan_extents(source.fileno(), TEMPLATE_SIZE)
        with (
            claim(target, run_dir) as device,
            pytest.raises(DeviceError, match="is not read back as it was written: ") as caught,
        ):
            verify_template(source.fileno(), device.fd, extents)
        assert first_byte(caught.value, f"{target}: byte ", until=" ") in beginnings(template)


def beginnings(template: Path) -> set[int]:
    """Where on the disk the pieces of the template's data begin."""
    with template.open("rb") as source:
        return {OFFSET + extent.offset for extent in scan_extents(source.fileno(), TEMPLATE_SIZE)}


def forget_cached(disk: Path) -> None:
    """Drop what the page cache has of the file beneath a loop device."""
    with disk.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def test_what_cannot_be_read_back_is_told_with_its_byte(
    kind: str, scratch: Path, run_dir: Path, template: Path
) -> None:
    backing = sparse_file(scratch / "backing", DISK_SIZE)
    with (
        failing(backing, scratch / "disk", at=BAD, on=["read"]) as disk,
        as_kind(kind, disk) as target,
        template.open("rb") as source,
        claim(target, run_dir) as device,
    ):
        extents = scan_extents(source.fileno(), TEMPLATE_SIZE)
        copy_extents(source.fileno(), device.fd, WHOLE, extents, lambda _: None, zeroing=None)
        forget_cached(disk)
        with pytest.raises(DeviceError, match=rf"{target}: cannot be read back at byte {BAD}: input/output error; "):
            verify_template(source.fileno(), device.fd, extents)


def test_what_a_file_has_refused_it_is_not_asked_again(
    scratch: Path, run_dir: Path, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = count_asking(monkeypatch)
    backing = used_disk(scratch / "backing")
    with failing(backing, scratch / "disk", on=ZEROING, error=errno.ENODEV) as disk:
        wipe_and_copy(template, disk, run_dir)
    assert asked == [Fallocate.ZERO_RANGE | Fallocate.KEEP_SIZE, Fallocate.PUNCH_HOLE | Fallocate.KEEP_SIZE]
    assert backing.read_bytes()[OFFSET : OFFSET + TEMPLATE_SIZE] == template.read_bytes()


def test_what_a_device_has_refused_it_is_not_asked_again(scratch: Path, run_dir: Path, template: Path) -> None:
    # An overlay knows fallocate(2), and so a loop device on it says that it makes zeros; but ramfs does not.
    code = """
from pathlib import Path
import pytest
from osprovider.linux import Fallocate
from tests.system.disk.support import MIB, attached, used_disk
from tests.system.disk.test_failing import OFFSET, TEMPLATE_SIZE, count_asking, wipe_and_copy
place, template, run_dir = map(Path, sys.argv[1:])
with pytest.MonkeyPatch.context() as patch, attached(used_disk(place / "all" / "disk", 32 * MIB)) as disk:
    asked = count_asking(patch)
    wipe_and_copy(template, disk, run_dir)
    assert asked == [Fallocate.PUNCH_HOLE | Fallocate.KEEP_SIZE], asked
    assert disk.read_bytes()[OFFSET : OFFSET + TEMPLATE_SIZE] == template.read_bytes()
"""
    place = scratch / "ramfs"
    place.mkdir()
    mount = (
        'mount -t ramfs none "$1"; cd "$1"; mkdir lower upper work all; '
        "mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work none all; cd /"
    )
    in_mount_namespace(mount, code, place, template, run_dir)


def count_asking(patch: pytest.MonkeyPatch) -> list[Fallocate]:
    """Note every fallocate(2) of the zeroing, which still happens."""
    asked: list[Fallocate] = []

    def ask(fd: int, mode: Fallocate, offset: int, length: int) -> None:
        asked.append(mode)
        fallocate(fd, mode, offset, length)

    patch.setattr(zero_module, "fallocate", ask)
    return asked


def wipe_and_copy(template: Path, disk: Path, run_dir: Path) -> None:
    with template.open("rb") as source, claim(disk, run_dir) as device:
        assert wipe(device, "auto") is False
        extents = scan_extents(source.fileno(), TEMPLATE_SIZE)
        copy_extents(source.fileno(), device.fd, WHOLE, extents, lambda _: None, zeroing=device.zeroing)
        sync(device.fd)
