"""What a template must not have, taken out of a root file system: what would be the same in every instance.

Not for: what only a system has that was in use (:mod:`osprovider.images.anonymize`), or the identity that an instance
gets (the hooks).
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Iterable
from glob import escape

from osprovider.guest.identity import FORGOTTEN
from osprovider.guest.protocol import Guest

__all__ = ["LEFT_BY_BUILD", "clean", "is_kept", "take_out"]

_MACHINE_ID, _DBUS_ID, _RESOLVER = "/etc/machine-id", "/var/lib/dbus/machine-id", "/etc/resolv.conf"

_REMOVED = (
    *FORGOTTEN,
    # keys and seeds: one copy of each is one too many
    "/etc/ssh/ssh_host_*_key",
    "/etc/ssh/ssh_host_*_key.pub",
    "/etc/ssh/ssh_host_*_key-cert.pub",
    "/var/lib/systemd/random-seed",
    _DBUS_ID,
    "/etc/nvme/hostid",
    "/etc/nvme/hostnqn",
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

_SIGN = re.compile(r"[*?\[]")  # what means more than itself in a pattern

_RUN_LOCK = "/run/lock"
"""The target of Debian's ``/var/lock`` (Debian policy 9.1.4)."""

_LOGS = tuple("/var/log" + "/*" * depth for depth in range(1, 7))


def clean(guest: Guest, also: Iterable[str] = (), *, keep: Collection[str] = ()) -> None:
    """Take out what would be the same in every instance, and what nobody needs again.

    Args:
        guest: the tree.
        also: patterns of further paths to remove.
        keep: patterns of paths that stay as they are, with ``*`` for any characters (``/`` too).

    Raises:
        GuestError: the file system refuses.
    """
    for pattern in (*_REMOVED, *also):
        for path in guest.glob(pattern):
            if path != _RUN_LOCK:
                take_out(guest, path, keep)
    for path in (found for pattern in _LOGS for found in guest.glob(pattern) if not is_kept(found, keep)):
        # wtmp and its like have owners and modes that only packages' scripts know, so they stay.
        if guest.is_file(path):
            guest.write(path, "")
    # Empty and there, so that systemd makes an ID but does not take the boot for a first one, which would set every
    # unit to its preset again, against what the packages chose (machine-id(5), "First Boot Semantics").
    if not is_kept(_MACHINE_ID, keep):
        guest.write(_MACHINE_ID, "", mode=0o444)
    if guest.is_directory("/var/lib/dbus") and not is_kept(_DBUS_ID, keep):
        guest.symlink(_MACHINE_ID, _DBUS_ID)
    if not guest.is_symlink(_RESOLVER):
        take_out(guest, _RESOLVER, keep)


def take_out(guest: Guest, path: str, keep: Collection[str]) -> None:
    """Remove a file, or a directory with all in it but what is kept.

    Args:
        guest: the tree.
        path: what goes.
        keep: patterns, as for :func:`clean`.

    Raises:
        GuestError: the file system refuses.
    """
    if is_kept(path, keep):
        return
    if any(_may_be_beneath(path, pattern) for pattern in keep) and _is_real_directory(guest, path):
        for name in _listed(guest, path):
            take_out(guest, name, keep)
        if _listed(guest, path):
            return
    guest.remove(path)


def is_kept(path: str, keep: Collection[str]) -> bool:
    """Does one of the patterns say that a path stays as it is."""
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in keep)


def _may_be_beneath(directory: str, pattern: str) -> bool:
    """Can something in a directory match; by what a pattern begins with."""
    begin = _SIGN.split(pattern, maxsplit=1)[0]
    return f"{directory}/".startswith(begin) or begin.startswith(f"{directory}/")


def _is_real_directory(guest: Guest, path: str) -> bool:
    return guest.is_directory(path) and not guest.is_symlink(path)


def _listed(guest: Guest, directory: str) -> list[str]:
    return [path for names in ("*", ".*") for path in guest.glob(f"{escape(directory)}/{names}")]
