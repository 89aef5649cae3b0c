"""Compressed files as streams: all of them, or an error that says what is wrong, and no program left either way."""

from __future__ import annotations

import functools
import os
import random
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import IO

import pytest

from osprovider import run
from osprovider.errors import ImageError
from osprovider.images import streams
from osprovider.images.streams import Compression, Stream, decompressed, head
from tests.support.disk_images import COMPRESSORS, flip, patch
from tests.support.leftovers import children, no_leftovers

_MIB = 1 << 20
_CHECKOUT = Path(__file__).parents[3]

# How files come, beside what most people's tools write.
_WAYS: dict[str, tuple[Compression, tuple[str, ...]]] = {
    "gzip": ("gzip", COMPRESSORS["gzip"]),
    "gzip by pigz": ("gzip", ("pigz", "-1")),
    "xz": ("xz", COMPRESSORS["xz"]),
    "xz in one block": ("xz", ("xz", "-1", "--threads=1")),
    "xz -9e": ("xz", ("xz", "-9e", "--threads=1")),
    "zstd": ("zstd", COMPRESSORS["zstd"]),
    "zstd --long": ("zstd", ("zstd", "-q", "-1", "--long=27")),
    "zstd by pzstd": ("zstd", ("pzstd", "-q", "-1", "-p", "2")),
    "bzip2": ("bzip2", COMPRESSORS["bzip2"]),
    "bzip2 by lbzip2": ("bzip2", ("lbzip2", "-1")),
    "lz4": ("lz4", COMPRESSORS["lz4"]),
}


def _payload() -> bytes:
    source = random.Random(5)
    return source.randbytes(2 * _MIB) + bytes(2 * _MIB) + b"the same line\n" * 100_000 + source.randbytes(123_457)


_PAYLOAD = _payload()


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path: Path) -> Iterator[None]:
    with no_leftovers([tmp_path]):
        yield


def pack(path: Path, way: str, content: bytes = _PAYLOAD) -> Compression:
    """Compress into a file."""
    path.write_bytes(_packed(way) if content is _PAYLOAD else _pack(way, content))
    return _WAYS[way][0]


def _pack(way: str, content: bytes) -> bytes:
    return subprocess.run(_WAYS[way][1], check=True, input=content, stdout=subprocess.PIPE).stdout


@functools.cache
def _packed(way: str) -> bytes:
    return _pack(way, _PAYLOAD)


def read_with(path: Path, compression: Compression, reader: Callable[[Stream], object]) -> Stream:
    """Have a reader read a file as it likes."""
    with decompressed(path, compression, limit_bytes=1 << 30) as stream:
        reader(stream)
    return stream


def fail_with(error: BaseException, *, after: Callable[[Stream], object]) -> Callable[[Stream], None]:
    """A reader that fails."""

    def reader(stream: Stream) -> None:
        after(stream)
        raise error

    return reader


def glance(stream: Stream) -> None:
    """Read a few bytes."""
    os.read(stream.fileno(), 10)


def read(path: Path, compression: Compression, *, limit: int = 1 << 40) -> bytes:
    """All that comes out of a file."""
    with decompressed(path, compression, limit_bytes=limit) as stream:
        return drain(stream)


def drain(stream: Stream) -> bytes:
    """Read a stream to its end."""
    pieces = []
    while piece := os.read(stream.fileno(), _MIB):
        pieces.append(piece)
    return b"".join(pieces)


def refused(path: Path, compression: Compression, *, limit: int = 1 << 40) -> str:
    """The message about a file."""
    with pytest.raises(ImageError) as caught:
        read(path, compression, limit=limit)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("way", _WAYS)
def test_all_of_a_file_comes_out(way: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    with decompressed(path, pack(path, way), limit_bytes=len(_PAYLOAD)) as stream:
        assert drain(stream) == _PAYLOAD
        assert stream.count == len(_PAYLOAD)
        assert stream.position == path.stat().st_size


def test_a_file_that_is_not_compressed_comes_out_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(_PAYLOAD)
    assert read(path, "none") == _PAYLOAD


@pytest.mark.parametrize("way", _WAYS)
def test_members_in_a_row_are_one_file(way: str, tmp_path: Path) -> None:
    parts = [b"", _PAYLOAD, b"", b"x", _PAYLOAD[:70_000], b""]
    path, part = tmp_path / "file", tmp_path / "part"
    with path.open("wb") as file:
        for content in parts:
            compression = pack(part, way, content)
            file.write(part.read_bytes())
    assert read(path, compression) == b"".join(parts)


@pytest.mark.parametrize("way", _WAYS)
def test_nothing_comes_out_of_nothing_compressed(way: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    compression = pack(path, way, b"")
    assert read(path, compression, limit=0) == b""
    assert head(path, compression, 100) == b""


@pytest.mark.parametrize("place", [1, 5, 30, 5000, 0.3, 0.5, 0.9, -9, -4, -1])
@pytest.mark.parametrize("way", _WAYS)
def test_a_file_that_is_cut_off_is_refused(way: str, place: float, tmp_path: Path) -> None:
    path = tmp_path / "file"
    compression = pack(path, way)
    size = path.stat().st_size
    os.truncate(path, int(size * place) if isinstance(place, float) else place % size)
    message = refused(path, compression)
    assert f"damaged or cut off: {compression} data ends badly after " in message
    assert "about byte " in message


@pytest.mark.parametrize("place", [0.01, 0.2, 0.5, 0.8, 0.99])
@pytest.mark.parametrize("way", _WAYS)
def test_a_file_with_a_flipped_bit_is_refused(way: str, place: float, tmp_path: Path) -> None:
    path = tmp_path / "file"
    compression = pack(path, way)
    flip(path, int(path.stat().st_size * place))
    assert "damaged" in refused(path, compression)


@pytest.mark.parametrize(
    "rest",
    [
        pytest.param(b"\n", id="a byte"),
        pytest.param(b"</body></html>\n", id="text"),
        pytest.param(random.Random(1).randbytes(9 * _MIB), id="much"),
    ],
)
@pytest.mark.parametrize("way", _WAYS)
def test_what_follows_the_end_is_not_passed_over(way: str, rest: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    compression = pack(path, way)
    with path.open("ab") as file:
        file.write(rest)
    assert "damaged" in refused(path, compression)


@pytest.mark.parametrize(
    ("change", "program"),
    [
        pytest.param(lambda data: data, "pzstd", id="whole"),
        pytest.param(lambda data: data + b"\n", "zstd", id="a byte more"),
        pytest.param(lambda data: data + data[:12], "zstd", id="a header more"),
        pytest.param(lambda data: data[:-1], "zstd", id="a byte less"),
        pytest.param(lambda data: data[:8] + bytes(4) + data[12:], "zstd", id="a frame of nothing"),
    ],
)
def test_pzstd_gets_what_is_its_own_to_the_end_alone(
    change: Callable[[bytes], bytes], program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, asked = tmp_path / "file", []

    def note(words: Sequence[str], *arguments: IO[bytes]) -> AbstractContextManager[subprocess.Popen[bytes]]:
        asked.append(words[0])
        return running(words, *arguments)

    running = streams._running
    monkeypatch.setattr(streams, "_running", note)
    path.write_bytes(change(_packed("zstd by pzstd")))
    with suppress(ImageError):
        read(path, "zstd")
    assert asked == [program]


def test_a_decompressor_that_stands_still_is_ended_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(streams._PROGRAMS, "zstd", ("sleep", "1000"))
    monkeypatch.setattr(streams, "_STUCK_SECONDS", 0.1)
    path = tmp_path / "file"
    compression = pack(path, "zstd")
    assert "unpacking stands still after 0 bytes (about byte 0 of the file)" in refused(path, compression)


@pytest.mark.parametrize("way", ["gzip", "bzip2"])
def test_a_second_member_whose_header_is_damaged_is_not_passed_over(way: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    compression = pack(path, way, random.Random(2).randbytes(9 * _MIB))
    size = path.stat().st_size
    path.write_bytes(path.read_bytes() * 2)
    assert "and something else follows" in refused(flip(path, size), compression)


@pytest.mark.parametrize("way", _WAYS)
def test_the_limit_holds(way: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    compression = pack(path, way)
    assert read(path, compression, limit=len(_PAYLOAD)) == _PAYLOAD
    message = refused(path, compression, limit=len(_PAYLOAD) - 1)
    assert f"unpacks to more than 5.5 MiB ({len(_PAYLOAD) - 1} bytes)" in message
    assert "max_size" in message


def test_the_limit_holds_for_what_is_not_compressed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(_PAYLOAD)
    assert "unpacks to more than" in refused(path, "none", limit=_MIB)


@pytest.mark.parametrize("way", ["gzip", "xz", "zstd", "bzip2", "lz4"])
def test_a_bomb_ends_at_the_limit(way: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    compression, words = _WAYS[way]
    with path.open("wb") as file, subprocess.Popen(words, stdin=subprocess.PIPE, stdout=file) as process:
        assert process.stdin
        for _ in range(512):
            process.stdin.write(bytes(_MIB))
        process.stdin.close()
    came: list[int] = []
    with pytest.raises(ImageError, match="unpacks to more than 10 MiB"):
        _measure(path, compression, came)
    assert 10 * _MIB <= came[0] < 12 * _MIB


def _measure(path: Path, compression: Compression, came: list[int]) -> None:
    """Note how much came out before the limit of 10 MiB was found to be passed."""
    with decompressed(path, compression, limit_bytes=10 * _MIB) as stream:
        came.append(len(drain(stream)))


def test_a_dictionary_beyond_all_measure_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    pack(path, "xz in one block", b"small")
    content = bytearray(path.read_bytes())
    # The .xz file format 1.1.0, 3.1 and 5.3.1: the first block's header, its LZMA2 filter's dictionary and checksum.
    length = (content[12] + 1) * 4
    assert content[14:16] == b"\x21\x01"
    content[16] = 40
    content[12 + length - 4 : 12 + length] = zlib.crc32(content[12 : 12 + length - 4]).to_bytes(4, "little")
    path.write_bytes(content)
    message = refused(path, "xz")
    assert "xz data takes more memory to unpack than images may" in message
    assert "compress it again with a smaller dictionary" in message


def test_a_window_beyond_all_measure_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    # RFC 8878, 3.1.1.1: a frame's header without the content's size, and a window of 2 GiB; one raw block, the last.
    path.write_bytes(b"\x28\xb5\x2f\xfd" + bytes([0, 21 << 3]) + (1 | 5 << 3).to_bytes(3, "little") + b"small")
    assert "zstd data takes more memory to unpack than images may" in refused(path, "zstd")


@pytest.mark.parametrize("way", _WAYS)
def test_a_reader_that_stops_early_does_not_hide_damage(way: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    compression = pack(path, way)
    assert read_with(path, compression, glance).count == len(_PAYLOAD)
    os.truncate(path, path.stat().st_size - 3)
    with pytest.raises(ImageError, match="damaged or cut off"):
        read_with(path, compression, glance)


@pytest.mark.parametrize("way", _WAYS)
def test_a_reader_that_fails_ends_it_all_with_its_own_error(way: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    compression = pack(path, way)
    with pytest.raises(ZeroDivisionError, match="the reader's own"):
        read_with(path, compression, fail_with(ZeroDivisionError("the reader's own"), after=glance))


@pytest.mark.parametrize("way", _WAYS)
def test_a_reader_that_fails_because_of_damage_is_told_so(way: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    compression = pack(path, way)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(ImageError, match="damaged or cut off") as caught:
        read_with(path, compression, fail_with(EOFError("it ends too soon"), after=drain))
    assert isinstance(caught.value.__cause__, EOFError)


def test_being_told_to_end_is_not_turned_into_an_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    compression = pack(path, "gzip")
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(KeyboardInterrupt):
        read_with(path, compression, fail_with(KeyboardInterrupt(), after=drain))


def _descendant(name: str) -> int:
    """The process of a name beneath this one."""
    found = subprocess.run(["ps", "-e", "-o", "pid=,ppid=,comm="], check=True, capture_output=True, text=True).stdout
    rows = [line.split(None, 2) for line in found.splitlines()]
    parents = {int(pid): int(parent) for pid, parent, _ in rows}
    for pid, _, command in rows:
        above = int(pid)
        while command == name and above > 1:
            above = parents.get(above, 0)
            if above == os.getpid():
                return int(pid)
    raise AssertionError(found)


@pytest.mark.parametrize("way", ["gzip", "xz", "zstd", "bzip2", "lz4"])
def test_a_program_that_is_killed_is_not_taken_for_damage(way: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    compression, _ = _WAYS[way]
    pack(path, way, random.Random(4).randbytes(12 * _MIB))
    program = {"gzip": "pigz", "bzip2": "lbzip2"}.get(way, way)

    def reader(stream: Stream) -> None:
        glance(stream)
        os.kill(_descendant(program), signal.SIGKILL)
        drain(stream)

    with pytest.raises(ImageError, match=f"{program} was ended by signal 9 after .* is memory short"):
        read_with(path, compression, reader)


@pytest.mark.parametrize("missing", ["pigz", "bwrap", "setpriv"])
def test_a_program_that_is_missing_is_named(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, programs = tmp_path / "file", tmp_path / "bin"
    compression = pack(path, "gzip")
    programs.mkdir()
    for program in {"pigz", "bwrap", "setpriv"} - {missing}:
        (programs / program).symlink_to(f"/usr/bin/{program}")
    monkeypatch.setattr(run, "BASE_ENVIRONMENT", {**run.BASE_ENVIRONMENT, "PATH": str(programs)})
    message = refused(path, compression)
    assert missing in message
    assert "damaged" not in message
    if missing != "setpriv":  # which is essential: every system has it
        assert f"apt install {'bubblewrap' if missing == 'bwrap' else missing}" in message


def test_frames_are_unpacked_side_by_side_where_that_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By pzstd: only what pzstd wrote, in frames that fit memory, and where it is installed."""
    path = tmp_path / "file"

    def program() -> str:
        with path.open("rb") as file:
            return streams._words("zstd", file)[0]

    pack(path, "zstd")
    assert program() == "zstd"
    pack(path, "zstd by pzstd")
    assert program() == "pzstd"
    patch(path, 8, (9 << 20).to_bytes(4, "little"))
    assert program() == "zstd"
    pack(path, "zstd by pzstd")
    monkeypatch.setattr(run, "BASE_ENVIRONMENT", {**run.BASE_ENVIRONMENT, "PATH": str(tmp_path)})
    assert program() == "zstd"


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_a_file_that_cannot_be_read_is_named(compression: Compression, tmp_path: Path) -> None:
    assert refused(tmp_path / "away", compression).endswith("cannot be read: no such file or directory")
    assert refused(tmp_path, compression).endswith("cannot be read: is a directory")


@pytest.mark.parametrize("way", _WAYS)
def test_the_head_is_the_beginning_and_no_more_is_read(way: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    compression = pack(path, way)
    for size in (1, 512, 300_000):
        assert head(path, compression, size) == _PAYLOAD[:size]
    assert head(path, compression, 1 << 30) == _PAYLOAD


_ENDINGS: dict[str, Callable[[Path, Compression], None]] = {}


def _ending(function: Callable[[Path, Compression], None]) -> Callable[[Path, Compression], None]:
    _ENDINGS[function.__name__.strip("_")] = function
    return function


@_ending
def _whole(path: Path, compression: Compression) -> None:
    read(path, compression)


@_ending
def _damaged(path: Path, compression: Compression) -> None:
    flip(path, path.stat().st_size // 2)
    read(path, compression)


@_ending
def _too_much(path: Path, compression: Compression) -> None:
    read(path, compression, limit=_MIB)


@_ending
def _reader_fails(path: Path, compression: Compression) -> None:
    with decompressed(path, compression, limit_bytes=1 << 30):
        raise ImageError("the reader's own")


@_ending
def _head(path: Path, compression: Compression) -> None:
    head(path, compression, 10)


@pytest.mark.parametrize("ending", _ENDINGS)
@pytest.mark.parametrize("way", ["gzip", "zstd by pzstd"])
def test_no_program_is_left_unreaped(way: str, ending: str, tmp_path: Path) -> None:
    """In a process of its own, which adopts nobody's children, none is left the moment that the call is over."""
    path = tmp_path / "file"
    compression = pack(path, way)
    words = [sys.executable, "-m", __spec__.name if __spec__ else "", ending, str(path), compression]
    done = subprocess.run(words, cwd=_CHECKOUT, capture_output=True, text=True, check=True)
    assert done.stdout == "children: []; open: 4\n", done.stdout + done.stderr


def _main(ending: str, path: str, compression: Compression) -> None:
    with suppress(ImageError):
        _ENDINGS[ending](Path(path), compression)
    left = sorted(children())
    sys.stdout.write(f"children: {left}; open: {len(list(Path('/proc/self/fd').iterdir()))}\n")


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2], sys.argv[3])  # type: ignore[arg-type]
