"""Guests to test on: images with a file system, each backend's way to one, and what a tree looks like from outside."""

from __future__ import annotations

import hashlib
import os
import socket
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from osprovider.descriptors import opened
from osprovider.guest.host import HostGuest
from tests.support.sparse import sparse_file

__all__ = ["Entry", "Root", "access_list", "entries", "fsck", "make_image", "make_nested", "mounted_here"]

_CHECKOUT = Path(__file__).parents[3]


@dataclass(frozen=True, slots=True)
class Root:
    """A guest's root directory, and the way round the protocol.

    Attributes:
        fd: the directory.
    """

    fd: int

    @property
    def guest(self) -> HostGuest:
        """What is tested."""
        return HostGuest(self.fd)

    @property
    def path(self) -> Path:
        """The directory, to arrange and to inspect with the system's calls. Absolute links in it lead to the host."""
        return Path(f"/proc/self/fd/{self.fd}")


def make_image(path: Path, size_mib: int = 128) -> Path:
    """Make a sparse file with an empty ext4 file system."""
    sparse_file(path, size_mib << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(path)], check=True)
    return path


def fsck(image: Path) -> None:
    """Fail where the file system is damaged or was not unmounted."""
    subprocess.run(["e2fsck", "-f", "-n", str(image)], check=True, capture_output=True)


@contextmanager
def mounted_here(image: Path, directory: Path, *, read_only: bool = False, confined: bool = False) -> Iterator[int]:
    """Mount an image on this machine, in a process of its own, and give a descriptor of its root.

    Its kernel parses it, or with ``confined`` programs in the sandbox do.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    access = "sandbox" if confined else "ro" if read_only else "rw"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.system.guest.lend", str(theirs.fileno()), str(image), str(directory), access],
        cwd=_CHECKOUT,
        pass_fds=[theirs.fileno()],
        stderr=subprocess.PIPE,
        text=True,
    )
    theirs.close()
    with ours:
        _, fds, _, _ = socket.recv_fds(ours, 16, 1, socket.MSG_CMSG_CLOEXEC)
        if fds:
            with opened(fds[0]):
                yield fds[0]
    _, said = process.communicate(timeout=900)
    assert process.returncode == 0, said


def make_nested(root: Path, name: str, levels: int) -> None:
    """Make a directory with a file and a link in it, in which there is such a directory, and so on."""
    fd = os.open(root, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
        os.symlink("/", "link", dir_fd=fd)
        os.close(os.open("file", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=fd))
    os.close(fd)


def access_list(*, user: int, permissions: int) -> bytes:
    """An ACL of rw-r--r-- that gives one more user these permissions; see <linux/posix_acl_xattr.h>."""
    undefined = 0xFFFFFFFF
    listed = ((1, 6, undefined), (2, permissions, user), (4, 4, undefined), (16, permissions | 4, undefined))
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *item) for item in (*listed, (32, 4, undefined)))


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """All there is to a file, times, numbers of inodes and the place of its blocks aside."""

    path: str
    kind: int
    mode: int
    owner: tuple[int, int]
    links: int
    device: int
    content: str
    attributes: tuple[tuple[str, bytes], ...]


def entries(directory_fd: int, prefix: str = "") -> Iterator[Entry]:
    """Everything below a directory, and it itself, no link followed."""
    yield _entry(directory_fd, prefix or "/")
    for name in sorted(os.listdir(directory_fd)):
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=directory_fd)
        with opened(fd):
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                with opened(os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory_fd)) as below:
                    yield from entries(below, f"{prefix}/{name}")
            else:
                yield _entry(fd, f"{prefix}/{name}")


def _entry(fd: int, path: str) -> Entry:
    found = os.fstat(fd)
    kind = stat.S_IFMT(found.st_mode)
    content = ""
    attributes: tuple[tuple[str, bytes], ...] = ()
    if kind == stat.S_IFLNK:
        content = os.readlink("", dir_fd=fd)
    else:
        place = f"/proc/self/fd/{fd}"
        attributes = tuple((name, os.getxattr(place, name)) for name in sorted(os.listxattr(place)))
    if kind == stat.S_IFREG:
        content = f"{found.st_size} {hashlib.sha256(Path(place).read_bytes()).hexdigest()}"
    links = 1 if kind == stat.S_IFDIR else found.st_nlink
    owner = (found.st_uid, found.st_gid)
    return Entry(path, kind, stat.S_IMODE(found.st_mode), owner, links, found.st_rdev, content, attributes)
