"""Two instances of one image, which was taken from a running system: both are sound, and one host can mount both."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from osprovider.disk.loop import loop_device
from osprovider.guest.unclean import why_unclean
from tests.system.create.cloud import BIOS_BOOT, ESP, LINUX, MIB, ROOT, SWAP, Part, install_filesystem, system
from tests.system.create.published import SECOND, Installed, Published

PLACES = {1: ("/", 82), 4: ("/srv", 146), 5: ("/home", 466)}
"""Of the file systems that were in use: where they are mounted, and at which MiB they begin."""


@pytest.fixture(scope="module")
def running(publish: Callable[..., Published]) -> Published:
    """An image of a disk whose ext4, xfs and btrfs are mounted, and hold what was written in their journals."""
    esp, swap = Part(2, ESP, 64, "vfat", label="ESP"), Part(3, SWAP, 16, "swap", label="pages")
    root, srv, home = Part(1, ROOT, 64, "ext4"), Part(4, LINUX, 320, "xfs", label="srv"), Part(5, LINUX, 128, "btrfs")
    fstab = (
        f"/dev/vda1 / ext4 defaults 0 1\nLABEL=srv /srv xfs defaults 0 0\n/dev/vda5 /home btrfs defaults 0 0\n"
        f"UUID={esp.uuid} /boot/efi vfat defaults 0 0\n/dev/vda3 none swap sw 0 0\n"
    )
    root.files = system(fstab, srv__x="", home__x="", boot__efi__x="")
    published = publish(Part(14, BIOS_BOOT, 1), esp, swap, root, srv, home)
    taken = published.image.with_name("taken")
    mounts = "".join(
        f"mkdir .{number}; mount -o loop,offset={start * MIB},sizelimit={published.parts[number].size_mib * MIB} "
        f"{published.image} .{number}; "
        for number, (_, start) in PLACES.items()
        if number != 1
    )
    write = "for place in root .4 .5; do xfs_io -f -c 'pwrite -q 0 64k' -c fsync $place/written; done; "
    options = f"loop,offset={PLACES[1][1] * MIB},sizelimit={root.size_mib * MIB}"
    install_filesystem(published.image, f"{mounts} {write} cp --sparse=always {published.image} {taken}", options)
    taken.replace(published.image)
    return published


@pytest.fixture(scope="module")
def clones(running: Published) -> tuple[Installed, Installed]:
    """Two instances of it."""
    return running.install(700), running.install(640, SECOND)


def names(installed: Installed) -> set[str]:
    """All that blkid(8) calls a disk, its partitions and their file systems, but by label and type."""
    found = {installed.table["id"].lower()}
    for part in installed.table["partitions"]:
        place = ["--offset", str(part["start"] * 512), "--size", str(part["size"] * 512)]
        words: list[str | Path] = ["blkid", "--probe", "--output", "export", *place, installed.disk]
        said = subprocess.run(words, check=False, capture_output=True, text=True).stdout
        found |= {part["uuid"].lower(), *(name.lower() for name in re.findall(r"(?m)^UUID(?:_SUB)?=(.+)$", said))}
    return found


def test_the_image_is_of_a_system_that_was_running(running: Published) -> None:
    for number, (_, start) in PLACES.items():
        part = running.parts[number]
        place = {"offset_bytes": start * MIB, "size_bytes": part.size_mib * MIB}
        with loop_device(running.image, **place, read_only=True) as device:
            assert why_unclean(device, part.filesystem)


def test_they_share_no_name_with_each_other_or_the_image(
    running: Published, clones: tuple[Installed, Installed]
) -> None:
    one, other = (names(each) for each in clones)
    assert len(one) == len(other) == 13  # the disk, six partitions, five file systems, and a btrfs' device
    assert not one & other
    assert not (one | other) & running.old_names()


def test_one_host_mounts_both_at_once_and_finds_what_was_written(clones: tuple[Installed, Installed]) -> None:
    places = [(each, number) for each in clones for number in PLACES]
    mounts = "".join(
        f"mkdir {index}; mount -o {_loop(each, number)} {each.disk} {index}; "
        for index, (each, number) in enumerate(places)
        if index > 0
    )
    said = install_filesystem(clones[0].disk, f"{mounts} stat --format %s */written", _loop(*places[0]))
    assert said == "65536\n" * len(places)


def _loop(installed: Installed, number: int) -> str:
    part = installed.partitions[number]
    return f"loop,offset={part['start'] * 512},sizelimit={part['size'] * 512}"


def test_their_file_systems_are_sound_and_have_their_labels(clones: tuple[Installed, Installed]) -> None:
    for each in clones:
        labels = {number: each.partition(number).label for number in (*PLACES, 2, 3)}
        assert labels == {1: "", 2: "ESP", 3: "pages", 4: "srv", 5: ""}


def test_their_fstab_names_what_they_have(clones: tuple[Installed, Installed]) -> None:
    for each in clones:
        uuids = {number: each.partition(number).uuid for number in (1, 2, 3, 5)}
        assert each.partition(1).text("/etc/fstab") == (
            f"UUID={uuids[1]} / ext4 defaults 0 1\nLABEL=srv /srv xfs defaults 0 0\n"
            f"UUID={uuids[5]} /home btrfs defaults 0 0\nUUID={uuids[2]} /boot/efi vfat defaults 0 0\n"
            f"UUID={uuids[3]} none swap sw 0 0\n"
        )
