"""A system of a few files, which is prepared in a moment: for tests of what becomes of an image, whatever is in it.

It boots nowhere. What a preparation looks for is there: an os-release, a kernel, a list of packages.
Not for: instances (`tests.support.image_files` makes images of a whole Debian).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.support.image_files import make_dump, make_qcow2
from tests.support.sparse import sparse_file

__all__ = ["FORMATS", "PRETTY_NAME", "lay_out", "make_disk", "make_filesystem", "make_image"]

PRETTY_NAME = "Small Linux 1"
FORMATS = ("tar.gz", "tar.zst", "dump", "dump pair", "raw", "qcow2")
"""What `make_image` makes, as people call it."""

_MIB = 1 << 20
_ROOT_START = 1 * _MIB
_PIECE = 4096  # even gzip finds such a piece again
_STATUS = """\
Package: small
Status: install ok installed
Version: 1.0
Architecture: amd64
"""


def lay_out(root: Path, *, data_bytes: int = 0) -> None:
    """Make the tree at `root`, with a file of `data_bytes`, which compresses to a quarter at the best."""
    for name in ("boot", "etc", "usr/bin", "usr/sbin", "usr/lib", "var/lib/dpkg/info", "tmp"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib"):
        (root / name).symlink_to(f"usr/{name}")
    (root / "etc/os-release").write_text(f'ID=small\nVERSION_ID=1\nPRETTY_NAME="{PRETTY_NAME}"\n')
    (root / "etc/fstab").write_text("# nothing\n")
    (root / "usr/sbin/init").write_text("#!/bin/sh\n")
    (root / "var/lib/dpkg/status").write_text(_STATUS)
    (root / "var/lib/dpkg/info/small.list").write_text("/.\n")
    (root / "boot/vmlinuz-6.1.0-1-amd64").write_bytes(b"kernel")
    (root / "boot/initrd.img-6.1.0-1-amd64").write_bytes(b"initrd")
    with (root / "data").open("wb") as file:
        for start in range(0, data_bytes, 4 * _PIECE):
            file.write((os.urandom(_PIECE) * 4)[: data_bytes - start])


def make_filesystem(tree: Path, path: Path, *, size_bytes: int = 64 * _MIB) -> None:
    """Make an ext4 with what is in `tree`."""
    sparse_file(path, size_bytes)
    subprocess.run(["mkfs.ext4", "-q", "-d", tree, path], check=True)


def make_disk(filesystem: Path, path: Path) -> None:
    """Make a raw disk: a GPT, and `filesystem` as its only partition, the root."""
    size = filesystem.stat().st_size
    sparse_file(path, _ROOT_START + size + _MIB)
    new = ["--set-alignment=1", f"--new=1:{_ROOT_START // 512}:{(_ROOT_START + size) // 512 - 1}", "--typecode=1:8304"]
    subprocess.run(["sgdisk", *new, path], check=True, capture_output=True)
    place = ["oflag=seek_bytes", f"seek={_ROOT_START}", "bs=1M", "conv=notrunc,sparse", "status=none"]
    subprocess.run(["dd", f"if={filesystem}", f"of={path}", *place], check=True)


def make_image(kind: str, directory: Path, *, data_bytes: int = 0) -> tuple[str, list[Path]]:
    """Make an image of a `kind` of `FORMATS` in `directory`.

    Returns:
        what a definition has as its source, and the files that there are.
    """
    with tempfile.TemporaryDirectory(dir=directory) as name:
        scratch = Path(name)
        tree = scratch / "tree"
        lay_out(tree, data_bytes=data_bytes)
        if kind.startswith("tar"):
            path = directory / f"small.{kind}"
            program = {"tar.gz": "gzip", "tar.zst": "zstd"}[kind]
            subprocess.run(["tar", f"--use-compress-program={program}", "-cf", path, "-C", tree, "."], check=True)
            return str(path), [path]
        size = 64 * _MIB + 2 * data_bytes
        if kind == "dump pair":
            return str(directory / "small"), _dump_pair(tree, directory, scratch, size)
        filesystem = scratch / "filesystem"
        make_filesystem(tree, filesystem, size_bytes=size)
        path = directory / f"small.{kind}"
        if kind == "dump":
            make_dump(filesystem, path)
        elif kind == "raw":
            filesystem.rename(path)
        else:
            make_disk(filesystem, scratch / "disk")
            make_qcow2(scratch / "disk", path, compressed=False)
        return str(path), [path]


def _dump_pair(tree: Path, directory: Path, scratch: Path, size: int) -> list[Path]:
    """Do as instance-image's make-dump: /boot, which is a file system of its own, and the root, both compressed."""
    boot = scratch / "boot"
    shutil.move(tree / "boot", boot)
    (tree / "boot").mkdir()
    made = []
    for part, source in (("root", tree), ("boot", boot)):
        make_filesystem(source, scratch / f"{part}.img", size_bytes=size)
        path = directory / f"small-{part}.dump"
        make_dump(scratch / f"{part}.img", path, "-z1")
        made.append(path)
    return made
