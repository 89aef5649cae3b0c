"""``create`` on a disk full of another's data: what the template says is free holds zeros, and nothing old is found."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from osprovider.manifest import Manifest
from tests.support import loops
from tests.support.old_contents import assert_holes_are_zero, fill
from tests.system.create.site import Site, attached, sfdisk

GIB = 1 << 30


@contextmanager
def _partition(disk: Path, number: int) -> Iterator[Path]:
    """A loop device on a partition, by its number in the table."""
    part = sfdisk(disk)["partitions"][number - 1]
    place = ["--offset", str(part["start"] * 512), "--sizelimit", str(part["size"] * 512)]
    with loops.attached(disk, "--read-only", *place) as device:
        yield device


def _signatures(path: Path) -> set[str]:
    found = subprocess.run(["wipefs", "--json", path], capture_output=True, text=True, check=True).stdout
    return {signature["type"] for signature in json.loads(found)["signatures"]}


@pytest.mark.parametrize(
    ("wipe", "kind"),
    [
        *((wipe, kind) for wipe in ("auto", "none") for kind in ("file", "loop-512", "loop-4096")),
        ("zero", "file"),
        ("discard", "loop-512"),
    ],
)
def test_no_free_range_of_the_template_shows_what_was_there(site: Site, wipe: str, kind: str) -> None:
    disk = site.disk(GIB)
    fill(disk)
    with ExitStack() as stack:
        sectors = int(kind.removeprefix("loop-")) if kind != "file" else 512
        target = disk if kind == "file" else stack.enter_context(attached(disk, sectors))
        site.created(target, parameters={"wipe": wipe})
    (path,) = site.cache.glob("templates/*/manifest.json")
    manifest = Manifest.from_json(path.read_bytes())
    assert _signatures(disk) == {"gpt", "PMBR"}
    with _partition(disk, 3) as root:
        assert _signatures(root) == {"ext4"}
        assert_holes_are_zero(root, 0, manifest)
        subprocess.run(["e2fsck", "-fn", root], check=True, capture_output=True)
    with _partition(disk, 2) as esp:
        assert _signatures(esp) == {"vfat"}
        checked = subprocess.run(["fsck.vfat", "-n", esp], capture_output=True, text=True, check=True).stdout
        assert "4 files" in checked
    with _partition(disk, 1) as bios:
        assert _signatures(bios) == set()
