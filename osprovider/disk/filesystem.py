"""The ext family: made small for a template, given a new identity and grown on an instance's disk.

Features are listed one by one, so that neither the node's mke2fs.conf nor a newer mke2fs changes what a guest must
understand: Debian 9's kernel 4.9, its e2fsck 1.43 and its GRUB 2.02 read everything here, and so does all that came
later. What an older guest does not know (:mod:`osprovider.disk.features`) is left out, or taken out again of a template
whose distribution is known only once it is filled: 0.02 s.

- ``metadata_csum`` is in for ext4, as Debian has it: a guest notices damaged metadata for as long as it lives. The
  price is that a new UUID means new checksums everywhere: for 13,500 files in 1.1 GiB tune2fs takes 0.02 s on a file
  and 0.06 to 0.1 s on a loop device, against 0.003 s without. resize2fs and e2fsck cost the same either way. It is
  cheapest before the file system grows.
- ``metadata_csum_seed``, which would save that, is out: GRUB reads it only since 2.12 (Debian: 2.06-8), and calls such
  a file system unknown before (https://bugs.debian.org/1030846). ``orphan_file`` is out: Linux 5.15, e2fsprogs 1.47.
- ``64bit`` is in and the resize inode as large as it can be (1024 blocks of group descriptors, 4 MiB): to 8 TiB nothing
  has to move when a disk grows; beyond, resize2fs moves what is in the way (12 TiB: 1.1 s).

An instance keeps its template's hash seed: another one means every directory again (debugfs and e2fsck -D, 0.2 s), and
who could use it cannot read it.
Sources: mke2fs(8), tune2fs(8), resize2fs(8), e2fsck(8), ext4(5), the kernel's Documentation/filesystems/ext4.
Not for: file systems that do not grow from a template, and mounting (:mod:`osprovider.guest.host`).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from osprovider.errors import DeviceError, GuestError, reason_of
from osprovider.run import run
from osprovider.sandbox import confine

__all__ = [
    "WITHOUT_JOURNAL",
    "Superblock",
    "check",
    "clock",
    "grow",
    "make",
    "read_superblock",
    "set_uuid",
    "shrink",
    "superblock_at",
    "type_of",
    "used_bytes",
]

_FEATURES = {
    "ext2": "none,ext_attr,resize_inode,dir_index,filetype,sparse_super,large_file",
    "ext3": "none,ext_attr,resize_inode,dir_index,filetype,sparse_super,large_file,has_journal",
    "ext4": "none,ext_attr,resize_inode,dir_index,filetype,sparse_super,large_file,has_journal,"
    "extent,64bit,flex_bg,huge_file,dir_nlink,extra_isize,metadata_csum",
}
WITHOUT_JOURNAL = frozenset({"has_journal"})
"""What a file system that is to be shrunk is made without: the journal would only be in the way before that."""

_BEFORE_METADATA_CSUM = "uninit_bg"  # checks block groups alone, and lets their tables wait; Linux 2.6.24
_BLOCK_SIZE = 4096
# Of a program that reads what somebody else made: e2fsck takes 60 MiB for 5 TiB.
_MOST_MEMORY = 256 << 20
_MOST_SECONDS = 3600
_RESIZE_BLOCKS = (1 << 32) - 1  # mke2fs: the most that the resize inode may be asked to foresee
_JOURNAL_MIB = 64  # what mke2fs gives 16 GiB and more; a template is smaller than the disk that it will be on
_LEAST_WITH_JOURNAL = 512 << 20  # of that size; what is smaller, and no template, gets what mke2fs finds right
_SPARE_BYTES = 32 << 20  # free in a shrunk template, for what customization writes where the disk is no larger

_OTHERS = {"xfs": (0, b"XFSB"), "btrfs": (0x10040, b"_BHRfS_M")}
_SUPERBLOCK_OFFSET = 1024
_SUPERBLOCK_SIZE = 1024
_MAGIC = 0xEF53
_HAS_JOURNAL = 0x4  # compatible
_INCOMPATIBLE_OF_EXT4 = 0x40 | 0x80 | 0x200  # extents, 64bit, flex_bg


@dataclass(frozen=True, slots=True)
class Superblock:
    """What an ext file system says of itself.

    Attributes:
        type: ``ext4``, ``ext3`` or ``ext2``.
        uuid: lower case.
        label: may be empty.
        block_size: in bytes.
        size_bytes: of the file system.
        used_bytes: what its files and metadata occupy.
    """

    type: str
    uuid: str
    label: str
    block_size: int
    size_bytes: int
    used_bytes: int


def clock(epoch: int | None) -> dict[str, str]:
    """The environment in which e2fsprogs take a time (in seconds since 1970) for the present; the real one for None."""
    names = ("E2FSPROGS_FAKE_TIME", "E2FSCK_TIME", "SOURCE_DATE_EPOCH")
    return {} if epoch is None else dict.fromkeys(names, str(epoch))


def make(
    path: Path,
    type: str,  # noqa: A002 - mkfs calls it so
    *,
    uuid: str,
    label: str,
    size_bytes: int,
    tree: Path | None = None,
    hash_seed: str | None = None,
    epoch: int | None = None,
    without: Collection[str] = (),
    reserved_percent: int = 1,
) -> None:
    """Make a file system, which can grow to at least 16 TiB (the most that ext2 and ext3 can).

    Args:
        path: a file, made or enlarged as needed, or a device. What is there is lost.
        type: ``ext4``, ``ext3`` or ``ext2``.
        uuid: its UUID.
        label: at most 16 bytes, may be empty.
        size_bytes: its size.
        tree: a directory whose content it gets; None for an empty one.
        hash_seed: a UUID that its directories are hashed with; by chance when None.
        epoch: see :func:`clock`.
        without: features that the guest does not know; or :data:`WITHOUT_JOURNAL`.
        reserved_percent: what is left to root, so that a full disk still boots and can be tidied up.

    Raises:
        ToolError: mke2fs failed.
    """
    features = _features(type, without)
    has_own_journal = "has_journal" in features and (tree is not None or size_bytes >= _LEAST_WITH_JOURNAL)
    seed = f",hash_seed={hash_seed}" if hash_seed else ""
    # What is that large needs blocks of group descriptors beyond any resize inode's.
    growth = f",resize={_RESIZE_BLOCKS}" if size_bytes // _BLOCK_SIZE < _RESIZE_BLOCKS else ""
    run(
        [
            *("mke2fs", "-q", "-F", "-t", type),
            *("-b", str(_BLOCK_SIZE), "-I", "256", "-i", "16384", "-m", str(reserved_percent)),
            *("-O", ",".join(features)),
            *(["-J", f"size={_JOURNAL_MIB}"] if has_own_journal else []),
            # Inode tables are zeroed by the guest, a little at a time, as on any Debian.
            *("-E", f"lazy_itable_init=1,nodiscard{growth}{seed}"),
            *(["-d", str(tree)] if tree else []),
            *("-U", uuid, *(["-L", label] if label else [])),
            *(path, f"{size_bytes // 1024}k"),
        ],
        env=clock(epoch),
    )


def _features(type: str, without: Collection[str]) -> list[str]:  # noqa: A002
    names = [name for name in _FEATURES[type].split(",") if name not in without]
    return [*names, *([_BEFORE_METADATA_CSUM] if "metadata_csum" in without else [])]


def set_uuid(path: Path, uuid: str, *, confined: bool = False) -> None:
    """Give a file system a new UUID.

    One that was mounted since its last :func:`check` is checked now, its journal replayed.

    Args:
        path: what it lies on.
        uuid: as blkid(8) writes it.
        confined: somebody else made it: it is read in the sandbox. ``path`` is a device then.

    Raises:
        DeviceError: it is broken beyond repair.
        ToolError: tune2fs failed.
    """
    words = _words(["tune2fs", "-U", uuid], path, confined=confined)
    if run(words, check=False).status:  # it wants some of them "freshly checked"
        check(path, confined=confined)
        run(words)


def grow(path: Path, *, confined: bool = False) -> None:
    """Let a file system that was not mounted since its last :func:`check` fill its device or file.

    Args:
        path: what it lies on.
        confined: as for :func:`set_uuid`.

    Raises:
        ToolError: resize2fs failed.
    """
    run(_words(["resize2fs"], path, confined=confined))


def check(path: Path, *, confined: bool = False) -> bool:
    """Check a file system thoroughly and repair what can be.

    Args:
        path: what it lies on.
        confined: as for :func:`set_uuid`.

    Returns:
        it was sound; False where something had to be repaired.

    Raises:
        DeviceError: it is broken beyond repair, or no file system.
    """
    return _e2fsck(path, [], confined=confined)


def shrink(
    path: Path,
    type: str,  # noqa: A002 - as in make()
    *,
    epoch: int | None = None,
    without: Collection[str] = (),
    is_new: bool = False,
) -> int:
    """Make an image file with a file system, unmounted, as small as a template should be.

    Its free blocks become holes, so that no deployment copies what was deleted, and what lies too far behind is moved.
    It gets its journal, and has 32 MiB and the journal's size to spare. The file ends where the file system ends, and
    is checked.

    Args:
        path: the file; its file system was made :data:`WITHOUT_JOURNAL`.
        type: what that is to be: ``ext4``, ``ext3`` or ``ext2``.
        epoch: see :func:`clock`.
        without: features that are taken out: ``metadata_csum``, ``64bit``.
        is_new: nobody but the node's kernel has written to it since it was made: it is checked in the end alone.

    Returns:
        its size in bytes.

    Raises:
        DeviceError: the file system is broken.
        ToolError: one of e2fsprogs failed.
    """
    env = clock(epoch)
    is_unchecked = is_new and not without  # tune2fs takes no feature out of what was mounted since its last check
    if not is_unchecked:
        _e2fsck(path, [], env)
    unchecked = ["-f"] if is_unchecked else []
    if "metadata_csum" in without:
        run(["tune2fs", "-O", "^metadata_csum", path], env=env)  # uninit_bg takes its place
    if "64bit" in without:
        run(["resize2fs", *unchecked, "-s", path], env=env)
    journal = (_JOURNAL_MIB << 20) if "has_journal" in _FEATURES[type] else 0
    # Tune2fs makes a journal only where twice its size is free ("Total journal size too big for filesystem").
    size = _least_bytes(path) + 2 * journal + _SPARE_BYTES
    run(["resize2fs", *unchecked, path, f"{size // 1024}k"], env=env)
    if journal:
        run(["tune2fs", "-J", f"size={_JOURNAL_MIB}", path], env=env)
    _e2fsck(path, ["-E", "discard"], env)
    # resize2fs may leave a last group out that is too small to be one.
    size = read_superblock(path).size_bytes
    os.truncate(path, size)
    return size


def _least_bytes(path: Path) -> int:
    """How small resize2fs could make a file system: a number of its blocks ends what is printed (``-P``)."""
    return int(run(["resize2fs", "-P", path]).text.split()[-1]) * _BLOCK_SIZE


def used_bytes(path: Path) -> int:
    """What the files and metadata of an unmounted file system occupy, in bytes.

    Raises:
        DeviceError: there is no ext file system.
    """
    return read_superblock(path).used_bytes


def type_of(path: Path) -> str:
    """The type of the file system on a device or in a file: ``ext4``, ``ext3``, ``ext2``, ``xfs`` or ``btrfs``.

    Raises:
        DeviceError: it is none of these.
    """
    try:
        with path.open("rb", buffering=0) as file:
            for kind, (offset, magic) in _OTHERS.items():
                file.seek(offset)
                if file.read(len(magic)) == magic:
                    return kind
    except OSError as error:
        raise DeviceError(f"{path}: cannot be read: {reason_of(error)}") from error
    return read_superblock(path).type


def read_superblock(path: Path) -> Superblock:
    """Read what an unmounted ext file system says of itself.

    Args:
        path: what it lies on.

    Raises:
        DeviceError: there is no ext file system, or it cannot be read.
    """
    try:
        with path.open("rb", buffering=0) as file:
            return superblock_at(file.fileno(), 0)
    except OSError as error:
        raise DeviceError(f"{path}: cannot be read: {reason_of(error)}") from error
    except GuestError as error:
        raise DeviceError(f"{path}: {error}") from error


def superblock_at(fd: int, start_bytes: int) -> Superblock:
    """As :func:`read_superblock`, of a file system that begins anywhere in a file.

    Args:
        fd: the file.
        start_bytes: where in it.

    Raises:
        GuestError: there is no ext file system; does not name the file.
        OSError: it cannot be read.
    """
    data = os.pread(fd, _SUPERBLOCK_SIZE, start_bytes + _SUPERBLOCK_OFFSET)
    if len(data) < _SUPERBLOCK_SIZE or struct.unpack_from("<H", data, 0x38)[0] != _MAGIC:
        raise GuestError("holds no ext2, ext3 or ext4 file system")
    blocks_low, _, free_low = struct.unpack_from("<III", data, 0x4)
    (block_size_log,) = struct.unpack_from("<I", data, 0x18)
    compatible, incompatible, _ = struct.unpack_from("<III", data, 0x5C)
    blocks_high, _, free_high = struct.unpack_from("<III", data, 0x150)
    if block_size_log > 6:  # 64 KiB, the largest there is
        raise GuestError("holds a damaged ext file system: its block size makes no sense")
    raw_uuid = data[0x68:0x78].hex()
    block_size = 1024 << block_size_log
    blocks, free = blocks_low | blocks_high << 32, free_low | free_high << 32
    return Superblock(
        type=_type(compatible, incompatible),
        uuid="-".join((raw_uuid[:8], raw_uuid[8:12], raw_uuid[12:16], raw_uuid[16:20], raw_uuid[20:])),
        label=data[0x78:0x88].rstrip(b"\0").decode(errors="replace"),
        block_size=block_size,
        size_bytes=blocks * block_size,
        used_bytes=(blocks - free) * block_size,
    )


def _type(compatible: int, incompatible: int) -> str:
    """Which of the family a file system with these features is, as blkid has it."""
    if incompatible & _INCOMPATIBLE_OF_EXT4:
        return "ext4"
    return "ext3" if compatible & _HAS_JOURNAL else "ext2"


def _words(words: list[str], path: Path, *, confined: bool) -> list[str]:
    """What runs one of e2fsprogs on a file system."""
    words = [*words, str(path)]
    return confine(words, devices=[path], memory_bytes=_MOST_MEMORY, cpu_seconds=_MOST_SECONDS) if confined else words


def _e2fsck(path: Path, options: list[str], env: Mapping[str, str] | None = None, *, confined: bool = False) -> bool:
    """Check and repair. Returns whether there was nothing to repair."""
    result = run(_words(["e2fsck", "-f", "-y", *options], path, confined=confined), check=False, env=env)
    # e2fsck(8): 1 and 2 are bits for "errors corrected", everything above means that it did not get there.
    if result.status < 0 or result.status & ~3:
        said = (result.text or result.stderr.decode(errors="replace").strip() or "it said nothing").splitlines()[-1]
        raise DeviceError(f"{path}: its file system could not be repaired: e2fsck ended with {result.status}: {said}")
    return result.status == 0
