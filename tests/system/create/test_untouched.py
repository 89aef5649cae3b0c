"""What fails before the disk is written leaves the system that is on it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tests.system.create.site import Site

GIB = 1 << 30


def _digest(disk: Path) -> str:
    with disk.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_a_hook_that_cannot_be_loaded_does_not_cost_an_installed_system_its_table(site: Site) -> None:
    disk = site.disk(3 * GIB)
    site.created(disk)
    before = _digest(disk)
    site.write("hooks/broken", "import nothing_of_this_name\n\n\ndef run(guest, context): ...\n")
    outcome = site.create(disk, reinstall=True)
    assert outcome.status == 1
    assert "nothing_of_this_name" in outcome.last_line
    assert _digest(disk) == before
