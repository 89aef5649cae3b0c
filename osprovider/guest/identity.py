"""What makes a system this one and no copy of it, where that is the same list for a new instance and for a template.

Not for: giving an instance an identity (the hooks); the rest of what a template must not have
(:mod:`osprovider.images.cleaning`, :mod:`osprovider.images.anonymize`).
"""

from __future__ import annotations

import re

__all__ = ["FORGOTTEN", "HOSTS_BEGIN", "HOSTS_END", "without_this_host"]

FORGOTTEN = (
    "/var/lib/dhcp/*.lease*",
    "/var/lib/dhclient/*.lease*",
    "/var/lib/dhcpcd/*.lease*",
    "/var/lib/dhcpcd/duid",
    "/var/lib/dhcpcd/secret",
    "/var/lib/wicked/*",
    "/var/lib/NetworkManager/*.lease*",
    "/var/lib/NetworkManager/secret_key",
    "/var/lib/systemd/credential.secret",
    "/var/lib/urandom/random-seed",
    "/var/lib/seedrng/*",
    "/var/lib/cloud/instance",
    "/var/lib/cloud/instances",
    "/var/lib/cloud/data",
    "/var/lib/cloud/sem",
    "/etc/udev/rules.d/70-persistent-net.rules",
)
"""Leases, states and names that a system has gathered, and a copy of it must begin without."""

HOSTS_BEGIN, HOSTS_END = "# osprovider: this host", "# osprovider: end"
"""The lines around our part of hosts(5)."""


def without_this_host(hosts: str) -> str:
    """A hosts(5) without our part of it, and without Debian's line for a host that has no address of its own."""
    kept = re.sub(rf"(?ms)^{HOSTS_BEGIN}$.*?^{HOSTS_END}$\n?", "", hosts)
    return re.sub(r"(?m)^127\.0\.1\.1\s.*\n?", "", kept)
