"""What disk images may take: room, memory and time, and no more than their definition allows."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from osprovider import run
from osprovider.errors import ImageError
from osprovider.images.diskimage import soundness
from osprovider.images.formats import Container
from osprovider.sandbox import confine
from tests.support import processes
from tests.support.disk_images import (
    COMPRESSORS,
    DISK_BYTES,
    VARIANTS,
    Images,
    compress,
    make_container,
    make_raw,
    variants_of,
)
from tests.support.sparse import sparse_file
from tests.system.images.diskimage import converting
from tests.system.images.diskimage.converting import MIB, allocated, convert, is_disk, mounted, refused

_CHECKOUT = Path(__file__).parents[4]


@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize("container", ["qcow2", "vmdk", "vhdx", "vdi"])
def test_a_huge_disk_is_refused(container: Container, compression: str, tmp_path: Path) -> None:
    made = tmp_path / "made"
    subprocess.run(["qemu-img", "create", "-q", "-f", container, made, "2T"], check=True)
    image = compress(made, tmp_path / "image", compression)
    message = refused(image, tmp_path, limit=64 << 30)
    assert f"{image}: a disk of 2.0 TiB (2199023255552 bytes), and the definition allows 64 GiB" in message
    assert "max_size" in message
    assert (tmp_path / "target").stat().st_size == 0


@pytest.mark.parametrize("name", ["raw", "qcow2", "vhd fixed", "vhdx fixed", "vdi static"])
@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_the_limit_is_the_disks_own(name: str, compression: str, originals: Images, tmp_path: Path) -> None:
    image = compress(originals(name), tmp_path / "image", compression)
    if (name, compression) != ("vhd fixed", "gzip"):  # which is told from a raw disk by its last 512 bytes
        assert is_disk(convert(image, tmp_path, scratch=tmp_path, limit=DISK_BYTES), originals("raw"))
    message = refused(image, tmp_path, limit=DISK_BYTES - 1)
    streamed = compression == "gzip" and name in ("raw", "vhd fixed")
    too_large = "unpacks to more than 24 MiB" if streamed else f"a disk of 24 MiB ({DISK_BYTES} bytes)"
    assert too_large in message
    assert "raise its max_size if" in message


@pytest.mark.parametrize("compression", COMPRESSORS)
def test_a_bomb_fills_nothing_beyond_the_limit(compression: str, tmp_path: Path) -> None:
    made = tmp_path / "made"
    with made.open("wb") as file:
        file.write(b"\1" * 510 + b"\x55\xaa" + b"\1" * (64 * MIB))
    image = compress(made, tmp_path / "image", compression)
    assert image.stat().st_size < 2 * MIB
    assert "unpacks to more than 10 MiB" in refused(image, tmp_path, limit=10 * MIB)
    assert allocated(tmp_path / "target") < 12 * MIB


def test_a_bomb_of_compressed_clusters_is_seen_before(tmp_path: Path) -> None:
    made = tmp_path / "made"
    with made.open("wb") as file:
        file.write(b"\1" * (64 * MIB))
    image = make_container(made, tmp_path / "image", VARIANTS["qcow2 compressed"])
    assert image.stat().st_size < 4 * MIB
    assert "a disk of 64 MiB" in refused(image, tmp_path, limit=10 * MIB)
    assert allocated(tmp_path / "target") == 0


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Images:
    """Give a disk that is full of what nothing compresses, in a variant; ``raw`` is the disk itself."""
    raw = tmp_path_factory.mktemp("full") / "raw"
    raw.write_bytes(random.Random(2).randbytes(510) + b"\x55\xaa" + random.Random(3).randbytes(DISK_BYTES - 512))
    return variants_of(raw)


@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize("name", ["raw", "qcow2", "vmdk", "vhd fixed"])
def test_a_disk_that_fills_is_said_to(name: str, compression: str, full: Images, tmp_path: Path) -> None:
    image = compress(full(name), tmp_path / "image", compression)
    for size in ("8m", "30m") if compression == "zstd" and name == "qcow2" else ("8m",):
        with mounted(tmp_path / f"small-{size}", "tmpfs", f"size={size}") as small:
            scratch = small / "scratch"
            scratch.mkdir()
            with pytest.raises(ImageError) as caught:
                convert(image, small, scratch=scratch)
            assert "no space left" in str(caught.value).lower()
            assert str(small) in str(caught.value)
            assert sorted(path.name for path in small.rglob("*")) == ["scratch", "target"]


@pytest.mark.parametrize(
    ("name", "compression", "copies"),
    [("raw", "none", 1), ("raw", "zstd", 1), ("qcow2", "none", 1), ("vmdk", "none", 1), ("qcow2", "zstd", 2)],
)
def test_no_more_copies_are_kept_than_it_takes(
    name: str, compression: str, copies: int, full: Images, tmp_path: Path
) -> None:
    """A compressed qcow2 is read back and forth, so that it has to be unpacked; nothing else is."""
    image = compress(full(name), tmp_path / "image", compression)
    with mounted(tmp_path / "small", "tmpfs", f"size={copies * DISK_BYTES + 2 * MIB}") as small:
        target = convert(image, small, scratch=small)
        assert is_disk(target, full("raw"))
        assert [path.name for path in small.iterdir()] == ["target"]


@pytest.mark.parametrize(("name", "least"), [("raw", 24), ("qcow2", 1)])
def test_progress_is_told_while_it_goes_on(name: str, least: int, full: Images, tmp_path: Path) -> None:
    counts: list[int] = []
    convert(compress(full(name), tmp_path / "image", "none"), tmp_path, advance=counts.append)
    assert len([count for count in counts if count > 0]) >= least
    assert min(counts) >= 0
    assert sum(counts) == full(name).stat().st_size


def test_a_missing_qemu_img_is_named(originals: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "bwrap").symlink_to("/usr/bin/bwrap")
    monkeypatch.setattr(run, "BASE_ENVIRONMENT", {**run.BASE_ENVIRONMENT, "PATH": str(programs)})
    image = compress(originals("qcow2"), tmp_path / "image", "none")
    assert "qemu-img, which this needs, is missing; apt install qemu-utils" in refused(image, tmp_path)


_LARGE = 20 << 30
_LEAST_MEMORY, _MOST_MEMORY = 20 * MIB, 200 * MIB


def _large_zeros(path: Path) -> None:
    """4 GiB of zeros after a boot signature, in members of 1 GiB."""
    start, member = path.with_name("start"), path.with_name("member")
    start.write_bytes(bytes(510) + b"\x55\xaa" + bytes(3584))
    sparse_file(path.with_name("zeros"), 1 << 30)
    compress(path.with_name("zeros"), member, "zstd")
    path.write_bytes(compress(start, path.with_name("packed"), "zstd").read_bytes() + member.read_bytes() * 4)


def _large_qcow2(path: Path) -> None:
    raw = path.with_name("made")
    make_raw(raw, _LARGE)
    with raw.open("r+b") as file:
        for place in range(_LARGE // 64, _LARGE, _LARGE // 64):
            file.seek(place)
            file.write(random.Random(place).randbytes(MIB))
    make_container(raw, path, VARIANTS["qcow2 compressed"])


def _dense(*words: str) -> Callable[[Path], None]:
    """128 MiB of which some compresses."""

    def make(path: Path) -> None:
        chance = random.Random(9)
        raw = path.with_name("made")
        with raw.open("wb") as file:
            file.write(bytes(510) + b"\x55\xaa" + bytes(3584))
            for _ in range(32):
                file.write(chance.randbytes(MIB // 2) + chance.randbytes(65536) * 56)
        with raw.open("rb") as source, path.open("wb") as target:
            subprocess.run(words, check=True, stdin=source, stdout=target)

    return make


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(_large_zeros, id="4 GiB of zeros by zstd"),
        pytest.param(_large_qcow2, id="20 GiB qcow2 compressed"),
        pytest.param(_dense("pzstd", "-q", "-p", "4"), id="pzstd"),
        pytest.param(_dense("pzstd", "-q", "-p", "4", "-15"), id="pzstd with large frames"),
        pytest.param(_dense("zstd", "-q", "-3", "--long=27"), id="zstd with the largest window"),
        pytest.param(_dense("xz", "-1", "--threads=4"), id="xz in small blocks"),
        pytest.param(_dense("xz", "--lzma2=preset=0,dict=64MiB", "--block-size=64MiB", "-T2"), id="xz in large blocks"),
        pytest.param(_dense("lbzip2", "-9"), id="bzip2"),
        pytest.param(_dense("lz4", "-q", "-1", "-B7"), id="lz4"),
        pytest.param(_dense("pigz", "-1"), id="gzip"),
    ],
)
def test_memory_is_bounded_for_any_image(make: Callable[[Path], None], tmp_path: Path) -> None:
    image = tmp_path / "image"
    make(image)
    words = [sys.executable, "-m", converting.__name__, str(image), str(tmp_path)]
    most = 0
    with subprocess.Popen(words, cwd=_CHECKOUT) as process:
        while process.poll() is None:
            most = max(most, sum(_most_memory(pid) for pid in processes.family(process.pid)))
            time.sleep(0.01)
    assert process.returncode == 0
    assert _LEAST_MEMORY < most < _MOST_MEMORY
    assert allocated(tmp_path / "target") < 300 * MIB


def _most_memory(pid: int) -> int:
    """The most memory that a process had so far, in bytes (proc(5), VmHWM)."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def test_qemu_is_ended_where_it_computes_without_end(
    originals: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forever(*_: object) -> list[str]:
        return confine(["sh", "-c", "while :; do :; done"], cpu_seconds=1)

    monkeypatch.setattr(soundness, "_qemu_img", forever)
    assert "damaged qcow2 image: qemu-img computed with no end" in refused(originals("qcow2"), tmp_path)


@pytest.mark.parametrize("command", ["map", "check"])
def test_qemu_has_a_limit_to_what_it_may_compute(command: str) -> None:
    words = soundness._qemu_img(Path("image"), "qcow2", soundness.qemu_seconds(64 << 30), command)
    assert words[:3] == ["prlimit", f"--data={1 << 30}", "--cpu=4696"]
