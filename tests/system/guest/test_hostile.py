"""A program in fuse2fs's place that means ill, as fuse2fs does where a file system has taken it over."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from osprovider import linux
from osprovider.disk.loop import loop_device
from osprovider.disk.scratch import scratch
from osprovider.errors import GuestError, Terminated
from osprovider.guest import fuse2fs
from osprovider.guest.confined import changed_together
from osprovider.guest.host import HostGuest
from osprovider.guest.mounting import Volume
from osprovider.paths import Directories
from osprovider.signals import terminable
from tests.support import processes
from tests.support.leftovers import no_leftovers
from tests.system.guest.backends import make_image
from tests.system.guest.namespace import in_namespace
from tests.system.guest.test_fuse2fs import confined

_PATIENCE_SECONDS = 60


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path) -> Iterator[None]:
    """Whatever it does, no mount, loop device or process of it stays."""
    with no_leftovers([tmp_path]):
        yield


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Make a file system for which that program answers, in one of its ways."""
    monkeypatch.setattr(fuse2fs, "_PROGRAM", "fusermount3")
    monkeypatch.setattr(fuse2fs, "_FUSERMOUNT", Path(__file__).with_name("hostile.py").read_text())

    def make(mode: str) -> Path:
        image = make_image(tmp_path / "image", 8)
        with image.open("r+b") as file:
            file.write(mode.encode())
        return image

    return make


def refused(image: Path, look: Callable[[HostGuest], object]) -> str:
    """What is said of it."""

    def body() -> None:
        with confined((image, "ext4", "/")) as guest:
            look(guest)

    with pytest.raises(GuestError) as caught:
        in_namespace(body)
    return str(caught.value)


@pytest.mark.parametrize(
    ("look", "reason"),
    [
        (lambda guest: guest.read("/large"), "read /large in the guest: it is larger than 16 MiB"),
        (
            lambda guest: guest.glob("/boot/vmlinuz-*"),
            "list /boot/vmlinuz-* in the guest: more than 100000 are there; ",
        ),
        (lambda guest: guest.read("/disk"), "read /disk in the guest: it is a block device"),
        (lambda guest: [guest.read("/other") for _ in range(2)], "read /other in the guest: "),
    ],
    ids=["endless file", "endless directory", "device", "another each time"],
)
def test_what_has_no_end_or_is_no_file_is_refused(
    look: Callable[[HostGuest], object], reason: str, hostile: Callable[[str], Path]
) -> None:
    assert refused(hostile("lie"), look).startswith(f"cannot {reason}")


def test_a_link_leads_nowhere_else(hostile: Callable[[str], Path]) -> None:
    image = hostile("lie")

    def body() -> bool:
        with confined((image, "ext4", "/")) as guest:
            return guest.exists("/out") or guest.exists("/etc/hostname")

    assert not in_namespace(body)


@pytest.mark.parametrize("mode", ["no directory", "other version"])
def test_what_is_no_file_system_is_told_as_one_that_cannot_be_read(mode: str, hostile: Callable[[str], Path]) -> None:
    assert refused(hostile(mode), lambda guest: guest.exists("/etc")).startswith("cannot open / in the guest: ")


def test_what_fails_before_it_is_changed_is_the_guests_fault(tmp_path: Path, hostile: Callable[[str], Path]) -> None:
    image = hostile("lie")
    place = Directories(cache=tmp_path / "cache", run=tmp_path / "run")

    def body() -> None:
        with (
            loop_device(image) as loop,
            changed_together([Volume(loop, "ext4")], place.run, partial(scratch, place)),
        ):
            pytest.fail("it was opened")

    with pytest.raises(GuestError, match=r"^cannot look at / in the guest: "):
        in_namespace(body)


def test_what_it_says_is_limited(hostile: Callable[[str], Path]) -> None:
    said = refused(hostile("talk"), lambda guest: guest.exists("/etc"))
    assert said.startswith("fusermount3 with /dev/loop")
    assert " never at a loss for words never at a loss for words " in said
    assert 900 < len(said) < 1100  # the last of it


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_who_waits_for_its_answer_can_be_ended(number: signal.Signals, hostile: Callable[[str], Path]) -> None:
    """The kernel does not let go of a process that waits for an answer to what was read."""
    image = hostile("hang")

    def body() -> None:
        linux.private_mount_namespace()
        try:
            with terminable(), confined((image, "ext4", "/")) as guest:
                guest.exists("/etc")
        except Terminated:
            os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=body)
    process.start()
    assert process.pid is not None
    server = _stopped(process)
    try:
        os.kill(process.pid, number)
        process.join(_PATIENCE_SECONDS)
        assert process.exitcode == (0 if number == signal.SIGTERM else -number)
    finally:
        if process.is_alive():
            os.kill(server, signal.SIGKILL)


def _stopped(process: BaseProcess) -> int:
    """The program, once it holds a question that it does not answer."""
    end = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < end:
        for pid in processes.family(process.pid or 0):
            if processes.name(pid) == "fusermount3" and _state(pid) == "T":
                return pid
        time.sleep(0.01)
    pytest.fail("it was asked nothing")


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
