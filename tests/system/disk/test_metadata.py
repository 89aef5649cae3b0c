"""An ext file system where it lies in an image: brought to the state that ours have, and its own blocks found."""

from __future__ import annotations

import os
import re
import subprocess
import uuid
from pathlib import Path

import pytest

from osprovider.descriptors import opened
from osprovider.disk import filesystem
from osprovider.disk.metadata import ExtInFile
from osprovider.errors import GuestError
from tests.support.sparse import sparse_file
from tests.system.create.cloud import install_filesystem
from tests.system.disk.support import MIB, copied, used_disk

SIZE = 96 * MIB
STARTS = [0, 4 * MIB, 63 << 9]  # alone; as disks are divided; as they were once, at a multiple of no block
KEPT = 20


def debugfs(path: Path, *requests: str) -> str:
    words = ["debugfs", "-w", "-f", "-", str(path)]
    return subprocess.run(words, input="\n".join(requests), text=True, check=True, capture_output=True).stdout


def log_of(path: Path, block_size: int) -> list[int]:
    """Where the blocks of a journal are, in bytes, the one of its superblock left out."""
    said = subprocess.run(["dumpe2fs", "-h", path], check=True, capture_output=True, text=True).stdout
    count = int(found[1]) if (found := re.search(r"^Total journal blocks: *(\d+)$", said, re.MULTILINE)) else 0
    said = debugfs(path, *(f"bmap <8> {number}" for number in range(1, count)))
    return [int(line) * block_size for line in said.splitlines() if line.isdecimal()]


def free_of(path: Path) -> list[int]:
    """Where the free blocks are, in bytes."""
    said = subprocess.run(["dumpe2fs", path], check=True, capture_output=True, text=True).stdout
    size = filesystem.read_superblock(path).block_size
    runs = re.findall(r"(\d+)-(\d+)|(\d+)", " ".join(re.findall(r"^  Free blocks: (.+)$", said, re.MULTILINE)))
    return [n * size for first, last, one in runs for n in range(int(first or one), int(last or one) + 1)]


def make(path: Path, kind: str, kept: Path) -> None:
    """A file system with some files; its journal, and what is free, are full of what was there once."""
    used_disk(path, SIZE)
    block_size = 1024 if kind in ("fragmented", "ext3") else 4096
    words = ["mke2fs", "-q", "-F", "-t", "ext4" if kind == "fragmented" else kind, "-b", str(block_size), "-I", "256"]
    subprocess.run([*words, "-O", "^has_journal", "-E", "nodiscard", path], check=True)
    debugfs(path, *(f"write {kept} kept{number}" for number in range(KEPT)))
    if kind == "fragmented":  # what is free is single blocks, where it is taken for a journal
        (block := path.with_name("block")).write_bytes(b"b" * 1024)
        sparse_file(rest := path.with_name("rest"), 1).write_bytes(b"r" * (SIZE - (1 << 20) * KEPT - (21 << 20)))
        debugfs(path, *(f"write {block} small{number}" for number in range(8000)), f"write {rest} rest")
        left = int(debugfs(path, "stats").partition("Free blocks:")[2].split()[0]) - 400
        rest.write_bytes(b"r" * left * 1024)
        debugfs(path, f"write {rest} more", *(f"rm small{number}" for number in range(0, 8000, 2)))
        subprocess.run(["e2fsck", "-f", "-y", path], check=False, capture_output=True)  # tidies up the directory
    if kind != "ext2":
        size = 1 if kind == "fragmented" else 4
        subprocess.run(["tune2fs", "-J", f"size={size}", path], check=True, capture_output=True)
        with path.open("r+b", buffering=0) as file:
            for place in log_of(path, block_size):
                os.pwrite(file.fileno(), b"\xa5" * block_size, place)


@pytest.fixture(params=["ext4", "ext3", "ext2", "fragmented"])
def kind(request: pytest.FixtureRequest) -> str:
    """A type of the family, or an ext4 whose journal is in many pieces."""
    return str(request.param)


@pytest.fixture
def kept(scratch: Path) -> Path:
    """What every file of the file system holds."""
    path = scratch / "kept"
    path.write_bytes(bytes(range(1, 255)) * (MIB // 254))
    return path


@pytest.fixture
def made(kind: str, kept: Path, shared: Path, scratch: Path) -> Path:
    """A file system by itself, in a file that is no hole anywhere."""
    original = shared / f"{kind}.img"
    if not original.exists():
        make(made := scratch / "made.img", kind, kept)
        made.rename(original)
    return copied(original, scratch / "alone.img")


def placed(alone: Path, start: int) -> Path:
    """The file system in an image, with something before it and behind it."""
    path = used_disk(alone.with_name("image.img"), SIZE + 6 * MIB)
    with path.open("r+b") as image:
        image.seek(start)
        image.write(alone.read_bytes())
    return path


def taken_out(image: Path, start: int) -> Path:
    """The file system by itself again; what is around it is as it was."""
    data = image.read_bytes()
    assert data[:start] + data[start + SIZE :] == b"\xa5" * (len(data) - SIZE)
    path = image.with_name("out.img")
    path.write_bytes(data[start : start + SIZE])
    return path


def assert_sound(path: Path) -> None:
    subprocess.run(["e2fsck", "-f", "-n", str(path)], check=True, capture_output=True)


def assert_kept(path: Path, kept: Path) -> None:
    target = path.with_name("read")
    for number in (0, KEPT - 1):
        debugfs(path, f"dump kept{number} {target}")
        assert target.read_bytes() == kept.read_bytes()


@pytest.mark.parametrize("start", STARTS)
def test_settled_it_has_its_files_and_nothing_that_was_there_once(
    kind: str, made: Path, kept: Path, start: int
) -> None:
    image = placed(made, start)
    log = log_of(made, filesystem.read_superblock(made).block_size)
    assert len(log) > 1000 or kind == "ext2"
    with image.open("r+b") as file:
        ExtInFile(file.fileno(), start).settle(SIZE)
    out = taken_out(image, start)
    assert_sound(out)
    assert_kept(out, kept)
    data = out.read_bytes()
    assert not any(data[place] for place in (*log, *free_of(out)))
    assert len(free_of(out)) > 1000
    # The kernel goes on with its journal.
    assert install_filesystem(out, "touch root/new; sync; cmp root/kept0 root/kept1 && ls root/new") == "root/new\n"
    assert_sound(out)


@pytest.mark.parametrize("start", STARTS[:2])
def test_its_own_blocks_are_found_and_no_file_is_among_them(kind: str, made: Path, kept: Path, start: int) -> None:
    image, identity = placed(made, start), str(uuid.uuid4())
    with image.open("r+b") as file:
        found = ExtInFile(file.fileno(), start)
        found.settle(SIZE)
        ranges = found.metadata(64 * MIB)
        emptied = sparse_file(image.with_name("emptied"), image.stat().st_size)
        with emptied.open("r+b") as target:
            for offset, length in ranges:
                assert offset % 4096 == length % 4096 == 0
                os.pwrite(target.fileno(), os.pread(file.fileno(), length, offset), offset)
            ExtInFile(target.fileno(), start).set_uuid(identity)
            for offset, length in ranges:
                os.pwrite(file.fileno(), os.pread(target.fileno(), length, offset), offset)
    assert 0 < sum(length for _, length in ranges) < 16 * MIB
    out = taken_out(image, start)
    assert filesystem.read_superblock(out).uuid == identity
    assert_sound(out)
    assert_kept(out, kept)


def test_no_metadata_are_found_that_do_not_fit_into_memory_or_lie_between_pages(made: Path) -> None:
    with made.open("r+b") as file:
        assert ExtInFile(file.fileno()).metadata(MIB // 32) == []
        assert ExtInFile(file.fileno(), is_ours=True).metadata(MIB // 32) == []
        assert ExtInFile(file.fileno()).metadata(64 * MIB) == ExtInFile(file.fileno(), is_ours=True).metadata(64 * MIB)
    image = placed(made, STARTS[-1])
    with image.open("r+b") as file:
        assert ExtInFile(file.fileno(), STARTS[-1]).metadata(64 * MIB) == []


@pytest.mark.parametrize("start", STARTS)
def test_one_that_was_taken_while_in_use_has_its_journal_replayed(scratch: Path, start: int) -> None:
    path, taken = scratch / "root.img", scratch / "taken.img"
    filesystem.make(path, "ext4", uuid=str(uuid.uuid4()), label="", size_bytes=SIZE)
    write = "echo hello > root/written; head --bytes=20M /dev/zero | tr '\\0' d > root/dropped; sync --file-system root"
    more = "rm root/dropped; sync --file-system root"
    install_filesystem(path, f"{write}; {more}; cp --sparse=always {path} {taken}")
    assert b"d" * 4096 in taken.read_bytes()
    image = placed(taken, start)
    with image.open("r+b") as file:
        ExtInFile(file.fileno(), start).settle(SIZE)
    out = taken_out(image, start)
    assert_sound(out)
    assert b"d" * 4096 not in out.read_bytes()
    assert install_filesystem(out, "cat root/written") == "hello\n"


def test_one_that_had_to_be_repaired_loses_what_was_deleted_as_well(kept: Path, scratch: Path) -> None:
    make(path := scratch / "alone.img", "ext4", kept)
    debugfs(path, "mkdir lost", "clri lost")
    with path.open("r+b") as file:
        ExtInFile(file.fileno()).settle(SIZE)
    assert_sound(path)
    assert_kept(path, kept)
    data = path.read_bytes()
    assert not any(data[place] for place in free_of(path))


@pytest.mark.parametrize(
    ("spoilt", "message"),
    [
        ("set_super_value blocks_count 1000000", "it has .* bytes, of which only 100663296 are there"),
        ("feature has_journal test_fs FEATURE_I30", "e2fsck could not repair it and ended with 8"),
    ],
)
def test_what_cannot_be_settled_is_told(kept: Path, scratch: Path, spoilt: str, message: str) -> None:
    make(path := scratch / "alone.img", "ext4", kept)
    debugfs(path, spoilt)
    with path.open("r+b") as file, pytest.raises(GuestError, match=message):
        ExtInFile(file.fileno()).settle(SIZE)
    with opened(os.open(used_disk(scratch / "none", MIB), os.O_RDWR)) as fd:
        assert ExtInFile(fd).metadata(64 * MIB) == []
        with pytest.raises(GuestError, match="e2fsck could not repair it"):
            ExtInFile(fd).set_uuid(str(uuid.uuid4()))
