"""Images of the tests' own making that a site installs, and what is then on an instance's disk.

Not for: what is on their partitions (:mod:`tests.system.create.cloud`).
"""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.system.create.cloud import MIB, Found, Part, mounted_by_the_host, read_partition
from tests.system.create.site import Outcome, Site, sfdisk

__all__ = ["FIRST", "SECOND", "Installed", "Published", "verify_gpt"]

FIRST, SECOND = "web1.example.org", "web2.example.org"


@dataclass(frozen=True, slots=True)
class Installed:
    """An instance's disk, and what was said while it was installed.

    Attributes:
        disk: the disk.
        outcome: of ``create``.
        table: as sfdisk(8) reads it.
        scratch: for copies of its files.
    """

    disk: Path
    outcome: Outcome
    table: dict[str, Any]
    scratch: Path
    _found: dict[int, Found] = field(default_factory=dict)

    @property
    def partitions(self) -> dict[int, dict[str, Any]]:
        """Its partitions by number."""
        return {int(re.findall(r"\d+$", part["node"])[0]): part for part in self.table["partitions"]}

    def partition(self, number: int) -> Found:
        """What is on a partition, which was found sound."""
        if number not in self._found:
            part = self.partitions[number]
            place = part["start"] * 512, part["size"] * 512
            self._found[number] = read_partition(self.disk, *place, self.scratch / f"{self.disk.name}-{number}")
        return self._found[number]

    def identity(self, *numbers: int) -> set[str]:
        """The names of the disk, of its partitions, and of the file systems on these."""
        own = {self.table["id"], *(part["uuid"] for part in self.table["partitions"] if "uuid" in part)}
        return {name.lower() for name in (*own, *(self.partition(number).uuid for number in numbers))}


@dataclass(frozen=True, slots=True)
class Published:
    """An image at a site of its own.

    Attributes:
        site: where it is installed.
        image: its file.
        parts: what it was made of, by number.
        disk_id: the GUID or signature in its table.
    """

    site: Site
    image: Path
    parts: dict[int, Part]
    disk_id: str

    def install(self, size_mib: int, name: str = FIRST, *, used: bool = False, isolation: str = "auto") -> Installed:
        """Install an instance from it; on a disk that is ``used``, every byte of which is 0xA5."""
        disk = self.site.disk(size_mib * MIB, name=f"{name}-{isolation}.raw")
        with disk.open("r+b") as file:  # nothing of what was there shows through
            for place in range(size_mib) if used else (*range(4), *range(size_mib - 4, size_mib)):
                file.seek(place * MIB)
                file.write(b"\xa5" * MIB)
        with mounted_by_the_host(self.site.directory) as mounted:
            outcome = self.create(disk, name, parameters={"isolation": isolation})
        assert outcome.status == 0, outcome.said
        assert bool(mounted) is (isolation == "host")
        return Installed(disk, outcome, sfdisk(disk), self.site.directory)

    def create(self, disk: Path | None, name: str, **changes: Any) -> Outcome:
        """Run ``create``."""
        return self.site.call("create", self.environment(disk, name, **changes))

    def environment(self, disk: Path | None, name: str, **changes: Any) -> dict[str, str]:
        """Ganeti's environment, with an instance's UUID that is its own."""
        nics = [{"link": "lab0", "ip": "198.51.100.7"}]
        return self.site.environment(disk, name=name, variant="published", nics=nics, **changes)

    def plan(self, disk: Path, name: str = FIRST, **changes: Any) -> dict[str, Any]:
        """What ``osprovider plan`` says that ``create`` will do."""
        variables = self.site.directory / "environment"
        environment = self.environment(disk, name, **changes)
        variables.write_text("".join(f"{key}={value}\n" for key, value in environment.items()))
        outcome = self.site.command("plan", "--json", "--environment", str(variables))
        assert outcome.status == 0, outcome.said
        plan: dict[str, Any] = json.loads(outcome.said)
        return plan

    def old_names(self) -> set[str]:
        """The publisher's UUIDs and GUIDs."""
        guids = {part.guid for part in self.parts.values()} if "-" in self.disk_id else set()
        return {name.lower() for name in ({part.uuid for part in self.parts.values()} | guids | {self.disk_id})}


def verify_gpt(disk: Path) -> None:
    """Have sgdisk(8) and sfdisk(8) look for errors in a table."""
    for words, praise in (
        (["sgdisk", "--verify"], "No problems found"),
        (["sfdisk", "--verify"], "No errors detected"),
    ):
        said = subprocess.run([*words, disk], check=True, capture_output=True, text=True).stdout
        assert praise in said
