"""What stands for the time of a build."""

from __future__ import annotations

from pathlib import Path

from osprovider.images.builder.reproducible import newest_release
from tests.support.guests import directory_guest
from tests.unit.hooks.trees import write_tree

LISTS = "/var/lib/apt/lists"


def test_the_newest_list_says_it_in_whatever_way_apt_takes(tmp_path: Path) -> None:
    """Python's formatdate(), with which sites make lists of their own, writes -0000."""
    dates = {
        "archive_InRelease": "Fri, 20 Nov 2026 20:00:00 UTC",
        "shop_InRelease": "Sat, 21 Nov 2026 10:00:00 -0000",
        "depot_Release": "Sat, 21 Nov 2026 08:00:00 +0000",
    }
    write_tree(tmp_path, {f"{LISTS}/{name}": f"Suite: stable\nDate: {date}\n" for name, date in dates.items()})
    with directory_guest(tmp_path) as guest:
        assert newest_release(guest) == 1795255200
