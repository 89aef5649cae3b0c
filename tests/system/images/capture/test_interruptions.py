"""Captures that are ended in the middle leave nothing that is in the next one's way."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.support.runs import loop_devices
from tests.system.create.site import Site
from tests.system.images.capture.capturing import digest_of, small_system, started


@pytest.mark.parametrize(
    ("kind", "stopped", "killed"), [("tar", "identity", ": pack"), ("qcow2", "compress", ": copy")]
)
def test_ended_in_any_step_it_leaves_nothing_that_is_in_the_way(
    site: Site, kind: str, stopped: str, killed: str
) -> None:
    disk = site.directory / "disk"
    small_system(disk, ["mkfs.ext4", "-q", "-F"], commands="head -c 90M /dev/urandom >root/noise")
    before = digest_of(disk)
    images = site.config / "images"
    for step, sign in ((stopped, signal.SIGTERM), (killed, signal.SIGKILL)):
        process = started(site, disk, "own", "--format", kind, until=step)
        process.send_signal(sign)
        said, _ = process.communicate()
        assert process.returncode != 0, said
        if sign is signal.SIGTERM:
            assert "SIGTERM" in said.strip().splitlines()[-1]
            assert list(images.iterdir()) == []
        assert not [path for path in images.iterdir() if not path.name.startswith(".")]
        _until_detached(disk, images)
        assert digest_of(disk) == before

    outcome = site.command("image", "capture", str(disk), "--name", "own", "--format", kind)
    assert outcome.status == 0, outcome.said
    assert {path.name for path in images.iterdir()} == {"own.yaml", f"own.{'tar.zst' if kind == 'tar' else kind}"}


def _until_detached(*places: Path) -> None:
    """Whatever was killed, the kernel has detached its loop devices soon after."""
    deadline = time.monotonic() + 60
    while any(backing.startswith(str(place)) for backing in loop_devices().values() for place in places):
        assert time.monotonic() < deadline, loop_devices()
        time.sleep(0.1)
