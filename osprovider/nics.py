"""A NIC as a guest has to configure it: what hooks that write network files get.

Not for: deciding it (:mod:`osprovider.addressing`).
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address, ip_interface

__all__ = ["ResolvedNic", "is_onlink"]


@dataclass(frozen=True, slots=True)
class ResolvedNic:
    """A NIC as the guest has to configure it.

    Attributes:
        index: Ganeti's index.
        mac: six lower-case octets with colons; what the guest's files match.
        name: the name that the guest gives the interface where its configuration needs one (``nic0``).
        addresses: CIDR interface addresses (``198.51.100.21/24``), IPv4 first.
        gateways: default routes, IPv4 first, one for each family at most, and that on one NIC of the instance only. One
            outside of every prefix is reached by an on-link route (:func:`is_onlink`).
        dhcp4: ask for an IPv4 address.
        dhcp6: ask for an IPv6 address where router advertisements say so; no boot waits for it. Only with ``slaac``.
        slaac: take an IPv6 address and the default route from router advertisements.
        dns_servers: addresses.
        dns_search: domains.
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


def is_onlink(nic: ResolvedNic, gateway: str) -> bool:
    """Does this gateway need an on-link route, because it lies outside all of the NIC's prefixes?

    An IPv6 link-local gateway does not: every interface has its network.
    """
    address = ip_address(gateway)
    if address.version == 6 and address.is_link_local:
        return False
    return not any(address in ip_interface(own).network for own in nic.addresses)
