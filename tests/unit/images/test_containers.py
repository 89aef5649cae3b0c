"""The headers of disk images: what QEMU wrote is accepted; what reaches beyond its file, or makes no sense, is not."""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from osprovider.errors import ImageError
from osprovider.images.diskimage.containers import check_container
from osprovider.images.formats import Container
from tests.support.disk_images import DISK_BYTES, VARIANTS, Images, flip, make_raw, patch, variants_of

_KINDS: dict[str, Container] = {
    "qcow2": "qcow2",
    "vmdk": "vmdk",
    "vmdk stream-optimized": "vmdk",
    "vhd": "vpc",
    "vhd fixed": "vpc",
    "vhdx": "vhdx",
    "vdi": "vdi",
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Images:
    """Give the image of a variant, made once."""
    return variants_of(make_raw(tmp_path_factory.mktemp("originals") / "raw"))


@pytest.fixture
def image(originals: Images, tmp_path: Path) -> Images:
    """Give a copy of a variant's image, to be spoiled."""

    def get(name: str) -> Path:
        return Path(shutil.copy(originals(name), tmp_path / "image"))

    return get


def refused(path: Path, container: Container) -> str:
    """The message about an image, without its beginning that is always the same."""
    with pytest.raises(ImageError) as caught:
        check_container(path, container)
    message = str(caught.value)
    assert message.startswith(f"{path}: {container} image, ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: {container} image, ")


def created(path: Path, *words: str) -> Path:
    """An image by ``qemu-img create``."""
    subprocess.run(["qemu-img", "create", "-q", *words], check=True, cwd=path.parent)
    return path


@pytest.mark.parametrize("name", VARIANTS)
def test_what_qemu_writes_is_accepted(name: str, originals: Images) -> None:
    path, variant = originals(name), VARIANTS[name]
    size = check_container(path, variant.container)
    assert size == DISK_BYTES if not variant.rounded else DISK_BYTES <= size < DISK_BYTES + (1 << 20)


@pytest.mark.parametrize("container", ["qcow2", "vmdk", "vhdx", "vdi"])
@pytest.mark.parametrize("size", [512, 1 << 20, (1 << 40) + 512])
def test_empty_disks_of_any_size(container: Container, size: int, tmp_path: Path) -> None:
    path = created(tmp_path / "image", "-f", container, "image", str(size))
    assert check_container(path, container) == size


def test_a_raw_disks_size_is_the_files(originals: Images) -> None:
    assert check_container(originals("qcow2").parent / "raw", "raw") == DISK_BYTES


def test_snapshots_and_bitmaps_of_sense_are_accepted(image: Images) -> None:
    path = image("qcow2")
    subprocess.run(["qemu-img", "snapshot", "-c", "before", path], check=True)
    subprocess.run(["qemu-img", "bitmap", "--add", "-f", "qcow2", path, "changed"], check=True)
    assert check_container(path, "qcow2") == DISK_BYTES


# References to other files


def test_a_qcow2_with_a_backing_file(tmp_path: Path) -> None:
    created(tmp_path / "base", "-f", "raw", "base", "1M")
    path = created(tmp_path / "image", "-f", "qcow2", "-b", "base", "-F", "raw", "image")
    assert refused(path, "qcow2").startswith("backing file (byte 8): ")


def test_a_qcow2_with_a_data_file(tmp_path: Path) -> None:
    path = created(tmp_path / "image", "-f", "qcow2", "-o", "data_file=data,data_file_raw=on", "image", "1M")
    assert refused(path, "qcow2") == (
        "incompatible features (byte 72): keeps its data in another file: convert it (qemu-img convert -O qcow2)"
    )


def test_a_qcow2_that_names_a_data_file_without_the_feature(tmp_path: Path) -> None:
    path = created(tmp_path / "image", "-f", "qcow2", "-o", "data_file=data", "image", "1M")
    patch(path, 72, struct.pack(">Q", 0))
    assert refused(path, "qcow2").startswith("header extension 0x44415441 (byte 112): keeps its data in another file")


def test_a_vmdk_with_a_parent(tmp_path: Path) -> None:
    created(tmp_path / "base", "-f", "vmdk", "base", "1M")
    path = created(tmp_path / "image", "-f", "vmdk", "-b", "base", "-F", "vmdk", "image")
    assert "of its descriptor: it needs a parent: " in refused(path, "vmdk")


def _descriptor(path: Path, change: Callable[[bytes], bytes]) -> Path:
    """Change a VMDK's descriptor, which lies in the 20 sectors from the second one on."""
    text = path.read_bytes()[512 : 21 * 512].rstrip(b"\0")
    return patch(path, 512, change(text).ljust(20 * 512, b"\0"))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b'SPARSE "vmdk"', b'SPARSE "/etc/shadow"', "an extent is in another file"),
        (b'SPARSE "vmdk"', b'SPARSE "../image"', "an extent is in another file"),
        (b'SPARSE "vmdk"', b'FLAT "image" 0', "an extent is in another file"),
        (b'SPARSE "vmdk"', b'VMFS "image"', "an extent is in another file"),
        (b'SPARSE "vmdk"', b'FLAT "/dev/sda" 0', "an extent is in another file"),
        (b'SPARSE "vmdk"', b'SPARSE "vmdk"\nRW 2048 SPARSE "other"', "its descriptor: 2 extents"),
        (b"RW ", b"XX ", "its descriptor: 0 extents"),
        (b'"monolithicSparse"', b'"monolithicFlat"', "createType monolithicFlat is not supported"),
        (b'"monolithicSparse"', b'"fullDevice"', "createType fullDevice is not supported"),
        (b'"monolithicSparse"', b'"vmfs"', "createType vmfs is not supported"),
        (b"parentCID=ffffffff", b"parentCID=12345678", "it needs a parent"),
        (b"parentCID=ffffffff", b"#parentCID=12345678", "it needs a parent"),
        (b"parentCID=ffffffff", b'parentFileNameHint="/etc/shadow"', "it needs another file"),
        (b"parentCID=ffffffff", b'# parentFileNameHint="/etc/shadow"', "it needs another file"),
    ],
)
def test_a_vmdk_whose_descriptor_names_others(old: bytes, new: bytes, words: str, image: Images) -> None:
    def change(text: bytes) -> bytes:
        assert old in text
        return text.replace(old, new)

    path = _descriptor(image("vmdk"), change)
    message = refused(path, "vmdk")
    assert words in message
    assert message.startswith(("line ", "its descriptor: "))


def test_a_vmdk_with_a_second_descriptor_where_qemu_looks(image: Images) -> None:
    path = image("vmdk")
    good = path.read_bytes()[512 : 21 * 512]
    end = path.stat().st_size
    patch(path, end, good)
    _descriptor(path, lambda text: text + b'\nparentFileNameHint="/etc/shadow"\n')
    patch(path, 28, struct.pack("<Q", end // 512))
    assert refused(path, "vmdk").startswith("descriptor (byte 28): it is not at sector 1")


def test_a_vmdk_whose_descriptor_goes_on_where_its_size_ends(image: Images) -> None:
    path = _descriptor(image("vmdk"), lambda text: text + b"#" * 700 + b'\nparentFileNameHint="/etc/shadow"\n')
    patch(path, 36, struct.pack("<Q", 1))
    assert "it needs another file" in refused(path, "vmdk")


def test_a_differencing_vhd(image: Images) -> None:
    path = image("vhd")
    for place in (0, path.stat().st_size - 512):
        footer = bytearray(path.read_bytes()[place : place + 512])
        struct.pack_into(">I", footer, 60, 4)
        patch(path, place, _summed(footer, 64))
    assert refused(path, "vpc") == "disk type (byte 60 of the footer): it needs a parent: merge them"


@pytest.mark.parametrize("kind", [3, 4])
def test_a_vdi_with_a_parent(kind: int, image: Images) -> None:
    path = patch(image("vdi"), 76, struct.pack("<I", kind))
    assert refused(path, "vdi") == "image type (byte 76): it needs a parent: merge them"


def test_a_vdi_that_names_a_parent(image: Images) -> None:
    assert refused(patch(image("vdi"), 440, b"\1"), "vdi") == "parent (byte 440): it needs a parent: merge them"


def test_a_vhdx_with_a_parent(image: Images) -> None:
    path = image("vhdx")
    content = path.read_bytes()
    item = content.index(bytes.fromhex("3767a1ca36fa434db3b633f0aa44e76b"))
    table = content.index(b"metadata")
    (offset,) = struct.unpack_from("<I", content, item + 16)
    assert refused(patch(path, table + offset + 4, b"\2"), "vhdx") == "file parameters: it needs a parent: merge them"


# Encryption


def test_an_encrypted_qcow2(tmp_path: Path) -> None:
    key = ("--object", "secret,id=key,data=secret12", "-o", "encrypt.format=aes,encrypt.key-secret=key")
    path = created(tmp_path / "image", "-f", "qcow2", *key, "image", "1M")
    assert refused(path, "qcow2") == "crypt_method (byte 32): it is encrypted, which is not supported"


def test_a_qcow2_encrypted_by_luks(image: Images) -> None:
    # qemu-img measures the time that a key takes, and gives up on a busy machine; so this one is made here.
    path = patch(image("qcow2"), 32, struct.pack(">I", 2))
    assert refused(path, "qcow2") == "crypt_method (byte 32): it is encrypted, which is not supported"
    patch(path, 32, struct.pack(">I", 0))
    path, place = _extension(path, 0x0537BE77, struct.pack(">QQ", 65536, 65536))
    assert refused(path, "qcow2") == (
        f"header extension 0x537be77 (byte {place}): it is encrypted, which is not supported"
    )


# Nonsense


@pytest.mark.parametrize(
    ("offset", "value", "words"),
    [
        pytest.param(4, struct.pack(">I", 1), "version (byte 4): 1", id="version"),
        pytest.param(4, struct.pack(">I", 4), "version (byte 4): 4", id="newer version"),
        pytest.param(16, struct.pack(">I", 9), "backing file (byte 8)", id="length of a backing file's name"),
        pytest.param(20, struct.pack(">I", 8), "cluster_bits (byte 20): 8", id="clusters too small"),
        pytest.param(20, struct.pack(">I", 22), "cluster_bits (byte 20): 22", id="clusters too large"),
        pytest.param(20, struct.pack(">I", 1 << 31), "cluster_bits (byte 20)", id="clusters of nonsense"),
        pytest.param(24, struct.pack(">Q", 0), "the disk's size: 0 bytes", id="no size"),
        pytest.param(24, struct.pack(">Q", 1 << 40), "l1_size (byte 36)", id="size beyond its L1 table"),
        pytest.param(24, struct.pack(">Q", (1 << 64) - 1), "l1_size (byte 36)", id="size of nonsense"),
        pytest.param(36, struct.pack(">I", 0), "l1_size (byte 36): 0", id="no L1 table"),
        pytest.param(36, struct.pack(">I", (1 << 32) - 1), "l1_size (byte 36)", id="L1 table of nonsense"),
        pytest.param(36, struct.pack(">I", 4 << 20), "l1_table_offset (byte 40)", id="L1 table beyond the end"),
        pytest.param(40, struct.pack(">Q", 1), "l1_table_offset (byte 40)", id="L1 table beside a cluster"),
        pytest.param(40, struct.pack(">Q", 1 << 40), "l1_table_offset (byte 40)", id="L1 table elsewhere"),
        pytest.param(40, struct.pack(">Q", (1 << 64) - 65536), "l1_table_offset (byte 40)", id="L1 table far away"),
        pytest.param(48, struct.pack(">Q", 7), "refcount_table_offset (byte 48)", id="refcounts beside a cluster"),
        pytest.param(48, struct.pack(">Q", 1 << 50), "refcount_table_offset (byte 48)", id="refcounts elsewhere"),
        pytest.param(56, struct.pack(">I", (1 << 32) - 1), "refcount_table_offset", id="refcounts of nonsense"),
        pytest.param(60, struct.pack(">I", 1 << 31), "snapshots_offset (byte 64)", id="snapshots of nonsense"),
        pytest.param(64, struct.pack(">Q", 1 << 62), "snapshots_offset (byte 64)", id="snapshots elsewhere"),
        pytest.param(72, struct.pack(">Q", 1), "incompatible features (byte 72): was not closed", id="dirty"),
        pytest.param(72, struct.pack(">Q", 2), "incompatible features (byte 72): is marked as corrupt", id="corrupt"),
        pytest.param(72, struct.pack(">Q", 1 << 60), "incompatible features (byte 72): 0x1", id="unknown feature"),
        pytest.param(96, struct.pack(">I", 7), "refcount_order (byte 96): 7", id="refcounts too wide"),
        pytest.param(100, struct.pack(">I", 72), "header_length (byte 100): 72", id="header too short"),
        pytest.param(100, struct.pack(">I", 1 << 30), "header_length (byte 100)", id="header too long"),
    ],
)
def test_a_qcow2_whose_header_makes_no_sense(offset: int, value: bytes, words: str, image: Images) -> None:
    assert refused(patch(image("qcow2"), offset, value), "qcow2").startswith(words)


def _extension(path: Path, kind: int, data: bytes, length: int | None = None) -> tuple[Path, int]:
    """Put a header extension before all others; returns its byte, too."""
    (place,) = struct.unpack(">I", path.read_bytes()[100:104])
    header = struct.pack(">II", kind, len(data) if length is None else length)
    return patch(path, place, header + data + bytes(16)), place


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (struct.pack(">IIQQ", 0, 0, 0, 65536), "0 bitmaps"),
        (struct.pack(">IIQQ", 1 << 31, 0, 64, 65536), "2147483648 bitmaps"),
        (struct.pack(">IIQQ", 1, 0, 1 << 40, 65536), "1 bitmaps in 1099511627776 bytes"),
        (struct.pack(">IIQQ", 1, 0, 64, 65537), "1 bitmaps in 64 bytes at 65537"),
        (struct.pack(">IIQQ", 1, 0, 64, 1 << 50), "lie beyond the file's"),
        (struct.pack(">IIQQ", 1, 0, 64, (1 << 64) - 65536), "lie beyond the file's"),
        (bytes(8), "a bitmaps extension has 24 bytes, not 8"),
    ],
)
def test_a_qcow2_with_bitmaps_of_nonsense(data: bytes, words: str, image: Images) -> None:
    path, place = _extension(image("qcow2"), 0x23852875, data)
    message = refused(path, "qcow2")
    assert message.startswith(f"header extension 0x23852875 (byte {place}): ")
    assert words in message


def test_a_qcow2_extension_without_end(image: Images) -> None:
    path, place = _extension(image("qcow2"), 0x12345678, b"", length=(1 << 32) - 1)
    assert refused(path, "qcow2") == f"header extension 0x12345678 (byte {place}): its length 4294967295 makes no sense"


def test_a_qcow2_with_extensions_without_end(image: Images) -> None:
    path = patch(image("qcow2"), 104, struct.pack(">II", 0x12345678, 0) * 8000)
    patch(path, 100, struct.pack(">I", 104))
    assert refused(path, "qcow2") == "header extensions: there are more than 64"


@pytest.mark.parametrize(
    ("offset", "value", "words"),
    [
        pytest.param(4, struct.pack("<I", 9), "version (byte 4): 9", id="version"),
        pytest.param(12, struct.pack("<Q", 0), "the disk's size: 0 bytes", id="no size, which makes QEMU read another"),
        pytest.param(12, struct.pack("<Q", 1 << 60), "capacity (byte 12)", id="size of nonsense"),
        pytest.param(12, struct.pack("<Q", 1 << 34), "grain directory (byte 56)", id="size beyond its directory"),
        pytest.param(20, struct.pack("<Q", 0), "grain size (byte 20): 0", id="no grain"),
        pytest.param(20, struct.pack("<Q", 3), "grain size (byte 20): 3", id="grain of nonsense"),
        pytest.param(28, struct.pack("<Q", 0), "descriptor (byte 28)", id="no descriptor"),
        pytest.param(28, struct.pack("<Q", 1 << 60), "descriptor (byte 28)", id="descriptor elsewhere"),
        pytest.param(36, struct.pack("<Q", 1 << 40), "descriptor (byte 28)", id="descriptor of nonsense"),
        pytest.param(44, struct.pack("<I", 0), "grain size (byte 20)", id="no grain tables"),
        pytest.param(56, struct.pack("<Q", 1 << 55), "grain directory (byte 56)", id="directory elsewhere"),
        pytest.param(56, struct.pack("<Q", (1 << 64) - 1), "footer: it is not at byte", id="directory at a lost end"),
    ],
)
def test_a_vmdk_whose_header_makes_no_sense(offset: int, value: bytes, words: str, image: Images) -> None:
    assert refused(patch(image("vmdk"), offset, value), "vmdk").startswith(words)


def _with_footer(path: Path, capacity: int | None = None) -> Path:
    """Give a stream-optimized VMDK a footer, as VMware's tools do."""
    header = bytearray(path.read_bytes()[:512])
    end = -(-path.stat().st_size // 512) * 512
    marker = struct.pack("<QII", 1, 0, 3).ljust(512, b"\0")
    patch(path, 56, struct.pack("<Q", (1 << 64) - 1))
    if capacity is not None:
        struct.pack_into("<Q", header, 12, capacity)
    return patch(path, end, marker + bytes(header) + bytes(512))


def test_a_vmdk_with_a_footer_is_accepted(image: Images) -> None:
    assert check_container(_with_footer(image("vmdk stream-optimized")), "vmdk") == DISK_BYTES


@pytest.mark.parametrize("capacity", [0, 1, 1 << 40])
def test_a_vmdk_whose_footer_says_another_size(capacity: int, image: Images) -> None:
    path = _with_footer(image("vmdk stream-optimized"), capacity)
    assert refused(path, "vmdk").startswith(f"footer: it contradicts the header: {capacity} sectors")


def _summed(part: bytearray, place: int) -> bytes:
    """Correct a VHD structure's checksum."""
    struct.pack_into(">I", part, place, 0)
    struct.pack_into(">I", part, place, ~sum(part) & 0xFFFFFFFF)
    return bytes(part)


def _spoil_footers(path: Path, offset: int, value: bytes, *, both: bool = True) -> Path:
    for place in (0, path.stat().st_size - 512)[: 2 if both else 1]:
        footer = bytearray(path.read_bytes()[place : place + 512])
        footer[offset : offset + len(value)] = value
        patch(path, place, _summed(footer, 64))
    return path


@pytest.mark.parametrize(
    ("offset", "value", "words"),
    [
        pytest.param(16, struct.pack(">Q", 0), "dynamic header: it is not at byte 0", id="header elsewhere"),
        pytest.param(16, struct.pack(">Q", (1 << 64) - 1), "dynamic header: bytes", id="header far away"),
        pytest.param(48, struct.pack(">Q", 0), "the disk's size: 0 bytes", id="no size"),
        pytest.param(
            48, struct.pack(">Q", 1 << 60), "dynamic header: 12 blocks of 2097152 bytes", id="size of nonsense"
        ),
        pytest.param(60, struct.pack(">I", 0), "disk type (byte 60 of the footer): 0", id="no type"),
        pytest.param(60, struct.pack(">I", 2), "footer: it says", id="fixed, and the file is shorter"),
    ],
)
def test_a_vhd_whose_footer_makes_no_sense(offset: int, value: bytes, words: str, image: Images) -> None:
    path = image("vhd of forced size")
    if offset == 60 and value[-1] == 2:
        _spoil_footers(path, 48, struct.pack(">Q", 1 << 34))
    assert refused(_spoil_footers(path, offset, value), "vpc").startswith(words)


def test_a_vhd_whose_footers_contradict_each_other(image: Images) -> None:
    path = _spoil_footers(image("vhd"), 48, struct.pack(">Q", 1 << 20), both=False)
    assert refused(path, "vpc").startswith("footer's copy (byte 0): it contradicts the footer at byte ")


@pytest.mark.parametrize(("place", "field"), [(0, "footer's copy (byte 0)"), (-512, "footer")])
def test_a_vhd_whose_checksum_is_wrong(place: int, field: str, image: Images) -> None:
    path = image("vhd")
    place = place % path.stat().st_size
    assert refused(flip(path, place + 80), "vpc") == f"{field}: its checksum (byte {place + 64}) is wrong"


def test_a_vhd_whose_block_lies_beyond_its_end(image: Images) -> None:
    path = image("vhd")
    content = path.read_bytes()
    header = content.index(b"cxsparse")
    (table,) = struct.unpack_from(">Q", content, header + 16)
    patch(path, table + 4, struct.pack(">I", 0x7FFFFFFF))
    assert refused(path, "vpc").startswith(f"block 1 (byte {table + 4}): bytes ")


def test_a_vhd_whose_dynamic_header_is_damaged(image: Images) -> None:
    path = image("vhd")
    header = path.read_bytes().index(b"cxsparse")
    assert refused(flip(path, header + 200), "vpc") == f"dynamic header: its checksum (byte {header + 36}) is wrong"


@pytest.mark.parametrize(
    ("offset", "value", "words"),
    [
        pytest.param(68, struct.pack("<I", 1), "version (byte 68): 0x1", id="version"),
        pytest.param(76, struct.pack("<I", 9), "image type (byte 76): 9", id="type"),
        pytest.param(340, struct.pack("<I", 0xFFFFFE00), "block map (byte 340)", id="map elsewhere"),
        pytest.param(344, struct.pack("<I", 0xFFFFFE00), "block 0 (byte 512)", id="data elsewhere"),
        pytest.param(368, struct.pack("<Q", 0), "the disk's size: 0 bytes", id="no size"),
        pytest.param(368, struct.pack("<Q", 1 << 63), "blocks (byte 376)", id="size of nonsense"),
        pytest.param(376, struct.pack("<I", 0), "blocks (byte 376)", id="no block size"),
        pytest.param(380, struct.pack("<I", 512), "blocks (byte 376)", id="blocks with something before"),
        pytest.param(384, struct.pack("<I", 0), "blocks (byte 376): 0", id="no blocks"),
        pytest.param(512, struct.pack("<I", 1000), "block 0 (byte 512): bytes", id="a block beyond the end"),
        pytest.param(
            512, struct.pack("<I", 1), "block 3 (byte 524): it lies at 1, as another", id="a block used twice"
        ),
    ],
)
def test_a_vdi_whose_header_makes_no_sense(offset: int, value: bytes, words: str, image: Images) -> None:
    assert refused(patch(image("vdi"), offset, value), "vdi").startswith(words)


@pytest.mark.parametrize(
    ("marker", "words"),
    [(b"regi", "region table: it is not at byte 196608"), (b"metadata", "metadata table: it is not at byte ")],
)
def test_a_vhdx_without_one_of_its_tables(marker: bytes, words: str, image: Images) -> None:
    path = image("vhdx")
    for place in {path.read_bytes().index(marker)}:
        flip(path, place)
    assert refused(path, "vhdx").startswith(words)


def test_a_vhdx_whose_region_lies_elsewhere(image: Images) -> None:
    path = patch(image("vhdx"), (192 << 10) + 32, struct.pack("<Q", 1 << 63))
    assert refused(path, "vhdx").startswith("region 0: bytes 9223372036854775808 to ")


# Cut off, and damaged anywhere


@pytest.mark.parametrize("size", [0, 1, 4, 63, 100, 511, 512, 600, 1024, 4096, 8192])
@pytest.mark.parametrize("name", _KINDS)
def test_a_header_that_is_cut_off(name: str, size: int, image: Images) -> None:
    path = image(name)
    os.truncate(path, size)
    message = refused(path, _KINDS[name])
    assert any(word in message for word in ("beyond the file's", "cut off?", "ends before byte"))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", _KINDS)
def test_a_damaged_header_is_refused_or_accepted_and_nothing_else(name: str, seed: int, image: Images) -> None:
    """Random bytes, and numbers at the limits, anywhere in what is read."""
    path, chance = image(name), random.Random(seed)
    content = path.read_bytes()
    places = _places(content, _KINDS[name])
    limits = [bytes(8), b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\xff" * 7 + b"\x7f", b"\x80" + bytes(7)]
    verdicts = set()
    for _ in range(250):
        start, length = chance.choice(places)
        offset = start + chance.randrange(length)
        value = chance.choice(
            [chance.choice(limits), chance.randbytes(4), bytes([content[offset] ^ 1 << chance.randrange(8)])]
        )
        value = value[: chance.choice([1, 2, 4, 8])]
        patch(path, offset, value)
        try:
            assert check_container(path, _KINDS[name]) > 0
            verdicts.add("accepted")
        except ImageError as error:
            verdicts.add("refused" if str(error).startswith(f"{path}: ") else str(error))
        patch(path, offset, content[offset : offset + len(value)])
        os.truncate(path, len(content))
    assert verdicts == {"accepted", "refused"}


def _places(content: bytes, container: Container) -> list[tuple[int, int]]:
    """Where a container has what is read of it: byte and length."""
    if container == "vpc":
        start = content.find(b"cxsparse")
        return [(len(content) - 512, 512), *([(0, 512), (start, 1024)] if start >= 0 else [])]
    if container == "vhdx":
        return [(192 << 10, 96), (content.index(b"metadata"), 256)]
    return [(0, {"qcow2": 400, "vmdk": 1024, "vdi": 600}[container])]
