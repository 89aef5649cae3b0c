"""An ext file system that programs in the sandbox change: what hooks did is there, and it is sound."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from osprovider.disk.loop import loop_device
from osprovider.errors import GuestError
from osprovider.guest import writing
from osprovider.guest.host import HostGuest
from osprovider.guest.mounting import Volume
from osprovider.opening import guest_of, where_to_change
from osprovider.paths import Directories
from tests.support.leftovers import no_leftovers
from tests.support.mounts import mounted
from tests.support.sparse import sparse_file
from tests.system.guest.backends import fsck, mounted_here
from tests.system.guest.namespace import in_namespace

MIB = 1 << 20
KINDS = ("ext4", "ext3", "ext2")


def make(path: Path, *words: str, size_mib: int = 64) -> Path:
    """Make a sparse file with a file system of the ext family."""
    sparse_file(path, size_mib * MIB)
    subprocess.run(["mke2fs", "-q", "-F", *words, path], check=True)
    return path


def changed(image: Path, change: Callable[[HostGuest], None]) -> None:
    """Open it in the sandbox and do that; nothing of it is left, and it is sound."""
    place = Directories(cache=image.parent / "cache", run=image.parent / "run")

    def use() -> None:
        with loop_device(image) as loop, guest_of([Volume(loop, "ext4")], "sandbox", place) as guest:
            change(guest)

    with no_leftovers([image.parent]):
        in_namespace(use)
    assert list(place.cache.iterdir()) == []
    fsck(image)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_for_swap_has_all_its_blocks(tmp_path: Path, kind: str) -> None:
    image = make(tmp_path / "image", "-t", kind)
    swap = tmp_path / "header"
    sparse_file(swap, 8 * MIB)
    subprocess.run(["mkswap", "-q", swap], check=True)

    def change(guest: HostGuest) -> None:
        guest.allocate("/swap", 8 * MIB, head=swap.read_bytes()[:4096])

    changed(image, change)
    with mounted(image, tmp_path / "mnt") as root:
        status = (root / "swap").stat()
        assert (status.st_size, status.st_mode) == (8 * MIB, 0o100600)
        assert 8 * MIB <= status.st_blocks * 512 < 8 * MIB + 65536
        assert (root / "swap").read_bytes() == swap.read_bytes()
    with mounted_here(image, tmp_path / "run") as fd:
        for program in ("swapon", "swapoff"):
            subprocess.run([program, f"/proc/{os.getpid()}/fd/{fd}/swap"], check=True)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_changed_has_its_times_and_what_is_not_keeps_them(tmp_path: Path, kind: str) -> None:
    tree = tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    for name in ("changed", "owned", "kept"):
        (tree / "etc" / name).write_text("old\n")
        os.utime(tree / "etc" / name, (1e9, 1e9))
    os.utime(tree / "etc", (1e9, 1e9))
    image = make(tmp_path / "image", "-t", kind, "-d", str(tree))

    def change(guest: HostGuest) -> None:
        guest.write("/etc/changed", "new\n")
        guest.chown("/etc/owned", 33, 34)

    changed(image, change)
    with mounted(image, tmp_path / "mnt") as root:
        found = {path.name: path.stat() for path in (root / "etc").iterdir()}
        assert found["changed"].st_mtime > 1.7e9
        assert (root / "etc").stat().st_mtime > 1.7e9
        assert found["owned"].st_mtime == found["kept"].st_mtime == 1e9
        assert (found["owned"].st_uid, found["owned"].st_gid) == (33, 34)
        assert found["owned"].st_ctime > 1.7e9


def test_nothing_is_written_where_the_body_fails(tmp_path: Path) -> None:
    image = make(tmp_path / "image", "-t", "ext4")
    before = image.read_bytes()

    def change(guest: HostGuest) -> None:
        guest.write("/etc/hostname", "web1\n")
        guest.remove("/lost+found")
        raise GuestError("a hook failed")

    with pytest.raises(GuestError, match="a hook failed"):
        changed(image, change)
    assert image.read_bytes() == before


def test_what_has_no_room_is_told_with_the_way_out(tmp_path: Path) -> None:
    image = make(tmp_path / "image", "-t", "ext4", size_mib=16)

    def change(guest: HostGuest) -> None:
        for number in range(40):
            guest.write(f"/big-{number}", os.urandom(MIB))

    with pytest.raises(GuestError, match="the guest's file system is full; make the disk larger"):
        changed(image, change)


@pytest.mark.parametrize(
    "change",
    [
        lambda guest: guest.remove("/etc/resolv.conf"),
        lambda guest: guest.write("/etc/resolv.conf", ""),
        lambda guest: guest.chmod("/etc/resolv.conf", 0o600),
        lambda guest: guest.write("/closed/new", ""),
        lambda guest: guest.remove("/closed"),
        lambda guest: guest.remove("/open"),
    ],
    ids=["remove", "write", "chmod", "make", "remove the directory", "remove the directory above"],
)
@pytest.mark.parametrize("protection", ["+i", "+a"])
def test_what_its_owner_protects_stays(tmp_path: Path, change: Callable[[HostGuest], None], protection: str) -> None:
    image = make(tmp_path / "image", "-t", "ext4")
    with mounted_here(image, tmp_path / "run") as fd:
        root = Path(f"/proc/{os.getpid()}/fd/{fd}")  # as programs see it
        for name in ("etc", "closed", "open/below"):
            (root / name).mkdir(parents=True)
        (root / "etc/resolv.conf").write_text("nameserver 198.51.100.53\n")
        protected = [root / name for name in ("etc/resolv.conf", "closed", "open/below")]
        subprocess.run(["chattr", protection, *protected], check=True)
    before = image.read_bytes()
    names = "/etc/resolv.conf|/closed|/open/below"
    with pytest.raises(GuestError, match=rf"cannot change ({names}) in the guest: it may not be changed; .*chattr"):
        changed(image, change)
    assert image.read_bytes() == before


@pytest.mark.parametrize(
    ("words", "feature"),
    [
        (("-O", "quota"), "0x100"),
        (("-O", "project,quota"), "0x2100"),
        (("-O", "bigalloc"), "0x200"),
        (("-O", "casefold"), "0x20000"),
        (("-O", "encrypt"), "0x10000"),
        (("-O", "ea_inode"), "0x400"),
        (("-O", "verity"), "0x8000"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)
def test_what_debugfs_does_not_keep_right_is_left_to_the_appliance(
    tmp_path: Path, words: tuple[str, ...], feature: str
) -> None:
    image = make(tmp_path / "image", "-t", "ext4", *words)
    assert feature in (writing.why_not(image, "ext4") or "")
    assert where_to_change("auto", image, [("ext4", 0)]) == "appliance"


@pytest.mark.parametrize("kind", KINDS)
def test_where_others_file_systems_are_changed(tmp_path: Path, kind: str) -> None:
    image = make(tmp_path / "image", "-t", kind)
    assert where_to_change("auto", image, [(kind, 0), ("vfat", 1 << 30), ("swap", 1 << 31)]) == "sandbox"
    assert where_to_change("auto", image, [(kind, 0), ("xfs", 1 << 30)]) == "appliance"
    assert where_to_change("appliance", image, [(kind, 0)]) == "appliance"
    assert where_to_change("host", image, [(kind, 0)]) == "host"
