"""A Debian system to boot, made once a run and shared by all tests that boot it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from osprovider.config.model import Boot, Variant
from osprovider.images.manifest import Kernel
from tests.support.boot_context import ROOT_UUID, boot_context, run_hook
from tests.support.debian import lay_debian
from tests.support.qemu import UserNetwork
from tests.support.runs import locked
from tests.support.ssh import make_key

# What update-grub needs is the last three; none of them has a maintainer script that looks for disks.
PACKAGES = (
    *("systemd-sysv", "udev", "linux-image-cloud-amd64", "openssh-server", "ifupdown", "iproute2"),
    *("grub2-common", "grub-pc-bin", "grub-efi-amd64-bin"),
)


@dataclass(frozen=True, slots=True)
class System:
    """An installed system that is not on a disk yet.

    Attributes:
        tree: its root directory. Its fstab and menu know the root as `ROOT_UUID` and the ESP as 12AB-34CD.
        key: the private key that root logs in with.
    """

    tree: Path
    key: Path


@pytest.fixture
def scratch(run_directory: Path) -> Iterator[Path]:
    """A directory whose loop devices the next run sweeps away, should this one be killed."""
    with tempfile.TemporaryDirectory(dir=run_directory, prefix="boot-") as name:
        yield Path(name)


@pytest.fixture(scope="session")
def system(run_directory: Path) -> System:
    """A minimal Debian, customised by the hooks that concern booting."""
    directory = run_directory / "boot"
    with locked(run_directory / "boot.lock"):
        if not directory.exists():
            new = Path(tempfile.mkdtemp(prefix="boot-", dir=run_directory))
            public_key = make_key(new / "key")
            lay_debian(new / "tree", PACKAGES)
            _customise(new / "tree", public_key)
            new.rename(directory)
    return System(directory / "tree", directory / "key")


def _customise(tree: Path, public_key: str) -> None:
    (image,) = tree.glob("boot/vmlinuz-*")
    version = image.name.removeprefix("vmlinuz-")
    context = boot_context(
        # The names of before predictable ones, so that the network below is simple.
        variant=Variant(boot=Boot(kernel_args=("quiet", "net.ifnames=0"))),
        kernels=(Kernel(version, f"/boot/{image.name}", f"/boot/initrd.img-{version}"),),
    )
    for hook in ("grub", "console"):
        run_hook(hook, tree, context)
    network = UserNetwork()
    (tree / "etc/hostname").write_text("web1\n")
    (tree / "etc/fstab").write_text(
        f"UUID={ROOT_UUID} / ext4 errors=remount-ro 0 1\nUUID=12AB-34CD /boot/efi vfat umask=0077 0 2\n"
    )
    (tree / "etc/network/interfaces").write_text(
        f"auto lo eth0\niface lo inet loopback\niface eth0 inet static\n  address {network.address}/24\n"
    )
    (tree / "boot/efi").mkdir()
    (tree / "root/.ssh").mkdir(mode=0o700, exist_ok=True)
    (tree / "root/.ssh/authorized_keys").write_text(public_key)
