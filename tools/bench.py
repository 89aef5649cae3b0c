"""``make bench``: a warm create beside instance-debootstrap's from its cache, in one run, with the ratio.

Both install the same tree on a file of the same size, in turn. Ours is synced when it ends, has a boot loader, a network
and host keys; the peer's is not synced and has none of them. Each is timed as a whole process, from exec to exit.
The peer maps its partition with kpartx(8), which needs device-mapper; a stand-in first in its PATH uses a loop device
instead, so that the figures can be had on any machine. Nothing else of the peer changes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from osprovider import linux
from osprovider.ganeti.environment import synthesize

__all__ = ["main"]

_CHECKOUT = Path(__file__).resolve().parent.parent
_PEER = Path("/usr/share/ganeti/os/debootstrap")
_DISK_MIB = 3072

_KPARTX = """#!/bin/bash
# Stands in for kpartx where there is no device-mapper: one partition, mapped by a loop device at its offset.
device="${!#}"
read -r start sectors < <(sfdisk --json "$device" | /usr/bin/python3 -c '
import json, sys
part = json.load(sys.stdin)["partitiontable"]["partitions"][0]
print(part["start"], part["size"])')
name="$(basename "$device")-1"
case "$1" in
-l) echo "$name : 0 $sectors $device $start" ;;
-a) loop=$(losetup --show --find --offset $((start * 512)) --sizelimit $((sectors * 512)) "$device")
    mkdir -p /dev/mapper && ln -s "$loop" "/dev/mapper/$name" ;;
-d) losetup --detach "$(readlink "/dev/mapper/$name")" && rm "/dev/mapper/$name" ;;
esac
"""


def main() -> int:
    """Measure and print; returns the exit status."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--runs", type=int, default=7, help="counted runs of each side (default: %(default)s)")
    runs = parser.parse_args().runs
    # The peer knows only its fixed directories; ours are laid over them where nobody else sees it.
    linux.private_mount_namespace()
    with tempfile.TemporaryDirectory(prefix="osprovider-bench-", dir=_CHECKOUT / "build") as name:
        directory = Path(name)
        ours = _our_environment(directory)
        subprocess.run([_CHECKOUT / "tools" / "osprovider", "image", "build", "debian-12"], env=ours, check=True)
        with _peer_environment(directory, ours) as peer:
            _measure(directory, runs, ours, peer)
    return 0


def _our_environment(directory: Path) -> dict[str, str]:
    (directory / "etc").mkdir()
    return {
        "PATH": os.environ["PATH"],
        "OSPROVIDER_CONFIG_DIR": str(directory / "etc"),
        "OSPROVIDER_CACHE_DIR": str(_CHECKOUT / "build" / "demo" / "cache"),
        "OSPROVIDER_RUN_DIR": str(directory / "run"),
    }


@contextlib.contextmanager
def _peer_environment(directory: Path, ours: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """The peer's settings, its cache filled with the very tree that we install, and its stand-in for kpartx."""
    bin_directory, settings, cache = (directory / each for each in ("bin", "peer-etc", "peer-cache"))
    for each in (bin_directory, settings / "variants", settings / "hooks", cache):
        each.mkdir(parents=True)
    kpartx = bin_directory / "kpartx"
    kpartx.write_text(_KPARTX)
    kpartx.chmod(0o755)
    (settings / "variants.list").write_text("default\n")
    (settings / "variants" / "default.conf").write_text("SUITE=bookworm\nARCH=amd64\nCLEAN_CACHE=\n")
    template = next(Path(ours["OSPROVIDER_CACHE_DIR"]).glob("templates/*/template.img"))
    root = directory / "root"
    root.mkdir()
    subprocess.run(["mount", "-o", "loop,ro,noload", template, root], check=True)
    try:
        tar = ["tar", "--acls", "--xattrs", "--xattrs-include=*", "--create", "--file", cache / "cache-bookworm-amd64.tar"]
        subprocess.run([*tar, "--directory", root, "."], check=True)
    finally:
        subprocess.run(["umount", root], check=True)
    for source, target in ((settings, "/etc/ganeti/instance-debootstrap"), (cache, "/var/cache/ganeti-instance-debootstrap")):
        linux.mount(str(source), target, None, linux.MountFlag.BIND)
    try:
        yield {"PATH": f"{bin_directory}:{os.environ['PATH']}"}
    finally:
        linux.umount("/etc/ganeti/instance-debootstrap")
        linux.umount("/var/cache/ganeti-instance-debootstrap")


def _measure(directory: Path, runs: int, ours: Mapping[str, str], peer: Mapping[str, str]) -> None:
    disk = directory / "disk0.raw"
    ganeti = synthesize(
        "bench.example.org",
        "debian-12",
        disks=[{"path": str(disk), "size_mib": _DISK_MIB, "backend_type": "file:loop"}],
        nics=[{"mac": "aa:00:00:00:00:01"}],
    )
    sides: dict[str, Callable[[], None]] = {
        "osprovider, synced": lambda: _create(_CHECKOUT / "scripts", {**ganeti, **ours}),
        "instance-debootstrap, not synced": lambda: _create(
            _PEER, {**ganeti, **peer, "OS_NAME": "debootstrap", "OS_VARIANT": "default", "OSP_FILESYSTEM": "ext4"}
        ),
    }
    times: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(runs + 1):
        for side, create in sides.items():
            disk.unlink(missing_ok=True)
            with disk.open("wb") as file:
                file.truncate(_DISK_MIB << 20)
            os.sync()
            start = time.monotonic()
            create()
            if number:  # the first is the warm-up
                times[side].append(time.monotonic() - start)
    for side, taken in times.items():
        print(f"{side:<34} median {statistics.median(taken):.2f} s, from {min(taken):.2f} to {max(taken):.2f} s")
    first, second = times.values()
    ratios = [b / a for a, b in zip(first, second, strict=True)]
    print(f"{'ratio':<34} median {statistics.median(ratios):.1f}, from {min(ratios):.1f} to {max(ratios):.1f} ({runs} runs)")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"{'largest process of either':<34} {peak:.0f} MiB resident")


def _create(directory: Path, environment: Mapping[str, str]) -> None:
    done = subprocess.run(["./create"], cwd=directory, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{directory}/create failed:\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    sys.exit(main())
