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
    ("kind", "step", "sign"),
    [
        ("tar", "identity", signal.SIGTERM),
        ("tar", ": pack", signal.SIGKILL),
        ("qcow2", ": copy", signal.SIGKILL),
        ("qcow2", "compress", signal.SIGTERM),
    ],
)
def test_ended_in_any_step_it_leaves_nothing_that_is_in_the_way(
    site: Site, kind: str, step: str, sign: signal.Signals
) -> None:
    disk = site.directory / "disk"
    small_system(disk, ["mkfs.ext4", "-q", "-F"], commands="head -c 90M /dev/urandom >root/noise")
    before = digest_of(disk)
    process = started(site, disk, "own", "--format", kind, until=step)
    process.send_signal(sign)
    said, _ = process.communicate()
    assert process.returncode != 0, said
    images = site.config / "images"
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
    deadline = time.monotonic() + 20
    while any(backing.startswith(str(place)) for backing in loop_devices().values() for place in places):
        assert time.monotonic() < deadline, loop_devices()
        time.sleep(0.1)
