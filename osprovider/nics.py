"""Which network configuration each NIC of an instance gets: a pure decision, made before anything is written.

Not for: writing the guest's files; the ``network`` hook renders what is decided here.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ResolvedNic"]


@dataclass(frozen=True, slots=True)
class ResolvedNic:
    """A NIC as the guest has to configure it.

    Attributes:
        index: Ganeti's index.
        mac: six lower-case octets with colons; what the guest's files match.
        name: the name that the guest gives the interface where its configuration needs one (``nic0``).
        addresses: CIDR interface addresses (``198.51.100.21/24``), IPv4 first.
        gateways: default routes, one for each family at most.
        dhcp4: ask for an IPv4 address. dhcp6: for an IPv6 address. slaac: take one from router advertisements.
        dns_servers: addresses. dns_search: domains.
        mtu: in bytes, None for the kernel's own.
        source: who described it, for people (``subnets/prod.yaml``).
    """

    index: int
    mac: str
    name: str
    addresses: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    dhcp4: bool = False
    dhcp6: bool = False
    slaac: bool = False
    dns_servers: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    mtu: int | None = None
    source: str = ""
