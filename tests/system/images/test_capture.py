"""Disks with an installed system, captured: instances made of what comes out, and disks that are refused."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.support.leftovers import no_leftovers
from tests.support.runs import loop_devices
from tests.support.template import CHECKOUT, shared_cache
from tests.system.create.site import Outcome, Site, attached, debugfs, sfdisk

GIB = 1 << 30
NAMES = {"golden": "web1.example.org", "tar": "web2.example.org", "qcow2": "web3.example.org"}
KINDS = ("tar", "qcow2")
SECRET = "a line that only this instance knows"

# What an administrator and the running system leave, in a file system that is mounted at ``root``.
_USED = f"""
mkdir -p root/root/.ssh root/home/ada/.ssh root/var/log/journal/0123 root/var/lib/cloud/instances/i-1 root/var/lib/dhcp
echo 'ssh-ed25519 AAAA ada' | tee root/root/.ssh/authorized_keys >root/home/ada/.ssh/authorized_keys
echo 'ada:x:1000:1000::/home/ada:/bin/bash' >>root/etc/passwd
echo work >root/home/ada/work
echo '{SECRET}' | tee root/root/.bash_history root/var/log/syslog root/var/log/syslog.1 root/var/lib/dhcp/x.leases \\
    root/var/log/journal/0123/system.journal root/var/lib/cloud/instances/i-1/user-data.txt root/tmp/x >root/swapfile
echo '/swapfile none swap sw 0 0' >>root/etc/fstab
cp root/usr/bin/true root/usr/local/bin/capable
setcap cap_net_raw+ep root/usr/local/bin/capable
setfacl -m u:33:rx root/usr/local/bin/capable
ln root/usr/local/bin/capable root/usr/local/bin/linked
echo 'kept by the site' >root/srv/kept
"""


@dataclass(frozen=True, slots=True)
class Lab:
    """A site with an instance that was in use, what capturing it said, and the instances made of that.

    Attributes:
        disks: by what they are of: ``golden``, which was captured, ``tar`` and ``qcow2``.
        outcomes: of the captures.
        digest: of the captured disk before.
    """

    site: Site
    disks: dict[str, Path]
    outcomes: dict[str, Outcome]
    digest: str


@pytest.fixture(scope="module")
def lab(run_directory: Path) -> Iterator[Lab]:
    with _site(run_directory) as site, no_leftovers([site.directory]):
        golden = _installed(site)
        digest = _digest(golden)
        outcomes, disks = {}, {"golden": golden}
        for kind in KINDS:
            outcomes[kind] = site.command("image", "capture", str(golden), "--name", kind, "--format", kind, "--json")
            assert outcomes[kind].status == 0, outcomes[kind].said
            site.write(f"variants/{kind}.yaml", f"image: {kind}\n")
            disks[kind] = site.disk(4 * GIB, name=f"{kind}.raw")
            nic = {"ip": f"198.51.100.{22 + len(disks)}", "link": "lab0"}
            site.created(disks[kind], variant=kind, name=NAMES[kind], nics=[nic])
        yield Lab(site, disks, outcomes, digest)


@contextmanager
def _site(run_directory: Path) -> Iterator[Site]:
    """A site with a cache of its own, in which the template of debian-12 is ready."""
    shared = shared_cache(run_directory)
    with tempfile.TemporaryDirectory(dir=run_directory) as name:
        cache = Path(name) / "cache"
        subprocess.run(["cp", "--archive", "--link", shared, cache], check=True)
        (Path(name) / "site").mkdir()
        yield Site(Path(name) / "site", cache)


@pytest.fixture
def site(run_directory: Path) -> Iterator[Site]:
    with _site(run_directory) as made, no_leftovers([made.directory]):
        yield made


def _installed(site: Site, commands: str = _USED) -> Path:
    """The disk of an instance that was installed, and used."""
    disk = site.disk(3 * GIB)
    site.created(disk)
    root = sfdisk(disk)["partitions"][-1]
    _in_mount(disk, commands, f"loop,offset={root['start'] * 512},sizelimit={root['size'] * 512}")
    return disk


def _in_mount(image: Path, commands: str, options: str = "loop") -> None:
    """Run shell commands where `image` is mounted at ``root``, in namespaces of their own."""
    mount = f'mount -t tmpfs none /mnt; cd /mnt; mkdir root; mount -o {options} "$0" root;'
    script = f"set -o errexit -o pipefail; {mount} {commands}\numount root"
    words = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "bash", "-c", script, str(image)]
    subprocess.run(words, check=True, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"})


def _content(disk: Path, path: str) -> bytes:
    """What is in a file of the root's; empty where there is none."""
    root = sfdisk(disk)["partitions"][-1]
    words = ["debugfs", "-R", f"cat {path}", f"{disk}?offset={root['start'] * 512}"]
    return subprocess.run(words, capture_output=True, check=True).stdout


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _identity(disk: Path) -> dict[str, str]:
    """What no two instances may share."""
    table = sfdisk(disk)
    superblock = debugfs(disk, "show_super_stats -h")
    found = {
        "disk": table["id"],
        **{f"partition {number}": part["uuid"] for number, part in enumerate(table["partitions"])},
        "root": re.findall(r"Filesystem UUID:\s+(\S+)", superblock)[0],
        "hash seed": re.findall(r"Directory Hash Seed:\s+(\S+)", superblock)[0],
        "machine ID": debugfs(disk, "cat /etc/machine-id").strip(),
        "host name": debugfs(disk, "cat /etc/hostname").strip(),
        "hosts": debugfs(disk, "cat /etc/hosts"),
        "random seed": _content(disk, "/var/lib/systemd/random-seed").hex(),
    }
    for kind in ("rsa", "ecdsa", "ed25519"):
        found[kind] = debugfs(disk, f"cat /etc/ssh/ssh_host_{kind}_key.pub").split()[1]
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_the_disk_is_not_written(lab: Lab, kind: str) -> None:
    assert lab.outcomes[kind].status == 0
    assert _digest(lab.disks["golden"]) == lab.digest


@pytest.mark.parametrize("kind", KINDS)
def test_an_instance_of_the_image_shares_no_identity_with_the_one_it_was_made_of(lab: Lab, kind: str) -> None:
    old, new = _identity(lab.disks["golden"]), _identity(lab.disks[kind])
    assert set(old) == set(new)
    shared = {what for what in old if old[what] == new[what]}
    # A file system that comes along keeps its seed of directory hashes, as it does whenever its UUID is changed.
    assert shared <= {"hash seed"}
    assert new["host name"] == NAMES[kind]
    assert all(new.values())


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_installed_and_made_is_the_same(lab: Lab, kind: str) -> None:
    for path in ("/var/lib/dpkg/status", "/home/ada/work", "/srv/kept", "/usr/local/bin/linked"):
        assert _content(lab.disks[kind], path) == _content(lab.disks["golden"], path) != b""
    stat = debugfs(lab.disks[kind], "stat /usr/local/bin/capable")
    assert "Links: 2" in stat
    assert "security.capability" in stat
    assert "system.posix_acl_access" in debugfs(lab.disks[kind], "ea_list /usr/local/bin/capable")


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_what_it_wrote_or_was_told_is_left(lab: Lab, kind: str) -> None:
    disk = lab.disks[kind]
    for path in ("/root/.ssh/authorized_keys", "/home/ada/.ssh/authorized_keys", "/root/.bash_history", "/swapfile"):
        assert "File not found" in _debugfs_errors(disk, f"stat {path}")
    assert debugfs(disk, "cat /var/log/syslog") == ""
    assert "swapfile" not in debugfs(disk, "cat /etc/fstab")
    assert NAMES["golden"] not in debugfs(disk, "cat /etc/hosts")


def _debugfs_errors(disk: Path, command: str) -> str:
    root = sfdisk(disk)["partitions"][-1]
    words = ["debugfs", "-R", command, f"{disk}?offset={root['start'] * 512}"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stderr


@pytest.mark.parametrize("kind", KINDS)
def test_not_even_in_free_space(lab: Lab, kind: str) -> None:
    """The image has no block that anybody has deleted."""
    (image,) = (lab.site.config / "images").glob(f"{kind}.*[!l]")
    if kind == "tar":
        words = ["zstd", "--decompress", "--stdout", str(image)]
    else:
        subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, f"{image}.raw"], check=True)
        words = ["cat", f"{image}.raw"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        grep = ["grep", "--text", "--count", SECRET]
        found = subprocess.run(grep, stdin=process.stdout, capture_output=True, check=False)
    Path(f"{image}.raw").unlink(missing_ok=True)
    assert found.stdout == b"0\n"


@pytest.mark.parametrize("kind", KINDS)
def test_the_definition_names_the_file_its_sum_and_where_it_came_from(lab: Lab, kind: str) -> None:
    said = lab.outcomes[kind].said
    answer = json.loads(said[said.index("{\n") :])
    definition = yaml.safe_load((lab.site.config / f"images/{kind}.yaml").read_text())
    assert answer["definition"] == definition
    image = Path(definition["source"])
    assert image.parent == lab.site.config / "images"
    assert definition["checksums"] == f"sha256:{_digest(image)}"
    assert image.stat().st_size == answer["size_bytes"]
    assert image.stat().st_mode & 0o777 == 0o600
    assert re.fullmatch(
        rf"Debian GNU/Linux 12 \(bookworm\), captured from {lab.disks['golden']} on [\d-]+", definition["description"]
    )


def test_both_are_small(lab: Lab) -> None:
    used = lab.disks["golden"].stat().st_blocks * 512
    for kind in KINDS:
        assert Path(yaml.safe_load((lab.site.config / f"images/{kind}.yaml").read_text())["source"]).stat().st_size < (
            used // 2
        )


# -- other disks ------------------------------------------------------------------------------------------------------


def _small_system(path: Path, make: Sequence[str], *, size: int = 400 << 20, commands: str = "") -> None:
    """A file system with as much of a system as it takes to be one."""
    with path.open("wb") as file:
        file.truncate(size)
    subprocess.run([*make, path], check=True, capture_output=True)
    system = "mkdir -p root/etc root/usr/bin root/var/log; echo 'ID=own\nPRETTY_NAME=Own' >root/etc/os-release; "
    _in_mount(path, f"{system} echo old >root/etc/machine-id; echo log >root/var/log/x.1; {commands}")


def _names(image: Path) -> set[str]:
    packed = subprocess.run(["zstd", "--decompress", "--stdout", image], capture_output=True, check=True).stdout
    listed = subprocess.run(["tar", "--list", "--file=-"], input=packed, capture_output=True, check=True).stdout
    return {name.strip("./") for name in listed.decode().splitlines()}


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(["mkfs.ext2", "-q", "-F"], id="ext2"),
        pytest.param(["mkfs.xfs", "-q"], id="xfs"),
        pytest.param(["mkfs.btrfs", "-q"], id="btrfs"),
    ],
)
def test_a_file_system_by_itself_on_a_block_device(site: Site, make: list[str]) -> None:
    disk = site.directory / "disk"
    _small_system(disk, make)
    before = _digest(disk)
    output = site.directory / "own.tar.zst"
    with attached(disk) as device:
        outcome = site.command("image", "capture", str(device), "--name", "own", "--output", str(output))
    assert outcome.status == 0, outcome.said
    assert _digest(disk) == before
    assert {"etc/os-release", "usr/bin", "etc/machine-id"} <= _names(output)
    assert "var/log/x.1" not in _names(output)
    assert yaml.safe_load((site.config / "images/own.yaml").read_text())["source"] == str(output)


def test_patterns_say_what_stays_and_what_goes_and_force_takes_the_place_of_an_image(site: Site) -> None:
    site.write("images/own.yaml", "source: /nonexistent\n")
    (site.config / "images/own.tar.zst").write_text("of before")
    disk = site.directory / "disk"
    _small_system(disk, ["mkfs.ext4", "-q", "-F"], commands="mkdir root/srv; echo x | tee root/srv/a >root/srv/b")
    words = ["--keep", "/var/log/*", "--remove", "/srv/a", "--force"]
    outcome = site.command("image", "capture", str(disk), "--name", "own", *words)
    assert outcome.status == 0, outcome.said
    names = _names(site.config / "images/own.tar.zst")
    assert {"var/log/x.1", "srv/b"} <= names
    assert "srv/a" not in names


def test_the_file_systems_of_a_disk_are_one_tree_and_swap_is_left_out(site: Site) -> None:
    """A disk with an msdos table, a /boot of its own, and swap in a logical partition."""
    disk, root, boot = (site.directory / name for name in ("disk", "root", "boot"))
    _small_system(
        root,
        ["mkfs.ext4", "-q", "-F", "-U", "0b6c5a42-7f3e-5d4e-9a11-3c5d7e9f1b23"],
        commands="mkdir root/boot; printf '%s\n' 'UUID=0b6c5a42-7f3e-5d4e-9a11-3c5d7e9f1b23 / ext4 defaults 0 1' "
        "'UUID=1b6c5a42-7f3e-5d4e-9a11-3c5d7e9f1b23 /boot ext4 defaults 0 2' >root/etc/fstab",
    )
    with boot.open("wb") as file:
        file.truncate(64 << 20)
    words = ["mkfs.ext4", "-q", "-F", "-U", "1b6c5a42-7f3e-5d4e-9a11-3c5d7e9f1b23", str(boot)]
    subprocess.run(words, check=True)
    _in_mount(boot, "echo kernel >root/vmlinuz-1")
    swap = site.directory / "swap"
    with swap.open("wb") as file:
        file.truncate(128 << 20)
    subprocess.run(["mkswap", "--quiet", swap], check=True)
    with swap.open("r+b") as file:
        file.seek(1 << 20)
        file.write(SECRET.encode())
    with disk.open("wb") as file:
        file.truncate(GIB)
    table = "label: dos\n2048,131072,83\n133120,819200,83,*\n952320,,5\n954368,262144,82\n"
    subprocess.run(["sfdisk", "--quiet", disk], input=table, text=True, check=True)
    for part, sector in ((boot, 2048), (root, 133120), (swap, 954368)):
        place = [f"of={disk}", f"seek={sector * 512}", "oflag=seek_bytes", "conv=notrunc,sparse", "bs=1M"]
        subprocess.run(["dd", f"if={part}", *place, "status=none"], check=True)

    outcome = site.command("image", "capture", str(disk), "--name", "tree")
    assert outcome.status == 0, outcome.said
    assert {"boot/vmlinuz-1", "etc/os-release"} <= _names(site.config / "images/tree.tar.zst")

    outcome = site.command("image", "capture", str(disk), "--name", "disk", "--format", "qcow2")
    assert outcome.status == 0, outcome.said
    raw = site.directory / "raw"
    words = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(site.config / "images/disk.qcow2"), str(raw)]
    subprocess.run(words, check=True)
    assert sfdisk(raw)["partitions"][-1]["type"] == "82"
    assert [part["start"] for part in sfdisk(raw)["partitions"]] == [
        part["start"] for part in sfdisk(disk)["partitions"]
    ]
    assert subprocess.run(["grep", "--text", "--quiet", SECRET, raw], check=False).returncode == 1
    assert subprocess.run(["grep", "--text", "--quiet", "SWAPSPACE2", raw], check=False).returncode == 0


# -- refused ----------------------------------------------------------------------------------------------------------


def _refused(site: Site, source: Path, *words: str) -> str:
    """The line that says why; nothing is there afterwards that was not before."""
    before = _digest(source) if source.is_file() else ""
    outcome = site.command("image", "capture", str(source), "--name", "own", *words)
    assert outcome.status in (1, 2), outcome.said
    assert "Traceback" not in outcome.said
    assert list((site.config / "images").glob(".own*")) == []
    assert not (site.config / "images/own.yaml").exists()
    assert not source.is_file() or _digest(source) == before
    return outcome.last_line


def test_a_disk_that_is_mounted(site: Site, tmp_path: Path) -> None:
    disk = site.directory / "disk"
    _small_system(disk, ["mkfs.ext4", "-q", "-F"])
    with attached(disk) as device:
        subprocess.run(["mount", "-o", "ro,noload", device, tmp_path], check=True)
        try:
            lines = [_refused(site, device), _refused(site, disk)]
        finally:
            subprocess.run(["umount", tmp_path], check=True)
    for line in lines:
        assert f"mounted on {tmp_path}" in line


def test_a_disk_that_qemu_uses(site: Site) -> None:
    disk = site.disk(64 << 20)
    words = ["qemu-io", "-f", "raw", str(disk)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as qemu:
        try:
            assert qemu.stdout is not None
            qemu.stdout.read(1)  # its prompt
            assert f"qemu-io (process {qemu.pid})" in _refused(site, disk)
        finally:
            qemu.kill()


def test_a_disk_that_another_capture_reads(site: Site) -> None:
    disk = site.directory / "disk"
    _small_system(disk, ["mkfs.ext4", "-q", "-F"])
    first = _started(site, disk, "first", until="start the libguestfs appliance")
    try:
        line = _refused(site, disk)
    finally:
        first.terminate()
        first.communicate()
    assert f"another osprovider (process {first.pid})" in line


@pytest.mark.parametrize(
    ("make", "use", "why"),
    [
        (["mkfs.ext4", "-q", "-F"], "sync root/etc/os-release", "journal is not empty"),
        (["mkfs.xfs", "-q"], "sync", "log is not empty"),
        (["mkfs.ext2", "-q", "-F"], "sync", "not marked clean"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_a_file_system_that_was_not_unmounted(site: Site, make: list[str], use: str, why: str) -> None:
    disk, pulled = site.directory / "disk", site.directory / "pulled"
    _small_system(disk, make)
    # The power fails: what is on the disk at that moment is all that there is.
    _in_mount(disk, f"echo y >root/etc/y; {use}; cp --sparse=always {disk} {pulled}")
    line = _refused(site, pulled)
    assert str(pulled) in line
    assert why in line
    assert "have it shut down by itself" in line


def test_what_is_no_disk(site: Site) -> None:
    disk = site.disk(64 << 20, name="empty")
    assert "zeros" in _refused(site, disk)
    qcow2 = site.directory / "own.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", qcow2, "1G"], check=True)
    assert f"is qcow2, and no disk itself: osprovider image add {qcow2}" in _refused(site, qcow2)
    assert "neither a block device nor a plain file" in _refused(site, site.directory)
    assert "does not exist" in _refused(site, site.directory / "missing")


def _lvm_label() -> bytes:
    """As pvcreate(8) writes it; blkid believes it only with its checksum (lib/misc/crc.c of LVM2)."""
    label = bytearray(512)
    label[0:8], label[8:16], label[24:32] = b"LABELONE", (1).to_bytes(8, "little"), b"LVM2 001"
    label[20:24] = (32).to_bytes(4, "little")
    label[32:64] = b"abcdefghijklmnopqrstuvwxyzABCDEF"
    crc = 0xF597A6CF
    for byte in label[20:]:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xEDB88320 if crc & 1 else 0)
    label[16:20] = crc.to_bytes(4, "little")
    return bytes(label)


def _luks_header() -> bytes:
    return b"LUKS\xba\xbe\x00\x01aes".ljust(168, b"\0") + b"0b6c5a42-7f3e-5d4e-9a11-3c5d7e9f1b23"


@pytest.mark.parametrize(
    ("header", "offset", "name"), [(_lvm_label(), 512, "LVM"), (_luks_header(), 0, "LUKS")], ids=["LVM", "LUKS"]
)
def test_a_root_that_is_not_supported(site: Site, header: bytes, offset: int, name: str) -> None:
    disk = site.disk(GIB)
    subprocess.run(["sfdisk", "--quiet", disk], input="label: gpt\n2048,\n", text=True, check=True)
    fd = os.open(disk, os.O_WRONLY)
    os.pwrite(fd, header, 2048 * 512 + offset)
    os.close(fd)
    line = _refused(site, disk)
    assert str(disk) in line
    assert f"partition 1 is {name}" in line
    assert "not supported" in line


def test_a_name_or_a_file_that_is_taken(site: Site) -> None:
    disk = site.directory / "disk"
    _small_system(disk, ["mkfs.ext4", "-q", "-F"])
    taken = site.command("image", "capture", str(disk), "--name", "debian-12")
    assert taken.status == 2
    assert "there is an image debian-12 already" in taken.last_line
    output = site.directory / "own.tar.zst"
    output.write_text("mine")
    assert f"{output}: is there already" in _refused(site, disk, "--output", str(output))
    assert output.read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "name either the disk, SOURCE, or an instance"),
        (["disk", "--instance", "web1"], "name either the disk, SOURCE, or an instance"),
        (["disk", "--disk", "1"], "--disk is for --instance"),
        (["disk", "--keep", "var/log"], "begin with /"),
        (["disk", "--description", "two\nlines"], "--description"),
        (["--instance", "web1.example.org"], "this is no node of a Ganeti cluster"),
    ],
)
def test_wrong_use(site: Site, words: list[str], why: str) -> None:
    outcome = site.command("image", "capture", *words, "--name", "own")
    assert outcome.status == 2, outcome.said
    assert why in outcome.last_line


@pytest.mark.parametrize("kind", KINDS)
def test_a_disk_that_fills(site: Site, kind: str) -> None:
    disk, small = site.directory / "disk", site.directory / "small"
    noise = "head -c 60M /dev/urandom >root/noise"
    _small_system(disk, ["mkfs.ext4", "-q", "-F"], commands=noise)
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=30m", "tmpfs", small], check=True)
    try:
        line = _refused(site, disk, "--output", str(small / "own.image"), "--format", kind)
        assert line.endswith(f"{small / 'own.image'}: cannot be written: there is no space left")
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", small], check=True)


# -- interrupted ------------------------------------------------------------------------------------------------------


def _started(site: Site, disk: Path, name: str, *words: str, until: str) -> subprocess.Popen[str]:
    """A capture that has come to a step."""
    process = subprocess.Popen(
        [CHECKOUT / "tools" / "osprovider", "image", "capture", disk, "--name", name, *words],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **site.directories()},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    said = ""
    while until not in said:
        more = process.stdout.read(1)
        assert more, said
        said += more
    return process


@pytest.mark.parametrize(
    ("kind", "step", "sign"),
    [
        ("tar", "identity", signal.SIGTERM),
        ("tar", ": pack", signal.SIGKILL),
        ("qcow2", ": copy", signal.SIGKILL),
        ("qcow2", "compress", signal.SIGTERM),
    ],
)
def test_ended_in_any_step_it_leaves_nothing_that_is_in_the_way(
    site: Site, kind: str, step: str, sign: signal.Signals
) -> None:
    disk = site.directory / "disk"
    _small_system(disk, ["mkfs.ext4", "-q", "-F"], commands="head -c 90M /dev/urandom >root/noise")
    before = _digest(disk)
    process = _started(site, disk, "own", "--format", kind, until=step)
    process.send_signal(sign)
    said, _ = process.communicate()
    assert process.returncode != 0, said
    images = site.config / "images"
    if sign is signal.SIGTERM:
        assert "SIGTERM" in said.strip().splitlines()[-1]
        assert list(images.iterdir()) == []
    assert not [path for path in images.iterdir() if not path.name.startswith(".")]
    _until_detached(disk, images)
    assert _digest(disk) == before

    outcome = site.command("image", "capture", str(disk), "--name", "own", "--format", kind)
    assert outcome.status == 0, outcome.said
    assert {path.name for path in images.iterdir()} == {"own.yaml", f"own.{'tar.zst' if kind == 'tar' else kind}"}


def _until_detached(*places: Path) -> None:
    """Whatever was killed, the kernel has detached its loop devices soon after."""
    deadline = time.monotonic() + 20
    while any(backing.startswith(str(place)) for backing in loop_devices().values() for place in places):
        assert time.monotonic() < deadline, loop_devices()
        time.sleep(0.1)
