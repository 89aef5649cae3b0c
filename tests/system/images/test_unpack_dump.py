"""Dumps of dump(8), restored: the same tree as restore(8) makes by itself, and nothing of a dump that is not sound."""

from __future__ import annotations

import bz2
import os
import random
import signal
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from osprovider.disk.loop import loop_device
from osprovider.errors import ImageError
from osprovider.images import foreign, formats, streams
from osprovider.images.archive import dump_inflate, unpack
from osprovider.images.archive.dump import RECORD
from osprovider.images.archive.unpack import unpack_dump
from tests.support.leftovers import no_leftovers
from tests.support.processes import family
from tests.support.trees import populate, read_tree, scratch_filesystem

_SIZE = 64 << 20
_TAPE, _INODE, _BITS, _ADDRESS, _END, _CLEARED = range(1, 7)
_KIND, _VOLUME, _NUMBER, _MAGIC, _CHECKSUM, _COUNT, _LEVEL, _FLAGS, _NTREC, _ATTRIBUTES = (
    *(0, 3, 5, 6, 7, 40, 173),
    *(222, 224, 225),
)
"""Words of a header (protocols/dumprestore.h)."""
_INODE_AT = 32  # bytes; its mode first, its size at 8


@pytest.fixture(scope="module")
def dumped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with dumps of the same file system: ``plain``, ``z``, ``j``, ``y`` and one of level ``1``."""
    base = tmp_path_factory.mktemp("dumps")
    _make_dumps(base, "ext4", _fill, {"plain": (), "z": ("-z6",), "j": ("-j6",), "y": ("-y",), "z32": ("-z", "-b32")})
    return base


def _fill(root: Path) -> None:
    populate(root, longest=254)


def _make_dumps(base: Path, kind: str, fill: Callable[[Path], None], wanted: dict[str, tuple[str, ...]]) -> None:
    image = base / "source.img"
    with scratch_filesystem(image, base / "source", _SIZE, "-t", kind) as root:
        fill(root)
    _dump(image, base, wanted)


def _dump(image: Path, base: Path, wanted: dict[str, tuple[str, ...]]) -> None:
    with loop_device(image, read_only=True) as loop:
        for name, options in wanted.items():
            words: list[str | Path] = ["dump", "-0", "-q", *options, "-f", base / name, loop]
            subprocess.run(words, check=True, capture_output=True)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """An empty file system of our own, like the one that images are unpacked into."""
    with scratch_filesystem(tmp_path / "target.img", tmp_path / "root", _SIZE) as root:
        yield root


def _restore(path: Path, root: Path) -> None:
    with streams.decompressed(path, "none", limit_bytes=1 << 40) as stream:
        unpack_dump(stream, root, name=str(path))


def _restored_alone(path: Path, tmp_path: Path) -> dict[bytes, object]:
    """What restore(8) makes of a dump by itself, as root."""
    with scratch_filesystem(tmp_path / "alone.img", tmp_path / "alone", _SIZE) as alone:
        subprocess.run(["restore", "-r", "-f", path], cwd=alone, check=True, capture_output=True)
        (alone / "restoresymtable").unlink()
        return _comparable(alone)


def _comparable(root: Path) -> dict[bytes, object]:
    """A tree but for when its top was changed, which restore(8) itself does last."""
    tree = read_tree(root)
    top = tree.pop(b".")
    return {**tree, b".": (top.mode, top.owner, top.xattrs)}


@pytest.mark.parametrize("name", ["plain", "z", "j", "z32"])
def test_the_tree_is_the_one_that_restore_makes(name: str, dumped: Path, root: Path, tmp_path: Path) -> None:
    _restore(dumped / name, root)
    assert _comparable(root) == _restored_alone(dumped / name, tmp_path)


@pytest.mark.parametrize("kind", ["ext2", "ext3"])
def test_dumps_of_older_file_systems(kind: str, root: Path, tmp_path: Path) -> None:
    _make_dumps(tmp_path, kind, _fill, {"plain": ()})
    _restore(tmp_path / "plain", root)
    assert _comparable(root) == _restored_alone(tmp_path / "plain", tmp_path)


def test_the_tree_is_the_one_that_was_dumped(dumped: Path, root: Path, tmp_path: Path) -> None:
    _restore(dumped / "z", root)
    with scratch_filesystem(tmp_path / "again.img", tmp_path / "again", _SIZE) as again:
        _fill(again)
        wanted = read_tree(again)
    found = read_tree(root)
    assert found.keys() == wanted.keys()
    for name in wanted:
        assert (found[name].mode, found[name].owner, found[name].content, found[name].xattrs, found[name].links) == (
            *(wanted[name].mode, wanted[name].owner, wanted[name].content, wanted[name].xattrs, wanted[name].links),
        ), name


def test_nothing_of_restores_own_is_left(dumped: Path, root: Path) -> None:
    _restore(dumped / "plain", root)
    assert not [name for name in os.listdir(root) if name.startswith(("restoresym", "rst"))]  # noqa: PTH208


def test_attributes_that_take_more_privileges_do_not_cost_a_file_its_others(root: Path, tmp_path: Path) -> None:
    # restore(8) gives up a file's attributes at the first one that it may not set
    def fill(source: Path) -> None:
        for name in ("file", "other"):
            (source / name).write_text("x")
            os.setxattr(source / name, "trusted.overlay.opaque", b"y")
            os.setxattr(source / name, "security.selinux", b"system_u:object_r:bin_t:s0")
            subprocess.run(["setcap", "cap_net_raw+ep", source / name], check=True)
            os.setxattr(source / name, "user.z", b"z" * (10 if name == "file" else 400))
            os.setxattr(source / name, "trusted.last", b"y" * 300)
        os.setxattr(source / "file", "user.after", b"a")
        (source / "only").write_text("x")
        os.setxattr(source / "only", "trusted.overlay.opaque", b"y")

    _make_dumps(tmp_path, "ext4", fill, {"dump": ()})
    _restore(tmp_path / "dump", root)
    assert set(os.listxattr(root / "file")) == {"security.capability", "user.z", "user.after"}
    assert set(os.listxattr(root / "other")) == {"security.capability", "user.z"}
    assert os.getxattr(root / "other", "user.z") == b"z" * 400
    assert os.listxattr(root / "only") == []


def test_a_dump_of_files_in_their_inodes_is_refused(root: Path, tmp_path: Path) -> None:
    # restore(8) makes zeros of them
    with scratch_filesystem(tmp_path / "source.img", tmp_path / "source", _SIZE, "-O", "inline_data") as source:
        (source / "file").write_text("x")
    _dump(tmp_path / "source.img", tmp_path, {"dump": ()})
    with pytest.raises(ImageError, match=r"byte \d+: files lie in their inodes \(inline_data\), which this node"):
        _restore(tmp_path / "dump", root)


def test_a_directory_with_attributes_in_two_places_is_refused(root: Path, tmp_path: Path) -> None:
    # restore(8) keeps the last ones alone
    def fill(source: Path) -> None:
        (source / "both").mkdir()
        os.setxattr(source / "both", "user.small", b"x")  # in its inode
        os.setxattr(source / "both", "user.large", b"x" * 300)  # in a block

    _make_dumps(tmp_path, "ext4", fill, {"dump": ()})
    with pytest.raises(ImageError, match=r"byte \d+: the directory of inode \d+ has extended attributes in two places"):
        _restore(tmp_path / "dump", root)


def test_a_directory_with_attributes_in_one_place_keeps_them(root: Path, tmp_path: Path) -> None:
    def fill(source: Path) -> None:
        for name, attribute, size in (("block", "trusted.x", 1), ("block", "user.x", 300), ("inode", "user.x", 1)):
            (source / name).mkdir(exist_ok=True)
            os.setxattr(source / name, attribute, b"x" * size)

    _make_dumps(tmp_path, "ext4", fill, {"dump": ()})
    _restore(tmp_path / "dump", root)
    assert (os.listxattr(root / "block"), os.listxattr(root / "inode")) == (["user.x"], ["user.x"])
    assert len(os.getxattr(root / "block", "user.x")) == 300


def test_what_dump_leaves_behind_the_end_of_a_directory_means_nothing(dumped: Path, root: Path, tmp_path: Path) -> None:
    # there may be pieces of any directory that it read before
    dump = bytearray((dumped / "plain").read_bytes())
    short = 0
    for position in _headers(dump)[_INODE]:
        mode, size = struct.unpack_from("<H6xQ", dump, position + _INODE_AT)
        if mode & 0xF000 == 0x4000 and size == RECORD // 2:
            begin = position + RECORD + size
            dump[begin : begin + size] = struct.pack("<IHBB4s", 12, 1000, 8, 200, b"lost").ljust(size, b"\0")
            short += 1
    assert short
    (tmp_path / "dump").write_bytes(dump)
    _restore(tmp_path / "dump", root)
    assert _comparable(root) == _restored_alone(dumped / "plain", tmp_path)


@pytest.mark.parametrize("block_bytes", [1024, 4096])
def test_an_orphan_file_is_left_out(block_bytes: int, root: Path, tmp_path: Path) -> None:
    with scratch_filesystem(
        tmp_path / "new.img", tmp_path / "new", _SIZE, "-O", "orphan_file", "-b", str(block_bytes)
    ) as new:
        _fill(new)
    _dump(tmp_path / "new.img", tmp_path, {"dump": ()})
    _restore(tmp_path / "dump", root)
    assert _comparable(root) == _restored_alone(tmp_path / "dump", tmp_path)


def test_a_file_that_no_directory_has_is_told_of(dumped: Path, root: Path, tmp_path: Path) -> None:
    dump = bytearray((dumped / "plain").read_bytes())
    entry = dump.index(b"hostname") - 8
    dump[entry : entry + 4] = bytes(4)
    (tmp_path / "dump").write_bytes(dump)
    with pytest.raises(ImageError, match=r"cannot be unpacked: expected next file \d+, got \d+"):
        _restore(tmp_path / "dump", root)


def _boot(source: Path) -> None:
    (source / "vmlinuz").write_text("kernel")


@pytest.mark.parametrize("order", [("root", "boot"), ("boot", "root")])
def test_a_pair_of_root_and_boot(order: tuple[str, str], root: Path, tmp_path: Path, dumped: Path) -> None:
    paths = _pair(dumped, tmp_path, order)
    foreign._unpack(paths, dict.fromkeys(paths, formats.ImageFormat("dump", "none")), root, 1 << 40)
    assert (root / "boot/vmlinuz").read_text() == "kernel"
    assert not (root / "boot/restoresymtable").exists()
    assert (root / "etc/hostname").exists()


def _pair(root_dump: Path, tmp_path: Path, order: tuple[str, str]) -> dict[str, Path]:
    (tmp_path / "boot").mkdir()
    _make_dumps(tmp_path / "boot", "ext2", _boot, {"boot": ()})
    paths = {"root": root_dump / "plain", "boot": tmp_path / "boot/boot"}
    return {part: paths[part] for part in order}


def test_a_boot_that_is_a_link_is_not_followed(root: Path, tmp_path: Path) -> None:
    def fill(source: Path) -> None:
        _fill(source)
        (source / "boot").symlink_to(tmp_path / "outside")

    (tmp_path / "outside").mkdir()
    _make_dumps(tmp_path, "ext4", fill, {"plain": ()})
    paths = _pair(tmp_path, tmp_path, ("root", "boot"))
    with pytest.raises(ImageError, match=r"boot/boot: cannot be unpacked: .*/root/boot is not a directory"):
        foreign._unpack(paths, dict.fromkeys(paths, formats.ImageFormat("dump", "none")), root, 1 << 40)
    assert not list((tmp_path / "outside").iterdir())


def test_a_boot_that_is_a_file_is_refused(root: Path, tmp_path: Path) -> None:
    def fill(source: Path) -> None:
        (source / "etc").mkdir()
        (source / "boot").write_text("no directory")

    _make_dumps(tmp_path, "ext4", fill, {"plain": ()})
    paths = _pair(tmp_path, tmp_path, ("root", "boot"))
    with pytest.raises(ImageError, match=r"boot/boot: cannot be unpacked: .*/root/boot is not a directory"):
        foreign._unpack(paths, dict.fromkeys(paths, formats.ImageFormat("dump", "none")), root, 1 << 40)


def test_a_dump_of_another_file_system_is_refused(root: Path, tmp_path: Path) -> None:
    _make_dumps(tmp_path, "ext4", _boot, {"plain": ()})
    paths = {"image": tmp_path / "plain"}
    with pytest.raises(ImageError, match="plain: no root file system: its top holds vmlinuz; make"):
        foreign._unpack(paths, {"image": formats.ImageFormat("dump", "none")}, root, 1 << 40)


# -- what is refused


def test_a_dump_of_level_1_is_refused(root: Path, tmp_path: Path) -> None:
    image, dates = tmp_path / "source.img", tmp_path / "dates"
    with scratch_filesystem(image, tmp_path / "source", _SIZE) as source:
        (source / "file").touch()
    dates.touch()
    with loop_device(image, read_only=True) as loop:
        for name, options in (("zero", ("-0", "-u")), ("one", ("-1",))):
            words: list[str | Path] = ["dump", *options, "-q", "-D", dates, "-f", tmp_path / name, loop]
            subprocess.run(words, check=True, capture_output=True)
    with pytest.raises(ImageError, match=r"one: a dump of level 1, .*make one of level 0"):
        _restore(tmp_path / "one", root)
    assert os.listdir(root) == ["lost+found"]  # noqa: PTH208


def test_a_dump_of_a_directory_is_refused(root: Path, tmp_path: Path, run_directory: Path) -> None:
    # a short path, since there is not more room for it in a dump
    with scratch_filesystem(tmp_path / "source.img", run_directory / f"s{os.getpid()}", _SIZE) as source:
        _fill(source)
        subprocess.run(["sync", "--file-system", source], check=True)
        subprocess.run(["dump", "-0", "-q", "-f", tmp_path / "part", source / "etc"], check=True, capture_output=True)
    source.rmdir()
    with pytest.raises(ImageError, match="a dump of the directory /etc: dump a file system"):
        _restore(tmp_path / "part", root)


@pytest.mark.parametrize("number", [1, 2])
def test_a_name_that_dump_and_restore_lose_is_noticed(number: int, root: Path, tmp_path: Path) -> None:
    def fill(source: Path) -> None:
        for character in "abc"[:number]:
            (source / (character * 255)).touch()

    _make_dumps(tmp_path, "ext4", fill, {"dump": ()})
    with pytest.raises(ImageError, match=r"byte \d+: the directory of inode 2 has a name of 255 bytes"):
        _restore(tmp_path / "dump", root)


def test_a_name_with_a_nul_is_refused(dumped: Path, root: Path, tmp_path: Path) -> None:
    (tmp_path / "odd").write_bytes((dumped / "plain").read_bytes().replace(b"hostname", b"host\0ame"))
    with pytest.raises(ImageError, match=r"byte \d+: damaged: a name is missing in the directory of inode \d+"):
        _restore(tmp_path / "odd", root)


def test_lzo_is_refused(dumped: Path, root: Path) -> None:
    with pytest.raises(ImageError, match=r"y: byte 10240: compressed by LZO \(dump -y\); make it with"):
        _restore(dumped / "y", root)


def test_volumes_are_refused_one_by_one_and_together(root: Path, tmp_path: Path) -> None:
    image = tmp_path / "source.img"
    with scratch_filesystem(image, tmp_path / "source", _SIZE) as source:
        _fill(source)
    with loop_device(image, read_only=True) as loop:
        words: list[str | Path] = ["dump", "-0", "-q", "-M", "-B", "2000", "-f", tmp_path / "volume", loop]
        subprocess.run(words, check=True, capture_output=True)
    first, second = tmp_path / "volume001", tmp_path / "volume002"
    with pytest.raises(ImageError, match=r"volume001: cut off at byte \d+: it has no end"):
        _restore(first, root)
    with pytest.raises(ImageError, match="volume002: volume 2 of a dump: an image is a dump in one piece"):
        _restore(second, root)
    (tmp_path / "both").write_bytes(first.read_bytes() + second.read_bytes())
    _clear(root)
    with pytest.raises(ImageError, match=r"both: byte \d+: (a second volume begins|damaged: no header)"):
        _restore(tmp_path / "both", root)


def _clear(root: Path) -> None:
    """Take out what a refused dump left, as a template's file system never is used again."""
    subprocess.run(["find", root, "-mindepth", "1", "-delete"], check=True)


def test_two_dumps_in_one_file_are_refused(dumped: Path, root: Path, tmp_path: Path) -> None:
    (tmp_path / "both").write_bytes((dumped / "plain").read_bytes() * 2)
    with pytest.raises(ImageError, match=r"both: byte \d+: something follows the dump's end"):
        _restore(tmp_path / "both", root)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cut off at byte 0: no whole dump"),
        (b"x" * 2000, "no dump of ext2, ext3 or ext4"),
        (bytes(4096), "no dump of ext2, ext3 or ext4"),
        (b"xFSdump0" + bytes(4096), "no dump of ext2, ext3 or ext4"),
    ],
)
def test_what_is_no_dump_is_refused(content: bytes, message: str, root: Path, tmp_path: Path) -> None:
    (tmp_path / "dump").write_bytes(content)
    with pytest.raises(ImageError, match=message):
        _restore(tmp_path / "dump", root)


@pytest.mark.parametrize("name", ["plain", "z", "j"])
@pytest.mark.parametrize("share", [0.0001, 0.01, 0.3, 0.6, 0.99])
def test_a_dump_that_is_cut_off_is_refused(name: str, share: float, dumped: Path, root: Path, tmp_path: Path) -> None:
    whole = (dumped / name).read_bytes()
    end = len(whole) if name != "plain" else _headers(whole)[_END][0]
    size = int(end * share)
    (tmp_path / "cut").write_bytes(whole[:size])
    with pytest.raises(ImageError, match=rf"cut: cut off at byte {size}: "), no_leftovers([tmp_path]):
        _restore(tmp_path / "cut", root)


@pytest.mark.parametrize("size", [1024, 2048, 10240, 10242, 10244])
@pytest.mark.parametrize("name", ["plain", "z"])
def test_a_dump_that_is_cut_off_between_its_records_is_refused(
    name: str, size: int, dumped: Path, root: Path, tmp_path: Path
) -> None:
    (tmp_path / "cut").write_bytes((dumped / name).read_bytes()[:size])
    with pytest.raises(ImageError, match=r"cut: cut off at byte \d+: "), no_leftovers([tmp_path]):
        _restore(tmp_path / "cut", root)


@pytest.mark.parametrize("kind", [_TAPE, _CLEARED, _BITS, _INODE, _ADDRESS, _END])
@pytest.mark.parametrize("bit", [0, 24 * 8 + 3, 160 * 8, 164 * 8 + 4, 1023 * 8])
def test_a_bit_that_flipped_in_a_header_is_found(kind: int, bit: int, dumped: Path, root: Path, tmp_path: Path) -> None:
    whole = bytearray((dumped / "plain").read_bytes())
    start = _headers(bytes(whole))[kind][0]
    whole[start + bit // 8] ^= 1 << bit % 8
    (tmp_path / "flipped").write_bytes(whole)
    place = "" if kind == _TAPE else f"byte {start}: "
    with pytest.raises(ImageError, match=f"flipped: {place}(damaged|no dump)"):
        _restore(tmp_path / "flipped", root)


@pytest.mark.parametrize("name", ["z", "j"])
@pytest.mark.parametrize("seed", range(8))
def test_a_bit_that_flipped_in_compressed_data_is_found(
    name: str, seed: int, dumped: Path, root: Path, tmp_path: Path
) -> None:
    whole = bytearray((dumped / name).read_bytes())
    rng = random.Random(seed)
    writes = [(start, length) for start, is_compressed, length in _writes(bytes(whole)) if is_compressed]
    start, length = rng.choice(writes)
    inflate = zlib.decompress if name == "z" else bz2.decompress
    original = bytes(whole[start + 4 : start + 4 + length])
    while (flipped := _flipped(original, rng)) and _same(inflate, original, flipped):
        pass  # not every bit means something
    whole[start + 4 : start + 4 + length] = flipped
    (tmp_path / "flipped").write_bytes(whole)
    with pytest.raises(ImageError, match=rf"flipped: byte {start}: damaged: "), no_leftovers([tmp_path]):
        _restore(tmp_path / "flipped", root)


def _flipped(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _same(inflate: Callable[[bytes], bytes], data: bytes, other: bytes) -> bool:
    try:
        return inflate(data) == inflate(other)
    except (OSError, ValueError, EOFError, zlib.error):
        return False


def test_a_write_that_inflates_to_more_than_was_written_is_refused(dumped: Path, root: Path, tmp_path: Path) -> None:
    whole = (dumped / "z").read_bytes()
    start, _, length = next(write for write in _writes(whole) if write[1])
    bomb = zlib.compress(bytes(16 << 20))[:20000]
    content = whole[:start] + struct.pack("<I", len(bomb) << 4 | 1) + bomb + whole[start + 4 + length :]
    (tmp_path / "bomb").write_bytes(content)
    with pytest.raises(ImageError, match=f"bomb: byte {start}: damaged"):
        _restore(tmp_path / "bomb", root)


def test_a_process_that_inflates_and_is_killed_is_told_of(dumped: Path) -> None:
    whole = (dumped / "z").read_bytes()
    first_bytes = struct.unpack_from("<I", whole, 4 * _NTREC)[0] * RECORD
    words = ["/usr/bin/python3", "-I", "-S", dump_inflate.__file__, str(first_bytes)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        assert program.stdin
        assert program.stdout
        program.stdin.write(whole[RECORD:first_bytes])
        program.stdin.flush()
        assert program.stdout.read(first_bytes - RECORD) == whole[RECORD:first_bytes]  # it has begun
        for pid in family(program.pid) - {program.pid}:
            os.kill(pid, signal.SIGKILL)
        _, said = program.communicate(whole[first_bytes:], timeout=60)
    assert program.returncode == 1
    assert said.decode() == "a process that inflates it was ended; is memory short?\n"


def test_a_file_system_without_room_is_told_of(dumped: Path, tmp_path: Path) -> None:
    with (
        scratch_filesystem(tmp_path / "small.img", tmp_path / "small", 2 << 20) as small,
        pytest.raises(ImageError, match=r"plain: cannot be unpacked: .*No space left on device"),
    ):
        _restore(dumped / "plain", small)


def test_a_file_system_without_inodes_is_told_of(dumped: Path, tmp_path: Path) -> None:
    # restore(8) leaves out what it cannot make, and ends well
    with (
        scratch_filesystem(tmp_path / "small.img", tmp_path / "small", _SIZE, "-N", "48") as small,
        pytest.raises(ImageError, match=r"No space left on device \(it holds more files than the \d+ that"),
    ):
        _restore(dumped / "plain", small)


# -- dumps made on purpose


def _headers(dump: bytes | bytearray) -> dict[int, list[int]]:
    """Where the headers of each kind are."""
    found: dict[int, list[int]] = {}
    position = 0
    while position < len(dump):
        words = struct.unpack_from("<256I", dump, position)
        kind, count = words[_KIND], words[_COUNT]
        found.setdefault(kind, []).append(position)
        if kind in (_INODE, _ADDRESS):
            count -= dump[position + 164 : position + 164 + count].count(0)
        position += RECORD * (1 if kind in (_TAPE, _END) else 1 + count)
    return found


def _writes(dump: bytes) -> list[tuple[int, bool, int]]:
    """Where the writes of a compressed dump are, whether each is compressed, and its length."""
    position, found = struct.unpack_from("<I", dump, 4 * _NTREC)[0] * RECORD, []
    while position < len(dump):
        word = struct.unpack_from("<I", dump, position)[0]
        found.append((position, bool(word & 1), word >> 4))
        position += 4 + (word >> 4)
    return found


def _sealed(header: bytes | bytearray) -> bytes:
    """A header with a right checksum."""
    words = list(struct.unpack("<256I", header))
    words[_CHECKSUM] = 0
    words[_CHECKSUM] = 84446 - sum(words) & 0xFFFFFFFF
    return struct.pack("<256I", *words)


@pytest.mark.parametrize(
    ("kind", "word", "value", "message"),
    [
        (_INODE, _COUNT, 513, r"513 blocks of inode \d+"),
        (_INODE, _COUNT, 0xFFFFFFFF, "blocks of inode"),
        (_BITS, _COUNT, 0xFFFFFFFF, "cut off"),
        (_INODE, _KIND, 9, "a header of kind 9 where none may be"),
        (_INODE, _KIND, _TAPE, "a second volume begins"),
        (_INODE, _KIND, _BITS, "a header of kind 3 where none may be"),
        (_CLEARED, _KIND, _INODE, "a header of kind 2 where none may be"),
        (_BITS, _KIND, _END, "a header of kind 5 where none may be"),
        (_TAPE, _NTREC, 0, "never writes 0 records at a time"),
        (_TAPE, _NTREC, 0x7FFFFFFF, "records at a time"),
    ],
)
def test_headers_that_make_no_sense_are_refused(
    kind: int, word: int, value: int, message: str, dumped: Path, root: Path, tmp_path: Path
) -> None:
    whole = (dumped / "plain").read_bytes()
    start = _headers(whole)[kind][0]
    header = bytearray(whole[start : start + RECORD])
    struct.pack_into("<I", header, 4 * word, value)
    (tmp_path / "odd").write_bytes(whole[:start] + _sealed(header) + whole[start + RECORD :])
    with pytest.raises(ImageError, match=message):
        _restore(tmp_path / "odd", root)


@pytest.mark.parametrize("size", [2048, 1 << 40, 1 << 63])
def test_a_file_that_lacks_its_end_is_refused(size: int, dumped: Path, root: Path, tmp_path: Path) -> None:
    dump = bytearray((dumped / "plain").read_bytes())
    inodes = _headers(dump)[_INODE]
    start = next(at for at in inodes if struct.unpack_from("<H6xQ", dump, at + _INODE_AT) == (0o100644, 5))
    struct.pack_into("<Q", dump, start + _INODE_AT + 8, size)
    dump[start : start + RECORD] = _sealed(dump[start : start + RECORD])
    (tmp_path / "odd").write_bytes(dump)
    with pytest.raises(
        ImageError, match=rf"byte {start + 2048}: damaged: the last {size - 1024} bytes of inode \d+ are"
    ):
        _restore(tmp_path / "odd", root)


def test_a_dump_of_the_format_since_0_4b49_is_refused_by_that_name(dumped: Path, root: Path, tmp_path: Path) -> None:
    """Which says of two blocks in a row that they are there in one byte: how many follow, and a one in the last bit."""
    dump = bytearray((dumped / "plain").read_bytes())
    start = next(at for at in _headers(dump)[_INODE] if dump[at + 160 : at + 166] == b"\2\0\0\0\1\1")
    dump[start + 160 : start + 166] = b"\1\0\0\0\3\1"
    dump[start : start + RECORD] = _sealed(dump[start : start + RECORD])
    (tmp_path / "newer").write_bytes(dump)
    with pytest.raises(ImageError, match=rf"byte {start}: made by dump 0\.4b49 or later"):
        _restore(tmp_path / "newer", root)


@pytest.mark.parametrize("position", [4 * _NUMBER, _INODE_AT + 8])
def test_a_file_that_goes_on_as_another_is_refused(position: int, dumped: Path, root: Path, tmp_path: Path) -> None:
    dump = bytearray((dumped / "plain").read_bytes())
    start = _headers(dump)[_ADDRESS][0]
    dump[start + position] ^= 1
    dump[start : start + RECORD] = _sealed(dump[start : start + RECORD])
    (tmp_path / "odd").write_bytes(dump)
    with pytest.raises(ImageError, match=rf"byte {start}: damaged: inode \d+ goes on as another"):
        _restore(tmp_path / "odd", root)


@pytest.mark.parametrize("name", [b"../escap", b"/etc/pwn", b"../../xx", b"..\0\0\0\0\0\0"])
def test_names_that_lead_out_of_the_tree_reach_nothing(name: bytes, dumped: Path, tmp_path: Path) -> None:
    with scratch_filesystem(tmp_path / "outer.img", tmp_path / "outer", _SIZE) as outer:
        for part in ("a/b/root", "a/xx"):
            (outer / part).mkdir(parents=True)
        before = read_tree(outer)
        whole = (dumped / "plain").read_bytes()
        assert whole.count(b"hostname") >= 1
        (tmp_path / "hostile").write_bytes(whole.replace(b"hostname", name))
        with suppress(ImageError):
            _restore(tmp_path / "hostile", outer / "a/b/root")
        subprocess.run(["rm", "-r", outer / "a/b/root"], check=True)
        after = read_tree(outer)
        for tree in (before, after):
            tree.pop(b"a/b", None)
        before.pop(b"a/b/root")
        assert after == before
    assert not Path("/etc/pwn").exists()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(40))
def test_any_dump_is_restored_or_refused(
    seed: int, dumped: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpack, "_CPU_SECONDS", 5)
    rng = random.Random(seed)
    whole = bytearray((dumped / "plain").read_bytes())
    places = [place for kind, found in _headers(bytes(whole)).items() if kind != _TAPE for place in found]
    for _ in range(rng.randrange(1, 6)):
        start = rng.choice(places)
        if rng.random() < 0.5:  # in a header, with a checksum that is right
            position = rng.choice((rng.randrange(0, 164), rng.randrange(676, RECORD), rng.randrange(RECORD)))
            whole[start + position] = rng.choice((0, 1, 0x7F, 0xFF, rng.randrange(256)))
            whole[start : start + RECORD] = _sealed(whole[start : start + RECORD])
        else:  # in what follows: directories, maps, attributes
            whole[min(start + RECORD + rng.randrange(64), len(whole) - 1)] = rng.randrange(256)
    (tmp_path / "mutant").write_bytes(whole)
    with suppress(ImageError), no_leftovers([tmp_path]):
        _restore(tmp_path / "mutant", root)
