"""What a template must not have, taken out of a root file system: what would be the same in every instance.

Not for: what only a system has that was in use (:mod:`osprovider.images.anonymize`), or the identity that an instance
gets (the hooks).
"""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterable

from osprovider.guest.identity import FORGOTTEN
from osprovider.guest.protocol import Guest

__all__ = ["LEFT_BY_BUILD", "clean"]

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
