"""xfs and btrfs: made on an instance's disk, at their final size, and filled from a template's tree.

Either could be copied and grown as ext4 is, and would be the worse for it: an xfs keeps the small allocation groups and
the small log that it was made with (mkfs.xfs(8), ``agcount`` and ``-l size``). The template stays the ext4 that every
variant shares. It is verified and mounted read-only; cp(1) keeps owners, modes, times, links, holes, devices and
extended attributes, ACLs and capabilities among them. What it does not keep: flags of chattr(1), and the attributes
that /etc/xattr.conf names as bound to their file (``security.evm``).

Features are listed one by one, so that a newer mkfs does not change what a guest must understand: Debian 11's kernel
5.10 and GRUB 2.06 read everything here. What an older guest does not know (:mod:`osprovider.disk.features`) is left
out.

- xfs: above 1 TiB its log stays at 512 MiB, which is plenty: mkfs.xfs writes all of it, and would take 2 GiB for 4 TiB
  and more. ``bigtime`` (times beyond 2038) and ``inobtcount`` are Linux 5.10's; GRUB reads the one since 2.06, the
  other does not concern it. Out are ``rmapbt``, ``nrext64`` (Linux 5.19, GRUB 2.12), ``exchange`` and ``parent``
  (Linux 6.10; mkfs.xfs 6.10 is the first to know them). The same as xfsprogs' mkfs/lts_5.15.conf, which Debian 12's
  mkfs.xfs cannot read. Its sectors have 4096 bytes, which fits any disk.
- btrfs: it has a free space tree. ``no-holes`` is out: GRUB 2.06 reads no file that has a hole without an item for it
  (its commit 7f4e017a14 came later), and a kernel's image may have holes. ``block-group-tree`` (Linux 6.1, mkfs.btrfs's
  default since 6.19) needs it, and is out with it. Metadata is there twice. The root is a subvolume, which is the
  default one, so that a kernel mounts it by itself; GRUB counts paths from the file system's top all the same.

Measured with Debian 12 (12,700 files, 390 MiB), all synced: cp 0.7 s onto xfs and 0.8 s onto btrfs, a pipe of two tars
half as long again, four cps at once 0.1 s less.
Not for: file systems that grow from a template (:mod:`osprovider.disk.filesystem`), nor deciding
(:mod:`osprovider.plan`).
Sources: mkfs.xfs(8), mkfs.btrfs(8), xfs(5), btrfs(5), cp(1); GRUB's grub-core/fs/xfs.c and btrfs.c.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from osprovider import linux
from osprovider.background import background
from osprovider.descriptors import opened, path_of
from osprovider.disk import features
from osprovider.disk.device import Device
from osprovider.disk.loop import loop_device
from osprovider.disk.wipe import clear_ends
from osprovider.errors import DeviceError, RequestError
from osprovider.guest.files import copy_tree
from osprovider.guest.host import HostGuest
from osprovider.guest.mounting import mounted
from osprovider.layout import PartitionPlan
from osprovider.log import reporter
from osprovider.manifest import Template
from osprovider.programs import is_installed
from osprovider.run import run
from osprovider.sandbox import confine

__all__ = ["fill", "lack_of_tools", "make", "require"]

_PACKAGES = {"xfs": "xfsprogs", "btrfs": "btrfs-progs"}
_SYNC_SECONDS = 0.1
_XFS_KNOWS_PARENTS = (6, 10)
_LARGE_XFS = 1 << 40  # whose log, 1/2048 of it to 2 GiB, mkfs.xfs would write with zeros
_LARGE_XFS_LOG = "512m"


def require(filesystem: str) -> None:
    """Refuse, before anything is written, where this node cannot make or mount a file system.

    Args:
        filesystem: ``xfs`` or ``btrfs``.

    Raises:
        RequestError: says what to install.
    """
    if lack := lack_of_tools(filesystem):
        raise RequestError(f"layout.filesystem is {filesystem}, and {lack}")
    if not linux.has_filesystem(filesystem):
        raise RequestError(
            f"layout.filesystem is {filesystem}, and this node's kernel cannot mount it: see modprobe {filesystem}"
        )


def lack_of_tools(filesystem: str) -> str | None:
    """What this node lacks to make a file system, as the end of a line; None where it lacks nothing.

    Args:
        filesystem: any; what is not made here lacks nothing.
    """
    package = _PACKAGES.get(filesystem)
    if package is None or is_installed(f"mkfs.{filesystem}"):
        return None
    return f"this node has no mkfs.{filesystem}: apt install {package}"


def fill(template: Template, device: Device, part: PartitionPlan, run_directory: Path) -> None:
    """Make the file system of a partition, with the template's tree in it.

    The caller is in a mount namespace of its own, and has checked the template
    (:func:`osprovider.disk.integrity.refuse_damaged`).

    Args:
        template: one ext file system that was made here.
        device: the disk.
        part: of it; what is there is lost.
        run_directory: where mount points are made.

    Raises:
        DeviceError, GuestError, ToolError: it could not be made, filled or stored.
    """
    used = template.manifest.filesystem.used_bytes
    what = f"fill {part.filesystem} from image {template.manifest.image}"
    with (
        reporter.progress(what, used) as advance,
        loop_device(device.path, offset_bytes=part.start_bytes, size_bytes=part.size_bytes) as target,
    ):
        clear_ends(device, part)
        unknown = features.unknown_to(template.manifest.distribution, part.filesystem or "")
        make(target, part.filesystem or "", part.filesystem_uuid or "", without=unknown)
        if part.subvolume:
            _make_subvolume(target, part.subvolume, run_directory)
        with (
            loop_device(template.path, read_only=True) as source,
            mounted(source, template.manifest.filesystem.type, run_directory, read_only=True, place="template") as tree,
            mounted(target, part.filesystem or "", run_directory, is_new=True) as root,
        ):
            _copy(tree, root, advance)


def make(path: Path, filesystem: str, uuid: str, *, label: str = "", without: Collection[str] = ()) -> None:
    """Make an empty file system that fills a block device. What is there is lost, and not discarded.

    Args:
        path: the device.
        filesystem: ``xfs`` or ``btrfs``.
        uuid: its UUID.
        label: at most 12 bytes for xfs, 255 for btrfs; may be empty.
        without: features that the guest does not know.

    Raises:
        ToolError: mkfs failed.
    """
    makers = {"xfs": _make_xfs, "btrfs": _make_btrfs}
    makers[filesystem](path, uuid, label, without)


def _make_xfs(path: Path, uuid: str, label: str, without: Collection[str]) -> None:
    version = run(["mkfs.xfs", "-V"]).text
    newer = ["-i", "exchange=0", "-n", "parent=0"] if _version(version) >= _XFS_KNOWS_PARENTS else []
    on = {name: int(name not in without) for name in ("inobtcount", "bigtime", "reflink", "sparse")}
    run(
        [
            *("mkfs.xfs", "-q", "-f", "-K", "-b", "size=4096", "-s", "size=4096"),
            *("-m", f"crc=1,finobt=1,inobtcount={on['inobtcount']},bigtime={on['bigtime']}"),
            *("-m", f"reflink={on['reflink']},rmapbt=0,uuid={uuid}"),
            *("-i", f"size=512,sparse={on['sparse']},nrext64=0"),
            *newer,
            *(["-l", f"size={_LARGE_XFS_LOG}"] if _size_bytes(path) > _LARGE_XFS else []),
            *(["-L", label] if label else []),
            path,
        ]
    )


def _make_btrfs(path: Path, uuid: str, label: str, without: Collection[str]) -> None:
    space_tree = "^free-space-tree" if "free-space-tree" in without else "free-space-tree"
    mkfs: list[str | Path] = [
        *("mkfs.btrfs", "-q", "-f", "-K", "--sectorsize", "4096", "--nodesize", "16384"),
        *("--features", "extref,skinny-metadata,^no-holes", "--runtime-features", space_tree),
        *("--checksum", "crc32c", "--metadata", "dup", "--data", "single", "--uuid", uuid),
        *(["--label", label] if label else []),
        path,
    ]
    # By itself it looks at all block devices, for one with this UUID, and refuses where it has seen one lately.
    run(confine(mkfs, devices=[path]))


def _make_subvolume(target: Path, name: str, run_directory: Path) -> None:
    """Make a subvolume that is mounted from now on where nobody asks for another one."""
    with mounted(target, "btrfs", run_directory, is_new=True) as top:
        place = f"{path_of(top.root_fd)}/{name}"
        run(["btrfs", "subvolume", "create", place], pass_fds=[top.root_fd])
        run(["btrfs", "subvolume", "set-default", place], pass_fds=[top.root_fd])


def _size_bytes(device: Path) -> int:
    """The size of a block device."""
    with device.open("rb", buffering=0) as file:
        return file.seek(0, os.SEEK_END)


def _version(text: str) -> tuple[int, ...]:
    """The numbers of ``mkfs.xfs version 6.1.0``."""
    found = re.search(r"(\d+)\.(\d+)", text)
    if found is None:
        raise DeviceError(f"mkfs.xfs does not say its version, but: {text}")
    return int(found[1]), int(found[2])


def _copy(tree: HostGuest, root: HostGuest, advance: Callable[[int], None]) -> None:
    """Copy a mounted tree into an empty one."""
    with opened(os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=root.root_fd)) as own, _written_out(own, advance):
        copy_tree(tree.root_fd, root.root_fd)
    # mke2fs' own, which neither xfs nor btrfs has.
    status = os.fstat(root.root_fd)
    with suppress(OSError):
        os.rmdir("lost+found", dir_fd=root.root_fd)
    os.utime(root.root_fd, ns=(status.st_atime_ns, status.st_mtime_ns))


@contextmanager
def _written_out(fd: int, advance: Callable[[int], None]) -> Iterator[None]:
    """While the body fills a file system, have it stored all the while, and progress follow what it holds.

    It is done sooner so. And xfs reserves up to 20 KiB for each file that waits to be written, and makes no symbolic
    link where nothing is left beside that (Debian 12's tree, 390 MiB, failed to fit in 640 MiB).

    Args:
        fd: a descriptor that nobody else syncs: syncfs(2) tells each of an error once.
        advance: called with each further number of bytes.
    """
    done = threading.Event()

    def store() -> None:
        seen = _used_bytes(fd)
        while not done.wait(_SYNC_SECONDS):
            with suppress(OSError):  # whoever unmounts is told as well
                linux.syncfs(fd)
            now = _used_bytes(fd)
            advance(max(now - seen, 0))
            seen = max(now, seen)

    with background("fill") as start:
        start(store)
        try:
            yield
        finally:
            done.set()


def _used_bytes(fd: int) -> int:
    found = os.fstatvfs(fd)
    return (found.f_blocks - found.f_bfree) * found.f_frsize
