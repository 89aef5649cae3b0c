"""The same operations, in whatever order, leave the same tree behind every backend."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from osprovider.errors import GuestError
from osprovider.guest.appliance import appliance
from osprovider.guest.host import HostGuest
from osprovider.guest.mounting import Volume
from osprovider.paths import Directories
from tests.system.guest.backends import Root, entries, fsck, make_image, mounted_here

SEEDS = (1, 20)
STEPS = 200
NAMES = ("a", "b", ".c", os.fsdecode(b"\xff\xe9"), "n" * 255, "d e", "f*", "hard", "fifo", "device")
TARGETS = ("a", "/b", "../a/b", "../../../../etc/passwd", "self/../a", "/proc/self/root/etc", "./a//b/", "/")
OWNERS = ((0, 0), (33, 33), (65534, 4000000000))
MODES = (0o600, 0o644, 0o755, 0o4755, 0o1777, 0o7777, 0)


@dataclass(frozen=True, slots=True)
class Step:
    """One call of the protocol's: a method's name and its arguments."""

    method: str
    arguments: tuple[object, ...]
    options: dict[str, object]

    def outcome(self, guest: HostGuest) -> str:
        """What came of it: what it returned, or the message of its error."""
        try:
            result = repr(getattr(guest, self.method)(*self.arguments, **self.options))
        except GuestError as error:
            result = str(error)
        return f"{self.method} {self.arguments!r:.200} {self.options} -> {result:.200}"


def steps(seed: int, overlays: tuple[Path, ...]) -> Iterator[Step]:
    """A sequence of calls, always the same for a seed."""
    chance = random.Random(seed)

    def path() -> str:
        return "/" + "/".join(chance.choice((*NAMES, "..")) for _ in range(chance.choice((1, 1, 2, 2, 3))))

    for _ in range(STEPS):
        place = path()
        mode: dict[str, object] = {"mode": chance.choice(MODES)}
        owner: dict[str, object] = {"owner": chance.choice(OWNERS)}
        content = chance.randbytes(chance.choice((0, 10, 5000, 300000)))
        choices: tuple[tuple[str, tuple[object, ...], dict[str, object]], ...] = (
            ("write", (place, content), chance.choice(({}, mode, owner))),
            ("write", (place, content), mode | owner),
            ("mkdir", (place,), mode | owner),
            ("symlink", (chance.choice(TARGETS), place), {}),
            ("symlink", (path(), place), {}),
            ("remove", (place,), {}),
            ("chmod", (place, mode["mode"]), {}),
            ("chown", (place, *chance.choice(OWNERS)), {}),
            ("copy_in", (chance.choice(overlays), place), {}),
            ("read", (place,), {}),
            (chance.choice(("exists", "is_directory", "is_symlink")), (place,), {}),
            ("glob", (chance.choice((place, "/*/[!a]*", "/.*")),), {}),
        )
        yield Step(*chance.choice(choices))


@pytest.fixture
def overlays(tmp_path: Path) -> tuple[Path, ...]:
    """Two overlays that make use of the same names."""
    first, second = tmp_path / "first", tmp_path / "second"
    (first / "a/b").mkdir(parents=True)
    (first / "a/.c").write_text("from the first")
    (first / "a/.c").chmod(0o751)
    (first / "b").symlink_to("a")
    (second / "b/a").mkdir(parents=True)
    (second / "b/a").chmod(0o711)
    (second / os.fsdecode(b"\xff\xe9")).write_bytes(os.urandom(3 << 20))
    (second / "a").symlink_to("/b/a")
    return first, second


def arrange(root: Path) -> None:
    """Lay what the protocol cannot make."""
    (root / "hard").write_text("one file")
    (root / "other").hardlink_to(root / "hard")
    os.mkfifo(root / "fifo")
    os.mknod(root / "device", 0o060600, os.makedev(7, 1))
    os.setxattr(root / "hard", "security.selinux", b"u:r:t:s0\0")


def test_the_same_steps_leave_the_same_trees(
    tmp_path: Path, directories: Directories, overlays: tuple[Path, ...]
) -> None:
    images = {name: make_image(tmp_path / name) for name in ("host", "sandbox", "appliance")}
    told: dict[str, list[str]] = {}

    def carry_out(name: str, root: Root) -> None:
        for seed in SEEDS:
            os.mkdir(str(seed), dir_fd=root.fd)
            below = Root(os.open(str(seed), os.O_RDONLY, dir_fd=root.fd))
            arrange(below.path)
            told.setdefault(name, []).extend(step.outcome(below.guest) for step in steps(seed, overlays))
            os.close(below.fd)

    for name in ("host", "sandbox"):
        with mounted_here(images[name], tmp_path / "run", confined=name == "sandbox") as fd:
            carry_out(name, Root(fd))
    with appliance([Volume(images["appliance"], "ext4")], directories) as guest:
        carry_out("appliance", Root(guest._root))

    assert told["appliance"] == told["sandbox"] == told["host"]
    trees = {}
    for name, image in images.items():
        fsck(image)
        with mounted_here(image, tmp_path / "run", read_only=True) as fd:
            trees[name] = list(entries(fd))
    assert trees["appliance"] == trees["sandbox"] == trees["host"]
    # Enough has come of it for the comparison to mean something.
    refused = sum("in the guest:" in outcome for outcome in told["host"])
    assert len(SEEDS) * STEPS * 0.1 < refused < len(SEEDS) * STEPS * 0.7
    assert len(trees["host"]) > 10 * len(SEEDS)
