"""A root file system: what a template must not have is taken out, what deployment must know is noted.

Not for: the identity that an instance gets (the hooks); what only a system has that was in use
(:mod:`osprovider.images.anonymize`).
"""

from __future__ import annotations

import fnmatch
import re
import shlex
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from osprovider.guest.identity import FORGOTTEN
from osprovider.guest.protocol import Guest
from osprovider.images.packages import Package
from osprovider.manifest import Distribution, Kernel

__all__ = ["LEFT_BY_BUILD", "Facts", "clean", "inspect", "version_key"]

_REMOVED = (
    *FORGOTTEN,
    # keys and seeds: one copy of each is one too many
    "/etc/ssh/ssh_host_*_key",
    "/etc/ssh/ssh_host_*_key.pub",
    "/etc/ssh/ssh_host_*_key-cert.pub",
    "/var/lib/systemd/random-seed",
    "/var/lib/dbus/machine-id",
    # what fetched the packages
    "/var/cache/apt/*.bin",
    "/var/cache/apt/archives/*.deb",
    "/var/cache/apt/archives/partial/*",
    "/var/lib/apt/lists/*_*",
    "/var/lib/apt/lists/auxfiles",
    "/var/lib/apt/lists/partial/*",
    "/var/cache/debconf/*-old",
    "/var/lib/dpkg/*-old",
    "/var/cache/ldconfig/aux-cache",
    # what was written while the system was installed or ran
    "/var/log/*.log",
    "/var/log/apt/*",
    "/var/log/journal/*",
    "/root/.bash_history",
    "/root/.wget-hsts",
    *(f"{directory}/{names}" for directory in ("/run", "/tmp", "/var/tmp") for names in ("[!.]*", ".*")),  # noqa: S108
)

LEFT_BY_BUILD = (
    "/etc/apt/apt.conf.d/*mmdebstrap",
    "/etc/dpkg/dpkg.cfg.d/*mmdebstrap",
    "/debootstrap",
)
"""What the tools that install packages leave of their own."""

_RUN_LOCK = "/run/lock"
"""The target of Debian's ``/var/lock`` (Debian policy 9.1.4)."""

_LOGS = ("/var/log/*", "/var/log/*/*", "/var/log/*/*/*")

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


def clean(guest: Guest, also: Iterable[str] = (), *, keep: Collection[str] = ()) -> None:
    """Take out what would be the same in every instance, and what nobody needs again.

    Args:
        guest: the tree.
        also: patterns of further paths to remove.
        keep: patterns of paths that stay, with ``*`` for any characters (``/`` too).

    Raises:
        GuestError: the file system refuses.
    """
    for pattern in (*_REMOVED, *also):
        for path in guest.glob(pattern):
            if path != _RUN_LOCK and not _matches(path, keep):
                guest.remove(path)
    for path in (found for pattern in _LOGS for found in guest.glob(pattern) if not _matches(found, keep)):
        # wtmp and its like have owners and modes that only packages' scripts know, so they stay.
        if not guest.is_directory(path) and not guest.is_symlink(path):
            guest.write(path, "")
    # Empty and there, so that systemd makes an ID but does not take the boot for a first one, which would set every
    # unit to its preset again, against what the packages chose (machine-id(5), "First Boot Semantics").
    guest.write("/etc/machine-id", "", mode=0o444)
    if guest.is_directory("/var/lib/dbus"):
        guest.symlink("/etc/machine-id", "/var/lib/dbus/machine-id")
    if not guest.is_symlink("/etc/resolv.conf"):
        guest.remove("/etc/resolv.conf")


def _matches(path: str, patterns: Collection[str]) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


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
