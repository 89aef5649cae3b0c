"""``create`` asked to end while something in it takes as long as it likes: it ends, and gives everything back."""

from __future__ import annotations

import signal
import subprocess

from tests.support.runs import loop_devices
from tests.system.create.site import Site

GIB = 1 << 30
ENDS_SECONDS = 300  # far more than it takes, far less than what it would wait for
ENDLESS = "import time\n\ndef prepare(context):\n    {prepare}\n\ndef run(guest, context):\n    {run}\n"


def _terminated(site: Site, hook: str, *, mode: int = 0o644) -> None:
    """Create with a hook that takes an hour, ask it to end when that one's turn has come; all has to be given back."""
    path = site.config / "hooks" / "slow"
    path.parent.mkdir()
    path.write_text(hook)
    path.chmod(mode)
    disk = site.disk(3 * GIB)
    process = site.start("create", site.environment(disk))
    assert process.stdout is not None
    while "hook ssh" not in (line := process.stdout.readline()):
        assert line, "create ended by itself"
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=ENDS_SECONDS)
    assert process.returncode == 1, said
    assert "SIGTERM" in said.splitlines()[-1]
    assert subprocess.run(["sfdisk", "--json", disk], capture_output=True, check=False).returncode != 0
    assert str(disk) not in loop_devices().values()
    path.unlink()
    site.created(disk)
    assert not [left for left in site.run.iterdir() if left.name.startswith("hooks-")]


def test_a_preparation_that_never_ends_does_not_keep_it(site: Site) -> None:
    _terminated(site, "# after: ssh\n" + ENDLESS.format(prepare="time.sleep(3600)", run="pass"))


def test_a_hook_that_never_ends_does_not_keep_it(site: Site) -> None:
    _terminated(site, "# after: ssh\n" + ENDLESS.format(prepare="pass", run="time.sleep(3600)"))


def test_a_program_that_never_ends_goes_with_it(site: Site) -> None:
    _terminated(site, "#!/bin/sh\n# after: ssh\ntrap '' TERM\nsleep 3600 &\nsleep 3600\n", mode=0o755)
