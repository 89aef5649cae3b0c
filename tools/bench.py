"""``make bench``: a warm create beside instance-debootstrap's from its cache, in one run, with the ratio; and the rest.

Three sides install on a file of the same size, in turn: ours; the peer from the cache that it made itself, with the
packages that its own settings file names for KVM; the peer from a cache with the very tree that ours installs. Ours is
synced when it ends, has a boot loader, a network and host keys; the peer's is not synced and has none of them. Each is
timed as a whole process, from exec to exit.
The peer maps its partition with kpartx(8), which needs device-mapper; a stand-in first in its PATH uses a loop device
instead, so that the figures can be had on any machine. Nothing else of the peer changes.
What copying costs is measured by :mod:`tools.bench_disks`, what images of each format cost by
:mod:`tools.bench_images`; both run alone as well.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from osprovider import linux
from tools import bench_disks, bench_images
from tools.site import CHECKOUT, CREATE, DISK_MIB, Site
from tools.timing import Run, asked_runs, new_file, spread, timed, working_directory

__all__ = ["main"]

_PEER = Path("/usr/share/ganeti/os/debootstrap")
_PEER_PACKAGES = "acpi-support-base,kbd,udev,linux-image-amd64"  # its settings file's; console-tools is now kbd

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
    runs = asked_runs("make bench", __doc__, 7)
    # The peer knows only its fixed directory of settings; ours is laid over it where nobody else sees it.
    linux.private_mount_namespace()
    with working_directory() as directory:
        site = Site(directory)
        site.config.mkdir()
        with _peer_environment(directory, site.debian_template()) as peer:
            _measure(site, runs, peer)
    print()
    bench_disks.measure(runs)
    print()
    bench_images.measure(runs)
    return 0


@contextlib.contextmanager
def _peer_environment(directory: Path, template: Path) -> Iterator[dict[str, str]]:
    """The peer's settings: a variant with its own cache, one whose cache holds what we install; and its kpartx.

    Its own cache is made by its first create and kept for the next run of the benchmark.
    """
    bin_directory, settings, same = (directory / each for each in ("bin", "peer-etc", "peer-cache"))
    own = CHECKOUT / "build" / "bench" / "peer-cache"
    for each in (bin_directory, settings / "variants", settings / "hooks", same, own):
        each.mkdir(parents=True, exist_ok=True)
    kpartx = bin_directory / "kpartx"
    kpartx.write_text(_KPARTX)
    kpartx.chmod(0o755)
    (settings / "variants.list").write_text("own\nsame\n")
    for variant, cache in (("own", own), ("same", same)):
        conf = f"SUITE=bookworm\nARCH=amd64\nCLEAN_CACHE=\nCACHE_DIR={cache}\nEXTRA_PKGS={_PEER_PACKAGES}\n"
        (settings / "variants" / f"{variant}.conf").write_text(conf)
    root = directory / "root"
    root.mkdir()
    subprocess.run(["mount", "-o", "loop,ro,noload", template, root], check=True)
    try:
        tar = ["tar", "--acls", "--xattrs", "--xattrs-include=*", "--create"]
        archive = same / "cache-bookworm-amd64.tar"
        subprocess.run([*tar, "--file", archive, "--directory", root, "."], check=True)
    finally:
        subprocess.run(["umount", root], check=True)
    target = "/etc/ganeti/instance-debootstrap"
    linux.mount(str(settings), target, None, linux.MountFlag.BIND)
    try:
        yield {"PATH": f"{bin_directory}:{os.environ['PATH']}"}
    finally:
        linux.umount(target)


def _measure(site: Site, runs: int, peer: Mapping[str, str]) -> None:
    disk = site.directory / "disk0.raw"
    ours = site.instance("bench.example.org", "debian-12", disk)
    theirs = {**ours, **peer, "OS_NAME": "debootstrap", "OSP_FILESYSTEM": "ext4"}
    sides = {
        "osprovider, synced": (CREATE.parent, ours),
        "instance-debootstrap, its own cache": (_PEER, {**theirs, "OS_VARIANT": "own"}),
        "instance-debootstrap, our tree": (_PEER, {**theirs, "OS_VARIANT": "same"}),
    }
    taken: dict[str, list[Run]] = {side: [] for side in sides}
    for number in range(runs + 1):
        for side, (scripts, environment) in sides.items():
            new_file(disk, DISK_MIB << 20)
            run = timed(["./create"], environment, scripts)
            if number:  # the first is the warm-up, and fills the peer's cache
                taken[side].append(run)
    for side, done in taken.items():
        peak = max(run.peak_kib for run in done) / 1024
        print(f"{side:<36} {spread([run.seconds for run in done])} s, at most {peak:.0f} MiB resident")
    own, *others = taken.values()
    for side, other in zip(list(taken)[1:], others, strict=True):
        ratios = [their.seconds / our.seconds for our, their in zip(own, other, strict=True)]
        print(f"ratio to {side}: {spread(ratios)} ({runs} runs)")


if __name__ == "__main__":
    sys.exit(main())
