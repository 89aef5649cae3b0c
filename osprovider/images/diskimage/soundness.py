"""Whether a disk image is whole and its tables agree, which QEMU does not look after while it converts.

It takes what lies beyond a file's end for zeros, without a word, so that an image that was cut off would become a disk
with holes. So QEMU is asked where in the file everything lies, and qcow2's compressed clusters are looked up here.
Not for: headers (:mod:`osprovider.images.diskimage.containers`), which are checked before.
Sources: qemu-img(1), QEMU's docs/interop/qcow2.txt.
"""

from __future__ import annotations

import json
import os
import re
import signal
import struct
import sys
from array import array
from functools import partial
from pathlib import Path

from osprovider.background import background
from osprovider.errors import ImageError, ToolError
from osprovider.images.diskimage.headers.reader import SECTOR
from osprovider.images.diskimage.sectors import SectorSet
from osprovider.images.formats import Container
from osprovider.run import run, run_lines
from osprovider.sandbox import confine, signal_of

__all__ = ["QEMU_MEMORY", "check_whole", "qemu_failure", "qemu_seconds", "qemu_source"]

QEMU_MEMORY = 1 << 30
"""Address space in bytes that QEMU's tools may fill with data; they take a tenth."""

_QEMU_SECONDS = 600
_QEMU_BYTES_PER_SECOND = 16 << 20
_TOO_LONG = frozenset({signal.SIGXCPU, signal.SIGKILL})  # setrlimit(2)
_OFFSET = 0xFFFFFFFFFFFE00  # of what is in qcow2's tables
_OTHER_COMPRESSION, _ZSTD = 1 << 3, 1  # a bit of qcow2's incompatible features, and the header's compression_type
_INFLATE = """
import sys, zlib
inflate = zlib.decompressobj(-zlib.MAX_WBITS)
inflate.decompress(sys.stdin.buffer.read(), int(sys.argv[1]) + 1)
sys.exit(not inflate.eof)
"""
_OVERLAPS_UNSEEN = ("vmdk", "vpc")  # by qemu-img check
_HAS_LOG = "contains a log that needs to be replayed"  # what QEMU says of a vhdx
_REPAIR = "repair it (qemu-img check -r all)"
_SOUND = frozenset({0, 3, 63})  # qemu-img(1), "check": sound; leaked clusters only; nothing to check in this format


def qemu_source(container: Container) -> str:
    """How ``--image-opts`` names the image that lies at ``/source`` of a sandbox; QEMU guesses nothing.

    Args:
        container: what it is. The size of a VHD's disk is the one it states, not the one of its geometry.
    """
    size = ",force_size_calc=current_size" if container == "vpc" else ""
    return f"driver={container}{size},file.driver=file,file.filename=/source"


def qemu_seconds(disk_bytes: int) -> int:
    """How long QEMU's tools may compute: a tenth of their speed at least, and an end where damage sends them round."""
    return _QEMU_SECONDS + disk_bytes // _QEMU_BYTES_PER_SECOND


def qemu_failure(name: str, container: Container, status: int, said: str) -> ImageError:
    """What to say where one of QEMU's tools failed.

    Args:
        name: what messages call the image.
        container: what it is.
        status: the tool's exit status.
        said: what it said.
    """
    if signal_of(status) in _TOO_LONG:
        return ImageError(f"{name}: damaged {container} image: qemu-img computed with no end; fetch or make it again")
    if _HAS_LOG in said:
        return ImageError(f"{name}: {container} image, was not closed properly (its log holds changes): {_REPAIR}")
    return ImageError(f"{name}: damaged {container} image: {_qemu_cause(said, name)}")


def _qemu_cause(said: str, name: str) -> str:
    """The line of what QEMU's tools said that tells most, for people."""
    lines = [line for line in said.splitlines() if line.strip()] or ["it said nothing"]
    return re.sub(r"'(driver=[^']*|/source)'", name.replace("\\", r"\\"), lines[0].removeprefix("qemu-img: ")).strip()


def check_whole(path: Path, container: Container, disk_bytes: int, *, name: str) -> None:
    """See that all of a disk is in its image, and that its tables agree.

    Args:
        path: the image, whose header was checked.
        container: what it is.
        disk_bytes: of the disk in it.
        name: what messages call it.

    Raises:
        ImageError: it is cut off, or its tables are damaged; with the byte, or with what QEMU says.
    """
    size = path.stat().st_size
    if size % SECTOR and container == "vhdx":
        raise ImageError(f"{name}: vhdx image, cut off: its {size} bytes are no whole sectors")
    seconds = qemu_seconds(disk_bytes)
    with background("check") as start:
        check = start(partial(run, _qemu_img(path, container, seconds, "check", "--output=json"), check=False))
        _check_extents(path, container, name, size, seconds)
        if container == "qcow2":
            _check_compressed(path, name, size)
        done = check.result()
    if done.status not in _SOUND:
        raise qemu_failure(name, container, done.status, done.stderr.decode(errors="replace"))


def _check_extents(path: Path, container: Container, name: str, size: int, seconds: int) -> None:
    """See that everything that is not compressed lies in the file, and nothing where something else lies."""
    first = _first_data(path) if container == "vmdk" else 0
    taken = SectorSet(size)

    def look(line: str) -> None:
        text = line.strip().strip("[],")
        extent = json.loads(text) if text.startswith("{") else {}
        if not extent.get("data") or "offset" not in extent:
            return
        start, end = extent["offset"], extent["offset"] + extent["length"]
        where = f"byte {extent['start']} of the disk and what follows lie at bytes {start} to {end} of the file"
        if end > size:
            raise ImageError(f"{name}: {container} image, cut off: {where}, which has {size}; fetch or make it again")
        if start < first:
            raise ImageError(f"{name}: damaged {container} image: {where}, whose data begins at byte {first}")
        if container in _OVERLAPS_UNSEEN and (twice := taken.take(start, end)) is not None:
            raise ImageError(f"{name}: damaged {container} image: byte {twice} of the file belongs to two places")

    try:
        run_lines(_qemu_img(path, container, seconds, "map", "--output=json"), look)
    except ToolError as error:
        raise qemu_failure(name, container, error.status, error.tail) from error
    except ValueError as error:
        raise ImageError(f"{name}: {container} image: what qemu-img map says is not understood: {error}") from error


def _first_data(path: Path) -> int:
    """The byte after a VMDK's tables (its header's ``overHead``)."""
    with path.open("rb", buffering=0) as file:
        sectors: int = struct.unpack("<Q", os.pread(file.fileno(), 8, 64))[0]
    return sectors * SECTOR


def _check_compressed(path: Path, name: str, size: int) -> None:
    """See that qcow2's compressed clusters lie in the file; ``qemu-img map`` does not tell where they are.

    Their lengths are in sectors, and the file may end within the last one (nbdcopy(1) by way of ``qemu-nbd`` leaves it
    so): then what lies there has to be whole.
    """
    last = 0
    with path.open("rb", buffering=0) as file:
        fd = file.fileno()
        version, cluster_bits, disk = struct.unpack(">I12xIQ", os.pread(fd, 28, 4))
        l1_size, l1_offset = struct.unpack(">IQ", os.pread(fd, 12, 36))
        extended = version == 3 and struct.unpack(">Q", os.pread(fd, 8, 72))[0] & 1 << 4
        cluster, step = 1 << cluster_bits, 2 if extended else 1
        needed = min(l1_size, -(-disk // (cluster // (8 * step) * cluster)))
        offset_bits = 62 - (cluster_bits - 8)
        for table in _entries(fd, l1_offset, needed * 8):
            if not table & _OFFSET:
                continue
            for entry in _entries(fd, table & _OFFSET, cluster)[::step]:
                if not entry & 1 << 62:
                    continue
                start = entry & (1 << offset_bits) - 1
                sectors = (entry & (1 << 62) - 1) >> offset_bits
                end = start // SECTOR * SECTOR + (sectors + 1) * SECTOR
                if end > -(-size // SECTOR) * SECTOR:
                    raise _cut_off(name, start, end, size)
                if end > size:
                    last = max(last, start)
        if last and not _is_whole(os.pread(fd, size - last, last), fd, cluster):
            raise _cut_off(name, last, -(-size // SECTOR) * SECTOR, size)


def _cut_off(name: str, start: int, end: int, size: int) -> ImageError:
    return ImageError(
        f"{name}: qcow2 image, cut off: a compressed cluster lies at bytes {start} to {end} of the file, which has "
        f"{size}; fetch or make it again"
    )


def _is_whole(data: bytes, fd: int, cluster: int) -> bool:
    """Is this a whole compressed cluster of a qcow2."""
    version, features, kind = struct.unpack(">I64xQ24xB", os.pread(fd, 101, 4))
    is_zstd = version == 3 and features & _OTHER_COMPRESSION and kind == _ZSTD
    words = ["zstd", "--test", "--quiet"] if is_zstd else ["python3", "-I", "-S", "-c", _INFLATE, str(cluster)]
    inflate = confine(words, memory_bytes=QEMU_MEMORY, cpu_seconds=_QEMU_SECONDS)
    return run(inflate, stdin=data, check=False).status == 0


def _entries(fd: int, offset: int, length: int) -> array[int]:
    """Numbers of 8 bytes, the first byte the highest; fewer where the file ends, which QEMU finds."""
    data = os.pread(fd, length, offset)
    entries = array("Q", data[: len(data) // 8 * 8])
    if sys.byteorder == "little":
        entries.byteswap()
    return entries


def _qemu_img(path: Path, container: Container, seconds: int, command: str, *options: str) -> list[str]:
    words = ["qemu-img", command, *options, "--image-opts", qemu_source(container)]
    return confine(words, read={path: "/source"}, memory_bytes=QEMU_MEMORY, cpu_seconds=seconds)
