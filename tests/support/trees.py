"""Trees with everything in them that a root file system may have, and all that can be told of a tree, to compare two.

Not for: whole systems (`tests.support.image_files`).
"""

from __future__ import annotations

import hashlib
import os
import random
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from osprovider import linux
from osprovider.disk.loop import loop_device
from tests.support.sparse import sparse_file

__all__ = ["Entry", "populate", "read_tree", "scratch_filesystem"]

_HOLE = 64 << 10


@dataclass(frozen=True, slots=True)
class Entry:
    """What there is to tell of a file; ``links`` are all the names of the tree that it has."""

    mode: str
    owner: tuple[int, int]
    mtime_ns: int
    device: int
    content: str
    data: tuple[tuple[int, int], ...]
    xattrs: tuple[tuple[str, bytes], ...]
    links: tuple[bytes, ...]


@contextmanager
def scratch_filesystem(image: Path, root: Path, size_bytes: int, *options: str) -> Iterator[Path]:
    """An empty ext4 of its own, mounted in a mount namespace of this process; `options` are mkfs's."""
    sparse_file(image, size_bytes)
    subprocess.run(["mkfs.ext4", "-q", *options, image], check=True, capture_output=True)
    linux.private_mount_namespace()
    root.mkdir()
    with loop_device(image) as loop:
        linux.mount(str(loop), str(root), "ext4", linux.MountFlag.NOATIME)
        try:
            yield root
        finally:
            linux.umount(str(root))


def read_tree(root: Path) -> dict[bytes, Entry]:
    """All that a tree holds, by its names; times of access and change left out."""
    top = os.fsencode(root)
    found = {b".": os.lstat(top)}
    for directory, names, files in os.walk(top):
        for name in [*names, *files]:
            path = os.path.join(directory, name)  # noqa: PTH118 - names are bytes
            found[os.path.relpath(path, top)] = os.lstat(path)
    same: dict[int, list[bytes]] = {}
    for name, status in found.items():
        same.setdefault(status.st_ino, []).append(name)
    return {
        name: _entry(top + b"/" + name, status, tuple(sorted(same[status.st_ino])))
        for name, status in sorted(found.items())
    }


def _entry(path: bytes, status: os.stat_result, links: tuple[bytes, ...]) -> Entry:
    content = ""
    data: tuple[tuple[int, int], ...] = ()
    if stat.S_ISREG(status.st_mode):
        content, data = _content(path, status.st_size)
    elif stat.S_ISLNK(status.st_mode):
        content = repr(os.readlink(path))  # noqa: PTH115 - likewise
    return Entry(
        mode=stat.filemode(status.st_mode),
        owner=(status.st_uid, status.st_gid),
        mtime_ns=status.st_mtime_ns,
        device=status.st_rdev,
        content=content,
        data=data,
        xattrs=tuple(
            (name, os.getxattr(path, name, follow_symlinks=False))
            for name in sorted(os.listxattr(path, follow_symlinks=False))
        ),
        links=links,
    )


def _content(path: bytes, size: int) -> tuple[str, tuple[tuple[int, int], ...]]:
    """A file's size and checksum, and where it has data."""
    extents = []
    with open(path, "rb") as file:  # noqa: PTH123 - the path is bytes
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        position = 0
        while position < size:
            try:
                start = os.lseek(file.fileno(), position, os.SEEK_DATA)
            except OSError:
                break
            position = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            extents.append((start, position))
    return f"{size} {digest}", tuple(extents)


def populate(root: Path, *, modest: bool = False, longest: int = 255) -> None:
    """Fill a tree as no system is, with all that one may have.

    Args:
        root: an empty directory.
        modest: no names, owners and links beyond what the oldest formats have room for.
        longest: bytes of the longest name.
    """
    for name in ("etc", "usr/bin", "dev", "tmp", "var/log", "home/user"):
        (root / name).mkdir(parents=True)
    _files(root)
    _links(root)
    _special(root)
    _holes(root)
    _names(root, longest, modest=modest)
    _attributes(root, modest=modest)
    os.utime(root / "etc/hostname", ns=(1, 1234567890 * 10**9 + 123456789))
    os.utime(root / "usr/bin", (1, 86400))
    os.utime(root / "etc/link", (1, 77), follow_symlinks=False)
    (root / "usr").chmod(0o555)
    root.chmod(0o751)
    os.utime(root, (1, 1000000000))


def _files(root: Path) -> None:
    for number in range(40):
        (root / f"etc/file{number}").write_text(f"{number}\n" * number)
    (root / "etc/hostname").write_text("host\n")
    for name in ("etc/passwd", "etc/group"):  # tar writes names into ACLs, those of this machine
        (root / name).write_bytes(Path("/", name).read_bytes())
    (root / "usr/bin/large").write_bytes(random.Random(1).randbytes(3_000_001))  # more than is moved in one piece
    (root / "usr/bin/block").write_bytes(b"x" * 1024)
    for name, mode in (("setuid", 0o4755), ("setgid", 0o2711), ("secret", 0o000), ("open", 0o777)):
        (root / "usr/bin" / name).write_text(name)
        (root / "usr/bin" / name).chmod(mode)
    (root / "tmp").chmod(0o1777)
    (root / "var/log").chmod(0o2750)
    for name, owner in (("etc/file1", (1000, 1001)), ("var/log", (65534, 4)), ("etc/file2", (2097151, 0))):
        os.chown(root / name, *owner)
    (root / "usr/bin/setuid").chmod(0o4755)


def _links(root: Path) -> None:
    (root / "etc/link").symlink_to("hostname")
    (root / "etc/mtab").symlink_to("../proc/self/mounts")
    (root / "etc/outside").symlink_to("../../../../../../../../etc/shadow")
    (root / "etc/absolute").symlink_to("/usr/share/zoneinfo/UTC")
    (root / "bin").symlink_to("usr/bin")
    os.lchown(root / "etc/absolute", 12, 34)
    for name in ("usr/bin/first", "home/user/second"):
        (root / name).hardlink_to(root / "etc/file3")
    (root / "etc/same-link").hardlink_to(root / "etc/absolute")  # of a symbolic link


def _special(root: Path) -> None:
    os.mknod(root / "dev/null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(root / "dev/sda1", 0o660 | stat.S_IFBLK, os.makedev(8, 1))
    os.chown(root / "dev/sda1", 0, 6)
    os.mkfifo(root / "var/log/fifo", 0o600)
    (root / "dev/null").chmod(0o666)
    (root / "dev/same").hardlink_to(root / "dev/null")


def _holes(root: Path) -> None:
    """Files with holes: first, last, in the middle, many, and nothing else."""
    for name, pieces, size in (
        ("middle", (0, 8), 9),
        ("first", (5,), 6),
        ("last", (0,), 50),
        ("many", tuple(range(0, 90, 2)), 90),
        ("hole", (), 4),
    ):
        with (root / "home/user" / name).open("wb") as file:
            for piece in pieces:
                file.seek(piece * _HOLE)
                file.write(random.Random(piece).randbytes(4096))
            file.truncate(size * _HOLE)


def _names(root: Path, longest: int, *, modest: bool) -> None:
    home = root / "home/user"
    for name in ("new\nline", " space ", "-dash", "*?[x]", "back\\slash\\n", 'quo"te', "ünïcode", "tab\tbell\a"):
        (home / name).write_text(name)
    with open(os.fsencode(home) + b"/\xff\xfelatin\xe9", "wb") as file:  # noqa: PTH123 - no text
        file.write(b"not UTF-8")
    (home / ("n" * 90)).write_text("longest of the oldest formats")
    if modest:
        return
    (home / ("n" * longest)).write_text("longest")
    (home / ("n" * (longest - 1))).symlink_to("t" * 1000)
    (home / ("m" * longest)).hardlink_to(home / ("n" * longest))
    deep = home
    for level in range(12):
        deep = deep / (str(level % 10) * 120)
    deep.mkdir(parents=True)
    (deep / "file").write_text("deep")
    (deep / "other").hardlink_to(deep / "file")


def _attributes(root: Path, *, modest: bool) -> None:
    if modest:
        return
    (root / "etc/file4").chmod(0o640)
    os.chown(root / "etc/file5", 4_000_000_000, 3_000_000_001)
    os.utime(root / "etc/file6", ns=(0, -(10**9) - 5))
    os.setxattr(root / "etc/file7", "user.text", b"text")
    os.setxattr(root / "etc/file7", "user.binary", bytes(range(256)) + b"\n12 path=/etc/passwd\n")
    os.setxattr(root / "var", "user.directory", b"")
    commands: tuple[list[str | Path], ...] = (
        ["setfacl", "-m", "u:99:rwx,g:77:r", root / "etc/file8"],
        ["setfacl", "-m", "u:99:rwx", "-d", "-m", "g:5:rx", root / "var/log"],
        ["setcap", "cap_net_raw,cap_net_admin+ep", root / "usr/bin/block"],
    )
    for words in commands:
        subprocess.run(words, check=True)
