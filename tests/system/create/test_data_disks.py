"""``create`` with disks beside disk 0: made at first, kept at a reinstall, and never half made."""

from __future__ import annotations

import re
import signal
import subprocess
import uuid
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import pytest

from osprovider.disk.loop import loop_device
from osprovider.layout import derived_uuid
from tests.support.old_contents import fill
from tests.support.runs import loop_devices
from tests.system.create.cloud import ROOT, Part, read_partition, system
from tests.system.create.published import Published
from tests.system.create.site import Outcome, Site, attached, debugfs, read_until, root_of, sfdisk

GIB = 1 << 30
MIB = 1 << 20
VARIANT = """\
image: debian-12
layout: {swap: {disk: swap}}
disks:
  "1": {filesystem: ext4, mount: /srv, label: files}
  db: {filesystem: xfs, mount: /srv/db, label: base, options: [noatime, nofail]}
  "3": {filesystem: btrfs}
"""
CHECKS = {
    "ext4": ["e2fsck", "-f", "-n"],
    "xfs": ["xfs_repair", "-n"],
    "btrfs": ["btrfs", "check", "--readonly"],
}


def tags(disk: Path) -> dict[str, str]:
    """What blkid(8) finds on a disk as a whole; nothing where it is ambiguous."""
    words = ["blkid", "-p", "-o", "export", str(disk)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return dict(line.split("=", 1) for line in done.stdout.splitlines())


def disks_of(site: Site, *, data_bytes: int = GIB) -> list[Path]:
    """Disk 0, three for data and one for swap."""
    sizes = [3 * GIB, *[data_bytes] * 3, 64 * MIB]
    return [site.disk(size, name=f"disk{index}.raw") for index, size in enumerate(sizes)]


def called(site: Site, disks: list[Path], variant: str = VARIANT, **changes: Any) -> Outcome:
    """Run ``create`` with these disks, the third called db and the fifth swap."""
    site.write("variants/disks.yaml", variant)
    names = {2: "db", 4: "swap"}
    listed = [{"path": str(disk), "name": names.get(index)} for index, disk in enumerate(disks)]
    return site.create(None, **{"variant": "disks", "disks": listed, **changes})


def created(site: Site, disks: list[Path], variant: str = VARIANT, **changes: Any) -> Outcome:
    outcome = called(site, disks, variant, **changes)
    assert outcome.status == 0, outcome.said
    return outcome


def uuids(site: Site, name: str = "web1.example.org") -> list[str]:
    instance = site.environment(None, name=name)["INSTANCE_UUID"]
    return [derived_uuid(instance, f"disk {index} file system") for index in range(5)]


def beginning(disk: Path) -> bytes:
    """What tells what is on a disk."""
    with disk.open("rb") as file:
        return file.read(4 * MIB)


def is_installed(disk: Path) -> bool:
    return subprocess.run(["sfdisk", "--json", disk], capture_output=True, check=False).returncode == 0


def inside(disk: Path, place: Path, script: str, *words: str) -> str:
    """What a shell script says that runs where a disk's file system is mounted, seen by nobody else."""
    place.mkdir(exist_ok=True)
    mount = f'mount "$1" "$2"; cd "$2"; shift 2; {script}'
    with loop_device(disk) as loop:
        argv = ["unshare", "--mount", "sh", "-ec", mount, "sh", str(loop), str(place), *words]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("kind", ["files", "loop-512", "loop-4096"])
def test_each_is_made_as_the_variant_says_over_whatever_was_there(site: Site, kind: str) -> None:
    files = disks_of(site, data_bytes=320 * MIB)  # the least that an xfs wants, and to spare
    for file in files[1:]:
        fill(file)
    subprocess.run(["mkfs.ext4", "-q", "-F", files[2]], check=True)
    subprocess.run(["sfdisk", "--quiet", files[3]], input=b"label: gpt\nsize=64MiB\n", check=True)
    with ExitStack() as stack:
        sector = int(kind.partition("-")[2] or 0)
        disks = [stack.enter_context(attached(file, sector) if sector else nullcontext(file)) for file in files]
        hypervisor = {"hypervisor": "xen-pvm"} if sector == 4096 else {}
        variant = VARIANT + ("boot: {loader: none}\n" if sector == 4096 else "")
        created(site, disks, variant, **hypervisor)
        found = [tags(disk) for disk in disks]
        for number, filesystem in enumerate(("ext4", "xfs", "btrfs"), 1):
            subprocess.run([*CHECKS[filesystem], disks[number]], check=True, capture_output=True)
    assert [each.get("TYPE") for each in found[1:]] == ["ext4", "xfs", "btrfs", "swap"]
    assert [each.get("UUID") for each in found[1:]] == uuids(site)[1:]
    assert [each.get("LABEL") for each in found[1:]] == ["files", "base", None, None]


_IN_THE_GUEST = """set -e
mount --read-only "$1" "$2"
mount --rbind /dev "$2/dev"
mount --types proc proc "$2/proc"
mount --types sysfs sysfs "$2/sys"
chroot "$2" sh -ec 'mount /srv && mount /srv/db && findmnt --noheadings --list --output TARGET,FSTYPE,LABEL /srv
findmnt --noheadings --list --output TARGET,FSTYPE,LABEL,OPTIONS /srv/db'
"""


def test_the_guests_own_mount_finds_them_by_its_fstab(site: Site, tmp_path: Path) -> None:
    name = f"{uuid.uuid4()}.example.org"  # what has its UUIDs is looked for on all of this machine's disks
    disks = disks_of(site)
    created(site, disks, name=name)
    fstab = debugfs(disks[0], "cat /etc/fstab")
    _, ext4, xfs, btrfs, swap = uuids(site, name)
    lines = [line.split() for line in fstab.splitlines() if not line.startswith("#")]
    assert [f"UUID={swap}", "none", "swap", "sw", "0", "0"] in lines
    assert [f"UUID={ext4}", "/srv", "ext4", "defaults", "0", "2"] in lines
    assert [f"UUID={xfs}", "/srv/db", "xfs", "noatime,nofail", "0", "0"] in lines
    assert btrfs not in fstab
    inside(disks[1], tmp_path / "outer", "mkdir db")
    with ExitStack() as stack:
        for disk in disks[1:3]:
            stack.enter_context(attached(disk))
        root = stack.enter_context(root_of(disks[0]))
        words = ["unshare", "--mount", "sh", "-c", _IN_THE_GUEST, "sh", str(root), str(tmp_path / "outer")]
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout
    outside, within = (line.split() for line in done.stdout.splitlines())
    assert outside == ["/srv", "ext4", "files"]
    assert within[:3] == ["/srv/db", "xfs", "base"]
    assert "noatime" in within[3].split(",")


def put(disk: Path, place: Path, text: str) -> None:
    inside(disk, place, 'printf %s "$1" >kept', text)


def content(disk: Path, place: Path) -> str | None:
    return inside(disk, place, "test ! -e kept || cat kept") or None


@pytest.mark.parametrize(
    ("parameters", "kept"), [({"wipe": "zero"}, True), ({"data_disks": "renew"}, False)], ids=["kept", "lost"]
)
def test_a_reinstall_keeps_what_was_stored_unless_its_loss_is_asked_for_by_name(
    site: Site, tmp_path: Path, parameters: dict[str, str], kept: bool
) -> None:
    disks = disks_of(site)
    created(site, disks)
    # Formatted by the guest's owner since, as another file system: it is theirs.
    subprocess.run(["mkfs.ext4", "-q", "-F", "-L", "their\nown", disks[2]], check=True)
    theirs = tags(disks[2])["UUID"]
    for index in (1, 2, 3):
        put(disks[index], tmp_path / "place", f"on disk {index}")
    outcome = created(site, disks, reinstall=True, parameters=parameters)
    found = [content(disk, tmp_path / "place") for disk in disks[1:4]]
    assert found == ([f"on disk {index}" for index in (1, 2, 3)] if kept else [None] * 3)
    assert (re.search(r"disk 2 \(.*\): its ext4 \(their[^\n]+own\) is kept\n", outcome.said) is not None) is kept
    assert (re.search(r"disk 2 \(.*\): its ext4 is lost\n", outcome.said) is not None) is not kept
    assert "swap is lost" not in outcome.said
    lines = [line.split()[:3] for line in debugfs(disks[0], "cat /etc/fstab").splitlines()]
    assert [f"UUID={theirs if kept else uuids(site)[2]}", "/srv/db", "ext4" if kept else "xfs"] in lines
    assert tags(disks[4])["TYPE"] == "swap"


@pytest.mark.parametrize(
    ("variant", "changes", "message"),
    [
        (
            "disks: {logs: {mount: /srv}}\n",
            {},
            "disks.logs: the instance has no disk logs, but 0, 1, 2 (db), 3, 4 (swap)",
        ),
        ('disks: {"7": {mount: /srv}}\n', {}, "disks.7: the instance has no disk 7"),
        ('disks: {"0": {mount: /srv}}\n', {}, '"0" is the disk of the system'),
        ("layout: {swap: {disk: db}}\ndisks: {db: {}}\n", {}, "disks.db and layout.swap are both disk 2"),
        ("disks: {swap: {filesystem: xfs}}\n", {}, "is too small: it has 64 MiB, and xfs needs 300 MiB"),
        ('disks: {"1": {mount: srv}}\n', {}, "write an absolute path"),
        ('disks: {"1": {mount: /srv}, "3": {mount: /srv}}\n', {}, "are both /srv"),
        ('disks: {"1": {mount: /srv}}\n', {"hypervisor": "lxc"}, "the hypervisor lxc mounts disk 0 alone"),
    ],
)
def test_what_cannot_be_is_refused_before_the_first_write(
    site: Site, variant: str, changes: dict[str, Any], message: str
) -> None:
    disks = disks_of(site)
    outcome = called(site, disks, f"image: debian-12\n{variant}", **changes)
    assert outcome.status != 0
    assert message in outcome.said
    assert [disk.stat().st_blocks for disk in disks] == [0] * 5


def test_a_disk_in_use_is_named_before_the_first_write(site: Site) -> None:
    disks = disks_of(site)
    with loop_device(disks[3]) as loop:
        outcome = called(site, disks)
    assert outcome.status == 1
    assert f"{disks[3]}: is in use: {loop}; end that first" in outcome.last_line
    assert [disk.stat().st_blocks for disk in disks] == [0] * 5


def test_one_disk_under_two_names_is_refused_before_the_first_write(site: Site) -> None:
    disks = disks_of(site)
    link = site.directory / "link"
    link.symlink_to(disks[0])
    outcome = called(site, [disks[0], link, *disks[2:]])
    assert outcome.status == 1
    assert f"{link}: is another disk of the instance as well: give each a path of its own" in outcome.last_line
    assert [disk.stat().st_blocks for disk in disks] == [0] * 5


def test_disks_that_have_less_than_ganeti_says_are_told_of(site: Site) -> None:
    disks = disks_of(site)[:2]
    site.write("variants/disks.yaml", 'image: debian-12\ndisks: {"1": {}}\n')
    listed = [{"path": str(disk), "size_mib": 4096} for disk in disks]
    outcome = site.create(None, variant="disks", disks=listed)
    assert outcome.status == 0, outcome.said
    assert "disk 0 has 3072 MiB, and Ganeti says 4096 MiB (DISK_0_SIZE)" in outcome.said
    assert "disk 1 has 1024 MiB, and Ganeti says 4096 MiB (DISK_1_SIZE)" in outcome.said
    assert tags(disks[1])["TYPE"] == "ext4"


def test_the_firmwares_disk_is_refused_before_the_first_write(site: Site) -> None:
    """Ganeti puts it behind all others, and so where a variant may have meant another one."""
    disks = disks_of(site)
    firmware = Path("/usr/share/OVMF/OVMF_VARS_4M.fd").read_bytes()
    disks[4].write_bytes(firmware)
    outcome = called(site, disks, "image: debian-12\nlayout: {swap: {disk: 4}}\n")
    assert outcome.status == 1
    assert f"disk 4 ({disks[4]}): holds the variables of the instance's UEFI firmware" in outcome.last_line
    assert disks[4].read_bytes() == firmware
    assert disks[0].stat().st_blocks == 0


def test_what_is_no_file_system_is_not_lost_at_a_reinstall(site: Site) -> None:
    disks = disks_of(site)
    created(site, disks)
    subprocess.run(["wipefs", "--quiet", "--all", disks[1]], check=True)
    subprocess.run(["sfdisk", "--quiet", disks[1]], input=b"label: gpt\nsize=64MiB\n", check=True)
    before = [beginning(disk) for disk in disks]
    outcome = called(site, disks, reinstall=True)
    assert outcome.status == 1
    assert f"disk 1 ({disks[1]}): is to be mounted, and holds PMBR and gpt: take it out" in outcome.last_line
    assert [beginning(disk) for disk in disks] == before


@pytest.mark.parametrize("index", [1, 2, 3])
def test_a_data_disk_that_fails_is_named_and_nothing_looks_installed(site: Site, index: int) -> None:
    """A device on a file on a file system that is full: it says it is there, and takes next to nothing."""
    disks = disks_of(site)
    created(site, disks)
    (place := site.directory / "small").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], check=True)
    try:
        with attached(site.disk(GIB, name="small/disk")) as failing:
            disks[index] = failing
            outcome = called(site, disks)
            assert outcome.status == 1, outcome.said
            assert str(failing) in outcome.last_line
            assert "bug" not in outcome.last_line
            assert tags(failing) == {}
    finally:
        subprocess.run(["umount", place], check=True)
    assert not is_installed(disks[0])


def test_an_xfs_whose_making_was_cut_short_is_made_again(site: Site) -> None:
    disks = disks_of(site)
    created(site, disks)
    with disks[2].open("r+b") as file:  # as mkfs.xfs leaves it until it has done: sb_inprogress
        file.seek(126)
        file.write(b"\1")
    outcome = created(site, disks, reinstall=True)
    assert "disk 2: xfs for /srv/db" in outcome.said
    assert "its xfs (base) is kept" not in outcome.said
    subprocess.run([*CHECKS["xfs"], disks[2]], check=True, capture_output=True)


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("step", ["disk 2: xfs for /srv/db", "copy image"])
def test_killed_in_the_middle_the_next_run_succeeds_and_kept_data_is_kept(
    site: Site, tmp_path: Path, sign: signal.Signals, step: str
) -> None:
    disks = disks_of(site)
    created(site, disks)
    put(disks[1], tmp_path / "place", "kept through all of it")
    subprocess.run(["wipefs", "--quiet", "--all", disks[2]], check=True)
    listed = [{"path": str(disk), "name": {2: "db", 4: "swap"}.get(index)} for index, disk in enumerate(disks)]
    with site.waiting():
        process = site.start("create", site.environment(None, variant="disks", disks=listed, reinstall=True))
        said = read_until(process, step)
        process.send_signal(sign)
        said += process.communicate()[0]
    assert process.returncode in {1, -sign}, said
    assert not is_installed(disks[0])
    created(site, disks, reinstall=True)
    assert content(disks[1], tmp_path / "place") == "kept through all of it"
    assert is_installed(disks[0])
    subprocess.run([*CHECKS["xfs"], disks[2]], check=True, capture_output=True)
    assert not {str(disk) for disk in disks} & set(loop_devices().values())


def test_an_instance_of_a_disk_image_gets_its_own_as_well(publish: Callable[..., Published]) -> None:
    """Its fstab and its swap file are written in the appliance."""
    root = Part(1, ROOT, 96, "ext4")
    root.files = system(f"UUID={root.uuid} / ext4 errors=remount-ro 0 1\ntmpfs /tmp tmpfs defaults 0 0\n")
    published = publish(root)
    site = published.site
    site.write(
        "variants/published.yaml",
        "image: published\nlayout: {swap: {file: 16MiB}}\ndisks: {data: {filesystem: xfs, mount: /srv/data}}\n",
    )
    disk, data = site.disk(256 * MIB), site.disk(GIB, name="data.raw")
    listed = [{"path": str(disk)}, {"path": str(data), "name": "data"}]
    outcome = site.create(None, variant="published", disks=listed)
    assert outcome.status == 0, outcome.said
    place = sfdisk(disk)["partitions"][0]
    found = read_partition(disk, place["start"] * 512, place["size"] * 512, site.directory / "read")
    assert found.text("/etc/fstab").splitlines() == [
        f"UUID={found.uuid} / ext4 errors=remount-ro 0 1",
        "tmpfs /tmp tmpfs defaults 0 0",
        f"UUID={tags(data)['UUID']} /srv/data xfs defaults 0 0",
        "/swapfile none swap sw 0 0",
    ]
    said = debugfs(disk, "stat /swapfile")
    assert "Mode:  0600" in said
    assert f"Size: {16 * MIB}" in said
    assert int(said.partition("Blockcount: ")[2].split()[0]) * 512 >= 16 * MIB
    assert "Type: directory" in debugfs(disk, "stat /srv/data")
