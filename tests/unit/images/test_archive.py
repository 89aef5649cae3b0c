"""What is made of a tar's headers: which archives are refused, in which words, and that any bytes are judged."""

from __future__ import annotations

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


def _dump_record(kind: int, count: int = 0, *, mode: int = 0, size: int = 0) -> bytes:
    """A header of dump(8), of as many blocks, none of them a hole."""
    words = [0] * 256
    words[0], words[3], words[5], words[6], words[8], words[10] = kind, 1, 2, 60012, mode, size
    words[40], words[224] = count, 10
    words[41:169] = [0x01010101] * 128
    words[7] = 84446 - sum(words) & 0xFFFFFFFF
    return struct.pack("<256I", *words)


def test_directories_of_a_dump_are_not_kept_however_large_they_are() -> None:
    entries = (struct.pack("<IHBB", 12, 256, 8, 200) + b"n" * 200).ljust(256, b"\0") * 4
    pieces = 20
    size = pieces * 512 * dump.RECORD
    maps = _dump_record(6, 1) + bytes(dump.RECORD) + _dump_record(3, 1) + bytes(dump.RECORD)
    headers = [_dump_record(2 if number == 0 else 4, 512, mode=0o40755, size=size) for number in range(pieces)]
    archive = maps + b"".join(header + entries * 512 for header in headers) + _dump_record(5)
    label = dump.read_label(_dump_record(1), "image.dump")
    assert _largest_piece(archive, lambda source, target: dump.scan(label, "image.dump", source, target)) < 1 << 20


def test_a_directory_of_a_dump_without_measure_is_refused() -> None:
    maps = _dump_record(6, 1) + bytes(dump.RECORD) + _dump_record(3, 1) + bytes(dump.RECORD)
    archive = maps + _dump_record(2, 512, mode=0o40755, size=300 << 20)
    label = dump.read_label(_dump_record(1), "image.dump")
    with pytest.raises(ImageError, match=r"image\.dump: byte 5120: the directory of inode 2 has 314572800 bytes"):
        _largest_piece(archive, lambda source, target: dump.scan(label, "image.dump", source, target))


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


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(20))
def test_any_bytes_are_accepted_or_refused(seed: int) -> None:
    rng = random.Random(seed)
    names = sorted(ACCEPTED)
    for _ in range(60):
        archive = bytearray(ACCEPTED[rng.choice(names)])
        for _ in range(rng.randrange(1, 5)):
            archive[rng.randrange(len(archive))] ^= 1 << rng.randrange(8)
        _judge(bytes(archive))


@pytest.mark.timeout(300)
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


@pytest.mark.timeout(300)
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
