"""What programs in the sandbox make of an ext file system: what the node's kernel would have made, and it is sound."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from osprovider import linux
from osprovider.descriptors import opened
from osprovider.disk.loop import loop_device
from osprovider.errors import GuestError, Terminated
from osprovider.guest import fuse2fs, writing
from osprovider.guest.changes import Changes, Told
from osprovider.guest.host import HostGuest
from osprovider.guest.mounting import Volume
from osprovider.linux import MountFlag
from osprovider.opening import guest_of
from osprovider.paths import Directories
from tests.support.leftovers import no_leftovers
from tests.support.mounts import mounted
from tests.support.sparse import sparse_file
from tests.system.guest.backends import Entry, access_list, entries, fsck, make_nested, mounted_here
from tests.system.guest.namespace import in_namespace
from tests.system.guest.test_differential import arrange, overlays, steps

__all__ = ["overlays"]  # a fixture

MIB = 1 << 20
SEEDS = (5, 21, 33)
KINDS = {
    "ext4": ("-t", "ext4", "-O", "orphan_file,metadata_csum_seed"),
    "ext3": ("-t", "ext3", "-I", "128"),
    "ext2": ("-t", "ext2", "-b", "1024"),
    "ext4 of old": ("-t", "ext4", "-b", "1024", "-I", "128", "-O", "^metadata_csum,uninit_bg,^64bit"),
}


def make(path: Path, prepare: Callable[[Path], object], words: Sequence[str] = KINDS["ext4"]) -> Path:
    """Make a sparse file with a file system of the ext family, and lay something in it."""
    sparse_file(path, 100 * MIB)
    subprocess.run(["mke2fs", "-q", "-F", *words, path], check=True, capture_output=True)
    with mounted_here(path, path.with_name("lent")) as fd:
        prepare(Path(f"/proc/{os.getpid()}/fd/{fd}"))
    return path


def change(image: Path, do: Callable[[HostGuest], object], isolation: str = "sandbox") -> object:
    """Do something to it, and return what that returns; it is sound then, and nothing else is left."""
    place = Directories(cache=image.parent / "cache", run=image.parent / "run")

    def use() -> object:
        with loop_device(image) as loop, guest_of([Volume(loop, "ext4")], isolation, place) as guest:
            return do(guest)

    with no_leftovers([image.parent]):
        result = in_namespace(use)
    fsck(image)
    return result


def tree(image: Path) -> list[Entry]:
    """All that is in it."""

    def look() -> list[Entry]:
        with mounted(image, image.with_name(f"{image.name}-seen")) as root, opened(os.open(root, os.O_RDONLY)) as fd:
            return list(entries(fd))

    return in_namespace(look)


def becomes_the_same(
    tmp_path: Path,
    prepare: Callable[[Path], object],
    do: Callable[[HostGuest], object],
    words: Sequence[str] = KINDS["ext4"],
) -> None:
    """See that the same comes of a file system in the sandbox as on the node."""
    trees = {}
    for isolation in ("host", "sandbox"):
        image = make(tmp_path / isolation, prepare, words)
        change(image, do, isolation)
        trees[isolation] = tree(image)
    assert trees["sandbox"] == trees["host"]


def refused(image: Path, do: Callable[[HostGuest], object], message: str) -> None:
    """See that it is refused, and nothing written."""
    before = image.read_bytes()
    with pytest.raises(GuestError, match=message):
        change(image, do)
    assert image.read_bytes() == before


@pytest.mark.parametrize("words", KINDS.values(), ids=KINDS)
def test_the_same_steps_leave_the_same_trees(tmp_path: Path, overlays: tuple[Path, ...], words: Sequence[str]) -> None:
    trees = {}
    told: dict[str, list[str]] = {"sandbox": []}

    def lay(root: Path) -> None:
        for seed in SEEDS:
            (root / str(seed)).mkdir()
            arrange(root / str(seed))

    def carry_out(guest: HostGuest) -> list[str]:
        outcomes: list[str] = []
        for seed in SEEDS:
            with opened(os.open(str(seed), os.O_RDONLY, dir_fd=guest.root_fd)) as fd:
                for step in steps(seed, overlays):
                    is_left_out = is_refused(*told["sandbox"][len(outcomes) :][:1])
                    outcomes.append("left out" if is_left_out else step.outcome(type(guest)(fd)))
        return outcomes

    def is_refused(outcome: str = "") -> bool:
        return "it has other names, which the sandbox loses" in outcome

    for isolation in ("sandbox", "host"):
        image = make(tmp_path / isolation, lay, words)
        outcomes = change(image, carry_out, isolation)
        assert isinstance(outcomes, list)
        told[isolation] = outcomes
        trees[isolation] = tree(image)
    assert ["left out" if is_refused(each) else each for each in told["sandbox"]] == told["host"]
    assert trees["sandbox"] == trees["host"]


@pytest.mark.parametrize("words", KINDS.values(), ids=KINDS)
def test_attributes_in_blocks_of_their_own_go_with_their_files(tmp_path: Path, words: Sequence[str]) -> None:
    """Files with equal ones share a block, which the kernel counts them on."""

    def lay(root: Path) -> None:
        for name in ("removed", "replaced", "given", "kept", "alone"):
            (root / name).write_text(name)
            os.setxattr(root / name, "user.large", b"x" * (300 if name == "alone" else 400))
            os.setxattr(root / name, "system.posix_acl_access", access_list(user=1000, permissions=6))
        (root / "directory").mkdir()
        os.setxattr(root / "directory", "user.large", b"y" * 400)
        (root / "link").symlink_to("kept")
        os.setxattr(root / "link", "trusted.large", b"z" * 400, follow_symlinks=False)

    def do(guest: HostGuest) -> None:
        for name in ("removed", "directory", "link", "alone"):
            guest.remove(f"/{name}")
        guest.write("/replaced", "new")
        guest.write("/given", "new", mode=0o600)

    becomes_the_same(tmp_path, lay, do, words)


def test_what_was_a_directory_within_one_that_stays_is_emptied(tmp_path: Path) -> None:
    def lay(root: Path) -> None:
        (root / "etc/d/e").mkdir(parents=True)
        (root / "etc/d/e/file").write_text("old")
        (root / "etc/d/other").write_text("old")

    def do(guest: HostGuest) -> None:
        guest.remove("/etc/d")
        guest.write("/etc/d/e/new", "new")

    becomes_the_same(tmp_path, lay, do)


def test_a_character_device_can_be_removed(tmp_path: Path) -> None:
    def lay(root: Path) -> None:
        (root / "dev").mkdir()
        os.mknod(root / "dev/null", 0o20666, os.makedev(1, 3))
        os.mknod(root / "dev/zero", 0o20666, os.makedev(1, 5))

    def do(guest: HostGuest) -> None:
        guest.chmod("/dev/zero", 0o600)
        guest.remove("/dev/null")

    becomes_the_same(tmp_path, lay, do)


@pytest.mark.parametrize(
    "do", [lambda guest: guest.chmod("/a", 0o600), lambda guest: guest.chown("/b", 1, 1)], ids=["chmod", "chown"]
)
def test_a_file_with_several_names_stays_one(tmp_path: Path, do: Callable[[HostGuest], object]) -> None:
    def lay(root: Path) -> None:
        (root / "a").write_text("one file")
        (root / "b").hardlink_to(root / "a")

    refused(make(tmp_path / "image", lay), do, "it has other names, which the sandbox loses: set isolation to app")


@pytest.mark.parametrize("sign", ["\n", "\r"])
@pytest.mark.parametrize("target", [True, False])
def test_what_debugfs_takes_for_the_end_of_a_line_is_refused(tmp_path: Path, sign: str, target: bool) -> None:
    def do(guest: HostGuest) -> None:
        guest.write("/before", "")
        guest.symlink(f"a{sign}b" if target else "a", "/link" if target else f"/a{sign}b")

    refused(make(tmp_path / "image", bool), do, "cannot be told to debugfs: set isolation to appliance")


def test_attributes_with_any_name_and_value_are_kept(tmp_path: Path) -> None:
    def lay(root: Path) -> None:
        (root / "file").write_text("old")
        for name in (b"user.\xff", b'user."q" \\', b"user.-f", b"user.empty"):
            os.setxattr(os.fsencode(root / "file"), name, b"" if b"empty" in name else b'\0\n"')

    becomes_the_same(tmp_path, lay, lambda guest: guest.write("/file", "new"))


def test_what_is_nested_too_deep_is_refused(tmp_path: Path) -> None:
    image = make(tmp_path / "image", lambda root: make_nested(root, "deep", 700))
    refused(image, lambda guest: guest.remove("/deep"), "set isolation to appliance|too many open files")


def test_a_root_that_was_a_directory_of_an_overlay_is_not_emptied(tmp_path: Path) -> None:
    def lay(root: Path) -> None:
        (root / "file").write_text("kept")
        os.setxattr(root, "trusted.overlay.opaque", b"y")

    becomes_the_same(tmp_path, lay, lambda guest: guest.write("/new", "new"))


def test_what_is_given_away_is_protected_like_what_is_written(tmp_path: Path) -> None:
    def lay(root: Path) -> None:
        (root / "closed").mkdir()
        subprocess.run(["chattr", "+i", root / "closed"], check=True)

    refused(make(tmp_path / "image", lay), lambda guest: guest.chown("/closed", 1, 1), "it may not be changed")


def test_what_the_cache_directory_has_no_room_for_is_not_written(tmp_path: Path) -> None:
    image = make(tmp_path / "image", bool)

    def do(guest: HostGuest) -> None:
        guest.write("/big", os.urandom(40 * MIB))

    def use() -> None:
        (tmp_path / "cache").mkdir()
        linux.mount("tmpfs", str(tmp_path / "cache"), "tmpfs", MountFlag(0), "size=16m")
        refused(image, do, "")

    in_namespace(use)


@pytest.mark.parametrize("seconds", [1 - (1 << 31), -1, 0, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 7 << 30])
def test_times_of_any_century_are_kept(tmp_path: Path, seconds: int) -> None:
    image = make(tmp_path / "image", bool)
    scratch, lower = tmp_path / "scratch", tmp_path / "lower"
    for place in (scratch / "upper", scratch / "values", lower):
        place.mkdir(parents=True)
    (scratch / "upper/file").write_text("new")
    os.utime(scratch / "upper/file", ns=(0, seconds * 10**9 + 999_999_999))
    with (
        loop_device(image) as loop,
        opened(os.open(scratch / "upper", os.O_RDONLY)) as upper,
        opened(os.open(lower, os.O_RDONLY)) as below,
    ):
        inside = f"{writing.INSIDE}/values"
        changes = Changes(upper, below, scratch / "values", inside=inside, inodes=writing.inodes_of(loop))
        writing.change(loop, scratch, "upper", changes.told())

    def look() -> int:
        with mounted(image, tmp_path / "seen") as root:
            return (root / "file").stat().st_mtime_ns

    assert in_namespace(look) == seconds * 10**9 + 999_999_999


@pytest.mark.parametrize("lacks", ["inodes", "blocks"])
def test_what_has_no_room_leaves_it_as_it_was(tmp_path: Path, lacks: str) -> None:
    """After an error debugfs goes on, where it is then."""

    def lay(root: Path) -> None:
        (root / "etc").mkdir()
        (root / "etc/hostname").write_text("web1\n")
        (root / "junk").write_bytes(os.urandom(70 * MIB))

    def do(guest: HostGuest) -> None:
        guest.remove("/etc/hostname")
        for number in range(500 if lacks == "inodes" else 0):
            guest.mkdir(f"/etc/a{number}/b")
        for number in range(20 if lacks == "blocks" else 0):
            guest.write(f"/etc/b{number}/c", os.urandom(MIB))
        guest.write("/etc/hostname", "web2\n")

    image = make(tmp_path / "image", lay, (*KINDS["ext4"], *(("-N", "16") if lacks == "inodes" else ())))
    before = tree(image)
    image.with_name("image-seen").rmdir()
    with pytest.raises(GuestError, match="the guest's file system is full; make the disk larger"):
        change(image, do)
    fsck(image)
    assert tree(image) == before
    assert writing.why_not(image, "ext4") is None


def test_what_is_not_changed_to_the_end_is_not_marked_as_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = make(tmp_path / "image", bool)
    seen = []
    monkeypatch.setattr(writing, "_check", lambda device: seen.append(writing.why_not(device, "ext4")))
    with loop_device(image) as loop:
        (tmp_path / "scratch/upper").mkdir(parents=True)
        writing.change(loop, tmp_path / "scratch", "upper", Told(b"", (), b'"mkdir" "./new"\n'))
    assert seen == ["it is not marked clean"]
    assert writing.why_not(image, "ext4") is None


def test_who_is_asked_to_stop_leaves_it_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = make(tmp_path / "image", lambda root: (root / "file").write_text("old"))
    before = tree(image)
    image.with_name("image-seen").rmdir()
    (tmp_path / "scratch/upper").mkdir(parents=True)

    def stop(_: Path) -> None:
        raise Terminated("SIGTERM")

    monkeypatch.setattr(writing, "_check", stop)
    with loop_device(image) as loop, pytest.raises(Terminated):
        writing.change(loop, tmp_path / "scratch", "upper", Told(b"", (), b'"mkdir" "./new"\n"rm" "./file"\n'))
    fsck(image)
    assert tree(image) == before
    assert writing.why_not(image, "ext4") is None


def test_hooks_may_take_their_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever only reads has a limit, so that nobody is held by what fuse2fs has become."""
    image = make(tmp_path / "image", lambda root: (root / "file").write_text("old"))
    monkeypatch.setattr(fuse2fs, "_MOST_SECONDS", 0.0)

    def do(guest: HostGuest) -> str:
        time.sleep(2)
        return guest.read_text("/file")

    assert change(image, do) == "old"
