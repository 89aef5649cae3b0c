"""Disk images that are cut off, damaged or not what they are said to be: an error says what is wrong, and where."""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from osprovider.disk.loop import loop_device
from osprovider.errors import ImageError
from osprovider.images.formats import Container, ImageFormat, detect
from tests.support.disk_images import COMPRESSORS, DISK_BYTES, VARIANTS, Images, compress, flip, patch
from tests.system.images.diskimage.converting import convert, is_disk, refused


@pytest.mark.parametrize("cut", [1, 511, 512, 4096, 65536, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("name", VARIANTS)
def test_an_image_that_is_cut_off_never_becomes_another_disk(
    name: str, cut: float, originals: Images, tmp_path: Path
) -> None:
    image = Path(shutil.copy(originals(name), tmp_path / "image"))
    size = image.stat().st_size
    os.truncate(image, size - (int(size * cut) if isinstance(cut, float) else cut))
    container = VARIANTS[name].container
    try:
        target = convert(image, tmp_path, kind=ImageFormat(container, "none"))
    except ImageError as error:
        message = str(error)
    else:
        # Only where nothing of the disk is missing.
        assert name in ("vmdk stream-optimized", "qcow2 clusters of 512", "qcow2 compressed")
        assert is_disk(target, originals("raw"))
        return
    assert message.startswith(f"{image}: ")
    assert any(word in message for word in ("cut off", "damaged", "truncated", "beyond the file's")), message


@pytest.mark.parametrize("compression", COMPRESSORS)
@pytest.mark.parametrize("name", ["raw", "qcow2"])
def test_a_compressed_image_that_is_damaged_is_refused(
    name: str, compression: str, originals: Images, tmp_path: Path
) -> None:
    image = compress(originals(name), tmp_path / "image", compression)
    kind = detect(image)
    size = image.stat().st_size
    flip(image, size // 2)
    assert "damaged" in refused(image, tmp_path, kind=kind)
    flip(image, size // 2)
    os.truncate(image, size // 2)
    assert f"{image}: damaged or cut off: {compression} data ends badly after " in refused(image, tmp_path, kind=kind)


def _l2_entries(image: Path) -> dict[int, int]:
    """Where a qcow2 has an entry for a cluster of data, and the entry."""
    content = image.read_bytes()
    (l1,) = struct.unpack_from(">Q", content, 40)
    table = struct.unpack_from(">Q", content, l1)[0] & 0xFFFFFFFFFFFE00
    entries = {table + 8 * index: struct.unpack_from(">Q", content, table + 8 * index)[0] for index in range(384)}
    return {place: entry for place, entry in entries.items() if entry}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(lambda _entry, _other: 1 << 63 | 1 << 40, "cut off: byte ", id="beyond the end"),
        pytest.param(lambda _entry, other: other, "damaged qcow2 image: ", id="another one's cluster"),
        pytest.param(lambda _entry, _other: 1 << 63 | 65536, "damaged qcow2 image: ", id="the tables themselves"),
        pytest.param(lambda entry, _other: entry | 1 << 62, "qcow2 image", id="compressed, and it is not"),
        pytest.param(lambda entry, _other: entry + 512, "qcow2 image", id="beside a cluster"),
    ],
)
def test_a_qcow2_whose_tables_are_damaged(
    change: Callable[[int, int], int], words: str, originals: Images, tmp_path: Path
) -> None:
    image = Path(shutil.copy(originals("qcow2"), tmp_path / "image"))
    (place, entry), (_, other) = list(_l2_entries(image).items())[:2]
    patch(image, place, struct.pack(">Q", change(entry, other)))
    assert words in refused(image, tmp_path)


def test_a_bitmap_directory_of_nonsense_is_refused(originals: Images, tmp_path: Path) -> None:
    image = Path(shutil.copy(originals("qcow2"), tmp_path / "image"))
    subprocess.run(["qemu-img", "bitmap", "--add", "-f", "qcow2", image, "changed"], check=True)
    assert is_disk(convert(image, tmp_path), originals("raw"))
    content = image.read_bytes()
    extension = content.index(struct.pack(">II", 0x23852875, 24))
    (directory,) = struct.unpack_from(">Q", content, extension + 24)
    patch(image, directory, b"\xff" * 16)
    assert "damaged qcow2 image: " in refused(image, tmp_path)


def test_a_dirty_qcow2_is_to_be_repaired_first(originals: Images, tmp_path: Path) -> None:
    image = patch(Path(shutil.copy(originals("qcow2"), tmp_path / "image")), 72, struct.pack(">Q", 1))
    assert "qemu-img check -r all" in refused(image, tmp_path)
    subprocess.run(["qemu-img", "check", "-q", "-r", "all", image], check=True)
    assert is_disk(convert(image, tmp_path), originals("raw"))


def test_a_vhdx_with_a_log_is_to_be_repaired_first(originals: Images, tmp_path: Path) -> None:
    """As one is that was taken from a running system; the log of this one has an entry without any change."""
    image = Path(shutil.copy(originals("vhdx"), tmp_path / "image"))
    guid, size = b"log of this file", image.stat().st_size
    entry = struct.pack("<4sIIIQII16sQQ", b"loge", 0, 4096, 0, 1, 0, 0, guid, size, size).ljust(4096, b"\0")
    (log,) = struct.unpack_from("<Q", image.read_bytes(), (64 << 10) + 72)
    patch(image, log, _sealed(entry))
    for place in (64 << 10, 128 << 10):
        header = bytearray(image.read_bytes()[place : place + 4096])
        header[48:64] = guid
        patch(image, place, _sealed(bytes(header)))
    assert refused(image, tmp_path) == (
        f"{image}: vhdx image, was not closed properly (its log holds changes): repair it (qemu-img check -r all)"
    )
    subprocess.run(["qemu-img", "check", "-q", "-f", "vhdx", "-r", "all", image], check=True)
    assert is_disk(convert(image, tmp_path), originals("raw"))


def _sealed(block: bytes) -> bytes:
    """A header or an entry of a vhdx with its checksum, CRC-32C ([MS-VHDX] 2.2.2 and 2.3.1.1)."""
    crc = 0xFFFFFFFF
    for byte in block[:4] + bytes(4) + block[8:]:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return block[:4] + struct.pack("<I", crc ^ 0xFFFFFFFF) + block[8:]


def test_leaked_clusters_are_no_damage(originals: Images, tmp_path: Path) -> None:
    image = Path(shutil.copy(originals("qcow2"), tmp_path / "image"))
    place, _ = list(_l2_entries(image).items())[-1]
    patch(image, place, bytes(8))
    assert subprocess.run(["qemu-img", "check", "-q", image], check=False).returncode == 3
    assert convert(image, tmp_path).stat().st_size == DISK_BYTES


def _vmdk_entries(image: Path) -> list[tuple[int, int]]:
    """Where a VMDK has an entry for a grain of data, and the entry."""
    content = image.read_bytes()
    (directory,) = struct.unpack_from("<Q", content, 56)
    (table,) = struct.unpack_from("<I", content, directory * 512)
    entries = [
        (table * 512 + 4 * index, *struct.unpack_from("<I", content, table * 512 + 4 * index)) for index in range(384)
    ]
    return [(place, entry) for place, entry in entries if entry]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(lambda _entry, other: other, "belongs to two places", id="another one's grain"),
        pytest.param(lambda _entry, _other: 32, "whose data begins at byte 65536", id="the tables themselves"),
        pytest.param(lambda entry, _other: entry | 1 << 30, "vmdk image", id="beyond the end"),
    ],
)
def test_a_vmdk_whose_tables_are_damaged(
    change: Callable[[int, int], int], words: str, originals: Images, tmp_path: Path
) -> None:
    image = Path(shutil.copy(originals("vmdk"), tmp_path / "image"))
    (place, entry), (_, other) = _vmdk_entries(image)[:2]
    patch(image, place, struct.pack("<I", change(entry, other)))
    assert words in refused(image, tmp_path)


def test_a_vhd_with_a_block_in_two_places(originals: Images, tmp_path: Path) -> None:
    image = Path(shutil.copy(originals("vhd"), tmp_path / "image"))
    content = image.read_bytes()
    (table,) = struct.unpack_from(">Q", content, content.index(b"cxsparse") + 16)
    patch(image, table + 4, content[table : table + 4])
    assert "belongs to two places" in refused(image, tmp_path)


def test_damaged_data_of_a_compressed_cluster_is_refused(originals: Images, tmp_path: Path) -> None:
    image = Path(shutil.copy(originals("qcow2 compressed by zstd"), tmp_path / "image"))
    _, entry = next(iter(_l2_entries(image).items()))
    patch(image, entry & (1 << 54) - 1, bytes(16))
    assert "damaged qcow2 image: error while reading at byte 0" in refused(image, tmp_path)


@pytest.mark.parametrize("name", ["qcow2", "vmdk", "vhd", "vhdx", "vdi"])
def test_damage_anywhere_in_the_tables_makes_no_other_failure(name: str, originals: Images, tmp_path: Path) -> None:
    original = originals(name)
    content, chance = original.read_bytes(), random.Random(name)
    image = Path(shutil.copy(original, tmp_path / "image"))
    places = [index * 4096 for index in range(len(content) // 4096) if any(content[index * 4096 : index * 4096 + 4096])]
    verdicts = set()
    for _ in range(12):
        offset = chance.choice(places[:8]) + chance.randrange(600)
        patch(image, offset, chance.randbytes(chance.choice([1, 8])))
        try:
            convert(image, tmp_path, kind=ImageFormat(VARIANTS[name].container, "none"), limit=1 << 30)
            verdicts.add("accepted")
        except ImageError as error:
            verdicts.add("refused" if str(error).startswith(f"{image}: ") else str(error))
        image.write_bytes(content)
    assert verdicts <= {"accepted", "refused"}


@pytest.mark.parametrize("container", ["qcow2", "vmdk", "vpc", "vhdx", "vdi"])
def test_what_is_not_what_it_is_said_to_be(container: Container, originals: Images, tmp_path: Path) -> None:
    image = compress(originals("raw"), tmp_path / "image", "none")
    assert refused(image, tmp_path, kind=ImageFormat(container, "none")).startswith(f"{image}: {container} image, ")


def test_a_device_is_no_raw_image(originals: Images, tmp_path: Path) -> None:
    with loop_device(originals("raw"), read_only=True) as loop:
        assert refused(Path(str(loop)), tmp_path, kind=ImageFormat("raw", "none")).endswith("is no regular file")


def test_a_backing_file_is_not_read(tmp_path: Path, originals: Images) -> None:
    image = tmp_path / "image"
    words = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(originals("raw")), "-F", "raw", str(image)]
    subprocess.run(words, check=True)
    assert "backing file (byte 8): it needs another file" in refused(image, tmp_path)
    assert (tmp_path / "target").stat().st_size == 0
