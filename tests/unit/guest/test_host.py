"""What the guest protocol on a directory does, as far as it needs no root; all else is with the system tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from osprovider import linux
from osprovider.errors import GuestError
from osprovider.guest import host
from osprovider.guest.host import HostGuest
from tests.support.guests import directory_guest


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "outside").write_text("the host's")
    tree = tmp_path / "guest"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/hostname").write_text("web1\n")
    return tree


@pytest.fixture
def guest(tree: Path) -> Iterator[HostGuest]:
    with directory_guest(tree) as guest:
        yield guest


def test_links_lead_to_the_guests_own_files(guest: HostGuest, tree: Path) -> None:
    (tree / "absolute").symlink_to("/etc/hostname")
    (tree / "etc/climbing").symlink_to("../../../etc/hostname")
    (tree / "out").symlink_to(tree.parent / "outside")
    (tree / "beside").symlink_to("../outside")
    assert guest.read_text("/absolute") == guest.read_text("/etc/climbing") == "web1\n"
    assert not guest.exists("/out")
    assert not guest.exists("/beside")


def test_a_fifo_does_not_block(guest: HostGuest, tree: Path) -> None:
    os.mkfifo(tree / "etc/fifo")
    with pytest.raises(GuestError, match="it is a FIFO, not a regular file"):
        guest.read("/etc/fifo")


def test_a_rename_elsewhere_on_the_machine_is_waited_out(guest: HostGuest, monkeypatch: pytest.MonkeyPatch) -> None:
    """openat2(2) says EAGAIN where it cannot tell whether a ``..`` was moved meanwhile."""
    real = linux.openat2
    failures = [BlockingIOError(), BlockingIOError()]

    def sometimes(directory_fd: int, path: str, flags: int, *, resolve: linux.Resolve) -> int:
        if failures:
            raise failures.pop()
        return real(directory_fd, path, flags, resolve=resolve)

    monkeypatch.setattr(linux, "openat2", sometimes)
    assert guest.read_text("/etc/../etc/hostname") == "web1\n"
    assert failures == []


def test_what_is_mounted_inside_is_not_entered() -> None:
    with directory_guest(Path("/")) as guest, pytest.raises(GuestError, match="something is mounted there"):
        guest.read("/proc/version")


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("/etc/*", ["/etc/hostname", "/etc/link"]),
        ("/etc/.*", ["/etc/.dot"]),
        ("/etc/host*", ["/etc/hostname"]),
        ("/*/[!l]*", ["/etc/hostname"]),
        ("/etc/link", ["/etc/link"]),
        ("/etc/link/*", []),
        ("/", ["/"]),
    ],
)
def test_glob_matches_as_a_shell_does(guest: HostGuest, tree: Path, pattern: str, matches: list[str]) -> None:
    (tree / "etc/.dot").touch()
    (tree / "etc/link").symlink_to("/dangling")
    assert guest.glob(pattern) == matches


def test_a_pattern_that_matches_without_end_is_refused(
    guest: HostGuest, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "MOST_FOUND", 3)
    for name in ("a", "b", "c"):
        (tree / "var/a").mkdir(parents=True, exist_ok=True)
        (tree / "var/a" / name).touch()
    assert len(guest.glob("/var/*/*")) == 3
    (tree / "var/a/d").touch()
    with pytest.raises(GuestError, match=r"cannot list /var/\*/\* in the guest: more than 3 are there; remove"):
        guest.glob("/var/*/*")
