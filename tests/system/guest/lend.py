"""A process that mounts an image as a deployment does, and lends its root directory to the test that started it.

A test that mounted by itself would have to leave the mount namespace that it shares with all others.
Called with: the number of a socket, the image, a directory for mount points, and ``ro``, ``rw``, or ``sandbox`` where
programs in the sandbox open it, in place of the kernel.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path

from osprovider import linux
from osprovider.disk.loop import loop_device
from osprovider.errors import OsproviderError
from osprovider.guest.mounting import Volume
from osprovider.opening import guest_of
from osprovider.paths import Directories


def main(number: str, image: str, run: str, access: str) -> int:
    """Lend until the socket is closed at the other end; returns the exit status."""
    channel = socket.socket(fileno=int(number))
    read_only = access == "ro"
    linux.private_mount_namespace()
    directories = Directories(cache=Path(run), run=Path(run))
    try:
        with (
            loop_device(Path(image), read_only=read_only) as loop,
            guest_of(
                [Volume(loop, "ext4")], "sandbox" if access == "sandbox" else "host", directories, read_only=read_only
            ) as guest,
        ):
            socket.send_fds(channel, [b"mounted"], [guest._root])
            channel.recv(1)
    except OsproviderError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
