"""Disks full of what another instance has had, and whether any of it shows through afterwards.

Not for: what is to be on a disk; only what must not be.
"""

from __future__ import annotations

import mmap
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from osprovider.disk.loop import loop_device
from osprovider.disk.raw import directly, write_all
from osprovider.manifest import Manifest

__all__ = ["assert_files_show_nothing_old", "assert_holes_are_zero", "fill"]

MIB = 1 << 20
_OLD = b"\xa5"
# Fewer of them in a row may stand in any file: 64 do in a kernel module of Ubuntu's.
_RUN = _OLD * 128


def fill(disk: Path) -> None:
    """Have every byte of a file be 0xA5, and be stored; past the page cache, it takes a tenth of the processor."""
    data = memoryview(mmap.mmap(-1, MIB))  # aligned
    data[:] = _OLD * MIB
    with disk.open("r+b") as file, directly(file.fileno(), MIB) as fd:
        for number in range(disk.stat().st_size // MIB):
            write_all(fd, data, number * MIB)
        os.fsync(fd)


def assert_holes_are_zero(disk: Path, offset: int, manifest: Manifest) -> None:
    """Every byte that a hole of the template covers is zero, but where the file system has put something since.

    Hooks write files, and a file system has a journal: such a block is in use, and has nothing in it of what was there.

    Args:
        disk: a file.
        offset: where the root begins in it, an ext4 as the template is, in bytes.
        manifest: the template's.
    """
    block_size = manifest.filesystem.block_size
    changed = []
    with disk.open("rb") as file:
        for start, end in _holes(manifest):
            for place in range(start, end, MIB):
                file.seek(offset + place)
                data = file.read(min(MIB, end - place))
                if data.count(0) == len(data):
                    continue
                assert _RUN not in data, f"{disk} has old contents in the MiB from byte {offset + place} on"
                blocks = range(0, len(data), block_size)
                changed += [(place + at) // block_size for at in blocks if any(data[at : at + block_size])]
    assert len(changed) < 500, "so much is written by no hook"
    requests = "".join(f"testb {block}\n" for block in changed)
    words = ["debugfs", "-f", "-", f"{disk}?offset={offset}"]
    said = subprocess.run(words, input=requests, check=True, capture_output=True, text=True).stdout
    assert len(re.findall(r"^Block \d+ marked in use$", said, re.MULTILINE)) == len(changed), said


def _holes(manifest: Manifest) -> Iterator[tuple[int, int]]:
    """Where a template has nothing: first byte and the one after the last."""
    position = 0
    for extent in manifest.extents:
        if extent.offset > position:
            yield position, extent.offset
        position = extent.offset + extent.length
    if manifest.size_bytes > position:
        yield position, manifest.size_bytes


def assert_files_show_nothing_old(disk: Path, offset: int, size: int, filesystem: str, place: Path) -> None:
    """No file of the file system has a run of the old bytes.

    Args:
        disk: a file.
        offset: where the file system begins in it, in bytes.
        size: its length in bytes.
        filesystem: its type.
        place: a directory to mount it at, seen by nobody else; made here.
    """
    place.mkdir(exist_ok=True)
    search = (
        'mount --read-only --types "$1" "$2" "$3" && { grep --recursive --text --files-with-matches --perl-regexp '
        '"\\xa5{128}" "$3"; [ $? = 1 ]; }'
    )
    with loop_device(disk, offset_bytes=offset, size_bytes=size, read_only=True) as device:
        words = ["unshare", "--mount", "sh", "-c", search, "sh", filesystem, str(device), str(place)]
        done = subprocess.run(words, check=False, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
