"""A system that was in use becomes one that anybody may be: what it is, what it was told and what it wrote goes.

What was installed and configured stays: packages, services, accounts with their passwords, files of users. Who could
log in by a key could log in to every copy, so keys go; a variant says whose come.
Not for: what has no place in any template, built ones too (:mod:`osprovider.images.cleaning`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from glob import escape

from osprovider.guest import fstab
from osprovider.guest.identity import without_this_host
from osprovider.guest.protocol import Guest
from osprovider.guest.text import split_lines
from osprovider.images.cleaning import clean, is_kept, take_out

__all__ = ["anonymize"]

_ROTATED = ("*.gz", "*.xz", "*.zst", "*.bz2", "*.old", "*.[0-9]", "*.[0-9][0-9]", "*-[0-9][0-9][0-9][0-9]*")

_REMOVED: dict[str, tuple[str, ...]] = {
    "network": (
        "/etc/systemd/network/10-osprovider-*",
        "/etc/cloud/cloud.cfg.d/99-osprovider-network.cfg",
        "/etc/netplan/50-cloud-init.yaml",
        "/etc/network/interfaces.d/50-cloud-init*",
        "/etc/sysconfig/network-scripts/ifcfg-e*",
        "/etc/sysconfig/network/ifcfg-e*",
        "/etc/NetworkManager/system-connections/*",
        "/etc/udev/rules.d/*-cloud-init-hotplug*.rules",
        "/etc/udev/rules.d/70-net.rules",
        "/var/lib/systemd/network/*",
    ),
    "memberships": (
        "/etc/apt/auth.conf.d/90ubuntu-advantage",
        "/etc/krb5.keytab",
        "/etc/pki/consumer/*",
        "/etc/pki/entitlement/*",
        "/etc/puppetlabs/puppet/ssl",
        "/etc/salt/minion_id",
        "/etc/salt/pki/minion",
        "/etc/sysconfig/rhn/systemid",
        "/etc/zypp/credentials.d/SCCcredentials",
        "/var/lib/puppet/ssl",
        "/var/lib/samba/private/*",
        "/var/lib/sss/db/*",
        "/var/lib/tailscale/*",
        "/var/lib/ubuntu-advantage/private/*",
        "/var/lib/zerotier-one/identity.*",
    ),
    "notes": ("/etc/osprovider.json", "/var/lib/cloud/seed"),
    "logs": (
        *(f"/var/log/{depth}{name}" for depth in ("", "*/", "*/*/") for name in _ROTATED),
        "/var/crash/*",
        "/var/lib/lastlog/*",
        "/var/lib/systemd/coredump/*",
        "/var/lib/systemd/timers/*",
        "/var/lib/wtmpdb/*",
        "/var/spool/abrt/*",
    ),
    "caches": (
        "/var/cache/apk/*",
        "/var/cache/dnf/*",
        "/var/cache/libdnf5/*",
        "/var/cache/pacman/pkg/*",
        "/var/cache/yum/*",
        "/var/cache/zypp/*",
    ),
}
"""Patterns of what goes, by what it is, beyond what :mod:`osprovider.images.cleaning` takes from every template."""

_REMOVED_FROM_HOMES = (
    ".ssh/authorized_keys",
    ".ssh/authorized_keys2",
    ".ssh/id_*",
    ".bash_history",
    ".zsh_history",
    ".ash_history",
    ".sh_history",
    ".local/share/fish/fish_history",
    ".python_history",
    ".mysql_history",
    ".psql_history",
    ".lesshst",
    ".viminfo",
    ".wget-hsts",
    ".cache/*",
)
"""Likewise, in the home directory of each account."""

_HOSTNAME, _HOSTS, _MAILNAME = "/etc/hostname", "/etc/hosts", "/etc/mailname"
_INTERFACES = "/etc/network/interfaces"
_LOOPBACK = """\
# Network interfaces; see interfaces(5).
source /etc/network/interfaces.d/*

auto lo
iface lo inet loopback
"""
_NO_NAME = "localhost\n"  # as in templates that are built here
_PRIVATE_KEY = b"PRIVATE KEY-----"
_PLAIN_PATH = re.compile(r"/[\w.@+/-]+", re.ASCII)


def anonymize(guest: Guest, *, keep: Iterable[str] = (), remove: Iterable[str] = ()) -> None:
    """Take out what makes a system this one.

    Args:
        guest: the system, with all its file systems.
        keep: patterns of paths that stay as they are, with ``*`` for any characters.
        remove: patterns of further paths that go, as a shell's.

    Raises:
        GuestError: the file system refuses.
    """
    kept, names, homes = tuple(keep), _names(guest), _homes(guest)
    patterns = [pattern for group in _REMOVED.values() for pattern in group]
    in_homes = [f"{escape(home)}/{name}" for home in homes for name in _REMOVED_FROM_HOMES]
    clean(guest, [*patterns, *in_homes, *remove], keep=kept)
    for path in _private_keys(guest, homes):
        take_out(guest, path, kept)
    for path, content in _rewritten(guest, names):
        if not is_kept(path, kept):
            guest.write(path, content)
    _remove_swap_files(guest, kept)


def _names(guest: Guest) -> frozenset[str]:
    """What the system calls itself: its name, and the first label of it."""
    name = guest.read_text(_HOSTNAME).strip().lower() if guest.exists(_HOSTNAME) else ""
    return frozenset({name, name.partition(".")[0]} - {"", "localhost"})


def _homes(guest: Guest) -> tuple[str, ...]:
    """The home directories that passwd(5) names."""
    found = {"/root": None}
    if guest.exists("/etc/passwd"):
        for line in split_lines(guest.read_text("/etc/passwd")):
            fields = line.split(":")
            home = fields[5].rstrip("/") if len(fields) == 7 else ""
            if home.startswith("/") and "\0" not in home and guest.is_directory(home):
                found[home] = None
    return tuple(found)


def _private_keys(guest: Guest, homes: Iterable[str]) -> Iterator[str]:
    """The files of private ssh keys in home directories, whatever their names."""
    for home in homes:
        for path in guest.glob(f"{escape(home)}/.ssh/*"):
            if guest.is_file(path) and _PRIVATE_KEY in guest.read(path):
                yield path


def _rewritten(guest: Guest, names: frozenset[str]) -> Iterator[tuple[str, str]]:
    """The files that name a system or its addresses and have to be there, and what is in them instead."""
    yield _HOSTNAME, _NO_NAME
    if guest.exists(_MAILNAME):
        yield _MAILNAME, _NO_NAME
    if guest.exists(_HOSTS):
        before = guest.read_text(_HOSTS)
        after = _without_names(without_this_host(before), names)
        if after != before:
            yield _HOSTS, after
    if guest.exists(_INTERFACES):
        yield _INTERFACES, _LOOPBACK


def _without_names(hosts: str, names: frozenset[str]) -> str:
    """A hosts(5) in which nobody bears these names; an address that had no other goes."""
    kept = []
    for line in split_lines(hosts):
        words = line.partition("#")[0].split()
        others = [word for word in words[1:] if word.lower() not in names]
        if len(words) - 1 == len(others) or not words:
            kept.append(line)
        elif others:
            kept.append(f"{words[0]}\t{' '.join(others)}")
    return "".join(f"{line}\n" for line in kept)


def _remove_swap_files(guest: Guest, keep: Collection[str]) -> None:
    """Remove the files that fstab(5) has the system swap to, with their lines: they hold what was in its memory."""
    if not guest.exists(fstab.PATH):
        return
    text = guest.read_text(fstab.PATH)
    swaps = [line for line in fstab.lines(text) if line.type == "swap" and _PLAIN_PATH.fullmatch(line.device)]
    files = [line for line in swaps if not line.device.startswith("/dev/") and not is_kept(line.device, keep)]
    for line in files:
        guest.remove(line.device)
    if files:
        guest.write(fstab.PATH, fstab.without(text, [line.number for line in files]))
