"""Disks that only userspace reaches (``DISK_n_URI`` alone): made on a scratch file, then sent by QEMU's tools.

The scratch file is as large as the disk, sparse, and has no name, so that nothing of it is left however a run ends.
What fails while it is worked on has not touched the disk. Sending keeps the order of every installation: the disk's
ends are cleared, then comes all between, and the ends with the partition table last. qemu-img writes zeros where the
file has holes, over the whole disk, and has the storage make them where it can.
A file that QEMU serves through FUSE (qemu-storage-daemon) would spare the scratch file, and is not to be trusted with
QEMU 7.2, Debian 12's: it discards where a hole is punched, without zeros, and mixes up the data of requests that come
at once.
Sources: qemu-img(1), qemu-io(1); ``GetUserspaceAccessUri`` in Ganeti's lib/storage/bdev.py.
Not for: reading such a disk back, as a rename would have to.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from osprovider.descriptors import in_memory
from osprovider.disk.device import Device, claim
from osprovider.disk.raw import write_all
from osprovider.errors import DeviceError, ToolError
from osprovider.log import reporter
from osprovider.run import run

__all__ = ["size_of", "staged"]

_END = 1 << 20  # as much as osprovider.disk.wipe clears of either end
_EXTRA = "qemu-block-extra"  # Debian's package with the drivers of Ceph, Gluster and the like


def size_of(uri: str) -> int:
    """The size of a disk in bytes.

    Args:
        uri: as Ganeti gives it, for QEMU.

    Raises:
        DeviceError: QEMU's tools cannot reach it.
    """
    try:
        told = run(["qemu-img", "info", "--format", "raw", "--output", "json", "--", uri]).text
    except ToolError as error:
        raise _unreachable(uri, error) from error
    return int(json.loads(told)["virtual-size"])


@contextmanager
def staged(uri: str, scratch: Path, run_directory: Path, *, verify: bool) -> Iterator[Device]:
    """A disk to install on, whose contents go to ``uri`` when the context ends well.

    Args:
        uri: as for :func:`size_of`.
        scratch: a directory with room for what is installed; made when missing.
        run_directory: as for :func:`osprovider.disk.device.claim`.
        verify: read back what was sent, and compare.

    Yields:
        the scratch file, claimed.

    Raises:
        DeviceError: the disk cannot be reached, or written, or does not keep what was sent. Of what fails in the
            context, errors of the scratch file name the disk as well.
    """
    _require_writable(uri)
    size = size_of(uri)
    scratch.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        file = stack.enter_context(tempfile.TemporaryFile(dir=scratch, prefix="userspace-"))
        file.truncate(size)
        path = Path(f"/proc/{os.getpid()}/fd/{file.fileno()}")
        reporter.info(f"{uri}: only userspace reaches it; it is made on a file in {scratch} ({path}), then sent")
        device = stack.enter_context(claim(path, run_directory))
        try:
            yield device
        except DeviceError as error:
            raise DeviceError(f"{uri}: {error}") from error
        _send(uri, device, verify=verify)


def _require_writable(uri: str) -> None:
    """See that it can be written before anything is done for it."""
    try:
        _command(uri, [])
    except ToolError as error:
        raise _unreachable(uri, error) from error


def _unreachable(uri: str, error: ToolError) -> DeviceError:
    why = error.last_line or str(error)
    if "Unknown protocol" in why or "Unknown driver" in why:
        why = f"{why}; install its driver ({_EXTRA})"
    return DeviceError(f"{uri}: cannot be opened by QEMU's tools: {why}")


def _send(uri: str, device: Device, *, verify: bool) -> None:
    size = device.facts.size_bytes
    length = min(_END, size // 2)
    ends = {offset: os.pread(device.fd, length, offset) for offset in (size - length, 0)}
    try:
        _clear_ends(uri, ends)
        try:
            for offset, data in ends.items():
                write_all(device.fd, bytes(len(data)), offset)
            with reporter.step(f"send to {uri}"):
                run(["qemu-img", "convert", "-n", "-t", "writeback", "-f", "raw", "-O", "raw", "--", device.path, uri])
            if verify:
                with reporter.step(f"verify {uri}"):
                    run(["qemu-img", "compare", "-f", "raw", "-F", "raw", "--", device.path, uri])
            with reporter.step("partition table"):
                for offset, data in ends.items():
                    _write(uri, data, offset)
        except BaseException:
            try:
                _clear_ends(uri, ends)
            except ToolError as error:  # the first error is the one to show
                reporter.warning(f"{uri} could not be made unbootable: {error}")
            raise
    except ToolError as error:
        why = error.last_line or str(error)
        what = "is not read back as it was written" if error.argv[1] == "compare" else "cannot be written"
        raise DeviceError(f"{uri}: {what}: {why}; see to the storage") from error


def _clear_ends(uri: str, ends: dict[int, bytes]) -> None:
    """Zero the first and the last MiB, so that the disk does not look installed."""
    _command(uri, [f"write -q -z {offset} {len(data)}" for offset, data in ends.items()])


def _write(uri: str, data: bytes, offset: int) -> None:
    """Write one end, and wait until the disk has it."""
    with in_memory("end of a disk", data) as fd:
        _command(uri, [f"write -q -s /proc/{os.getpid()}/fd/{fd} {offset} {len(data)}"])


def _command(uri: str, commands: Sequence[str]) -> None:
    """Have qemu-io open a disk for writing, carry out commands and store all of it."""
    words = [word for command in [*commands, "flush"] for word in ("-c", command)]
    run(["qemu-io", "-f", "raw", *words, "--", uri])
