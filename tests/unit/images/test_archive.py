"""What is made of a tar's headers: which archives are refused, in which words, and that any bytes are judged."""

from __future__ import annotations

import dataclasses
import os
import random
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from osprovider.errors import ImageError
from osprovider.images.archive import dump
from osprovider.images.archive.tar import Scanner
from tests.support.tar_members import ACCEPTED, END, REFUSED, global_pax, member, pax, sealed


def _scan(archive: bytes) -> tuple[Scanner, bytes]:
    """Scan an archive; returns what is to be known of it, and what was passed on."""
    read_fd, write_fd = os.pipe()
    passed_read, passed_write = os.pipe()
    passed = bytearray()

    def feed() -> None:
        with suppress(BrokenPipeError), os.fdopen(write_fd, "wb", buffering=0) as pipe:
            view = memoryview(archive)
            while view:
                view = view[pipe.write(view) :]

    def collect() -> None:
        with os.fdopen(passed_read, "rb") as pipe:
            passed.extend(pipe.read())

    threads = [threading.Thread(target=work) for work in (feed, collect)]
    for thread in threads:
        thread.start()
    scanner = Scanner("image.tar")
    try:
        for piece in scanner.scan(read_fd, passed_write):
            os.write(passed_write, piece)
    finally:
        os.close(read_fd)
        os.close(passed_write)
        for thread in threads:
            thread.join()
    return scanner, bytes(passed)


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_is_named_with_its_byte(what: str) -> None:
    archive, message = REFUSED[what]
    with pytest.raises(ImageError, match=rf"^image\.tar: .*{message}") as raised:
        _scan(archive)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("what", ACCEPTED)
def test_what_is_accepted_is_passed_on_to_its_end(what: str) -> None:
    scanner, passed = _scan(ACCEPTED[what])
    assert ACCEPTED[what].startswith(passed)
    assert not ACCEPTED[what][len(passed) :].strip(b"\0")
    assert scanner.members > 0


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, (256 << 10) - 512, 256 << 10, (256 << 10) + 1, 3_000_001])
def test_contents_of_any_size_are_passed_on(size: int) -> None:
    content = random.Random(size).randbytes(size)
    archive = member("etc/", kind=b"5") + member("etc/a", content) + member("etc/b", content) + bytes(512)
    scanner, passed = _scan(archive)
    assert passed == archive
    assert scanner.members == 3


def test_an_archive_of_nothing_is_refused() -> None:
    with pytest.raises(ImageError, match=r"image\.tar: byte 0: the archive is empty"):
        _scan(END)


def test_names_without_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # all but the last are links to one file, which take no inodes
    links = b"".join(member(f"etc/{number:04}", kind=b"1", link="etc/0") for number in range(3000))
    archive = member("etc/", kind=b"5") + member("etc/0") + links + END
    monkeypatch.setattr("osprovider.images.archive.tar_names._MOST_NAMES", 1 << 14)
    with pytest.raises(ImageError, match=r"image\.tar: byte \d+: more names than any root has: 7\d\d members"):
        _scan(archive)


def _largest_piece(archive: bytes, scan: Callable[[int, int], Iterator[bytes]]) -> int:
    """Have an archive scanned, and return how much of it was kept at once."""
    read_fd, write_fd = os.pipe()

    def feed() -> None:
        with suppress(BrokenPipeError), os.fdopen(write_fd, "wb") as pipe:
            pipe.write(archive)

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        with open(os.devnull, "wb") as nothing:  # noqa: PTH123
            return max(len(piece) for piece in scan(read_fd, nothing.fileno()))
    finally:
        os.close(read_fd)
        thread.join()


def test_extended_headers_are_not_kept_however_many_there_are() -> None:
    archive = global_pax(("comment", bytes(100_000))) * 100 + member("etc/", kind=b"5") + END
    assert _largest_piece(archive, Scanner("image.tar").scan) < 1 << 20


def _dump_record(
    kind: int, count: int = 0, *, mode: int = 0, size: int = 0, blocks: bytes = b"\1" * 512, flags: int = 0
) -> bytes:
    """A header of dump(8), of as many blocks, none of them a hole."""
    words = [0] * 256
    words[0], words[3], words[5], words[6], words[8] = kind, 1, 2, 60012, mode
    words[10:12] = size & 0xFFFFFFFF, size >> 32
    words[40], words[222], words[224], words[225] = count, flags, 10, 3
    words[41:169] = struct.unpack("<128I", blocks.ljust(512, b"\1"))
    words[7] = 84446 - sum(words) & 0xFFFFFFFF
    return struct.pack("<256I", *words)


def _runs(kind: int, size: int, blocks: bytes, follow: int, *, mode: int = 0o100644, flags: int = 0) -> bytes:
    """A header of runs of blocks, and those that follow."""
    header = _dump_record(kind, len(blocks), mode=mode, size=size, blocks=blocks, flags=flags)
    return header + b"c" * (follow * dump.RECORD)


def _dump_of(*records: bytes) -> bytes:
    """What is behind a dump's first record."""
    maps = _dump_record(6, 1) + bytes(dump.RECORD) + _dump_record(3, 1) + bytes(dump.RECORD)
    return maps + b"".join(records) + _dump_record(5)


def _scan_dump(archive: bytes, *, runs: bool = False, nameless: set[int] | None = None) -> int:
    """Have a dump scanned, and return how much of it was kept at once."""
    label = dump.read_label(_dump_record(1), "image.dump")
    found = set() if nameless is None else nameless

    def scan(source: int, target: int) -> Iterator[bytes]:
        return dump.scan(label, "image.dump", source, target, runs=runs, nameless=found)

    return _largest_piece(archive, scan)


def test_directories_of_a_dump_are_not_kept_however_large_they_are() -> None:
    entries = (struct.pack("<IHBB", 12, 256, 8, 200) + b"n" * 200).ljust(256, b"\0") * 4
    pieces = 20
    size = pieces * 512 * dump.RECORD
    headers = [_dump_record(2 if number == 0 else 4, 512, mode=0o40755, size=size) for number in range(pieces)]
    assert _scan_dump(_dump_of(*(header + entries * 512 for header in headers))) < 1 << 20


def test_a_directory_of_a_dump_without_measure_is_refused() -> None:
    archive = _dump_of(_dump_record(2, 512, mode=0o40755, size=300 << 20))
    with pytest.raises(ImageError, match=r"image\.dump: byte 5120: the directory of inode 2 has 314572800 bytes"):
        _scan_dump(archive)


@pytest.mark.parametrize(
    ("size", "blocks", "follow"),
    [
        (4, b"\3", 2),  # a file system of blocks of 2 KiB
        (64 << 10, b"\x7f", 64),  # the longest of one byte
        (65 << 10, b"\x81\0", 65),
        (256 << 10, b"\xff\2", 256),
        (16 << 20, b"\xff\xfe", 16384),  # the longest that dump(8) writes
        (16448 << 10, b"\xff\xff", 16448),  # the longest of two bytes
        (32 << 20, b"\xfe\xfe" * 2, 0),
        (20 << 20, b"\xde\x11\x27\xf6\4\xdf\x11\x9e\xcd\7\xf6\x44", 1224),  # six runs, holes at both ends
        (1 << 40, b"\xfe\xff" * 256, 0),
        (5000, b"\x0f\xef\x2e", 3072),  # room beyond the end
        (1000, b"\x01\xfe\xfe", 1),
    ],
)
def test_a_dump_of_runs_of_blocks_is_read_where_they_are_understood(size: int, blocks: bytes, follow: int) -> None:
    rest = [] if size < 1 << 40 else [_runs(4, size, b"\xfe\xff" * 256, 0)] * 255
    archive = _dump_of(_runs(2, size, blocks, follow), *rest, _runs(2, 1, b"\1", 1))
    assert _scan_dump(archive, runs=True) < 1 << 20
    with pytest.raises(ImageError, match=r"image\.dump: byte 5120: made by dump 0\.4b49 or later .*older restore"):
        _scan_dump(archive)


def test_a_file_of_many_runs_goes_on_in_a_second_header() -> None:
    size = (512 * 4 + 8) << 10
    headers = [_runs(2, size, b"\6\7" * 256, 1024), _runs(4, size, b"\6\7", 4)]
    _scan_dump(_dump_of(*headers), runs=True)
    with pytest.raises(ImageError, match="damaged: the last 8192 bytes of inode 2 are missing"):
        _scan_dump(_dump_of(headers[0]), runs=True)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (_runs(2, 66 << 10, b"\3\x81", 66), "byte 5120: damaged: half a run of blocks of inode 2"),
        (_runs(2, 66 << 10, b"\x80", 0), "byte 5120: damaged: half a run of blocks of inode 2"),
        (_runs(2, 66 << 10, b"\x7f", 64), "the last 2048 bytes of inode 2 are missing"),
        (_runs(2, 66 << 10, b"\x7e\1", 1), "the last 1024 bytes of inode 2 are missing"),
        (_runs(2, 66 << 10, b"\x7f\3", 63), "cut off at byte"),
        (_runs(2, 66 << 10, b"\x7f\3", 67), "damaged: no header where one must be"),
        (_runs(2, 1 << 10, b"\xff\xff" * 256, 10), "cut off at byte"),
        (_runs(2, 1 << 63, b"\xfe\xff" * 256, 0), r"the last \d+ bytes of inode 2 are missing"),
        (_runs(2, 128 << 20, b"\xff\xff" * 8, 513, mode=0o40755), "damaged: 131584 blocks of inode 2"),
        (_runs(2, 512, b"\x81\7", 513, mode=0o40755), "damaged: 513 blocks of inode 2"),
        (_runs(2, 4096, b"\x81\7", 513, flags=0x8000), "damaged: 513 blocks of inode 2"),
        (_runs(2, 4096, b"\xfe\xff", 0, flags=0x8000), "damaged: 16448 blocks of inode 2"),
        (_dump_record(2, 513, mode=0o100644, size=1 << 20, blocks=b"\3" * 512), "damaged: 513 blocks of inode 2"),
    ],
)
def test_runs_that_make_no_sense_are_refused(record: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=rf"image\.dump: .*{message}"):
        _scan_dump(_dump_of(record), runs=True)


@pytest.mark.parametrize("map_records", [1, 3, 1000])
@pytest.mark.parametrize("contents", [0, 5 << 20])
@pytest.mark.parametrize("records", [1, 10, 1024])
def test_what_dump_wrote_first_is_passed_on_at_once(map_records: int, contents: int, records: int) -> None:
    maps = b"".join(_dump_record(kind, map_records) + bytes(map_records * dump.RECORD) for kind in (6, 3))
    archive = maps + _runs(2, contents, b"\xff\x4f", 5184) * (contents > 0) + _dump_record(5)
    archive += bytes(-(dump.RECORD + len(archive)) % (records * dump.RECORD))
    label = dataclasses.replace(dump.read_label(_dump_record(1), "image.dump"), write_bytes=records * dump.RECORD)

    def scan(source: int, target: int) -> Iterator[bytes]:
        yield next(iter(dump.scan(label, "image.dump", source, target, runs=True, nameless=set())))

    assert _largest_piece(archive, scan) >= records * dump.RECORD


@pytest.mark.parametrize("block_bytes", [1024, 4096, 65536])
@pytest.mark.parametrize("blocks", [1, 32])
def test_the_orphan_file_is_known_by_the_end_of_a_block(block_bytes: int, blocks: int) -> None:
    content = (b"\x04\xca\x10\x0b" + b"sum!").rjust(block_bytes, b"\0") * blocks
    records = len(content) // dump.RECORD
    headers = [
        _dump_record(2 if start == 0 else 4, min(512, records - start), mode=0o100600, size=len(content))
        + content[start * dump.RECORD : (start + 512) * dump.RECORD]
        for start in range(0, records, 512)
    ]
    nameless: set[int] = set()
    _scan_dump(_dump_of(*headers), nameless=nameless)
    assert nameless == {2}


@pytest.mark.parametrize(("mode", "end"), [(0o100600, b"\x04\xca\x10\x0c"), (0o100644, b"\x04\xca\x10\x0b")])
def test_any_other_file_has_a_name(mode: int, end: bytes) -> None:
    nameless: set[int] = set()
    content = (end + bytes(4)).rjust(4096, b"\0")
    _scan_dump(_dump_of(_dump_record(2, 4, mode=mode, size=4096) + content), nameless=nameless)
    assert nameless == set()


def test_many_members_are_counted() -> None:
    archive = member("etc/", kind=b"5") + b"".join(member(f"etc/{number}") for number in range(3000)) + END
    scanner, _ = _scan(archive)
    assert scanner.members == 3001


@pytest.mark.parametrize("name", ["etc/\x1b[2J", "etc/\u202e", "etc/\n", "etc/\x7f", "etc/\x9b2J"])
def test_no_name_tells_a_terminal_what_to_do(name: str) -> None:
    archive = member("etc/", kind=b"5") + member(name) + member(name) + END
    with pytest.raises(ImageError) as raised:
        _scan(archive)
    assert str(raised.value).isprintable()


def test_a_name_of_megabytes_is_not_said_whole() -> None:
    with pytest.raises(ImageError) as raised:
        _scan(member("etc/", kind=b"5") + pax(("path", b"../" * (1 << 20))) + member("x") + END)
    assert len(str(raised.value)) < 1000


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(20))
def test_any_bytes_are_accepted_or_refused(seed: int) -> None:
    rng = random.Random(seed)
    names = sorted(ACCEPTED)
    for _ in range(60):
        archive = bytearray(ACCEPTED[rng.choice(names)])
        for _ in range(rng.randrange(1, 5)):
            archive[rng.randrange(len(archive))] ^= 1 << rng.randrange(8)
        _judge(bytes(archive))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(20))
def test_any_header_with_a_right_checksum_is_accepted_or_refused(seed: int) -> None:
    rng = random.Random(seed)
    names = sorted(ACCEPTED)
    for _ in range(60):
        archive = bytearray(ACCEPTED[rng.choice(names)])
        for _ in range(rng.randrange(1, 4)):
            start = rng.randrange(len(archive) // 512) * 512
            header = archive[start : start + 512]
            header[rng.choice((rng.randrange(512), rng.randrange(124, 136), 156, 257))] = rng.randrange(256)
            archive[start : start + 512] = sealed(header)
        _judge(bytes(archive))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(20))
def test_any_extended_header_is_accepted_or_refused(seed: int) -> None:
    rng = random.Random(seed)
    keys = ("path", "linkpath", "size", "mtime", "GNU.sparse.map", "GNU.sparse.major", "GNU.sparse.name", "hdrcharset")
    for _ in range(60):
        records = [(rng.choice(keys), rng.randbytes(rng.randrange(12))) for _ in range(rng.randrange(1, 4))]
        header = bytearray(pax(*records))
        if rng.random() < 0.5:
            header[512 + rng.randrange(len(header) - 512)] = rng.randrange(256)
        _judge(member("etc/", kind=b"5") + bytes(header) + member("etc/x", b"d" * rng.randrange(2000)) + END)


def _judge(archive: bytes) -> None:
    message = ""
    try:
        _scan(archive)
    except ImageError as error:
        message = str(error)
    assert message.isprintable()
