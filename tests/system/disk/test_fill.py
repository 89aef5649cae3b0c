"""Roots of xfs and btrfs: all of a template's tree is in them, judged by their own checkers, and nothing of before."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from osprovider import linux
from osprovider.config.model import Layout
from osprovider.disk import filesystem, fill, integrity
from osprovider.disk.copy import DamagedTemplate
from osprovider.disk.device import claim
from osprovider.disk.features import unknown_to
from osprovider.disk.loop import loop_device
from osprovider.disk.scan import scan_extents
from osprovider.division import lay_out
from osprovider.errors import RequestError
from osprovider.layout import DiskFacts, InstanceDisk, PartitionPlan, with_subvolume
from osprovider.manifest import Distribution, Filesystem, Manifest, Template
from tests.support.boot_context import boot_context
from tests.support.sparse import sparse_file
from tests.support.trees import Entry, populate, read_tree, scratch_filesystem
from tests.system.disk.support import MIB, attached, used_disk
from tests.system.guest.namespace import in_namespace

KINDS = ["xfs", "btrfs"]
CHECKS = {"xfs": ["xfs_repair", "-n"], "btrfs": ["btrfs", "check", "--readonly"]}
FEATURES = {
    "xfs": ["xfs_db", "-r", "-c", "version", "-c", "sb 0", "-c", "p sectsize features_incompat features_ro_compat"],
    "btrfs": ["btrfs", "inspect-internal", "dump-super"],
}
INSTANCE = str(uuid.uuid4())  # of a run: btrfs is seen by all of the machine
SIZE = 600 * MIB


@dataclasses.dataclass(frozen=True)
class Filled:
    """A partition that was filled: what the template's tree was, what it is now, and what tools say of it."""

    before: dict[bytes, Entry]
    after: dict[bytes, Entry]
    tags: dict[str, str]
    signatures: list[str]
    features: str


@contextmanager
def template(scratch: Path, *, damaged: bool = False) -> Iterator[tuple[Template, dict[bytes, Entry]]]:
    """A template with everything in it; and that, read."""
    image = scratch / "template.img"
    with scratch_filesystem(image, scratch / "tree", 64 * MIB) as root:
        populate(root)
        os.utime(root / "etc/file9", (1, 1 << 33))  # in 2242
        os.setxattr(root / "etc/file9", "security.selinux", b"system_u:object_r:etc_t:s0\0")
        before = {name: entry for name, entry in read_tree(root).items() if not name.startswith(b"lost+found")}
    with image.open("r+b") as file:
        manifest = _manifest(image, file.fileno())
        if damaged:
            os.pwrite(file.fileno(), b"\1", manifest.extents[-1].offset + 17)
        yield Template(manifest, file.fileno(), image), before


def _manifest(image: Path, fd: int) -> Manifest:
    made = boot_context().manifest
    assert made is not None
    size = image.stat().st_size
    found = Filesystem(**dataclasses.asdict(filesystem.read_superblock(image)))
    return dataclasses.replace(made, size_bytes=size, filesystem=found, extents=scan_extents(fd, size))


def root_of(disk: Path, kind: str, sector_size: int = 512) -> PartitionPlan:
    """The partition that is filled, the second on its disk."""
    layout = Layout(filesystem=kind)  # type: ignore[arg-type]
    table = lay_out(InstanceDisk(DiskFacts(SIZE, sector_size), INSTANCE, str(disk)), layout, ("uefi",), 300 * MIB)
    root = with_subvolume(table).find("root")
    assert root is not None
    return root


def filled(disk: Path, kind: str, scratch: Path, sector_size: int) -> Filled:
    """Fill a partition, and look at it."""
    root = root_of(disk, kind, sector_size)
    with template(scratch) as (source, before), claim(disk, scratch / "run") as device:
        integrity.refuse_damaged(source, cached=True)
        fill.fill(source, device, root, scratch / "run")
    with loop_device(disk, offset_bytes=root.start_bytes, size_bytes=root.size_bytes, read_only=True) as loop:
        subprocess.run([*CHECKS[kind], loop], check=True, capture_output=True)
        tags = dict(line.split("=", 1) for line in _said("blkid", "-p", "-o", "export", loop).splitlines())
        signatures = _said("wipefs", "--noheadings", "--output", "TYPE", loop).split()
        features = _said(*FEATURES[kind], loop)
        (place := scratch / "mounted").mkdir()
        linux.mount(str(loop), str(place), kind, linux.MountFlag.RDONLY | linux.MountFlag.NOATIME)
        try:
            after = {name: _without_shadows(entry) for name, entry in read_tree(place).items()}
        finally:
            linux.umount(str(place))
    return Filled(before, after, tags, signatures, features)


def _without_shadows(entry: Entry) -> Entry:
    """Without the names beneath which xfs shows its ACLs once more."""
    kept = tuple(found for found in entry.xattrs if not found[0].startswith("trusted.SGI_ACL_"))
    return dataclasses.replace(entry, xattrs=kept)


def _said(*words: str | Path) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


@pytest.fixture(params=["file", "loop-512", "loop-4096"])
def disk(request: pytest.FixtureRequest, scratch: Path) -> Iterator[tuple[Path, int]]:
    """A disk of 600 MiB full of 0xA5, in which an ext4 had been, and the size of its sectors."""
    file = used_disk(scratch / "disk", SIZE)
    start = root_of(file, "xfs").start_bytes
    mkfs = ["mkfs.ext4", "-q", "-F", "-E", f"offset={start}", str(file), "300M"]
    subprocess.run(mkfs, check=True, capture_output=True)
    if request.param == "file":
        yield file, 512
    else:
        sector_size = int(request.param.removeprefix("loop-"))
        with attached(file, sector_size=sector_size) as device:
            yield device, sector_size


@pytest.mark.parametrize("kind", KINDS)
def test_a_tree_lands_identically_and_nothing_of_before_is_found(
    disk: tuple[Path, int], kind: str, scratch: Path
) -> None:
    path, sector_size = disk
    found = in_namespace(lambda: filled(path, kind, scratch, sector_size))
    assert list(found.after) == list(found.before)
    for name, entry in found.before.items():
        assert found.after[name] == entry, name
    assert found.tags["TYPE"] == kind
    assert found.tags["UUID"] == root_of(path, kind).filesystem_uuid
    assert found.signatures == [kind]


@pytest.mark.parametrize("kind", KINDS)
def test_a_reinstall_makes_it_anew_with_the_same_uuid(kind: str, scratch: Path) -> None:
    disk = used_disk(scratch / "disk", SIZE)
    for name in ("first", "second"):
        (own := scratch / name).mkdir()
        found = in_namespace(partial(filled, disk, kind, own, 512))
        assert found.after == found.before
        assert found.tags["UUID"] == root_of(disk, kind).filesystem_uuid


def test_a_disk_with_the_same_uuid_beside_it_does_not_matter(scratch: Path) -> None:
    """A copy of the old disk, say, or the kernel's node for the old partition; mkfs.btrfs by itself refuses then."""
    disk = used_disk(scratch / "disk", SIZE)
    sparse_file(scratch / "copy", SIZE)
    with attached(scratch / "copy") as other:
        words = ["mkfs.btrfs", "-q", "-U", str(root_of(disk, "btrfs").filesystem_uuid), str(other)]
        subprocess.run(words, check=True, capture_output=True)
        found = in_namespace(partial(filled, disk, "btrfs", scratch, 512))
    assert found.after == found.before


def test_the_root_of_a_btrfs_is_its_default_subvolume(scratch: Path) -> None:
    disk = used_disk(scratch / "disk", SIZE)

    def listed() -> tuple[str, list[str]]:
        filled(disk, "btrfs", scratch, 512)
        root = root_of(disk, "btrfs")
        with loop_device(disk, offset_bytes=root.start_bytes, size_bytes=root.size_bytes, read_only=True) as loop:
            linux.mount(str(loop), str(scratch / "mounted"), "btrfs", linux.MountFlag.RDONLY, "subvol=/")
            try:
                said = _said("btrfs", "subvolume", "get-default", scratch / "mounted")
                return said.split()[-1], os.listdir(scratch / "mounted")  # noqa: PTH208
            finally:
                linux.umount(str(scratch / "mounted"))

    assert in_namespace(listed) == ("@", ["@"])


@pytest.mark.parametrize("kind", KINDS)
def test_its_features_are_those_that_are_listed(kind: str, scratch: Path) -> None:
    disk = used_disk(scratch / "disk", SIZE)
    said = in_namespace(lambda: filled(disk, kind, scratch, 512)).features
    if kind == "xfs":
        # ftype, sparse inodes, bigtime; free inode and reference count trees, their count of blocks
        for value in ("sectsize = 4096", "features_incompat = 0xb", "features_ro_compat = 0xd"):
            assert value in said.splitlines()
    else:
        # A default subvolume, mixed and extended references, large and skinny metadata; the free space tree, valid.
        flags = {name: value for name, _, value in (line.partition("\t\t") for line in said.splitlines())}
        assert int(flags["incompat_flags"].strip(), 16) & ~0x20 == 0x143
        assert flags["compat_ro_flags"].strip() == "0x3"
        assert flags["csum_type"].strip() == "0 (crc32c)"


def test_what_an_old_guest_does_not_know_is_left_out(scratch: Path) -> None:
    old = Distribution("centos", "7", "", "")
    with attached(used_disk(scratch / "xfs", SIZE)) as disk:
        fill.make(disk, "xfs", str(uuid.uuid4()), without=unknown_to(old, "xfs"))
        said = _said(*FEATURES["xfs"], disk).splitlines()
    # ftype; the free inode tree
    assert {"features_incompat = 0x1", "features_ro_compat = 0x1"} <= set(said)
    with attached(used_disk(scratch / "btrfs", SIZE)) as disk:
        fill.make(disk, "btrfs", str(uuid.uuid4()), without=unknown_to(old, "btrfs"))
        assert "compat_ro_flags\t\t0x0\n" in _said(*FEATURES["btrfs"], disk)


def test_a_damaged_template_is_refused(scratch: Path) -> None:
    def refused() -> str:
        with template(scratch, damaged=True) as (source, _), pytest.raises(DamagedTemplate) as caught:
            integrity.refuse_damaged(source, cached=True)
        return str(caught.value)

    assert "template.img is damaged: the checksum" in in_namespace(refused)


@pytest.mark.parametrize("kind", KINDS)
def test_a_disk_that_becomes_full_is_told(kind: str, scratch: Path) -> None:
    """Where the plan foresaw too little."""
    disk = used_disk(scratch / "disk", SIZE)
    root = dataclasses.replace(root_of(disk, kind), size_bytes=320 * MIB)

    def refused() -> None:
        image = scratch / "template.img"
        with scratch_filesystem(image, scratch / "tree", 512 * MIB) as place:
            (place / "large").write_bytes(os.urandom(340 * MIB))
        with image.open("rb") as file, claim(disk, scratch / "run") as device:
            source = Template(_manifest(image, file.fileno()), file.fileno(), image)
            with pytest.raises(Exception, match="No space left on device"):
                fill.fill(source, device, root, scratch / "run")

    in_namespace(refused)


def test_a_node_without_the_tools_is_told_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("osprovider.run.BASE_ENVIRONMENT", {"PATH": str(tmp_path)})
    with pytest.raises(RequestError, match=r"layout\.filesystem is btrfs, and .*: apt install btrfs-progs"):
        fill.require("btrfs")


def test_the_kernel_is_asked_whether_it_knows_a_file_system() -> None:
    assert {kind: linux.has_filesystem(kind) for kind in ("xfs", "btrfs", "nosuchfs")} == {
        "xfs": True,
        "btrfs": True,
        "nosuchfs": False,
    }
