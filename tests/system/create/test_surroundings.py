"""What a caller may leave a script to work with: streams that are closed or full, any umask, signals."""

from __future__ import annotations

import subprocess

import pytest

from tests.support.template import CHECKOUT
from tests.system.create.site import Site, sfdisk

GIB = 1 << 30


def _under_shell(site: Site, shell: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a line of shell, in which ``$1`` is the directory of the scripts and ``$2`` the command's path."""
    return subprocess.run(
        ["/bin/sh", "-c", shell, "sh", CHECKOUT / "scripts", CHECKOUT / "tools" / "osprovider"],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **environment},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("streams", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", "2>/dev/full", ">/dev/full 2>&1"])
def test_no_stream_keeps_an_instance_from_being_installed(site: Site, streams: str) -> None:
    disk = site.disk(3 * GIB)
    done = _under_shell(site, f'"$1/create" {streams}', site.environment(disk))
    assert done.returncode == 0, done
    assert len(sfdisk(disk)["partitions"]) == 3


@pytest.mark.parametrize("streams", ["2>&-", "<&- >&- 2>&-", "2>/dev/full"])
def test_a_failure_that_nobody_can_read_is_a_failure(site: Site, streams: str) -> None:
    done = _under_shell(site, f'"$1/create" {streams}', site.environment(site.directory / "missing"))
    assert done.returncode == 1, done


@pytest.mark.parametrize("command", ['"$1/create" --help', '"$2" variant list', '"$2" schema image'])
def test_output_that_cannot_be_written_is_a_failure_with_a_cause(site: Site, command: str) -> None:
    done = _under_shell(site, f"{command} >/dev/full", site.directories())
    assert done.returncode == 1
    assert done.stderr == "osprovider: standard output: no space left on device\n"


def test_an_open_umask_opens_nothing_to_others(site: Site) -> None:
    done = _under_shell(site, 'umask 0; "$1/create"', site.environment(site.disk(3 * GIB)))
    assert done.returncode == 0, done
    writable = [path for path in [site.run, *site.run.rglob("*")] if path.stat().st_mode & 0o022]
    assert not writable


def test_what_is_wrong_with_the_arguments_comes_last(site: Site) -> None:
    outcome = site.call("verify", {})
    assert outcome.status == 2
    assert outcome.last_line == "osprovider: wrong arguments: none; write: parameters (verify --help tells more)"


def test_of_many_problems_the_log_ends_with_one(site: Site) -> None:
    environment = {**site.environment(site.disk(GIB)), "DISK_COUNT": "60"}
    outcome = site.call("create", environment)
    lines = outcome.said.splitlines()
    assert outcome.status == 2
    assert len(lines) <= 20
    assert lines[0] == "osprovider: 118 problems, the first 18 of them (osprovider check says all):"
    assert "DISK_" in outcome.last_line
