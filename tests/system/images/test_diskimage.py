"""Disk images become raw, sparse files: exactly the disk, or an error that says what is wrong with which file."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from osprovider import linux, run
from osprovider.disk.loop import loop_device
from osprovider.errors import ImageError
from osprovider.images.diskimage import soundness
from osprovider.images.diskimage.convert import to_raw
from osprovider.images.formats import Container, Format, detect
from osprovider.sandbox import confine
from tests.support import processes
from tests.support.disk_images import (
    COMPRESSORS,
    DISK_BYTES,
    VARIANTS,
    Images,
    compress,
    flip,
    make_container,
    make_raw,
    patch,
    variants_of,
)
from tests.support.leftovers import no_leftovers

_MIB = 1 << 20
_CHECKOUT = Path(__file__).parents[3]
_NOWHERE = Path("/nonexistent/scratch")


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Images:
    """Give the image of a variant, made once; ``raw`` is the disk itself."""
    return variants_of(make_raw(tmp_path_factory.mktemp("originals") / "raw"))


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path: Path) -> Iterator[None]:
    with no_leftovers([tmp_path]):
        yield


def convert(
    path: Path,
    directory: Path,
    *,
    kind: Format | None = None,
    scratch: Path | None = None,
    limit: int = 1 << 40,
    advance: Callable[[int], None] = lambda _count: None,
) -> Path:
    """Make a disk of an image, in a directory; without `scratch` none is needed."""
    target = directory / "target"
    target.unlink(missing_ok=True)
    target.touch(mode=0o600)
    size = to_raw(path, kind or detect(path), target, scratch=scratch or _NOWHERE, limit_bytes=limit, advance=advance)
    assert size == target.stat().st_size
    assert size % 4096 == 0
    return target


def refused(path: Path, directory: Path, *, kind: Format | None = None, limit: int = 1 << 40) -> str:
    """The message about an image; nothing but the target is left."""
    scratch = directory / "scratch"
    scratch.mkdir(exist_ok=True)
    with pytest.raises(ImageError) as caught:
        convert(path, directory, kind=kind, scratch=scratch, limit=limit)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    assert list(scratch.iterdir()) == []
    return message


def is_disk(target: Path, raw: Path) -> bool:
    """Is a file the disk, and zeros to its end."""
    disk, found = raw.read_bytes(), target.read_bytes()
    return found.startswith(disk) and not found[len(disk) :].strip(b"\0")


def allocated(path: Path) -> int:
    """Bytes that a file takes on its disk."""
    return path.stat().st_blocks * 512


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
    rounding = _MIB if name in VARIANTS and VARIANTS[name].rounded else 1
    assert DISK_BYTES <= target.stat().st_size < DISK_BYTES + rounding
    assert allocated(target) < 2 * _MIB
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


@pytest.mark.parametrize("size", [512, 4095, 4096, 4097, 65536 + 512, _MIB + 1])
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
    assert allocated(target) < 2 * _MIB


@contextmanager
def mounted(place: Path, kind: str, options: str, source: str = "none") -> Iterator[Path]:
    """A file system, in a mount namespace of this process."""
    linux.private_mount_namespace()
    place.mkdir()
    linux.mount(source, str(place), kind, linux.MountFlag.NOATIME, options)
    try:
        yield place
    finally:
        linux.umount(str(place))


def test_a_raw_disk_of_another_file_system_is_copied(originals: Images, tmp_path: Path) -> None:
    with mounted(tmp_path / "elsewhere", "tmpfs", "size=64m") as elsewhere:
        image = Path(shutil.copy(originals("raw"), elsewhere / "image"))
        target = convert(image, tmp_path)
        assert is_disk(target, originals("raw"))
        assert allocated(target) < 2 * _MIB


def test_a_raw_disk_shares_its_blocks_where_the_file_system_can(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    with volume.open("wb") as file:
        file.truncate(512 * _MIB)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", volume], check=True)
    with loop_device(volume) as loop, mounted(tmp_path / "place", "xfs", "", str(loop)) as place:
        image = place / "image"
        image.write_bytes(random.Random(1).randbytes(510) + b"\x55\xaa" + random.Random(1).randbytes(40 * _MIB))
        os.sync()
        before = os.statvfs(place).f_bfree * os.statvfs(place).f_frsize
        counts: list[int] = []
        target = convert(image, place, advance=counts.append)
        os.sync()
        assert before - os.statvfs(place).f_bfree * os.statvfs(place).f_frsize < 4 * _MIB
        assert is_disk(target, image)
        assert sum(counts) == image.stat().st_size


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


# The declared limit


@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize("container", ["qcow2", "vmdk", "vhdx", "vdi"])
def test_a_huge_disk_is_refused(container: Container, compression: str, tmp_path: Path) -> None:
    made = tmp_path / "made"
    subprocess.run(["qemu-img", "create", "-q", "-f", container, made, "2T"], check=True)
    image = compress(made, tmp_path / "image", compression)
    message = refused(image, tmp_path, limit=64 << 30)
    assert f"{image}: a disk of 2.0 TiB (2199023255552 bytes), and the definition allows 64 GiB" in message
    assert "max_size" in message
    assert (tmp_path / "target").stat().st_size == 0


@pytest.mark.parametrize("name", ["raw", "qcow2", "vhd fixed", "vhdx fixed", "vdi static"])
@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_the_limit_is_the_disks_own(name: str, compression: str, originals: Images, tmp_path: Path) -> None:
    image = compress(originals(name), tmp_path / "image", compression)
    if (name, compression) != ("vhd fixed", "gzip"):  # which is told from a raw disk by its last 512 bytes
        assert is_disk(convert(image, tmp_path, scratch=tmp_path, limit=DISK_BYTES), originals("raw"))
    message = refused(image, tmp_path, limit=DISK_BYTES - 1)
    streamed = compression == "gzip" and name in ("raw", "vhd fixed")
    too_large = "unpacks to more than 24 MiB" if streamed else f"a disk of 24 MiB ({DISK_BYTES} bytes)"
    assert too_large in message
    assert "raise its max_size if" in message


@pytest.mark.parametrize("compression", COMPRESSORS)
def test_a_bomb_fills_nothing_beyond_the_limit(compression: str, tmp_path: Path) -> None:
    made = tmp_path / "made"
    with made.open("wb") as file:
        file.write(b"\1" * 510 + b"\x55\xaa" + b"\1" * (64 * _MIB))
    image = compress(made, tmp_path / "image", compression)
    assert image.stat().st_size < 2 * _MIB
    assert "unpacks to more than 10 MiB" in refused(image, tmp_path, limit=10 * _MIB)
    assert allocated(tmp_path / "target") < 12 * _MIB


def test_a_bomb_of_compressed_clusters_is_seen_before(tmp_path: Path) -> None:
    made = tmp_path / "made"
    with made.open("wb") as file:
        file.write(b"\1" * (64 * _MIB))
    image = make_container(made, tmp_path / "image", VARIANTS["qcow2 compressed"])
    assert image.stat().st_size < 4 * _MIB
    assert "a disk of 64 MiB" in refused(image, tmp_path, limit=10 * _MIB)
    assert allocated(tmp_path / "target") == 0


# Cut off and damaged


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
        target = convert(image, tmp_path, kind=Format(container, "none"))
    except ImageError as error:
        message = str(error)
    else:
        # Only where nothing of the disk is missing.
        assert name in ("vmdk stream-optimized", "qcow2 clusters of 512")
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
            convert(image, tmp_path, kind=Format(VARIANTS[name].container, "none"), limit=1 << 30)
            verdicts.add("accepted")
        except ImageError as error:
            verdicts.add("refused" if str(error).startswith(f"{image}: ") else str(error))
        image.write_bytes(content)
    assert verdicts <= {"accepted", "refused"}


@pytest.mark.parametrize("container", ["qcow2", "vmdk", "vpc", "vhdx", "vdi"])
def test_what_is_not_what_it_is_said_to_be(container: Container, originals: Images, tmp_path: Path) -> None:
    image = compress(originals("raw"), tmp_path / "image", "none")
    assert refused(image, tmp_path, kind=Format(container, "none")).startswith(f"{image}: {container} image, ")


def test_a_device_is_no_raw_image(originals: Images, tmp_path: Path) -> None:
    with loop_device(originals("raw"), read_only=True) as loop:
        assert refused(Path(str(loop)), tmp_path, kind=Format("raw", "none")).endswith("is no regular file")


def test_a_backing_file_is_not_read(tmp_path: Path, originals: Images) -> None:
    image = tmp_path / "image"
    words = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(originals("raw")), "-F", "raw", str(image)]
    subprocess.run(words, check=True)
    assert "backing file (byte 8): it needs another file" in refused(image, tmp_path)
    assert (tmp_path / "target").stat().st_size == 0


# What it takes


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Images:
    """Give a disk that is full of what nothing compresses, in a variant; ``raw`` is the disk itself."""
    raw = tmp_path_factory.mktemp("full") / "raw"
    raw.write_bytes(random.Random(2).randbytes(510) + b"\x55\xaa" + random.Random(3).randbytes(DISK_BYTES - 512))
    return variants_of(raw)


@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize("name", ["raw", "qcow2", "vmdk", "vhd fixed"])
def test_a_disk_that_fills_is_said_to(name: str, compression: str, full: Images, tmp_path: Path) -> None:
    image = compress(full(name), tmp_path / "image", compression)
    for size in ("8m", "30m") if compression == "zstd" and name == "qcow2" else ("8m",):
        with mounted(tmp_path / f"small-{size}", "tmpfs", f"size={size}") as small:
            scratch = small / "scratch"
            scratch.mkdir()
            with pytest.raises(ImageError) as caught:
                convert(image, small, scratch=scratch)
            assert "no space left" in str(caught.value).lower()
            assert str(small) in str(caught.value)
            assert sorted(path.name for path in small.rglob("*")) == ["scratch", "target"]


@pytest.mark.parametrize(
    ("name", "compression", "copies"),
    [("raw", "none", 1), ("raw", "zstd", 1), ("qcow2", "none", 1), ("vmdk", "none", 1), ("qcow2", "zstd", 2)],
)
def test_no_more_copies_are_kept_than_it_takes(
    name: str, compression: str, copies: int, full: Images, tmp_path: Path
) -> None:
    """A compressed qcow2 is read back and forth, so that it has to be unpacked; nothing else is."""
    image = compress(full(name), tmp_path / "image", compression)
    with mounted(tmp_path / "small", "tmpfs", f"size={copies * DISK_BYTES + 2 * _MIB}") as small:
        target = convert(image, small, scratch=small)
        assert is_disk(target, full("raw"))
        assert [path.name for path in small.iterdir()] == ["target"]


@pytest.mark.parametrize(("name", "least"), [("raw", 24), ("qcow2", 1)])
def test_progress_is_told_while_it_goes_on(name: str, least: int, full: Images, tmp_path: Path) -> None:
    counts: list[int] = []
    convert(compress(full(name), tmp_path / "image", "none"), tmp_path, advance=counts.append)
    assert len([count for count in counts if count > 0]) >= least
    assert min(counts) >= 0
    assert sum(counts) == full(name).stat().st_size


def test_a_missing_qemu_img_is_named(originals: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "bwrap").symlink_to("/usr/bin/bwrap")
    monkeypatch.setattr(run, "BASE_ENVIRONMENT", {**run.BASE_ENVIRONMENT, "PATH": str(programs)})
    image = compress(originals("qcow2"), tmp_path / "image", "none")
    assert "qemu-img, which it takes to read this, is missing; apt install qemu-utils" in refused(image, tmp_path)


_LARGE = 20 << 30
_LEAST_MEMORY, _MOST_MEMORY = 20 * _MIB, 200 * _MIB


def _large_zeros(path: Path) -> None:
    """20 GiB of zeros after a boot signature, in members of 1 GiB."""
    start, member = path.with_name("start"), path.with_name("member")
    start.write_bytes(bytes(510) + b"\x55\xaa" + bytes(3584))
    with path.with_name("zeros").open("wb") as file:
        file.truncate(1 << 30)
    compress(path.with_name("zeros"), member, "zstd")
    path.write_bytes(compress(start, path.with_name("packed"), "zstd").read_bytes() + member.read_bytes() * 20)


def _large_qcow2(path: Path) -> None:
    raw = path.with_name("made")
    make_raw(raw, _LARGE)
    with raw.open("r+b") as file:
        for place in range(_LARGE // 64, _LARGE, _LARGE // 64):
            file.seek(place)
            file.write(random.Random(place).randbytes(_MIB))
    make_container(raw, path, VARIANTS["qcow2 compressed"])


def _dense(*words: str) -> Callable[[Path], None]:
    """128 MiB of which some compresses."""

    def make(path: Path) -> None:
        chance = random.Random(9)
        raw = path.with_name("made")
        with raw.open("wb") as file:
            file.write(bytes(510) + b"\x55\xaa" + bytes(3584))
            for _ in range(32):
                file.write(chance.randbytes(_MIB // 2) + chance.randbytes(65536) * 56)
        with raw.open("rb") as source, path.open("wb") as target:
            subprocess.run(words, check=True, stdin=source, stdout=target)

    return make


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(_large_zeros, id="20 GiB of zeros by zstd"),
        pytest.param(_large_qcow2, id="20 GiB qcow2 compressed"),
        pytest.param(_dense("pzstd", "-q", "-p", "4"), id="pzstd"),
        pytest.param(_dense("pzstd", "-q", "-p", "4", "-15"), id="pzstd with large frames"),
        pytest.param(_dense("zstd", "-q", "-3", "--long=27"), id="zstd with the largest window"),
        pytest.param(_dense("xz", "-1", "--threads=4"), id="xz in small blocks"),
        pytest.param(_dense("xz", "--lzma2=preset=0,dict=64MiB", "--block-size=64MiB", "-T2"), id="xz in large blocks"),
        pytest.param(_dense("lbzip2", "-9"), id="bzip2"),
        pytest.param(_dense("lz4", "-q", "-1", "-B7"), id="lz4"),
        pytest.param(_dense("pigz", "-1"), id="gzip"),
    ],
)
def test_memory_is_bounded_for_any_image(make: Callable[[Path], None], tmp_path: Path) -> None:
    image = tmp_path / "image"
    make(image)
    words = [sys.executable, "-m", __spec__.name if __spec__ else "", str(image), str(tmp_path)]
    most = 0
    with subprocess.Popen(words, cwd=_CHECKOUT) as process:
        while process.poll() is None:
            most = max(most, sum(_most_memory(pid) for pid in processes.family(process.pid)))
            time.sleep(0.01)
    assert process.returncode == 0
    assert _LEAST_MEMORY < most < _MOST_MEMORY
    assert allocated(tmp_path / "target") < 300 * _MIB


def _most_memory(pid: int) -> int:
    """The most memory that a process had so far, in bytes (proc(5), VmHWM)."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]), scratch=Path(sys.argv[2]))


def test_qemu_is_ended_where_it_computes_without_end(
    originals: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forever(*_: object) -> list[str]:
        return confine(["sh", "-c", "while :; do :; done"], cpu_seconds=1)

    monkeypatch.setattr(soundness, "_qemu_img", forever)
    assert "damaged qcow2 image: qemu-img computed with no end" in refused(originals("qcow2"), tmp_path)


@pytest.mark.parametrize("command", ["map", "check"])
def test_qemu_has_a_limit_to_what_it_may_compute(command: str) -> None:
    words = soundness._qemu_img(Path("image"), "qcow2", soundness.qemu_seconds(64 << 30), command)
    assert words[:3] == ["prlimit", f"--data={1 << 30}", "--cpu=4696"]
