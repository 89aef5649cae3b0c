"""A guest of each backend, and the host's files that none of them may touch."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from osprovider.descriptors import opened
from osprovider.disk.loop import loop_device
from osprovider.guest.appliance import appliance
from osprovider.guest.mounting import Volume
from osprovider.paths import Directories
from tests.support.template import with_appliance
from tests.system.guest.backends import Root, access_list, entries, fsck, make_image, make_nested, mounted_here

_numbers = count()


@pytest.fixture(scope="session")
def directories(run_directory: Path) -> Directories:
    """A cache with the run's appliance, and a place to remember a failing KVM."""
    found = Directories(cache=with_appliance(run_directory / "guest-cache", run_directory), run=run_directory / "run")
    found.run.mkdir(exist_ok=True)
    return found


@pytest.fixture(scope="module", params=["host", "sandbox", "appliance"])
def file_system(
    request: pytest.FixtureRequest, directories: Directories, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[int]:
    """The root directory of a file system behind each backend; found undamaged afterwards."""
    place = tmp_path_factory.mktemp("guest")
    image = make_image(place / "image")
    with mounted_here(image, place / "run") as root:
        _prepare(Path(f"/proc/self/fd/{root}"))
    if request.param != "appliance":
        with mounted_here(image, place / "run", confined=request.param == "sandbox") as root:
            yield root
    else:
        # A loop device, as at a deployment: the root partition is reached by its offset.
        with loop_device(image) as loop, appliance([Volume(loop, "ext4")], directories) as guest:
            yield guest._root
    fsck(image)


def _prepare(root: Path) -> None:
    """Lay files that cannot be made through libguestfs, whose extended attributes have no null bytes in them."""
    for name in ("listed", "capable", "binary"):
        (root / name).write_text("old")
    os.setxattr(root / "listed", "system.posix_acl_access", access_list(user=1000, permissions=6))
    os.setxattr(root / "capable", "security.capability", struct.pack("<IIIII", 0x02000000, 1 << 10, 0, 0, 0))
    os.setxattr(root / "binary", "user.binary", b"a\0b\0")
    (root / "inheriting").mkdir()
    (root / "inheriting/file").write_text("old")
    make_nested(root, "n" * 200, levels=30)
    os.setxattr(root / "inheriting", "system.posix_acl_default", access_list(user=1000, permissions=6))


@pytest.fixture
def prepared(file_system: int) -> Root:
    """The whole file system as a guest, with files that some tests need and only the host's kernel can make."""
    return Root(file_system)


@pytest.fixture
def root(file_system: int) -> Iterator[Root]:
    """An empty guest: each test has a directory of its own as the root, and what lies beside it is outside."""
    name = f"guest-{next(_numbers)}"
    os.mkdir(name, 0o755, dir_fd=file_system)
    with opened(os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=file_system)) as fd:
        yield Root(fd)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory of the host, whose absolute path hostile links point to; it has a file ``secret``."""
    directory = tmp_path / "outside"
    directory.mkdir()
    (directory / "secret").write_text("the host's\n")
    return directory


@pytest.fixture(autouse=True)
def untouched_host(outside: Path) -> Iterator[None]:
    """Whatever a test does to a guest, files of the host stay as they are."""

    def look() -> list[object]:
        files = [Path("/etc/passwd"), Path("/etc/hostname"), Path("/etc/hosts"), Path("/etc"), Path("/tmp")]  # noqa: S108
        found: list[object] = [(file, file.stat().st_mode, file.stat().st_uid, file.stat().st_ino) for file in files]
        found += [(file, file.read_bytes()) for file in files[:3]]
        with opened(os.open(outside, os.O_RDONLY)) as fd:
            return [*found, *entries(fd)]

    before = look()
    yield
    assert look() == before
