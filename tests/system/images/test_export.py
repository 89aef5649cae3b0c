"""Templates written for other tools: whole and the same as what was prepared, or not at all."""

from __future__ import annotations

import dataclasses
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from osprovider import linux
from osprovider.disk.filesystem import read_superblock
from osprovider.disk.scan import scan_extents
from osprovider.errors import ImageError
from osprovider.images.diskimage.rebuilt_table import pieces
from osprovider.images.diskimage.table import read_image_table
from osprovider.images.export import ExportFormat, export
from osprovider.manifest import Filesystem, ImagePartition, ImageTable, Template
from osprovider.paths import Directories
from tests.support.manifests import manifest
from tests.support.sparse import sparse_file
from tests.system.create.cloud import ROOT, Part, make_disk

MIB = 1 << 20
SIZE = 64 * MIB
ROOT_TYPE = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"
CHECKOUT = Path(__file__).resolve().parents[3]


@pytest.fixture
def directories(tmp_path: Path) -> Directories:
    return Directories(tmp_path / "etc", tmp_path / "cache", tmp_path / "run", tmp_path / "share")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """One of everything that a system's tree may have."""
    root = tmp_path / "tree"
    root.mkdir()
    (root / "etc").mkdir()
    (root / "etc" / "fstab").write_text("# nothing\n")
    (root / "data").write_bytes(os.urandom(3 * MIB))
    (root / "hard link").hardlink_to(root / "data")
    (root / "link").symlink_to("/etc/fstab")
    (root / "ping").write_bytes(b"program")
    (root / "ping").chmod(0o4755)
    with (root / "sparse").open("wb") as file:
        file.truncate(8 * MIB)
        os.pwrite(file.fileno(), b"x", 4 * MIB)
    os.chown(root / "etc" / "fstab", 1234, 5678)
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mkfifo(root / "fifo")
    os.setxattr(root / "data", "user.note", b"\0\xff")
    subprocess.run(["setcap", "cap_net_raw=ep", root / "ping"], check=True)
    subprocess.run(["setfacl", "-m", "u:1000:r", root / "etc"], check=True)
    for path in (root, *root.rglob("*")):  # mkfs takes whole seconds over
        os.utime(path, (1_000_000_000, 1_700_000_000), follow_symlinks=False)
    return root


@pytest.fixture
def filesystem(tree: Path, tmp_path: Path) -> Path:
    path = sparse_file(tmp_path / "root.img", SIZE)
    subprocess.run(["mkfs.ext4", "-q", "-d", tree, path], check=True)
    return path


def _template(path: Path, table: ImageTable | None, filesystem: Filesystem, *, built_here: bool) -> Template:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    size = path.stat().st_size
    found = manifest(
        size_bytes=size, table=table, filesystem=filesystem, extents=scan_extents(fd, size), built_here=built_here
    )
    return Template(found, fd, path)


def _filesystem(path: Path) -> Filesystem:
    found = read_superblock(path)
    return Filesystem(found.type, found.uuid, "", found.block_size, found.size_bytes, found.used_bytes)


@pytest.fixture
def template(filesystem: Path) -> Iterator[Template]:
    """A file system of our own."""
    made = _template(filesystem, None, _filesystem(filesystem), built_here=True)
    yield made
    os.close(made.fd)


@pytest.fixture
def disk(filesystem: Path, tmp_path: Path) -> Path:
    """A publisher's disk: boot code, a partition from the first sector that can be on, and a root."""
    path = sparse_file(tmp_path / "published.raw", SIZE + 8 * MIB)
    words = ["sgdisk", "--set-alignment=1", "--new=14:34:2047", "--typecode=14:ef02", f"--new=1:8192:+{SIZE // 1024}K"]
    subprocess.run(
        [*words, "--typecode=1:8304", "--attributes=1:set:2", "--change-name=1:", "--change-name=14:", path],
        check=True,
        capture_output=True,
    )
    with path.open("r+b") as file:
        os.pwrite(file.fileno(), b"boot code" * 40, 0)
        os.pwrite(file.fileno(), b"core image" * 1000, 34 * 512)
        os.pwrite(file.fileno(), filesystem.read_bytes(), 4 * MIB)
    return path


@pytest.fixture
def published(disk: Path, tmp_path: Path) -> Iterator[Template]:
    """That disk, as it is kept: without its table."""
    said = subprocess.run(
        ["sgdisk", "--print", "--info=1", "--info=14", disk], capture_output=True, text=True, check=True
    )
    words = {line.partition(": ")[0]: line.partition(": ")[2] for line in said.stdout.splitlines()}
    assert words["Partition unique GUID"]
    guids = [line.split()[-1].lower() for line in said.stdout.splitlines() if "unique GUID" in line]
    (disk_guid,) = (line.split()[-1].lower() for line in said.stdout.splitlines() if "identifier (GUID)" in line)
    inside = _filesystem(tmp_path / "root.img")
    bios = "21686148-6449-6e6f-744e-656564454649"
    parts = (
        ImagePartition(14, "bios_boot", 34 * 512, 2014 * 512, bios, guids[1], "", 0, None, None),
        ImagePartition(1, "root", 4 * MIB, SIZE, ROOT_TYPE, guids[0], "", 4, inside, "/"),
    )
    table = ImageTable("gpt", disk_guid, 512, parts)
    kept = tmp_path / "kept.img"
    subprocess.run(["cp", "--sparse=always", disk, kept], check=True)
    with kept.open("r+b") as file:
        for offset, data in pieces(table, kept.stat().st_size):
            os.pwrite(file.fileno(), bytes(len(data)), offset)
    made = _template(kept, table, inside, built_here=False)
    yield made
    os.close(made.fd)


def test_raw_is_the_template(template: Template, directories: Directories, tmp_path: Path) -> None:
    output = tmp_path / "out.raw"
    export(template, "raw", output, directories, force=False)
    assert output.read_bytes() == template.path.read_bytes()
    assert output.stat().st_blocks <= template.path.stat().st_blocks + 8


def _without_chs(disk: Path) -> bytes:
    """A disk's content but for the addresses by cylinder in its protective MBR, which each tool writes differently."""
    content = bytearray(disk.read_bytes())
    for entry in range(446, 510, 16):
        content[entry + 1 : entry + 4] = content[entry + 5 : entry + 8] = bytes(3)
    return bytes(content)


def test_a_disk_gets_its_table_back(published: Template, disk: Path, directories: Directories, tmp_path: Path) -> None:
    output = tmp_path / "out.raw"
    export(published, "raw", output, directories, force=False)
    assert _without_chs(output) == _without_chs(disk)
    assert output.stat().st_blocks * 512 < SIZE


def test_qcow2_holds_the_same(published: Template, disk: Path, directories: Directories, tmp_path: Path) -> None:
    output = tmp_path / "out.qcow2"
    export(published, "qcow2", output, directories, force=False)
    raw = tmp_path / "converted.raw"
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", output, raw], check=True)
    assert _without_chs(raw) == _without_chs(disk)
    assert sorted(path.name for path in tmp_path.glob("*out*")) == ["out.qcow2"]
    assert sorted(path.name for path in tmp_path.glob(".out*")) == []


@pytest.mark.parametrize("filesystem_type", ["xfs", "btrfs"])
def test_blocks_are_shared_where_the_file_system_can(
    filesystem_type: str, template: Template, directories: Directories, tmp_path: Path
) -> None:
    linux.private_mount_namespace()
    backing, mountpoint = tmp_path / "backing", tmp_path / "mounted"
    sparse_file(backing, 512 * MIB)
    subprocess.run([f"mkfs.{filesystem_type}", "-q", backing], check=True)
    mountpoint.mkdir()
    subprocess.run(["mount", "-o", "loop", backing, mountpoint], check=True)
    try:
        kept = mountpoint / "template.img"
        subprocess.run(["cp", template.path, kept], check=True)
        with kept.open("rb") as file:
            export(
                Template(template.manifest, file.fileno(), kept), "raw", mountpoint / "out", directories, force=False
            )
        assert (mountpoint / "out").read_bytes() == kept.read_bytes()
        mapped = subprocess.run(
            ["filefrag", "-v", mountpoint / "out"], capture_output=True, text=True, check=True
        ).stdout
        assert "shared" in mapped
    finally:
        subprocess.run(["umount", mountpoint], check=True)


def _described(root: Path) -> dict[str, object]:
    """All that a file system knows of a tree, times of access aside."""
    found: dict[str, object] = {}
    links: dict[int, str] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if name == "lost+found":
            continue
        status = path.lstat()
        attributes = {
            each: os.getxattr(path, each, follow_symlinks=False) for each in os.listxattr(path, follow_symlinks=False)
        }
        content = path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[name] = (
            *(status.st_mode, status.st_uid, status.st_gid, status.st_rdev, status.st_mtime_ns),
            *(attributes, content, links.setdefault(status.st_ino, name)),
        )
    return found


def _unpack(archive: Path, directory: Path) -> None:
    directory.mkdir()
    words = ["tar", "--extract", "--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner"]
    subprocess.run([*words, f"--file={archive}", f"--directory={directory}"], check=True)


def test_tar_holds_all_that_files_have(
    template: Template, tree: Path, directories: Directories, tmp_path: Path
) -> None:
    output, unpacked = tmp_path / "out.tar", tmp_path / "unpacked"
    export(template, "tar", output, directories, force=False)
    _unpack(output, unpacked)
    assert _described(unpacked) == _described(tree)
    assert (unpacked / "sparse").stat().st_blocks < MIB // 512
    again = tmp_path / "again.tar"
    export(template, "tar", again, directories, force=False)
    assert again.read_bytes() == output.read_bytes()


def test_the_tree_of_what_others_made_is_read_in_the_appliance(
    published: Template, tree: Path, directories: Directories, tmp_path: Path
) -> None:
    output, unpacked = tmp_path / "out.tar", tmp_path / "unpacked"
    export(published, "tar", output, directories, force=False)
    _unpack(output, unpacked)
    assert _described(unpacked) == _described(tree)


def test_the_tree_of_a_btrfs_is_that_of_its_systems_subvolumes(directories: Directories, tmp_path: Path) -> None:
    files = {"/@/etc/hostname": "published\n", "/@home/me/.profile": "", "/@snapshot/etc/hostname": "of before\n"}
    made = Part(1, ROOT, 128, "btrfs", subvolumes=("@", "@home", "@snapshot"), files={**files, "/@/home/.hidden": ""})
    make_disk(tmp_path / "disk", [made])
    table = read_image_table(tmp_path / "disk", "x")
    assert table is not None
    inside = Filesystem("btrfs", made.uuid, "", 4096, 128 * MIB, 1 * MIB, subvolumes=(("/", "@"), ("/home", "@home")))
    parts = tuple(dataclasses.replace(part, filesystem=inside, mount="/") for part in table.partitions)
    template = _template(tmp_path / "disk", dataclasses.replace(table, partitions=parts), inside, built_here=False)
    try:
        export(template, "tar", tmp_path / "out.tar", directories, force=False)
    finally:
        os.close(template.fd)
    _unpack(tmp_path / "out.tar", tmp_path / "unpacked")
    unpacked = sorted(str(path.relative_to(tmp_path / "unpacked")) for path in (tmp_path / "unpacked").rglob("*"))
    assert unpacked == ["etc", "etc/hostname", "home", "home/me", "home/me/.profile"]


@pytest.mark.parametrize("kind", ["raw", "tar"])
def test_standard_output_gets_the_same(
    kind: ExportFormat, published: Template, template: Template, directories: Directories, tmp_path: Path
) -> None:
    source = published if kind == "raw" else template
    output = tmp_path / "out"
    export(source, kind, output, directories, force=False)
    reading, writing = os.pipe()
    with (tmp_path / "piped").open("wb") as piped:
        cat = subprocess.Popen(["cat"], stdin=reading, stdout=piped)
        os.close(reading)
        before = os.dup(1)
        try:
            sys.stdout.flush()
            os.dup2(writing, 1)
            export(source, kind, None, directories, force=False)
        finally:
            os.dup2(before, 1)
            os.close(before)
            os.close(writing)
            cat.wait()
    assert subprocess.run(["cmp", output, tmp_path / "piped"], check=False).returncode == 0


def test_a_file_that_is_there_stays(template: Template, directories: Directories, tmp_path: Path) -> None:
    output = tmp_path / "out.raw"
    output.write_text("mine")
    with pytest.raises(ImageError, match=r"out\.raw: is there already; name another file, or use --force"):
        export(template, "raw", output, directories, force=False)
    assert output.read_text() == "mine"
    export(template, "raw", output, directories, force=True)
    assert output.stat().st_size == SIZE


@pytest.mark.parametrize("kind", ["raw", "qcow2", "tar"])
def test_only_its_owner_can_read_it(
    kind: ExportFormat, template: Template, directories: Directories, tmp_path: Path
) -> None:
    """The hashes of passwords may be in it."""
    export(template, kind, tmp_path / "out", directories, force=False)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o600


def test_a_device_is_not_written(template: Template, directories: Directories) -> None:
    with pytest.raises(ImageError, match="/dev/null: is no plain file: name one"):
        export(template, "raw", Path("/dev/null"), directories, force=True)


def test_a_place_that_is_not_there_is_told_with_the_way_out(
    template: Template, directories: Directories, tmp_path: Path
) -> None:
    with pytest.raises(ImageError, match=rf"{tmp_path}/a/b: cannot be written: .*; name a file in a directory that is"):
        export(template, "raw", tmp_path / "a" / "b", directories, force=False)


def test_what_a_killed_export_left_is_in_nobodys_way(
    template: Template, directories: Directories, tmp_path: Path
) -> None:
    (tmp_path / ".out.raw.new").write_bytes(b"x" * (SIZE + 1))
    export(template, "raw", tmp_path / "out.raw", directories, force=False)
    assert (tmp_path / "out.raw").read_bytes() == template.path.read_bytes()
    assert not (tmp_path / ".out.raw.new").exists()


@pytest.mark.parametrize("kind", ["raw", "qcow2", "tar"])
def test_a_disk_that_fills_is_said_and_nothing_stays(
    kind: ExportFormat, template: Template, directories: Directories, tmp_path: Path
) -> None:
    linux.private_mount_namespace()
    full = tmp_path / "full"
    full.mkdir()
    linux.mount("tmpfs", str(full), "tmpfs", linux.MountFlag.NOSUID, "size=1m")
    try:
        with pytest.raises(ImageError, match=r"full/out: cannot be written: there is no space left"):
            export(template, kind, full / "out", directories, force=False)
        assert list(full.iterdir()) == []
    finally:
        linux.umount(str(full))


@pytest.mark.parametrize(("kind", "made"), [("raw", "template"), ("tar", "template"), ("tar", "published")])
@pytest.mark.parametrize(
    ("broken", "reason"), [("/dev/full", "no space left on device"), (None, "broken pipe")], ids=["full", "closed"]
)
def test_standard_output_that_takes_no_more_is_said(
    kind: ExportFormat,
    made: str,
    broken: str | None,
    reason: str,
    directories: Directories,
    request: pytest.FixtureRequest,
) -> None:
    template: Template = request.getfixturevalue(made)
    if broken is None:
        reading, writing = os.pipe()
        os.close(reading)
    else:
        writing = os.open(broken, os.O_WRONLY)
    before = os.dup(1)
    try:
        sys.stdout.flush()
        os.dup2(writing, 1)
        way_out = "see what became of its reader, or name a file"
        with pytest.raises(ImageError, match=f"^standard output: cannot be written: {reason}; {way_out}$"):
            export(template, kind, None, directories, force=False)
    finally:
        os.dup2(before, 1)
        os.close(before)
        os.close(writing)


@pytest.mark.parametrize("kind", ["raw", "qcow2", "tar"])
def test_a_damaged_template_is_not_exported(
    kind: ExportFormat, template: Template, directories: Directories, tmp_path: Path
) -> None:
    with template.path.open("r+b") as file:
        offset = template.manifest.extents[-1].offset
        os.pwrite(file.fileno(), b"\xff" + os.pread(file.fileno(), 1, offset)[:0], offset)
        os.pwrite(file.fileno(), bytes([os.pread(file.fileno(), 1, offset + 1)[0] ^ 1]), offset + 1)
    with pytest.raises(ImageError, match=rf"^template .*/root\.img is damaged.* byte {offset}\b"):
        export(template, kind, tmp_path / "out", directories, force=False)
    assert not (tmp_path / "out").exists()
