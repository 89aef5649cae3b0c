"""Disk images as publishers of cloud images make them, in any layout, and small: a system of a dozen files.

What they hold is made by the tools that everybody uses (sfdisk, mkfs.*, mtools); the file systems are this test's own,
so that the host's kernel may mount them. `read_partition` looks into a disk again, by other means than osprovider's.

Not for: a system that boots (:mod:`tests.support.image_files`), or broken images (`tests/system/images`).
"""

from __future__ import annotations

import re
import subprocess
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.loops import attached
from tests.support.runs import backing_file
from tests.support.sparse import sparse_file
from tests.support.watching import watching

__all__ = [
    "BIOS_BOOT",
    "BOOT",
    "BOOT_CODE",
    "ESP",
    "HOST_KEY",
    "LINUX",
    "MACHINE_ID",
    "MIB",
    "ROOT",
    "SWAP",
    "Found",
    "Part",
    "install_filesystem",
    "make_disk",
    "make_filesystem",
    "mounted_by_the_host",
    "read_partition",
    "system",
]

MIB = 1 << 20
SECTOR = 512

BIOS_BOOT = "21686148-6449-6E6F-744E-656564454649"
ESP = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
ROOT = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"
BOOT = "BC13C2FF-59E6-4262-A352-B275FD6F7172"
SWAP = "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F"
LINUX = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"  # Linux filesystem data: says nothing of what it is for

BOOT_CODE = bytes(range(1, 221)) * 2
"""What lies before the table; no byte is zero, so that a hole is noticed."""

MACHINE_ID = "0123456789abcdef0123456789abcdef"
HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPublishersPublishersPublishersPublishers publisher"

_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}


@dataclass(slots=True)
class Part:
    """A partition of an image that is to be made.

    Attributes:
        number: in the table.
        type: as sfdisk(8) takes it.
        size_mib: its size.
        filesystem: ``ext4``, ``xfs``, ``btrfs``, ``vfat``, ``swap``; empty for none.
        files: what is in it, by path; a link where the content begins with ``->``.
        subvolumes: of a btrfs, made first.
        uuid: the file system's, as blkid(8) has it.
        guid: the partition's, in a GPT.
        label: the file system's.
        content: what is there in place of a file system.
    """

    number: int
    type: str
    size_mib: int
    filesystem: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    subvolumes: Sequence[str] = ()
    uuid: str = field(default_factory=lambda: str(uuid.uuid4()))
    guid: str = field(default_factory=lambda: str(uuid.uuid4()))
    label: str = ""
    content: bytes = b""

    def __post_init__(self) -> None:
        if self.filesystem == "vfat":
            self.uuid = f"{self.uuid[:4]}-{self.uuid[4:8]}".upper()


def system(fstab: str, *, kernel: bool = True, top: str = "", **further: str) -> dict[str, str]:
    """The files of an installed Debian in a nutshell.

    Args:
        fstab: its fstab.
        kernel: it has one in ``/boot``.
        top: the subvolume that it lies in.
        further: contents of more files; in their names ``__`` stands for ``/``.
    """
    files = {
        "/etc/os-release": 'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian in a nutshell"\n',
        "/etc/fstab": fstab,
        "/etc/machine-id": f"{MACHINE_ID}\n",
        "/etc/hostname": "published\n",
        "/etc/hosts": "127.0.0.1 localhost\n",
        "/etc/passwd": "root:x:0:0:root:/root:/bin/bash\n",
        "/etc/shadow": "root:*:19000:0:99999:7:::\n",
        "/etc/group": "root:x:0:\n",
        "/etc/gshadow": "root:*::\n",
        "/etc/ssh/sshd_config": "PermitRootLogin prohibit-password\n",
        "/etc/ssh/ssh_host_ed25519_key": "the publisher's own\n",
        "/etc/ssh/ssh_host_ed25519_key.pub": f"{HOST_KEY}\n",
        "/usr/sbin/sshd": "#!/bin/sh\n",
        "/etc/network/interfaces": "source /etc/network/interfaces.d/*\n",
        "/root/.keep": "",
        "/sbin/ifup": "#!/bin/sh\n",
        "/sbin/init": "->/lib/systemd/systemd",
        "/lib/systemd/systemd": "#!/bin/sh\n",
    }
    if kernel:
        files |= {"/boot/vmlinuz-6.1.0-9-amd64": "a kernel\n", "/boot/initrd.img-6.1.0-9-amd64": "an initrd\n"}
    files |= {f"/{name.replace('__', '/')}": text for name, text in further.items()}
    return {f"{top}{path}": text for path, text in files.items()}


def make_disk(
    path: Path,
    parts: Iterable[Part],
    *,
    label: str = "gpt",
    disk_id: str = "",
    sector: int = SECTOR,
    start: int = MIB,
) -> str:
    """Make a raw disk with these partitions, in this order, whole MiB from `start`, and boot code of its own.

    An extended partition (type ``f``) takes the logical ones, which follow it and leave room for their boot record.

    Returns:
        the disk's GUID or signature, lower case.
    """
    parts = list(parts)
    disk_id = disk_id or (str(uuid.uuid4()) if label == "gpt" else f"0x{uuid.uuid4().hex[:8]}")
    script = [f"label: {label}", f"label-id: {disk_id}", "unit: sectors"]
    position, places = start, {}
    for part in parts:
        position += MIB if part.number > 4 and label == "dos" else 0
        is_extended = label == "dos" and part.type in ("5", "f")
        size = sum(each.size_mib + 1 for each in parts if each.number > 4) if is_extended else part.size_mib
        places[part.number] = position
        what = f"start={position // sector}, size={size * MIB // sector}, type={part.type}"
        script.append(f"{path}{part.number} : {what}" + (f", uuid={part.guid}" if label == "gpt" else ""))
        position += 0 if is_extended else part.size_mib * MIB
    sparse_file(path, position + MIB)
    _sfdisk(path, script, sector)
    with path.open("r+b") as file:
        file.write(BOOT_CODE)
        if label == "dos":
            file.seek(SECTOR)
            file.write(BOOT_CODE)
    for part in parts:
        _fill(path, places[part.number], part)
    return disk_id.removeprefix("0x").lower()


def _sfdisk(path: Path, script: list[str], sector: int) -> None:
    """Debian 12's sfdisk has no option for the sector size of a file, and takes a device's."""
    with attached(path, "--sector-size", str(sector)) as loop:
        text = "\n".join(script).replace(str(path), f"{loop}p") + "\n"
        subprocess.run(["sfdisk", "--quiet", loop], input=text, text=True, check=True, capture_output=True)


def _fill(disk: Path, offset: int, part: Part) -> None:
    if part.content:
        with disk.open("r+b") as file:
            file.seek(offset)
            file.write(part.content)
    elif part.filesystem:
        made = disk.with_name(f"{disk.name}.part")
        make_filesystem(made, part)
        place = [f"of={disk}", "oflag=seek_bytes", f"seek={offset}", "bs=1M", "conv=notrunc,sparse", "status=none"]
        subprocess.run(["dd", f"if={made}", *place], check=True)
        made.unlink()


def make_filesystem(path: Path, part: Part) -> None:
    """Make the file system of a partition, a file by itself."""
    sparse_file(path, part.size_mib * MIB)
    with tempfile.TemporaryDirectory(dir=path.parent) as name:
        tree = Path(name)
        tree.chmod(0o755)
        for place, text in part.files.items():
            target = tree / place.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            if text.startswith("->"):
                target.symlink_to(text[2:])
            else:
                target.write_text(text)
        mkfs: list[str | Path]
        label = ["-n" if part.filesystem == "vfat" else "-L", part.label] if part.label else []
        match part.filesystem:
            case "ext4" | "ext3" | "ext2":
                mkfs = [f"mkfs.{part.filesystem}", "-q", "-F", "-U", part.uuid, "-d", tree]
            case "xfs":
                mkfs = ["mkfs.xfs", "-q", "-m", f"uuid={part.uuid}"]
            case "btrfs":
                mkfs = ["mkfs.btrfs", "-q", "-U", part.uuid]
            case "vfat":
                mkfs = ["mkfs.vfat", "-i", part.uuid.replace("-", "")]
            case _:
                mkfs = ["mkswap", "-q", "-U", part.uuid]
        subprocess.run([*mkfs, *label, path], check=True, capture_output=True)
        if part.filesystem == "vfat" and part.files:
            subprocess.run(["mcopy", "-s", "-i", path, *tree.iterdir(), "::/"], check=True)
        elif part.filesystem in ("xfs", "btrfs"):
            make = "".join(f"btrfs --quiet subvolume create root/{name};" for name in part.subvolumes)
            install_filesystem(path, f"{make} cp -a {tree}/. root")


def install_filesystem(path: Path, commands: str, options: str = "loop") -> str:
    """Run shell commands where a file system is mounted at ``root``, in namespaces of their own; what they print."""
    script = f"set -o errexit -o pipefail; mount -t tmpfs none /mnt; cd /mnt; mkdir root; mount -o {options} $0 root; "
    words = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "bash", "-c", script + commands]
    return subprocess.run([*words, path], check=True, capture_output=True, text=True, env=_ENVIRONMENT).stdout


@dataclass(frozen=True, slots=True)
class Found:
    """A partition of an installed disk.

    Attributes:
        uuid: of its file system.
        label: likewise.
        tree: a copy of its files.
        size_bytes: of its file system, as statfs(2) has it; 0 where it is not mounted.
    """

    uuid: str
    label: str
    tree: Path
    size_bytes: int

    def text(self, path: str) -> str:
        """The content of a file."""
        return (self.tree / path.lstrip("/")).read_text()


def read_partition(disk: Path, start_bytes: int, size_bytes: int, tree: Path) -> Found:
    """Check the file system of a partition, which has to be sound, and copy its files to ``tree``."""
    place = ["--offset", str(start_bytes), "--size", str(size_bytes)]
    probed = subprocess.run(
        ["blkid", "--probe", "--output", "export", *place, disk], check=True, capture_output=True, text=True
    )
    tags = dict(line.split("=", 1) for line in probed.stdout.splitlines())
    tree.mkdir(parents=True)
    size = 0
    if tags["TYPE"] == "vfat":
        subprocess.run(["mcopy", "-s", "-n", "-i", f"{disk}@@{start_bytes}", "::/", tree], check=True)
    elif tags["TYPE"] != "swap":
        check = {"xfs": "xfs_repair -n", "btrfs": "btrfs check --readonly"}.get(tags["TYPE"], "e2fsck -fn")
        with attached(disk, "--offset", str(start_bytes), "--sizelimit", str(size_bytes)) as loop:
            checked = subprocess.run([*check.split(), loop], check=False, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout + checked.stderr
        options = f"loop,offset={start_bytes},sizelimit={size_bytes},ro{',nouuid' if tags['TYPE'] == 'xfs' else ''}"
        said = install_filesystem(disk, f"cp -a root/. {tree}; stat --file-system --format '%S %b' root", options)
        block, count = map(int, re.findall(r"\d+", said))
        size = block * count
    return Found(tags.get("UUID", ""), tags.get("LABEL", ""), tree, size)


@contextmanager
def mounted_by_the_host(directory: Path) -> Iterator[set[str]]:
    """Collect what this machine's kernel mounts of the files beneath a directory while the body runs.

    Files without a name are left out: what is in them was made there and then.
    """
    seen: set[str] = set()

    def look() -> None:
        for kind in ("ext4", "xfs"):
            with suppress(FileNotFoundError):  # nothing of the kind was ever mounted
                files = {path.name: backing_file(path.name) for path in Path("/sys/fs", kind).iterdir()}
                named = (name for name, file in files.items() if not file.endswith(" (deleted)"))
                seen.update(name for name in named if str(directory) in files[name])

    with watching(look, 0.002):
        yield seen
