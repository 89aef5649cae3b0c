"""Builds that are killed or wait for one another.

Those that come to their end make the file systems that no other test builds: each build takes a quarter of a minute.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from osprovider.disk import filesystem
from osprovider.manifest import Manifest
from tests.support.leftovers import no_leftovers
from tests.support.runs import loop_devices
from tests.system.images.builder import Job, run_job, start_job


@pytest.fixture
def base(tmp_path: Path) -> Iterator[Path]:
    """A directory for a store of the test's own."""
    with no_leftovers([tmp_path]):
        yield tmp_path


def wait_for_packages(base: Path) -> None:
    """Wait until the tools of a build are at work in its tree."""
    deadline = time.monotonic() + 120
    while not any(f"{base}/" in backing for backing in loop_devices().values()):
        assert time.monotonic() < deadline, "the build did not begin"
        time.sleep(0.05)
    time.sleep(3)  # and are in the middle of it


def assert_made(done: subprocess.CompletedProcess[str], kind: str) -> None:
    """A template in such a file system has come of it."""
    assert done.returncode == 0, done.stderr
    path = Path(json.loads(done.stdout)[0])
    subprocess.run(["e2fsck", "-f", "-n", path], check=True, capture_output=True)
    manifest = Manifest.from_json((path.parent / "manifest.json").read_bytes())
    assert manifest.filesystem.type == filesystem.type_of(path) == kind


def templates(base: Path) -> list[str]:
    return sorted(path.name for path in (base / "cache/templates").iterdir())


@pytest.mark.parametrize("tool", ["mmdebstrap", "debootstrap"])
def test_a_build_that_is_asked_to_stop_leaves_nothing(tool: str, base: Path) -> None:
    process = start_job(Job(str(base), build={"tool": tool}))
    wait_for_packages(base)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate()
    assert process.returncode == 1
    assert stderr.splitlines()[-1] == "osprovider: ended by SIGTERM"
    assert templates(base) == []


def test_a_build_that_is_killed_leaves_nothing_after_the_next_run(base: Path) -> None:
    job = Job(str(base), filesystem="ext3")
    process = start_job(job)
    wait_for_packages(base)
    process.kill()
    process.communicate()
    assert [name[64:] for name in templates(base)] == [".new"]
    assert_made(run_job(job), "ext3")
    assert [name[64:] for name in templates(base)] == [""]


def test_eight_that_need_an_image_make_it_once(base: Path) -> None:
    processes = [start_job(Job(str(base))) for _ in range(8)]
    results = [(process.communicate(), process.returncode) for process in processes]
    assert [status for _, status in results] == [0] * 8
    assert len({stdout for (stdout, _), _ in results}) == 1  # the same file, by path and inode
    logs = [stderr for (_, stderr), _ in results]
    assert sum("bookworm by mmdebstrap" in log for log in logs) == 1
    for log in logs:
        waited = log.count("waiting for another osprovider that prepares image test")
        assert waited == (0 if "bookworm by mmdebstrap" in log else 1), log
    path = Path(json.loads(results[0][0][0])[0])
    assert templates(base) == [path.parent.name]


def test_a_waiter_takes_over_from_a_build_that_is_killed(base: Path) -> None:
    job = Job(str(base), filesystem="ext2")
    first = start_job(job)
    wait_for_packages(base)
    second = start_job(job)
    first.kill()
    first.communicate()
    stdout, stderr = second.communicate()
    assert_made(subprocess.CompletedProcess(second.args, second.returncode, stdout, stderr), "ext2")
    assert "bookworm by mmdebstrap" in stderr
    assert [name[64:] for name in templates(base)] == [""]
