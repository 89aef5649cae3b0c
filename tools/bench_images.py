"""What images of each format cost: the first create, the second, and preparation beside the tool that does just that.

The same system, Debian 12, as a dump and a tar, each plain and compressed, and as a disk in three forms; and with so
much more in it that it is as large as most distributions' cloud images, as a qcow2. A first create prepares the image,
a second one copies the template, which takes the same time whatever the image was. A disk that others made is opened in
the sandbox, or on the node where the site trusts its maker (`isolation: host`): disks are measured both ways; and one
in an appliance, whose start is dearer than all else. Preparation is `osprovider image build`, from exec to exit,
synced. It and its step that unpacks or converts stand beside restore(8), tar(1) or `qemu-img convert`, timed with the
sync of what they wrote: they neither verify, check, shrink nor inspect anything. No definition declares a checksum,
which would be compared before anything is unpacked, and take as long as sha256sum(1) longer. A ratio above 1 means that
ours is faster. Nothing is fetched, and the files are in the page cache for all sides alike. In the end each is
prepared, and an instance created, by processes that together get 200 MiB of memory.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.image_files import make_cloud_disk, make_dump, make_qcow2, make_system, make_tar
from tools.memory_limit import memory_limit
from tools.site import COMMAND, CREATE, DISK_MIB, Site
from tools.timing import Run, asked_runs, new_file, timed, working_directory

__all__ = ["main", "measure"]

_LIMIT_MIB = 200
_PEERS = {
    "dump": "restore -r",
    "dump -z": "restore -r",
    "tar": "tar -xf",
    "tar.gz": "tar -xzf",
    "qcow2, compressed": "qemu-img convert",
    "qcow2": "qemu-img convert",
    "raw": "qemu-img convert",
    "qcow2, compressed, 1.4 GiB": "qemu-img convert",
    "qcow2, 1.4 GiB": "qemu-img convert",
}
_STEPS = {
    **dict.fromkeys(("restore -r", "tar -xf", "tar -xzf"), ("unpack", "store")),
    "qemu-img convert": (r"\w+ to raw",),
}
_ISOLATIONS = {
    **dict.fromkeys(_PEERS, ("auto",)),
    **dict.fromkeys(("qcow2, compressed", "qcow2"), ("auto", "host")),
    "raw": ("auto", "host", "appliance"),
}
# The system with as much again, thrice, of what is in its /usr.
_ENLARGE = (
    "set -o errexit; mount -t tmpfs none /mnt; mkdir /mnt/root; mount -o loop system.img /mnt/root; cd /mnt/root; "
    "for number in 2 3 4; do cp -a usr usr$number; done"
)
# An empty file system like the one that a tree is unpacked into, in a mount namespace that ends with the program.
_UNPACK = (
    'set -o errexit; mount -t tmpfs none /mnt; mkdir /mnt/root; mount -o loop,noatime "$1" /mnt/root; cd /mnt/root; '
    "shift; {command}; sync --file-system ."
)


def main() -> int:
    """Measure and print; returns the exit status."""
    measure(asked_runs("tools.bench_images", __doc__, 5))
    return 0


def measure(runs: int) -> None:
    """Print the figures, one line a format.

    Args:
        runs: how often each is run; the medians are printed.
    """
    with working_directory() as directory:
        bench = _Bench(Site(directory, directory / "cache"))
        print(f"{'':<28}{'first':>9}{'second':>9}{'the copy':>9}{'prepared':>10}{'unpacked':>10}  beside")
        sources = bench.make_sources()
        for kind, path in sources.items():
            bench.define(kind, path)
            for isolation in _ISOLATIONS[kind]:
                bench.open_in(isolation)
                print(bench.line(kind, path, runs, isolation), flush=True)
        bench.open_in("auto")
        try:
            with memory_limit(_LIMIT_MIB) as limited:
                print(f"with {_LIMIT_MIB} MiB of memory, page cache and all:")
                for kind, path in sources.items():
                    print(bench.limited_line(kind, path, limited), flush=True)
        except OSError as error:
            print(f"no memory limit here: {error}")


@dataclass(frozen=True, slots=True)
class _Bench:
    """A site of the benchmark's own, with images in every format."""

    site: Site

    def make_sources(self) -> dict[str, Path]:
        """The same system in every format."""
        directory = self.site.directory
        (self.site.config / "images").mkdir(parents=True)
        (self.site.config / "variants").mkdir()
        template = Site(directory).debian_template()
        files = {kind: directory / f"system-x86_64-{number}" for number, kind in enumerate(_PEERS)}
        make_dump(template, files["dump"])
        make_dump(template, files["dump -z"], "-z6")
        make_tar(template, files["tar"])
        make_tar(template, files["tar.gz"], "gzip")
        system = directory / "system.img"
        published = make_system(template, system)
        make_cloud_disk(system, published, files["raw"])
        make_qcow2(files["raw"], files["qcow2, compressed"], compressed=True)
        make_qcow2(files["raw"], files["qcow2"], compressed=False)
        subprocess.run(["unshare", "--mount", "bash", "-c", _ENLARGE], cwd=directory, check=True)
        larger = directory / "larger.raw"
        make_cloud_disk(system, published, larger)
        make_qcow2(larger, files["qcow2, compressed, 1.4 GiB"], compressed=True)
        make_qcow2(larger, files["qcow2, 1.4 GiB"], compressed=False)
        return files

    def define(self, kind: str, path: Path) -> None:
        """Write the definition, and a variant."""
        name = path.name
        (self.site.config / f"images/{name}.yaml").write_text(f"source: {path}\n")
        (self.site.config / f"variants/{name}.yaml").write_text(f"description: {kind}\nimage: {name}\n")

    def open_in(self, isolation: str) -> None:
        """Have guests opened so from now on."""
        (self.site.config / "defaults.yaml").write_text(f"isolation: {isolation}\n")

    def line(self, kind: str, path: Path, runs: int, isolation: str) -> str:
        """Measure one format."""
        name = path.name
        self.create(name)  # the first of all makes the appliance
        taken = defaultdict[str, list[float]](list)
        for _ in range(runs):
            self.forget()
            taken["first"].append(self.create(name).seconds)
            done = self.create(name)
            taken["second"].append(done.seconds)
            taken["copy"].append(done.of(f"copy image {name} "))
            self.forget()
            done = timed([COMMAND, "image", "build", name], self.site.environment())
            taken["prepared"].append(done.seconds)
            taken["unpacked"].append(sum(done.of(f"image {name}: {step}") for step in _STEPS[_PEERS[kind]]))
            taken["peer"].append(self.peer(kind, path))
        shown = [
            f"{statistics.median(taken[column]):.2f} s"
            for column in ("first", "second", "copy", "prepared", "unpacked")
        ]
        peer = taken["peer"]
        unpacked, prepared = (
            statistics.median(each / own for each, own in zip(peer, taken[column], strict=True))
            for column in ("unpacked", "prepared")
        )
        figures = "".join(f"{figure:>{width}}" for figure, width in zip(shown, (9, 9, 9, 10, 10), strict=True))
        beside = f"{_PEERS[kind]} {statistics.median(peer):.2f} s, ratio {unpacked:.2f}, of all {prepared:.2f}"
        title = kind if isolation == "auto" else f"{kind}, {isolation}"
        return f"{title:<28}{figures}  {beside}"

    def limited_line(self, kind: str, path: Path, limited: list[str]) -> str:
        """Prepare one format and create from it with little memory."""
        self.forget()
        prepared = timed([*limited, COMMAND, "image", "build", path.name], self.site.environment())
        second = self.create(path.name, limited)
        return f"{kind:<28} prepared {prepared.seconds:.2f} s, then a create {second.seconds:.2f} s"

    def forget(self) -> None:
        """Have the image prepared anew. The appliance stays, which is the node's."""
        for part in ("templates", "sources"):
            shutil.rmtree(self.site.cache / part, ignore_errors=True)

    def create(self, name: str, limited: Sequence[str] = ()) -> Run:
        """Install an instance on a new file."""
        disk = new_file(self.site.directory / "disk0.raw", DISK_MIB << 20)
        return timed([*limited, CREATE], self.site.instance("bench.example.org", name, disk))

    def peer(self, kind: str, path: Path) -> float:
        """Have the tool that does nothing else do its part; in seconds."""
        target = self.site.directory / "peer.img"
        new_file(target, 4 << 30)
        environment = {"PATH": os.environ["PATH"]}
        if _PEERS[kind] == "qemu-img convert":
            container = "raw" if kind == "raw" else "qcow2"
            convert = f"qemu-img convert -f {container} -O raw {path} {target} && sync {target}"
            return timed(["sh", "-c", convert], environment).seconds
        subprocess.run(["mkfs.ext4", "-q", target], check=True)
        words = _PEERS[kind]
        command = f"{words} {path} --xattrs --acls --numeric-owner" if "tar" in words else f"{words} -f {path}"
        script = _UNPACK.format(command=command)
        return timed(["unshare", "--mount", "bash", "-c", script, "bash", str(target)], environment).seconds


if __name__ == "__main__":
    sys.exit(main())
