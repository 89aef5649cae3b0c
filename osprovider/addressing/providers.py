"""What completes the description of a NIC: the files of subnets, and Ganeti's networks.

Not for: which of them counts for what (:mod:`osprovider.addressing.draft`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from osprovider.config.model import Dns, Subnet
from osprovider.ganeti.request import Network, Nic

__all__ = ["Address", "Provider", "matching", "of_ganeti", "of_subnet"]

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Provider:
    """What completes a NIC's description: a subnet's file, or a Ganeti network.

    Attributes:
        name: what people know it by.
        networks: its prefixes.
        gateways: at most one of a family.
        dns: see there.
        mtu: likewise.
        link: the link of the NICs that it is for.
        network: the name of their Ganeti network.
    """

    name: str
    networks: tuple[IPv4Network | IPv6Network, ...] = ()
    gateways: tuple[Address, ...] = ()
    dns: Dns = field(default_factory=Dns)
    mtu: int | None = None
    link: str | None = None
    network: str | None = None

    def holding(self, address: Address) -> IPv4Network | IPv6Network | None:
        """The longest of its prefixes that the address lies in."""
        holding = [network for network in self.networks if address in network]
        return max(holding, key=lambda network: network.prefixlen, default=None)

    def of_version(self, version: int) -> list[IPv4Network | IPv6Network]:
        """Its prefixes of a family, 4 or 6."""
        return [network for network in self.networks if network.version == version]

    def gateway(self, version: int) -> Address | None:
        """Its gateway of a family, 4 or 6."""
        return next((gateway for gateway in self.gateways if gateway.version == version), None)


def of_subnet(name: str, subnet: Subnet) -> Provider:
    """What a subnet's file says."""
    return Provider(
        f"subnets/{name}.yaml",
        tuple(ip_network(text) for text in subnet.networks),
        tuple(ip_address(text) for text in subnet.gateways),
        subnet.dns,
        subnet.mtu,
        subnet.match.link if subnet.match else None,
        subnet.match.network if subnet.match else None,
    )


def of_ganeti(network: Network) -> Provider:
    """What a Ganeti network says."""
    return Provider(
        f"Ganeti network {network.name}",
        tuple(ip_network(text) for text in (network.subnet, network.subnet6) if text),
        tuple(ip_address(text) for text in (network.gateway, network.gateway6) if text),
    )


def matching(nic: Nic, subnets: Mapping[str, Provider], addresses: Sequence[Address]) -> list[Provider]:
    """The subnet that fits a NIC best: one that holds an address before others, then by how much its ``match`` says.

    So of two subnets on one link an address decides, and of two that hold an address the one that names the link.

    Args:
        nic: Ganeti's.
        subnets: all there are, by name.
        addresses: the NIC's.

    Returns:
        that one; none where none fits, several where they fit equally well.
    """
    nic_network = nic.network.name if nic.network else None
    ranked: dict[tuple[bool, bool, bool, int], list[Provider]] = {}
    for _, subnet in sorted(subnets.items()):
        link, network = subnet.link, subnet.network
        if link not in {None, nic.link} or network not in {None, nic_network}:
            continue
        holding = [held.prefixlen for address in addresses if (held := subnet.holding(address))]
        if link or network or holding:
            rank = bool(holding), bool(network), bool(link), max(holding, default=0)
            ranked.setdefault(rank, []).append(subnet)
    return ranked[max(ranked)] if ranked else []
