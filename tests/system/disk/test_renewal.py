"""A new UUID on a disk, made in memory beside the copy: what tune2fs would have made of a template, byte for byte."""

from __future__ import annotations

import os
import re
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from osprovider.disk import filesystem
from osprovider.disk.copy import DamagedTemplate, copy_extents
from osprovider.disk.device import Device, claim
from osprovider.disk.metadata import ExtInFile
from osprovider.disk.renewal import renewing
from osprovider.disk.scan import scan_extents, scan_ranges
from osprovider.layout import PartitionPlan, Placement, TablePlan
from osprovider.manifest import Template
from tests.support.manifests import manifest
from tests.system.disk.support import MIB, attached, copied, used_disk

UUID = "9f2bd3ca-6b6a-4c12-9b2c-0f6f5b0a7c11"
SIZE = 256 * MIB
START = MIB


def table(identity: str) -> TablePlan:
    root = PartitionPlan(1, "root", START, SIZE, "", "", "83", filesystem="ext4", filesystem_uuid=identity)
    return TablePlan("12345678", 512, (root,), type="msdos")


@pytest.fixture(params=["ext4", "ext3", "ext2"])
def made(request: pytest.FixtureRequest, shared: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file system with a block of attributes, long links, a large directory and a file in many pieces."""
    # So that two file systems in which the same was done are the same.
    environment = {"PATH": os.environ["PATH"], "E2FSPROGS_FAKE_TIME": "1700000000"}
    monkeypatch.setattr("osprovider.run.BASE_ENVIRONMENT", environment)
    original = shared / f"{request.param}.img"
    if not original.exists():
        lay_out(tree := scratch / "tree")
        filesystem.make(original, request.param, uuid=UUID, label="root", size_bytes=SIZE, tree=tree)
    return copied(original, scratch / "root.img")


def lay_out(tree: Path) -> None:
    (tree / "many").mkdir(parents=True)
    for number in range(2000):
        (tree / "many" / f"{number:060}").touch()
    (tree / "link").symlink_to("x" * 1000)
    attributed = tree / "attributed"
    attributed.write_bytes(b"attributed")
    os.setxattr(attributed, "user.note", b"n" * 1500)
    with (tree / "pieces").open("wb") as pieces:
        for number in range(600):
            pieces.seek(number * 12288)
            pieces.write(os.urandom(4096))
    (tree / "whole").write_bytes(os.urandom(16 * MIB))


@contextmanager
def opened(path: Path) -> Iterator[Template]:
    """It as a template; where its own blocks are is known."""
    with path.open("r+b") as file:
        fd = file.fileno()
        ranges = ExtInFile(fd, is_ours=True).metadata(SIZE)
        extents = scan_extents(fd, SIZE)
        yield Template(manifest(size_bytes=SIZE, extents=extents, metadata=scan_ranges(fd, ranges)), fd, path)


def install(template: Template, device: Device, identity: str) -> None:
    """Copy a template to its place, as deployment does."""
    with renewing(template, table(identity)) as renewal:
        renewal.wait()
        assert os.pread(device.fd, 4 * MIB, START) == b"\xa5" * 4 * MIB  # nobody touches the disk beside the copy
        whole, extents = [Placement(0, SIZE, START)], template.manifest.extents
        copy_extents(template.fd, device.fd, whole, extents, lambda _: None, zeroing=device.zeroing)
        renewal.apply(device)
        os.fsync(device.fd)


@pytest.mark.parametrize("sector_size", [None, 512, 4096], ids=["file", "loop-512", "loop-4096"])
def test_a_copy_is_what_tune2fs_makes_of_the_template(made: Path, scratch: Path, sector_size: int | None) -> None:
    disk, identity = used_disk(scratch / "disk", SIZE + 2 * MIB), str(uuid.uuid4())
    with ExitStack() as stack:
        path = stack.enter_context(attached(disk, sector_size=sector_size)) if sector_size else disk
        template = stack.enter_context(opened(made))
        install(template, stack.enter_context(claim(path, scratch / "run")), identity)
    subprocess.run(
        ["tune2fs", "-U", identity, made], env={**os.environ, "E2FSPROGS_FAKE_TIME": "1700000000"}, check=True
    )
    data = disk.read_bytes()
    assert data[:START] == data[START + SIZE :] == b"\xa5" * MIB
    assert data[START : START + SIZE] == made.read_bytes()
    subprocess.run(["e2fsck", "-f", "-n", made], check=True, capture_output=True)
    assert filesystem.read_superblock(made).uuid == identity


def test_one_that_was_mounted_since_its_last_check_is_checked(made: Path, scratch: Path) -> None:
    subprocess.run(["debugfs", "-w", "-R", "set_super_value state 0", made], check=True, capture_output=True)
    disk, identity = used_disk(scratch / "disk", SIZE + 2 * MIB), str(uuid.uuid4())
    with opened(made) as template, attached(disk) as path, claim(path, scratch / "run") as device:
        install(template, device, identity)
    with disk.open("rb") as file:
        file.seek(START)
        made.write_bytes(file.read(SIZE))
    subprocess.run(["e2fsck", "-f", "-n", made], check=True, capture_output=True)
    assert filesystem.read_superblock(made).uuid == identity


def test_metadata_that_was_damaged_in_the_template_does_not_reach_the_disk(made: Path, scratch: Path) -> None:
    disk = used_disk(scratch / "disk", SIZE + 2 * MIB)
    with opened(made) as template, claim(disk, scratch / "run") as device:
        extent = template.manifest.metadata[-1]
        with made.open("r+b") as file:
            file.seek(extent.offset)
            (byte,) = file.read(1)
            file.seek(extent.offset)
            file.write(bytes([byte ^ 1]))
        where = re.escape(f"template {made} is damaged at byte {extent.offset}: its checksum is wrong")
        with renewing(template, table(UUID)) as renewal, pytest.raises(DamagedTemplate, match=where):
            renewal.apply(device)
    assert disk.read_bytes() == b"\xa5" * disk.stat().st_size
