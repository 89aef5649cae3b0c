"""Loop devices that losetup(8) makes, as an operator would, and that are detached when nobody needs them any more.

``losetup --detach`` may end before the device is detached: where another process has it open, that is put off until the
process closes it (``loop_clr_fd`` in Linux' drivers/block/loop.c). Whoever looks for what uses a disk, osprovider too,
opens all loop devices of the machine for a moment.

Not for: the product's own (`osprovider.disk.loop`).
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["attached"]

_SECONDS_TO_DETACH = 60


@contextmanager
def attached(path: Path, *options: str) -> Iterator[Path]:
    """A loop device on a file or a device; afterwards the kernel has given that back.

    Args:
        path: what it is attached to.
        options: further ones of losetup's.
    """
    words = ["losetup", "--find", "--show", *options, str(path)]
    device = Path(subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip())
    use = _use(device)
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)
        end = time.monotonic() + _SECONDS_TO_DETACH
        while _use(device) == use:
            assert time.monotonic() < end, f"{device} on {path} is still in use"
            time.sleep(0.005)


def _use(device: Path) -> str | None:
    """Which of its uses a device is in, by a number that the kernel gives only once; None where it is detached."""
    directory = Path("/sys/block", device.name)
    with suppress(FileNotFoundError):
        return (directory / "diskseq").read_text() if (directory / "loop").exists() else None
    return None
