"""A site as the demonstration and the benchmarks have it: its directories, the Debian image, an instance on a file.

Not for: measuring (:mod:`tools.timing`).
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from osprovider.ganeti.synthesis import synthesize

__all__ = ["CHECKOUT", "COMMAND", "CREATE", "DEMO", "DISK_MIB", "Site"]

CHECKOUT = Path(__file__).resolve().parent.parent
COMMAND = CHECKOUT / "tools" / "osprovider"
CREATE = CHECKOUT / "scripts" / "create"
DEMO = CHECKOUT / "build" / "demo"
"""The demonstration's site, whose cache all share: the Debian image is built once."""

DISK_MIB = 3072
"""What an instance's disk has."""


@dataclass(frozen=True, slots=True)
class Site:
    """A site.

    Attributes:
        directory: where its files and locks lie.
        cache: where its prepared images do.
    """

    directory: Path
    cache: Path = DEMO / "cache"

    @property
    def config(self) -> Path:
        """Where its files lie, made by whoever writes some."""
        return self.directory / "etc"

    def environment(self) -> dict[str, str]:
        """What programs of ours are run in."""
        return {
            "PATH": os.environ["PATH"],
            "LC_ALL": "C.UTF-8",
            "OSPROVIDER_CONFIG_DIR": str(self.config),
            "OSPROVIDER_CACHE_DIR": str(self.cache),
            "OSPROVIDER_RUN_DIR": str(self.directory / "run"),
        }

    def debian_template(self) -> Path:
        """The prepared Debian image, built where it is missing."""
        build = [str(COMMAND), "image", "build", "debian-12", "--json"]
        done = subprocess.run(build, env=self.environment(), check=True, stdout=subprocess.PIPE)
        return Path(json.loads(done.stdout)[0]["directory"]) / "template.img"

    def instance(self, name: str, variant: str, disk: Path, **nic: str) -> dict[str, str]:
        """What ``create`` is called with for an instance with a file of :data:`DISK_MIB` as its disk, and one NIC.

        Args:
            name: its FQDN.
            variant: its variant's name.
            disk: the file, which need not be there yet.
            nic: what is to be said of the NIC.
        """
        disks = [{"path": str(disk), "size_mib": DISK_MIB, "backend_type": "file:loop"}]
        return {**synthesize(name, variant, disks=disks, nics=[nic]), **self.environment()}
