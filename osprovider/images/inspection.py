"""What deployment must know of a system, so that it never looks inside: read from its root file system.

Not for: its packages (:mod:`osprovider.images.packages`), or finding the root (:mod:`osprovider.images.diskimage`).
Sources: os-release(5); deb-version(7).
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from osprovider.guest.protocol import Guest
from osprovider.images.packages import Package
from osprovider.manifest import Distribution, Kernel

__all__ = ["Facts", "inspect", "version_key"]

_NETWORK_STACKS = (
    ("ifupdown", ("/sbin/ifup",)),
    ("networkd", ("/usr/lib/systemd/systemd-networkd", "/lib/systemd/systemd-networkd")),
)
"""Network stacks and what shows that they are there, the preferred first: who added ifupdown to systemd wants it."""

_INITRDS = ("initrd.img-{}", "initramfs-{}.img", "initrd-{}", "initramfs-{}")
"""What an initramfs is called beside ``vmlinuz-VERSION``: by Debian, by Fedora and Arch, by openSUSE, by Alpine."""

_BOOT_LOADERS = (("grub-bios", "/usr/lib/grub/i386-pc"), ("grub-uefi", "/usr/lib/grub/x86_64-efi"))


@dataclass(frozen=True, slots=True)
class Facts:
    """What a manifest says of a tree; see :class:`osprovider.manifest.Manifest`.

    Attributes:
        packages: what is installed; not noted here, but by :func:`osprovider.images.packages.read`.
    """

    distribution: Distribution
    init: str
    network_stacks: tuple[str, ...]
    boot_loaders: tuple[str, ...]
    kernels: tuple[Kernel, ...]
    packages: tuple[Package, ...] = ()


def inspect(guest: Guest) -> Facts:
    """Note what deployment must know.

    Args:
        guest: the tree.

    Raises:
        GuestError: a file cannot be read.
    """
    return Facts(
        distribution=_distribution(guest),
        init=_init(guest),
        network_stacks=tuple(name for name, places in _NETWORK_STACKS if any(guest.exists(place) for place in places)),
        boot_loaders=tuple(name for name, place in _BOOT_LOADERS if guest.is_directory(place)),
        kernels=_kernels(guest),
    )


def version_key(version: str) -> tuple[tuple[int, int, str], ...]:
    """What kernel versions are sorted by: numbers as numbers, and a ``~`` before the end (deb-version(7))."""
    parts = re.findall(r"\d+|~|[^\d~]+", version)
    ranks = [(2, int(part), "") if part.isdigit() else (0 if part == "~" else 3, 0, part) for part in parts]
    return (*ranks, (1, 0, ""))


def _distribution(guest: Guest) -> Distribution:
    """As os-release(5) says."""
    path = next((path for path in ("/etc/os-release", "/usr/lib/os-release") if guest.exists(path)), None)
    values = {}
    for line in guest.read_text(path).splitlines() if path else ():
        name, sign, value = line.strip().partition("=")
        if sign and not name.startswith("#"):
            try:
                values[name] = "".join(shlex.split(value))
            except ValueError:  # a quotation mark without its other half
                values[name] = value
    return Distribution(
        id=values.get("ID", "linux"),
        version_id=values.get("VERSION_ID", ""),
        codename=values.get("VERSION_CODENAME", ""),
        pretty_name=values.get("PRETTY_NAME", "Linux"),
    )


def _init(guest: Guest) -> str:
    if not guest.exists("/sbin/init"):
        return "none"
    if guest.is_symlink("/sbin/init") and guest.exists("/lib/systemd/systemd"):
        return "systemd"
    return "openrc" if guest.exists("/sbin/openrc-init") else "sysvinit"


def _kernels(guest: Guest) -> tuple[Kernel, ...]:
    """The newest first; rescue kernels, which are any machine's, count as the oldest."""
    found = []
    for image in guest.glob("/boot/vmlinuz-*"):
        version = image.removeprefix("/boot/vmlinuz-")
        initrds = (f"/boot/{name.format(version)}" for name in _INITRDS)
        found.append(Kernel(version, image, next((path for path in initrds if guest.exists(path)), None)))
    found.sort(key=lambda kernel: version_key(kernel.version), reverse=True)
    return tuple(sorted(found, key=lambda kernel: "rescue" in kernel.version))
