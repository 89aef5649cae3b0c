"""What is made of an image that was obtained, before anything is unpacked."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest

from osprovider.background import Task
from osprovider.config.model import Image, Variant
from osprovider.errors import ApplianceError, GuestError, ImageError, NodeError
from osprovider.images import foreign, prepare
from osprovider.images.diskimage import reading
from osprovider.images.prepare import Job
from osprovider.images.recipe import Recipe
from osprovider.images.sources.obtain import Obtained, Sources
from osprovider.paths import Directories
from tests.support.tar_members import END, member

GIB = 1 << 30


def label(*, compressed: bool) -> bytes:
    """The first record of a dump."""
    words = [0] * 256
    words[0], words[3], words[6], words[222], words[224] = 1, 1, 60012, 0x80 * compressed, 10
    words[7] = 84446 - sum(words)
    return struct.pack("<256I", *words)


@contextmanager
def obtained_for(image: Image, directory: Path, free_bytes: int) -> Iterator[tuple[Job, Obtained]]:
    """The preparation of an image of this node, in `directory`."""
    directories = Directories(directory / "etc", directory / "cache", directory / "run", directory / "share")
    with Sources(directories).obtain("web", image) as obtained:
        recipe = Recipe.of("web", image, Variant(image="web"), obtained.pin.digest, site=directories.config)
        start = partial(Task[Any], "beside")
        yield Job(recipe, "key", directory / "image", directory, directories, free_bytes, start), obtained


def room_for(image: Image, directory: Path, free_bytes: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """How large the file system is that an archive of this node is unpacked into, in bytes."""
    made: list[int] = []

    class EnoughError(Exception):
        pass

    def make(job: Job, sizes: list[int], *_: Any) -> None:
        made.append(sizes[-1])
        raise EnoughError

    monkeypatch.setattr(foreign, "make_tree", make)
    with obtained_for(image, directory, free_bytes) as (job, obtained), pytest.raises(EnoughError):
        foreign.take(job, obtained, "appliance")
    (size_bytes,) = made
    return size_bytes


@pytest.mark.parametrize(("max_size", "free", "size"), [("64GiB", 200, 64), ("300GiB", 200, 200), ("1GiB", 200, 1)])
@pytest.mark.parametrize("kind", ["tar.gz", "dump -z"])
def test_a_compressed_archive_may_unpack_to_all_that_its_definition_and_the_cache_allow(
    kind: str, max_size: str, free: int, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "image"
    if kind == "dump -z":
        path.write_bytes(label(compressed=True))
    else:
        path.write_bytes(gzip.compress(member("etc/", kind=b"5") + END))
    image = Image(source=str(path), max_size=max_size)
    assert room_for(image, tmp_path, free * GIB, monkeypatch) == size * GIB


@pytest.mark.parametrize(("max_size", "size"), [("64GiB", 544 << 20), ("16MiB", 16 << 20)])
@pytest.mark.parametrize("kind", ["tar", "dump"])
def test_one_that_is_not_compressed_gets_room_for_the_emptiest_files(
    kind: str, max_size: str, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "image"
    path.write_bytes((label(compressed=False) if kind == "dump" else member("etc/", kind=b"5")).ljust(1 << 20, b"\0"))
    image = Image(source=str(path), max_size=max_size)
    assert room_for(image, tmp_path, 200 * GIB, monkeypatch) == size


@pytest.mark.parametrize("disk", ["root", "boot"])
def test_a_disk_is_no_part_of_a_pair(disk: str, tmp_path: Path) -> None:
    for part in ("root", "boot"):
        content = b"QFI\xfb" + bytes(1000) if part == disk else member("etc/", kind=b"5") + END
        (tmp_path / f"image-{part}.dump").write_bytes(content)
    image = Image(source=str(tmp_path / "image"))
    with (
        obtained_for(image, tmp_path, GIB) as (job, obtained),
        pytest.raises(ImageError, match=rf"/image-{disk}\.dump: is qcow2, and both of a pair have to be dumps"),
    ):
        foreign.take(job, obtained, "appliance")


@pytest.mark.parametrize(("error", "expected"), [(ApplianceError, NodeError), (GuestError, ImageError)])
def test_what_a_node_cannot_do_is_no_fault_of_the_image(
    error: type[Exception], expected: type[Exception], tmp_path: Path
) -> None:
    """Which would have what was fetched be fetched anew."""

    def fail(_job: Job) -> NoReturn:
        raise error("it does not start")

    (tmp_path / "disk.raw").write_bytes(bytes(510) + b"\x55\xaa")
    with obtained_for(Image(source=str(tmp_path / "disk.raw")), tmp_path, 1 << 30) as (job, _):
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        with pytest.raises(ImageError, match=r"^image web: it does not start$") as caught:
            prepare.prepare(job.recipe, job.key, scratch / "image", scratch, job.directories, fail)
    assert type(caught.value) is expected


@pytest.mark.parametrize(("error", "expected"), [(ApplianceError, NodeError), (GuestError, ImageError)])
def test_a_disk_that_this_node_cannot_look_into_may_be_good(
    error: type[Exception], expected: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error("it does not start")

    monkeypatch.setattr(reading, "guest_of", fail)
    with (
        obtained_for(Image(source=__file__), tmp_path, 1 << 30) as (job, _),
        pytest.raises(ImageError, match=r"^image web: it does not start$") as caught,
        reading.Reading(Path(__file__), "web", job.directories, "appliance").opened([], "image web"),
    ):
        pass
    assert type(caught.value) is expected
