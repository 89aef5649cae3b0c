"""What an image file is, by its content and never by its name.

What is known and not supported is named.
Sources: magic(5)'s database, POSIX pax(1), protocols/dumprestore.h of dump(8), RFC 8878.
Not for: the headers of disk images (:mod:`osprovider.images.diskimage.containers`), and what a disk holds
(:mod:`osprovider.images.diskimage.contents`).
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from osprovider.errors import ImageError
from osprovider.images.streams import Compression, decompressed, head

__all__ = ["Container", "ImageFormat", "detect", "is_fixed_vhd"]

Container = Literal["raw", "qcow2", "vmdk", "vpc", "vhdx", "vdi", "tar", "dump"]

_HEAD_BYTES = 128 << 10  # btrfs has its magic at 64 KiB + 64
_SECTOR = 512

_COMPRESSED: tuple[tuple[bytes, Compression], ...] = (
    (b"\x1f\x8b\x08", "gzip"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bzip2"),
    (b"\x04\x22\x4d\x18", "lz4"),
)

_CONTAINERS: tuple[tuple[int, bytes, Container], ...] = (
    (0, b"QFI\xfb", "qcow2"),
    (0, b"KDMV", "vmdk"),
    (0, b"conectix", "vpc"),
    (0, b"vhdxfile", "vhdx"),
    (64, b"\x7f\x10\xda\xbe", "vdi"),
    (257, b"ustar", "tar"),
)

_RAW = (
    (0x438, b"\x53\xef"),  # ext2, ext3, ext4
    (0, b"XFSB"),
    (0x10040, b"_BHRfS_M"),
    (512, b"EFI PART"),
    (4096, b"EFI PART"),
    (510, b"\x55\xaa"),
)

_UNSUPPORTED = (
    (0, b"LUKS\xba\xbe", "a LUKS volume: encrypted images are not supported"),
    (536, b"LVM2", "an LVM physical volume: put the root on a partition or file system of its own"),
    (0, b"hsqs", "a squashfs: unpack it and make a tar of it"),
    (0x8001, b"CD001", "an ISO 9660 image: install from it, and capture the instance"),
    (0, b"PK\x03\x04", "a zip archive: unpack it first"),
    (0, b"7z\xbc\xaf", "a 7z archive: unpack it first"),
    (0, b"Rar!", "a RAR archive: unpack it first"),
    (0, b"# Disk DescriptorFile", "a VMDK descriptor whose data lies in other files: convert it to one file"),
    (0, b"COWD", "a VMDK of ESX's old sparse kind: convert it to qcow2"),
    (0, b"\x60\xea", "an ARJ archive: unpack it first"),
    (0, b"070701", "a cpio archive: make a tar of its files"),
    (0, b"!<arch>", "an ar archive, such as a Debian package: an image is not made of one"),
    (0, b"\x02\x21\x4c\x18", "compressed by lz4's old format: compress it again (lz4, without -l)"),
    (0, b"\x5d\x00\x00", "compressed by lzma's old format: compress it again (xz)"),
    (0, b"xFSdump0", "a dump of an xfs: make a tar of it, or capture the instance"),
    (0, b"btrfs-stream\0", "a stream of btrfs send: receive it, and make a tar of it"),
    (0x400, b"\x10\x20\xf5\xf2", "an F2FS, which is not supported: put the root on ext4, xfs or btrfs"),
    (0, b"QED\0", "a QED image: convert it to qcow2"),
    (0, b"WithoutFreeSpace", "a Parallels image: convert it to qcow2"),
    (0, b"WithouFreSpacExt", "a Parallels image: convert it to qcow2"),
    (0, b"LZIP", "compressed by lzip: compress it again (xz)"),
    (0, b"\x89LZO\x00\r\n\x1a\n", "compressed by lzop: compress it again (lz4)"),
    (0, b"\x1f\x9d", "compressed by compress: compress it again (gzip)"),
    (0, b"-----BEGIN PGP", "an OpenPGP text: name the image itself as source"),
)

_ELSE = (
    (4086, b"SWAPSPACE2", "swap: an image is of a disk with a root"),
    (0, b"\xfc\x4e\x2b\xa9", "a member of a Linux RAID: put the root on a partition or file system of its own"),
    (4096, b"\xfc\x4e\x2b\xa9", "a member of a Linux RAID: put the root on a partition or file system of its own"),
    (4120, bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81"), "a bcache device: take the image of what is cached"),
    (
        4120,
        bytes.fromhex("c68573f666ce90a9d96a60cf803df7ef"),
        "a bcachefs, which is not supported: put the root on ext4",
    ),
    (0, b"\xfe\xed\xba\xbe", "the log of an xfs, which is of use with its file system alone"),
)
"""What a file may be where it is nothing that is known otherwise; on a disk anything may lie at these places."""

_TS_TAPE = 1
_DUMP_MAGICS = frozenset({60011, 60012, 0x19540119})


@dataclass(frozen=True, slots=True)
class ImageFormat:
    """What a file is; ``str`` of it is for people (``tar.zstd``, ``qcow2``).

    Attributes:
        container: QEMU's name of a disk image, ``raw`` also for a bare file system; ``tar`` or ``dump`` of a tree.
        compression: around all of it.
    """

    container: Container
    compression: Compression

    def __str__(self) -> str:
        return self.container if self.compression == "none" else f"{self.container}.{self.compression}"


def detect(path: Path, wanted: str = "auto") -> ImageFormat:
    """Tell what a file is.

    Args:
        path: the file.
        wanted: the container that the definition says, or ``auto``.

    Raises:
        ImageError: it is nothing that can be an image, or not what the definition says; says what it is.
    """
    start = head(path, "none", _HEAD_BYTES)
    if not start:
        raise ImageError(f"{path}: empty, 0 bytes: fetch or make it again")
    compression = _compression(start)
    content = head(path, compression, _HEAD_BYTES) if compression != "none" else start
    container = _container(content)
    if compression == "none" and container in (None, "raw") and is_fixed_vhd(path):
        container = "vpc"
    if container is None:
        if not content:
            with decompressed(path, compression, limit_bytes=_HEAD_BYTES):  # says why nothing comes, if it can
                pass
        raise ImageError(f"{path}: {_name(content, compression)}")
    if (wanted, container) == ("vpc", "raw") and compression != "none":
        container = "vpc"  # what makes a raw disk a fixed VHD is its end, which is seen when it is unpacked
    if wanted not in ("auto", container):
        raise ImageError(f"{path}: is {container}, and the definition says {wanted}: correct its format, or the source")
    return ImageFormat(container, compression)


def is_fixed_vhd(path: Path) -> bool:
    """Does a file, not compressed, end as a fixed VHD does: a raw disk with a footer."""
    with path.open("rb", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        return size >= _SECTOR and os.pread(file.fileno(), 8, size - _SECTOR) == b"conectix"


def _compression(start: bytes) -> Compression:
    for magic, compression in _COMPRESSED:
        if start.startswith(magic):
            return compression
    # RFC 8878, 3.1.2: a skippable frame, as pzstd begins with
    if len(start) > 4 and start[0] & 0xF0 == 0x50 and start[1:4] == b"\x2a\x4d\x18":
        return "zstd"
    return "none"


def _container(content: bytes) -> Container | None:
    for offset, magic, container in _CONTAINERS:
        if content[offset:].startswith(magic):
            return container
    if _is_dump(content):
        return "dump"
    if any(content[offset:].startswith(magic) for offset, magic, _ in _UNSUPPORTED):
        return None
    if any(content[offset : offset + len(magic)] == magic for offset, magic in _RAW):
        return "raw"
    return "tar" if _is_old_tar(content) else None


def _is_dump(content: bytes) -> bool:
    """Does this begin with a dump's TS_TAPE record, of either byte order."""
    if len(content) < 1024:
        return False
    for order in "<>":
        kind, magic = struct.unpack_from(f"{order}i", content)[0], struct.unpack_from(f"{order}I", content, 24)[0]
        if kind == _TS_TAPE and magic in _DUMP_MAGICS:
            return True
    return False


def _is_old_tar(content: bytes) -> bool:
    """Does this begin with a header of a tar older than POSIX, which is known by its checksum alone."""
    block = content[:512]
    if len(block) < 512 or not block[0]:
        return False
    try:
        stated = int(block[148:156].strip(b" \0") or b"-", 8)
    except ValueError:
        return False
    return stated == sum(block[:148]) + 8 * 0x20 + sum(block[156:])


def _name(content: bytes, compression: Compression) -> str:
    """What a file is that is no image."""
    packed = "" if compression == "none" else f"{compression} of "
    for offset, magic, name in (*_UNSUPPORTED, *_ELSE):
        if content[offset:].startswith(magic):
            return f"{packed}{name}"
    if not content:
        return f"{packed}nothing: fetch or make it again"
    if not content.strip(b"\0"):
        return f"{packed}zeros, as far as it was read: this is no image"
    text = content[:512].lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return f"{packed}a web page: the address is wrong, or the server answered with an error"
    if _compression(content) != "none":
        return f"{packed}{_compression(content)}: compressed twice; unpack it once"
    return (
        f"{packed}nothing known (it begins with {content[:8].hex(' ')}): an image is a disk or file system (raw, "
        "qcow2, vmdk, vhd, vhdx, vdi), a tar or a dump, plain or compressed"
    )
