"""``create`` killed at any moment, and creates side by side."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.runs import loop_devices
from tests.system.create.site import Site, read_until, sfdisk

GIB = 1 << 30


def _loops_on(disk: Path) -> list[str]:
    return [device for device, backing in loop_devices().items() if backing == str(disk)]


def _looks_installed(disk: Path) -> bool:
    return subprocess.run(["sfdisk", "--json", disk], capture_output=True, check=False).returncode == 0


def _verify_stopped(process: subprocess.Popen[str], sign: signal.Signals, disk: Path) -> None:
    """Send a signal; the disk then is what the exit status says."""
    process.send_signal(sign)
    said, _ = process.communicate()
    if process.returncode == 0:  # it was done already: what it did has to be whole
        assert _looks_installed(disk)
    elif process.returncode == 1:
        assert sign is signal.SIGTERM, said
        assert "SIGTERM" in said.strip().splitlines()[-1]
        assert not _looks_installed(disk)
        assert not _loops_on(disk)
    else:  # at once; a SIGTERM too, where it came before Python heard of it or after it was done
        assert process.returncode == -sign, said


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("seed", range(4))
def test_killed_at_any_moment_the_next_run_succeeds(site: Site, sign: signal.Signals, seed: int) -> None:
    disk = site.disk(3 * GIB)
    process = site.start("create", site.environment(disk))
    time.sleep(random.Random(f"{sign} {seed}").uniform(0.05, 0.9))
    _verify_stopped(process, sign, disk)
    site.created(disk)
    assert len(sfdisk(disk)["partitions"]) == 3
    assert not _loops_on(disk)


@pytest.mark.parametrize("seconds", [0, 0.001, 0.003])
def test_ended_when_it_is_all_but_done_the_disk_is_what_the_status_says(site: Site, seconds: float) -> None:
    disk = site.disk(3 * GIB)
    process = site.start("create", site.environment(disk))
    read_until(process, "partition table")
    time.sleep(seconds)
    _verify_stopped(process, signal.SIGTERM, disk)


def test_killed_while_it_copies_the_disk_does_not_look_installed(site: Site) -> None:
    disk = site.disk(3 * GIB)
    site.created(disk)
    with site.waiting():
        process = site.start("create", site.environment(disk, reinstall=True))
        read_until(process, "copy image")
        process.kill()
        process.communicate()
    assert not _looks_installed(disk)
    site.created(disk, reinstall=True)


def test_two_creates_do_not_wait_for_each_other(site: Site) -> None:
    first, second = site.disk(3 * GIB), site.disk(3 * GIB, name="second.raw")
    with site.waiting():
        process = site.start("create", site.environment(first))
        try:
            read_until(process, "copy image")
            process.send_signal(signal.SIGSTOP)
            site.created(second, name="web2.example.org", nics=[{"ip": "198.51.100.22", "link": "lab0"}])
            assert process.poll() is None
        finally:
            process.send_signal(signal.SIGCONT)
    said, _ = process.communicate()
    assert process.returncode == 0, said
    assert _looks_installed(first)
    assert _looks_installed(second)


def test_eight_creates_at_once(site: Site) -> None:
    disks = [site.disk(3 * GIB, name=f"disk{number}.raw") for number in range(8)]
    processes = []
    for number, disk in enumerate(disks):
        nic = {"ip": f"198.51.100.{number + 30}", "link": "lab0"}
        processes.append(site.start("create", site.environment(disk, name=f"web{number}.example.org", nics=[nic])))
    for process in processes:
        said, _ = process.communicate()
        assert process.returncode == 0, said
    assert len({sfdisk(disk)["id"] for disk in disks}) == 8
