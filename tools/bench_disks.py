"""What a disk costs: the copy beside cp(1) and dd(1), a large disk beside a small one, and all that is not the copy.

Each two are measured in turn, and synced. The copy's checksums count, and cp has none. A disk of data only is a loop
device that writes past the page cache, as the nodes' own block devices do.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from osprovider.disk.copy import copy_extents
from osprovider.disk.raw import sync
from osprovider.disk.scan import scan_extents
from osprovider.layout import Placement
from osprovider.manifest import Extent
from tools.site import CREATE, DISK_MIB, Site
from tools.timing import Run, asked_runs, new_file, settle, spread, timed, working_directory

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["main", "measure"]

_GIB = 1 << 30
_LAYOUTS = {
    "gpt": "layout: {}",
    "msdos": "layout: {table: msdos, firmware: [bios]}",
    "gpt, boot, swap": "layout: {boot: {size: 512MiB}, swap: 512MiB}",
}
_STEPS = ("file system: new UUID", "file system: new size", "grub for", "sync", "partition table")


def main() -> int:
    """Measure and print; returns the exit status."""
    measure(asked_runs("tools.bench_disks", __doc__, 5))
    return 0


def measure(runs: int) -> None:
    """Print the figures, one line a comparison.

    Args:
        runs: how often each is run; the medians are printed.
    """
    with working_directory() as directory:
        site = Site(directory)
        (site.config / "variants").mkdir(parents=True)
        template = site.debian_template()
        _compare(
            runs,
            ("template to a new file", lambda: _copy(template, new_file(directory / "disk", 3 * _GIB))),
            ("cp --sparse=always", lambda: _cp(template, new_file(directory / "disk", 3 * _GIB))),
        )
        data = _random(directory / "data", _GIB, _GIB)
        large = _random(directory / "large", _GIB, 100 * _GIB)
        with _block_device(directory / "device", _GIB) as device:
            _compare(
                runs,
                ("1 GiB of data to a block device", lambda: _copy(data, device)),
                ("dd of zeros", lambda: _dd(device)),
            )
        _compare(
            runs,
            ("1 GiB of data in 100 GiB", lambda: _copy(large, new_file(directory / "disk", 100 * _GIB))),
            ("1 GiB of data in 1 GiB", lambda: _copy(data, new_file(directory / "disk", _GIB))),
        )
        for kind, layout in _LAYOUTS.items():
            print(_beyond_the_copy(site, kind, layout, runs), flush=True)


def _compare(runs: int, own: tuple[str, Callable[[], float]], other: tuple[str, Callable[[], float]]) -> None:
    """Measure two in turn and print one line."""
    (name, mine), (peer, theirs) = own, other
    mine()
    taken = [(mine(), theirs()) for _ in range(runs)]
    ratio = statistics.median(ours / their for ours, their in taken)
    seconds = [spread(list(each)) for each in zip(*taken, strict=True)]
    print(f"{name}: {seconds[0]} s; {peer}: {seconds[1]} s; of its time {ratio:.2f}", flush=True)


def _random(path: Path, data_bytes: int, size_bytes: int) -> Path:
    """A file of so many random bytes, in eight pieces that lie far apart where it is larger."""
    new_file(path, size_bytes)
    with path.open("r+b") as file:
        for number in range(8):
            file.seek(number * (size_bytes // 8))
            for _ in range(data_bytes // 8 >> 20):
                file.write(os.urandom(1 << 20))
    return path


@contextmanager
def _block_device(backing: Path, size_bytes: int) -> Iterator[Path]:
    """A loop device that writes past the page cache to a file without holes."""
    backing.touch()
    subprocess.run(["fallocate", "--length", str(size_bytes), backing], check=True)
    attach = ["losetup", "--find", "--show", "--direct-io=on", str(backing)]
    device = subprocess.run(attach, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    with open(device, "rb"):  # noqa: PTH123 - detached while it is open, it is when that ends, however we end
        subprocess.run(["losetup", "--detach", device], check=True)
        yield Path(device)


_scanned: dict[Path, tuple[Extent, ...]] = {}


def _copy(template: Path, disk: Path) -> float:
    """Our copy, with the sync, in seconds."""
    with template.open("rb") as source, disk.open("r+b") as target:
        size = template.stat().st_size
        if template not in _scanned:
            _scanned[template] = scan_extents(source.fileno(), size)
        settle()
        start = time.monotonic()
        placements = (Placement(0, size, 0),)
        copy_extents(source.fileno(), target.fileno(), placements, _scanned[template], lambda _: None, zeroing=None)
        sync(target.fileno())
        return time.monotonic() - start


def _cp(template: Path, disk: Path) -> float:
    return _shell('cp --sparse=always "$1" "$2" && sync "$2"', template, disk)


def _dd(device: Path) -> float:
    settle()
    return _shell('dd if=/dev/zero of="$1" bs=4M count=256 oflag=direct conv=fsync,notrunc', device)


def _shell(command: str, *words: Path) -> float:
    return timed(["sh", "-c", command, "sh", *words], {"PATH": os.environ["PATH"]}).seconds


def _beyond_the_copy(site: Site, kind: str, layout: str, runs: int) -> str:
    """What growth, UUIDs, boot loader, sync and table take of a create."""
    (site.config / "variants/bench.yaml").write_text(f"image: debian-12\n{layout}\n")
    done = [_create(site) for _ in range(runs)]
    steps = [sum(run.of(step) for step in _STEPS) for run in done]
    return (
        f"create, {kind}: {spread([run.seconds for run in done])} s; growth, UUID, loader and table {spread(steps)} s"
    )


def _create(site: Site) -> Run:
    disk = new_file(site.directory / "disk", DISK_MIB << 20)
    return timed([CREATE], site.instance("bench.example.org", "bench", disk))


if __name__ == "__main__":
    sys.exit(main())
