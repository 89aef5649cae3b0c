"""Copies of the shipped Debian image: customised, and looked at by their own programs."""

from __future__ import annotations

import dataclasses
import pickle
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from osprovider.config.model import User, Variant
from osprovider.customize.context import Context, ContextDisk
from osprovider.manifest import Manifest
from osprovider.nics import ResolvedNic
from tests.support.boot_context import boot_context
from tests.support.template import CHECKOUT

__all__ = ["MACS", "Debian"]

MACS = ("aa:00:00:11:22:33", "aa:00:00:11:22:34")
NICS = (
    ResolvedNic(
        0,
        MACS[0],
        "nic0",
        ("198.51.100.21/24", "198.51.100.22/24", "2001:db8:1::21/64"),
        ("203.0.113.1", "2001:db8:ffff::1"),
        dns_servers=("198.51.100.53",),
        dns_search=("example.org",),
        mtu=1400,
    ),
    ResolvedNic(1, MACS[1], "nic1"),
)

# A guest's own programs run in namespaces of their own, without a network; all of it is gone with the first of them.
_NAMESPACES = ["unshare", "--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "--"]
_ENTER = """
set -e
mount -o loop "$0" "$1"
mount -t proc proc "$1/proc"
mount -t sysfs -o ro sysfs "$1/sys"
mount -t tmpfs tmpfs "$1/run"
mount --bind /dev "$1/dev"
cd /
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 chroot "$1" /bin/sh -euc "$2"
"""


@dataclass(frozen=True, slots=True)
class Debian:
    """A copy of the image. ``directory`` is the test's own; ``manifest`` the template's."""

    image: Path
    directory: Path
    manifest: Manifest

    @classmethod
    def copy(cls, template: Path, directory: Path) -> Debian:
        """A copy of the template in the store's ``template``, with some room."""
        directory.mkdir()
        image = directory / "image"
        subprocess.run(["cp", "--sparse=always", template / "template.img", image], check=True)
        with image.open("r+b") as file:
            file.truncate(image.stat().st_size + (256 << 20))
        subprocess.run(["e2fsck", "-fy", image], check=True, capture_output=True)
        subprocess.run(["resize2fs", image], check=True, capture_output=True)
        return cls(image, directory, Manifest.from_json((template / "manifest.json").read_bytes()))

    @property
    def config(self) -> Path:
        """The site's configuration directory."""
        return self.directory / "config"

    def context(self, *, stack: str = "ifupdown", users: dict[str, User] | None = None) -> Context:
        """What hooks are told."""
        made = boot_context(variant=Variant(users=users or {}))
        manifest = dataclasses.replace(self.manifest, network_stacks=(stack,))
        disk = dataclasses.replace(made.disks[0], path=self.image)
        assert isinstance(disk, ContextDisk)
        environment = {"INSTANCE_NAME": "web1.example.org", "PATH": "/nowhere"}
        return dataclasses.replace(made, manifest=manifest, nics=NICS, disks=(disk,), environment=environment)

    def customise(self, context: Context) -> str:
        """Run the hooks; returns what was said, with ``refused: `` before the error if there was one."""
        arguments = [str(self.image), str(self.config), str(self.directory / "run")]
        done = subprocess.run(
            [sys.executable, "-m", "tests.system.hooks.customise", *arguments],
            check=False,
            cwd=CHECKOUT,
            input=pickle.dumps(context),
            capture_output=True,
        )
        said = (done.stdout + done.stderr).decode()
        assert done.returncode == 0 or "\nrefused: " in f"\n{said}", said
        return said

    def run(self, script: str, *, check: bool = True) -> str:
        """What a shell script says that runs in the guest, with the guest's programs, as root."""
        mountpoint = self.directory / "mnt"
        mountpoint.mkdir(exist_ok=True)
        words = [*_NAMESPACES, "sh", "-c", _ENTER, str(self.image), str(mountpoint), script]
        done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=1200)
        assert not check or done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout + ("" if check else done.stderr)
