"""What a file is told to be by its content, and what it is said to be where it is no image."""

from __future__ import annotations

import gzip
import os
import random
import struct
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from osprovider import run
from osprovider.errors import ImageError
from osprovider.images.formats import detect
from tests.support.disk_images import COMPRESSORS, compress, make_container, make_raw
from tests.support.disk_images import VARIANTS as DISKS
from tests.support.sparse import sparse_file


def _disk(name: str) -> Callable[[Path], Path]:
    """How to make a disk image of one of QEMU's containers."""

    def make(directory: Path) -> Path:
        raw = make_raw(directory / "raw")
        return make_container(raw, directory / "made", DISKS[name])

    return make


def _filesystem(*words: str) -> Callable[[Path], Path]:
    def make(directory: Path) -> Path:
        path = sparse_file(directory / "made", 320 << 20)
        subprocess.run([*words, path], check=True, capture_output=True)
        os.truncate(path, 1 << 20)  # all that tells is at the beginning
        return path

    return make


def _table(label: str) -> Callable[[Path], Path]:
    def make(directory: Path) -> Path:
        path = sparse_file(directory / "made", 8 << 20)
        script = f"label: {label}\nstart=2048, type=L\n".encode()
        subprocess.run(["sfdisk", "--quiet", path], input=script, check=True)
        if label == "gpt":  # without its protective MBR, as a few writers leave it
            with path.open("r+b") as file:
                file.write(bytes(512))
        return path

    return make


def _tar(kind: int) -> Callable[[Path], Path]:
    def make(directory: Path) -> Path:
        path = directory / "made"
        with tarfile.open(path, "w", format=kind) as archive:
            archive.add("/etc/os-release", "etc/os-release")
        return path

    return make


def _old_tar(directory: Path) -> Path:
    path = directory / "made"
    subprocess.run(["tar", "--format=v7", "-cf", path, "-C", "/etc", "hostname"], check=True)
    return path


def _dump(order: str, magic: int) -> Callable[[Path], Path]:
    """The first record of a dump; `tests.system` has real ones."""

    def make(directory: Path) -> Path:
        path = directory / "made"
        path.write_bytes(struct.pack(f"{order}6iI", 1, 0, 0, 1, 0, 2, magic).ljust(10240, b"\0"))
        return path

    return make


_IMAGES: dict[str, tuple[str, Callable[[Path], Path]]] = {
    **{name: (variant.container, _disk(name)) for name, variant in DISKS.items()},
    "msdos table": ("raw", _table("dos")),
    "GPT alone": ("raw", _table("gpt")),
    "ext4": ("raw", _filesystem("mkfs.ext4", "-q")),
    "xfs": ("raw", _filesystem("mkfs.xfs", "-q")),
    "btrfs": ("raw", _filesystem("mkfs.btrfs", "-q")),
    "ustar": ("tar", _tar(tarfile.USTAR_FORMAT)),
    "GNU tar": ("tar", _tar(tarfile.GNU_FORMAT)),
    "pax": ("tar", _tar(tarfile.PAX_FORMAT)),
    "tar older than POSIX": ("tar", _old_tar),
    "dump": ("dump", _dump("<", 60012)),
    "dump of ext from a big-endian machine": ("dump", _dump(">", 60012)),
    "dump of UFS2": ("dump", _dump("<", 0x19540119)),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give the image of a name, made once."""
    base = tmp_path_factory.mktemp("made")

    def get(name: str) -> Path:
        directory = base / name
        if not directory.exists():
            directory.mkdir()
            _IMAGES[name][1](directory)
        return directory / "made"

    return get


@pytest.mark.parametrize("compression", ["none", *COMPRESSORS])
@pytest.mark.parametrize("name", [*_IMAGES, "misnamed"])
def test_every_container_is_told_by_its_content(
    name: str, compression: str, made: Callable[[str], Path], tmp_path: Path
) -> None:
    kind = "qcow2" if name == "misnamed" else name
    container = _IMAGES[kind][0]
    image = compress(made(kind), tmp_path / ("image.tar.bz2" if name == "misnamed" else "image"), compression)
    if name == "vhd fixed" and compression != "none":
        container = "raw"  # it is a raw disk but for its end, which is seen once it is unpacked
    found = detect(image)
    assert (found.container, found.compression) == (container, compression)
    assert str(found) == (container if compression == "none" else f"{container}.{compression}")


@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize("name", list(_IMAGES))
def test_what_the_definition_says_has_to_be_so(
    name: str, compression: str, made: Callable[[str], Path], tmp_path: Path
) -> None:
    container = _IMAGES[name][0]
    image = compress(made(name), tmp_path / "image", compression)
    assert detect(image, container).container == container
    is_told = container if (name, compression) != ("vhd fixed", "zstd") else "raw"
    for other in {"raw", "qcow2", "vmdk", "vpc", "vhdx", "vdi", "tar", "dump"} - {container, is_told}:
        if (is_told, other, compression) != ("raw", "vpc", "zstd"):
            with pytest.raises(ImageError) as caught:
                detect(image, other)
            assert f"{image}: is {is_told}, and the definition says {other}" in str(caught.value)


def test_a_compressed_raw_disk_may_be_a_fixed_vhd_where_the_definition_says_so(tmp_path: Path) -> None:
    image = compress(make_raw(tmp_path / "raw"), tmp_path / "image", "xz")
    assert str(detect(image, "vpc")) == "vpc.xz"


def test_a_zstd_file_may_begin_with_a_skippable_frame(tmp_path: Path) -> None:
    raw = make_raw(tmp_path / "raw")
    subprocess.run(["pzstd", "-q", raw, "-o", tmp_path / "image"], check=True)
    assert (tmp_path / "image").read_bytes()[:4] == b"\x50\x2a\x4d\x18"
    assert str(detect(tmp_path / "image")) == "raw.zstd"


@pytest.mark.parametrize("outer", COMPRESSORS)
@pytest.mark.parametrize("inner", COMPRESSORS)
def test_a_file_compressed_twice_is_called_so(inner: str, outer: str, tmp_path: Path) -> None:
    once = compress(make_raw(tmp_path / "raw"), tmp_path / "once", inner)
    image = compress(once, tmp_path / "image", outer)
    with pytest.raises(ImageError, match=f"{outer} of {inner}: compressed twice; unpack it once"):
        detect(image)


def _at(offset: int, magic: bytes) -> bytes:
    return bytes(offset) + magic + bytes(4096)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(b"", "empty, 0 bytes", id="nothing"),
        pytest.param(b"\x1f", "nothing known (it begins with 1f)", id="one byte"),
        pytest.param(
            b"\x1f\x8b\x08", "damaged or cut off: gzip data ends badly after 0 bytes", id="a gzip's first bytes"
        ),
        pytest.param(b"BZh", "damaged or cut off: bzip2 data ends badly after 0 bytes", id="a bzip2's first bytes"),
        pytest.param(b"\xfd7zXZ\x00", "damaged or cut off: xz data ends badly after 0 bytes", id="an xz's first bytes"),
        pytest.param(
            b"\x28\xb5\x2f\xfd", "damaged or cut off: zstd data ends badly after 0 bytes", id="a zstd's first bytes"
        ),
        pytest.param(
            b"\x04\x22\x4d\x18", "damaged or cut off: lz4 data ends badly after 0 bytes", id="an lz4's first bytes"
        ),
        pytest.param(gzip.compress(b""), "gzip of nothing", id="gzip of nothing"),
        pytest.param(random.Random(3).randbytes(300_000), "nothing known (it begins with ", id="random"),
        pytest.param(bytes(1 << 20), "zeros", id="zeros"),
        pytest.param(gzip.compress(bytes(1 << 20)), "gzip of zeros", id="gzip of zeros"),
        pytest.param(b"<!DOCTYPE html><title>404", "a web page", id="a web page"),
        pytest.param(b"\n <html>", "a web page", id="a web page after white space"),
        pytest.param(gzip.compress(b"<html>no"), "gzip of a web page", id="a compressed web page"),
        pytest.param(b"LUKS\xba\xbe\x00\x02" + bytes(512), "a LUKS volume", id="LUKS"),
        pytest.param(_at(512, b"LABELONE" + bytes(16) + b"LVM2 001"), "an LVM physical volume", id="LVM"),
        pytest.param(b"hsqs" + bytes(100), "a squashfs", id="squashfs"),
        pytest.param(_at(0x8001, b"CD001"), "an ISO 9660 image", id="ISO 9660"),
        pytest.param(_at(510, b"\x55\xaa").ljust(0x8001, b"\0") + b"CD001", "an ISO 9660 image", id="hybrid ISO"),
        pytest.param(b"PK\x03\x04" + bytes(100), "a zip archive", id="zip"),
        pytest.param(b"7z\xbc\xaf\x27\x1c" + bytes(100), "a 7z archive", id="7z"),
        pytest.param(b"# Disk DescriptorFile\nversion=1\n", "a VMDK descriptor", id="VMDK descriptor"),
        pytest.param(b"COWD" + bytes(512), "a VMDK of ESX's old sparse kind", id="COWD"),
        pytest.param(b"070701" + bytes(200), "a cpio archive", id="cpio"),
        pytest.param(b"!<arch>\ndebian-binary", "an ar archive, such as a Debian package", id="deb"),
        pytest.param(b"\x02\x21\x4c\x18" + bytes(100), "compressed by lz4's old format", id="old lz4"),
        pytest.param(b"\x5d\x00\x00\x80\x00" + bytes(100), "compressed by lzma's old format", id="lzma"),
        pytest.param(b"xFSdump0" + bytes(1000), "a dump of an xfs", id="xfsdump"),
        pytest.param(b"btrfs-stream\0\1\0\0\0" + bytes(100), "a stream of btrfs send", id="btrfs send"),
        pytest.param(_at(0x400, b"\x10\x20\xf5\xf2"), "an F2FS", id="F2FS"),
        pytest.param(b"QED\0" + bytes(1000), "a QED image", id="QED"),
        pytest.param(b"WithoutFreeSpace" + bytes(1000), "a Parallels image", id="Parallels"),
        pytest.param(b"WithouFreSpacExt" + bytes(1000), "a Parallels image", id="new Parallels"),
        pytest.param(b"LZIP\1" + bytes(100), "compressed by lzip", id="lzip"),
        pytest.param(b"\x89LZO\x00\r\n\x1a\n" + bytes(100), "compressed by lzop", id="lzop"),
        pytest.param(b"\x1f\x9d\x90" + bytes(100), "compressed by compress", id="compress"),
        pytest.param(b"-----BEGIN PGP SIGNATURE-----\n", "an OpenPGP text", id="a signature"),
        pytest.param(_at(4086, b"SWAPSPACE2"), "swap", id="swap"),
        pytest.param(_at(4096, b"\xfc\x4e\x2b\xa9\1\0\0\0"), "a member of a Linux RAID", id="RAID"),
        pytest.param(_at(4120, bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81")), "a bcache device", id="bcache"),
        pytest.param(b"\xfe\xed\xba\xbe\0\0\0\1" + bytes(504), "the log of an xfs", id="log of an xfs"),
    ],
)
def test_what_is_no_image_is_named(content: bytes, words: str, tmp_path: Path) -> None:
    image = tmp_path / "image.qcow2"
    image.write_bytes(content)
    with pytest.raises(ImageError) as caught:
        detect(image)
    assert str(caught.value).startswith(f"{image}: {words}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [1, 2, 511, 512, 513, 4096, 100_000])
def test_random_bytes_are_no_image(size: int, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"\xee" + random.Random(size).randbytes(size - 1))
    with pytest.raises(ImageError, match=f"{image}: nothing known"):
        detect(image)


@pytest.mark.parametrize("compression", COMPRESSORS)
def test_a_file_damaged_at_its_beginning_is_called_so(compression: str, tmp_path: Path) -> None:
    image = compress(make_raw(tmp_path / "raw"), tmp_path / "image", compression)
    content = image.read_bytes()
    image.write_bytes(content[:6] + b"\xff" * 40 + content[46:])
    with pytest.raises(ImageError, match=f"{image}: "):
        detect(image)


@pytest.mark.parametrize(
    "compressor", [["zstd", "--quiet", "--long=31"], ["xz", "--lzma2=dict=1GiB"]], ids=lambda words: words[0]
)
def test_what_takes_too_much_memory_to_unpack_is_called_so(compressor: list[str], tmp_path: Path) -> None:
    packed = subprocess.run(compressor, input=bytes(1 << 20), stdout=subprocess.PIPE, check=True).stdout
    image = tmp_path / "image"
    image.write_bytes(packed)
    with pytest.raises(
        ImageError, match=f"{image}: {compressor[0]} data takes more memory to unpack than images may: "
    ):
        detect(image)


def test_a_file_that_is_away_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=f"{tmp_path}/none: cannot be read: no such file or directory"):
        detect(tmp_path / "none")


def test_a_directory_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=f"{tmp_path}: cannot be read: is a directory"):
        detect(tmp_path)


@pytest.mark.parametrize(
    ("compression", "program", "package"),
    [
        ("gzip", "pigz", "pigz"),
        ("xz", "xz", "xz-utils"),
        ("zstd", "zstd", "zstd"),
        ("bzip2", "lbzip2", "lbzip2"),
        ("lz4", "lz4", "lz4"),
    ],
)
def test_a_program_that_is_missing_is_named_with_its_package(
    compression: str, program: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = compress(make_raw(tmp_path / "raw"), tmp_path / "image", compression)
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "bwrap").symlink_to("/usr/bin/bwrap")
    monkeypatch.setattr(run, "BASE_ENVIRONMENT", {**run.BASE_ENVIRONMENT, "PATH": str(programs)})
    with pytest.raises(ImageError) as caught:
        detect(image)
    assert f"{program}, which this needs, is missing; apt install {package}" in str(caught.value)
    (programs / "bwrap").unlink()
    with pytest.raises(ImageError, match=r"bwrap, .* is missing; apt install bubblewrap"):
        detect(image)
