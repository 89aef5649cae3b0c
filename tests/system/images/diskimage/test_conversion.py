"""Disk images become raw, sparse files: exactly the disk."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from osprovider.disk.loop import loop_device
from osprovider.images.formats import detect
from tests.support.disk_images import COMPRESSORS, DISK_BYTES, VARIANTS, Images, compress, patch
from tests.support.sparse import sparse_file
from tests.system.images.diskimage.converting import MIB, allocated, convert, is_disk, mounted, refused


@pytest.mark.parametrize("compression", ["none", *COMPRESSORS])
@pytest.mark.parametrize("name", ["raw", *VARIANTS])
def test_every_image_becomes_its_disk(name: str, compression: str, originals: Images, tmp_path: Path) -> None:
    image = compress(originals(name), tmp_path / "image", compression)
    before = image.read_bytes()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    counts: list[int] = []
    target = convert(image, tmp_path, scratch=scratch, advance=counts.append)
    assert is_disk(target, originals("raw"))
    rounding = MIB if name in VARIANTS and VARIANTS[name].rounded else 1
    assert DISK_BYTES <= target.stat().st_size < DISK_BYTES + rounding
    assert allocated(target) < 2 * MIB
    assert sum(counts) == len(before)
    assert image.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image", "scratch", "target"]
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("name", [*VARIANTS, "raw"])
def test_what_is_not_compressed_needs_no_scratch(name: str, originals: Images, tmp_path: Path) -> None:
    assert is_disk(convert(originals(name), tmp_path, scratch=None), originals("raw"))


@pytest.mark.parametrize("compression", COMPRESSORS)
def test_a_raw_disk_needs_no_scratch_to_be_decompressed(compression: str, originals: Images, tmp_path: Path) -> None:
    image = compress(originals("raw"), tmp_path / "image", compression)
    assert is_disk(convert(image, tmp_path, scratch=None), originals("raw"))


@pytest.mark.parametrize("size", [512, 4095, 4096, 4097, 65536 + 512, MIB + 1])
@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_disk_ends_at_a_whole_block(size: int, compression: str, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.write_bytes((random.Random(size).randbytes(510) + b"\x55\xaa").ljust(size, b"\1"))
    target = convert(compress(raw, tmp_path / "image", compression), tmp_path)
    assert is_disk(target, raw)
    assert target.stat().st_size == -(-size // 4096) * 4096


def test_zeros_of_a_raw_disk_are_not_copied(originals: Images, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(originals("raw").read_bytes())
    assert allocated(image) >= DISK_BYTES
    target = convert(image, tmp_path)
    assert is_disk(target, originals("raw"))
    assert allocated(target) < 2 * MIB


def test_a_raw_disk_of_another_file_system_is_copied(originals: Images, tmp_path: Path) -> None:
    with mounted(tmp_path / "elsewhere", "tmpfs", "size=64m") as elsewhere:
        image = Path(shutil.copy(originals("raw"), elsewhere / "image"))
        target = convert(image, tmp_path)
        assert is_disk(target, originals("raw"))
        assert allocated(target) < 2 * MIB


def test_a_raw_disk_shares_its_blocks_where_the_file_system_can(tmp_path: Path) -> None:
    volume = sparse_file(tmp_path / "volume", 512 * MIB)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", volume], check=True)
    with loop_device(volume) as loop, mounted(tmp_path / "place", "xfs", "", str(loop)) as place:
        image = place / "image"
        image.write_bytes(random.Random(1).randbytes(510) + b"\x55\xaa" + random.Random(1).randbytes(40 * MIB))
        os.sync()
        before = os.statvfs(place).f_bfree * os.statvfs(place).f_frsize
        counts: list[int] = []
        target = convert(image, place, advance=counts.append)
        os.sync()
        assert before - os.statvfs(place).f_bfree * os.statvfs(place).f_frsize < 4 * MIB
        assert is_disk(target, image)
        assert sum(counts) == image.stat().st_size


@pytest.mark.parametrize("how", ["zlib", "zstd"])
@pytest.mark.parametrize("cluster", [512, 64 << 10, 2 << 20])
def test_a_qcow2_that_ends_within_a_sector_is_whole(how: str, cluster: int, tmp_path: Path) -> None:
    """As who writes compressed clusters through qemu-nbd leaves it."""
    raw, image = tmp_path / "raw", tmp_path / "image"
    raw.write_bytes((bytes(range(256)) * 8192).ljust(4 * MIB, b"x"))
    options = f"compression_type={how},cluster_size={cluster}"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", options, image, "4M"], check=True)
    # one cluster each: those of one command are compressed side by side, and lie in any order, with any end
    places = range(0, 4 * MIB, max(cluster, 32 << 10))
    writes = [word for place in places for word in ("-c", f"write -q -c -s {raw} {place} {cluster}")]
    subprocess.run(["qemu-io", "-f", "qcow2", *writes, image], check=True)
    size = image.stat().st_size
    assert size % 512
    expected = tmp_path / "expected"
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, expected], check=True)
    assert is_disk(convert(image, tmp_path), expected)
    os.truncate(image, size - 1)
    assert f"of the file, which has {size - 1}; fetch" in refused(image, tmp_path)


def test_a_vhd_has_the_size_that_it_states_and_not_its_geometrys(originals: Images, tmp_path: Path) -> None:
    image = Path(shutil.copy(originals("vhd of forced size"), tmp_path / "image"))
    for place in (0, image.stat().st_size - 512):
        footer = bytearray(image.read_bytes()[place : place + 512])
        footer[28:32] = b"vpc "  # QEMU believes this one's geometry, and not the size
        footer[56:60] = struct.pack(">HBB", 48, 16, 63)
        struct.pack_into(">I", footer, 64, 0)
        struct.pack_into(">I", footer, 64, ~sum(footer) & 0xFFFFFFFF)
        patch(image, place, bytes(footer))
    seen = subprocess.run(["qemu-img", "info", "--output=json", image], check=True, capture_output=True)
    assert json.loads(seen.stdout)["virtual-size"] < DISK_BYTES
    target = convert(image, tmp_path)
    assert target.stat().st_size == DISK_BYTES
    assert is_disk(target, originals("raw"))


def test_a_compressed_fixed_vhd_that_is_said_to_be_one(originals: Images, tmp_path: Path) -> None:
    image = compress(originals("vhd fixed"), tmp_path / "image", "xz")
    kind = detect(image, "vpc")
    assert is_disk(convert(image, tmp_path, kind=kind, scratch=tmp_path), originals("raw"))
    plain = compress(originals("raw"), tmp_path / "plain", "xz")
    assert "vpc image, footer: it is not at byte" in refused(plain, tmp_path, kind=kind)
