"""A site to install instances at: its configuration, directories and disks, and the scripts called as Ganeti does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4, uuid5

from osprovider.ganeti.request import Script
from osprovider.ganeti.synthesis import synthesize
from osprovider.manifest import Manifest
from tests.support import loops
from tests.support.sparse import sparse_file
from tests.support.template import CHECKOUT, copy_cache

_MEASURE = """\
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""

__all__ = ["Outcome", "Site", "attached", "debugfs", "read_until", "root_of", "sfdisk"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a script ended: its exit status and what it said."""

    status: int
    said: str

    @property
    def last_line(self) -> str:
        """The line that an operator reads first."""
        return self.said.strip().splitlines()[-1]


@dataclass(slots=True)
class Site:
    """A site of its own below ``directory``, with a cache that may be shared."""

    directory: Path
    cache: Path
    disks: list[Path] = field(default_factory=list)
    identity: UUID = field(default_factory=uuid4)

    def __post_init__(self) -> None:
        self.config.mkdir()
        self.write("subnets/lab.yaml", "networks: [198.51.100.0/24]\ngateways: [198.51.100.254]\nmatch: {link: lab0}\n")

    @property
    def config(self) -> Path:
        """The configuration directory."""
        return self.directory / "etc"

    @property
    def run(self) -> Path:
        """The directory of locks and mount points."""
        return self.directory / "run"

    def write(self, name: str, text: str) -> None:
        """Write a configuration file."""
        path = self.config / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def disk(self, size: int, *, name: str = "disk0.raw") -> Path:
        """A sparse file of ``size`` bytes."""
        return sparse_file(self.directory / name, size)

    def damaged_template(self, cache: Path) -> Path:
        """Go on with a copy of the cache, in which a bit of the one template is flipped; returns its image."""
        self.cache = copy_cache(self.cache, cache, link=False)
        (template,) = cache.glob("templates/*/template.img")
        extents = Manifest.from_json((template.parent / "manifest.json").read_bytes()).extents
        with template.open("r+b") as file:
            file.seek(extents[len(extents) // 2].offset)
            (first,) = file.read(1)
            file.seek(-1, 1)
            file.write(bytes([first ^ 1]))
        return template

    def environment(self, disk: Path | None, *, name: str = "web1.example.org", **changes: Any) -> dict[str, str]:
        """Ganeti's environment for an instance with one disk and one NIC, and where our directories are.

        The instance's UUID is its own and the site's: no kernel mounts two file systems of one UUID at once.
        """
        arguments: dict[str, Any] = {
            "variant": "debian-12",
            "disks": [] if disk is None else [{"path": str(disk)}],
            "nics": [{"ip": "198.51.100.21", "mode": "bridged", "link": "lab0"}],
            **changes,
        }
        return {
            **synthesize(name, **arguments),
            **({"INSTANCE_UUID": str(uuid5(self.identity, name))} if name else {}),
            **self.directories(),
        }

    def directories(self) -> dict[str, str]:
        """The variables that move osprovider's directories."""
        return {
            "OSPROVIDER_CONFIG_DIR": str(self.config),
            "OSPROVIDER_CACHE_DIR": str(self.cache),
            "OSPROVIDER_RUN_DIR": str(self.run),
        }

    @contextmanager
    def waiting(self, name: str = "web1.example.org") -> Iterator[None]:
        """Have no ``create`` of an instance come to its end while the body runs: it waits in a hook of the site's."""
        path = self.config / "hooks/waiting"
        self.write(
            "hooks/waiting",
            "import time\nfrom pathlib import Path\n\ndef run(guest, context):\n"
            f"    while context.hostname == {name!r} and Path({str(path)!r}).exists():\n        time.sleep(0.01)\n",
        )
        try:
            yield
        finally:
            path.unlink()

    def start(self, script: str, environment: Mapping[str, str], *arguments: str) -> subprocess.Popen[str]:
        """Start a script as Ganeti does: nothing on standard input, both outputs in one log."""
        return subprocess.Popen(
            [CHECKOUT / "scripts" / script, *arguments],
            cwd=CHECKOUT / "scripts",
            env={"PATH": "/sbin:/bin:/usr/sbin:/usr/bin", **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def call(self, script: str, environment: Mapping[str, str], *arguments: str) -> Outcome:
        """Run a script to its end."""
        process = self.start(script, environment, *arguments)
        said, _ = process.communicate()
        return Outcome(process.returncode, said)

    def create_without(self, directory: str, disk: Path, **changes: Any) -> Outcome:
        """Run ``create`` where this directory of the node's is empty."""
        return self.create_mounting(f"-t tmpfs none {directory}", disk, **changes)

    def create_mounting(self, mount: str, disk: Path, **changes: Any) -> Outcome:
        """Run ``create`` where something is mounted that the node does not have otherwise; with mount(8)'s words."""
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", f'mount {mount} && exec "$0"', CHECKOUT / "scripts" / "create"],
            env={"PATH": "/sbin:/bin:/usr/sbin:/usr/bin", **self.environment(disk, **changes)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return Outcome(done.returncode, done.stdout)

    def peak_kib(self, script: str, environment: Mapping[str, str]) -> int:
        """Run a script, which has to succeed; its largest process's resident memory in KiB.

        A child's peak counts from before its exec on, when it still is its parent's copy: so a small parent starts it.
        """
        words = [sys.executable, "-c", _MEASURE, str(CHECKOUT / "scripts" / script)]
        done = subprocess.run(words, env=dict(environment), capture_output=True, text=True, check=True)
        return int(done.stdout.splitlines()[-1])

    def create(self, disk: Path | None, **changes: Any) -> Outcome:
        """Run ``create``."""
        return self.call("create", self.environment(disk, **changes))

    def created(self, disk: Path, **changes: Any) -> Outcome:
        """Run ``create``, which has to succeed."""
        outcome = self.create(disk, **changes)
        assert outcome.status == 0, outcome.said
        return outcome

    def renamed(self, disk: Path | None, old_name: str, name: str, **changes: Any) -> Outcome:
        """Run ``rename``."""
        environment = self.environment(disk, name=name, script=Script.RENAME, old_name=old_name, **changes)
        return self.call("rename", environment)

    def plan(self, environment: Mapping[str, str]) -> dict[str, Any]:
        """What ``osprovider plan`` says that ``create`` will do."""
        variables = self.directory / "environment"
        variables.write_text("".join(f"{name}={value}\n" for name, value in environment.items()))
        outcome = self.command("plan", "--json", "--environment", str(variables))
        assert outcome.status == 0, outcome.said
        plan: dict[str, Any] = json.loads(outcome.said)
        return plan

    def command(self, *words: str) -> Outcome:
        """Run the ``osprovider`` command."""
        done = subprocess.run(
            [CHECKOUT / "tools" / "osprovider", *words],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **self.directories()},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return Outcome(done.returncode, done.stdout)


def read_until(process: subprocess.Popen[str], words: str) -> str:
    """Read what a script says until it has said this, and return it. A step is named when it begins."""
    assert process.stdout is not None
    said = ""
    while words not in said:
        character = process.stdout.read(1)
        assert character, f"it ended before it said {words!r}: {said}"
        said += character
    return said


def sfdisk(disk: Path) -> dict[str, Any]:
    """The partition table, as sfdisk(8) reads it."""
    done = subprocess.run(["sfdisk", "--json", disk], capture_output=True, text=True, check=True)
    table: dict[str, Any] = json.loads(done.stdout)["partitiontable"]
    return table


def debugfs(disk: Path, command: str) -> str:
    """What debugfs(8) answers for the root file system, the last partition; nothing is mounted."""
    table = sfdisk(disk)
    root = table["partitions"][-1]
    offset = root["start"] * table.get("sectorsize", 512)
    done = subprocess.run(
        ["debugfs", "-R", command, f"{disk}?offset={offset}"], capture_output=True, text=True, check=True
    )
    return done.stdout


@contextmanager
def attached(path: Path, sector_size: int = 512) -> Iterator[Path]:
    """A loop device on a file, as a block device for an instance."""
    with loops.attached(path, "--sector-size", str(sector_size)) as device:
        yield device


@contextmanager
def root_of(disk: Path) -> Iterator[Path]:
    """A loop device on the root partition, the last one, for reading."""
    table = sfdisk(disk)
    root, sector = table["partitions"][-1], table.get("sectorsize", 512)
    place = ["--offset", str(root["start"] * sector), "--sizelimit", str(root["size"] * sector)]
    with loops.attached(disk, "--read-only", *place) as device:
        yield device
