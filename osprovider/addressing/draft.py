"""One NIC while it is being decided, by itself; what contradicts itself is noted, and the decision goes on.

Not for: what two NICs have in common (:mod:`osprovider.addressing.resolve`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface, ip_network

from osprovider.addressing.providers import Address, Provider, matching, of_ganeti
from osprovider.config.checks import is_reserved
from osprovider.config.model import Dns, InstanceNic, NetworkSettings
from osprovider.errors import Problem
from osprovider.ganeti.request import Network, Nic
from osprovider.nics import ResolvedNic

__all__ = ["Draft"]

_Interface = IPv4Interface | IPv6Interface


@dataclass(frozen=True, slots=True)
class _Written:
    """An address as somebody wrote it, and where, for messages."""

    interface: _Interface
    has_prefix: bool
    place: str


def _written(text: str, place: str) -> _Written:
    return _Written(ip_interface(text), "/" in text, place)


class Draft:
    """A NIC while it is being decided.

    Args:
        nic: Ganeti's.
        said: what the instance file says of it.
        instance_file: what messages call that.
        problems: where to note what is wrong.

    Attributes:
        addresses: those that it gets.
        places: where each of these is written, for messages.
        gateways: those of its default routes.
    """

    def __init__(self, nic: Nic, said: InstanceNic, instance_file: str, problems: list[Problem]) -> None:
        self.nic = nic
        self.said = said
        self.instance_file = instance_file
        self.addresses: list[_Interface] = []
        self.places: dict[Address, str] = {}
        self.gateways: list[Address] = []
        self._problems = problems
        self._sources: list[str] = []
        self._resolved = ResolvedNic(nic.index, nic.mac, f"nic{nic.index}")

    def complain(self, file: str, message: str) -> None:
        """Note a problem of a file, or of a variable of Ganeti's."""
        where = f"nics[{self.nic.index}]: " if file == self.instance_file else ""
        self._problems.append(Problem.of_file(file, f"{where}{message}"))

    def fill(self, subnets: Mapping[str, Provider], network: NetworkSettings) -> Draft:
        """Decide everything that does not depend on the instance's other NICs.

        Args:
            subnets: all there are, by name.
            network: the merged ``network`` settings.
        """
        said, ip = self.said, self.nic.ip
        written = [_written(text, self.instance_file) for text in said.addresses]
        families = {each.interface.version for each in written} | _asked_for(said.dhcp, said.slaac)
        if families:
            self._sources.append(self.instance_file)
        if ip and ip_address(ip).version not in families:
            written.append(_written(ip, f"NIC_{self.nic.index}_IP"))
            families.add(ip_address(ip).version)
        providers = self._providers(subnets, [each.interface.ip for each in written])
        for each in written:
            self._add_address(each, providers)
        dhcp, slaac, described = said.dhcp, said.slaac, bool(families)
        if 6 not in families and self.nic.network and self.nic.network.subnet6:
            slaac = not self._add_eui64(self.nic.network)
            families.add(6)
        if not described:
            dhcp = "dhcp" in network.default
            slaac = slaac or ("slaac" in network.default and 6 not in families)
            self._sources.append("network.default")
        self._resolved = replace(self._resolved, dhcp4=dhcp, dhcp6=dhcp and slaac, slaac=slaac)
        self._add_gateways(providers)
        self._add_settings(providers, network)
        return self

    def finished(self, dns: Dns) -> ResolvedNic:
        """The NIC as decided, with ``dns`` in place of what was found where it says something."""
        return replace(
            self._resolved,
            dns_servers=dns.servers or self._resolved.dns_servers,
            dns_search=dns.search or self._resolved.dns_search,
            addresses=tuple(str(interface) for interface in sorted(self.addresses, key=lambda item: item.version)),
            gateways=tuple(str(gateway) for gateway in sorted(self.gateways, key=lambda item: item.version)),
            source=", ".join(self._sources),
        )

    def _providers(self, subnets: Mapping[str, Provider], addresses: Sequence[Address]) -> list[Provider]:
        """Who completes the description, first first."""
        ganeti = [of_ganeti(self.nic.network)] if self.nic.network else []
        named = self.said.subnet
        if named is None:
            found = matching(self.nic, subnets, addresses)
            for other in found[1:]:
                message = f"nic {self.nic.index} belongs to it as much as to {found[0].name}; tell them apart by match"
                self.complain(other.name, message)
            return [*ganeti, *found[:1]]
        if named not in subnets:
            self.complain(self.instance_file, f"there is no subnet {named}; write subnets/{named}.yaml")
            return ganeti
        return [subnets[named], *ganeti]

    def _add_address(self, written: _Written, providers: Sequence[Provider]) -> None:
        """Add an address; the providers give it a prefix length if it is written without one.

        One that has its own is held against the subnet that the instance file names only.
        """
        interface, place, address = written.interface, written.place, written.interface.ip
        if written.has_prefix:
            providers = providers[:1] if self.said.subnet else []
        holder = next((each for each in providers if each.of_version(address.version)), None)
        held = holder.holding(address) if holder else None
        if holder and not held:
            where = " and ".join(str(network) for network in holder.of_version(address.version))
            self.complain(place, f"{address} is outside of {holder.name}, which has {where}; correct one of them")
            return
        if not written.has_prefix:
            if holder and held:
                interface = ip_interface(f"{address}/{held.prefixlen}")
                self._note_source(holder.name)
            elif self.nic.mode == "routed":
                self._note_source(f"{place} (routed)")
            else:
                message = f"nothing gives {address} a prefix length; write it into a subnet's networks"
                self.complain(place, f"{message} (subnets/NAME.yaml), or connect the NIC to a Ganeti network")
                return
        if is_reserved(address, interface.network):
            message = f"{address} is the first or last of {interface.network}, which no host can have; take another"
            self.complain(place, message)
        elif address.is_unspecified or address.is_multicast or address.is_loopback:
            self.complain(place, f"{address} is not an address that an interface can have; take another")
        self.addresses.append(interface)
        self.places[address] = place

    def _add_eui64(self, network: Network) -> bool:
        """Add the IPv6 address that the Ganeti network means, if it says enough to be written down.

        Ganeti hands out no IPv6 address: a network's ``subnet6`` and ``gateway6`` "can be used for EUI64 generation
        from a NIC's MAC address" (gnt-network(8)), and that is where whoever set them up expects the NIC (nfdhcpd
        advertises the prefix, snf-network routes to the address). Written down, the address is there before any router
        speaks, and is the same whatever the guest's privacy settings. Without a gateway, or where the prefix is not a
        /64 (RFC 4291, 2.5.1), only the router's advertisements can say more.

        Returns:
            whether the address was added; if not, SLAAC is what is left.
        """
        prefix = ip_network(str(network.subnet6))
        if prefix.prefixlen != 64 or not network.gateway6:
            self._note_source(f"Ganeti network {network.name}")
            return False
        octets = bytes.fromhex(self.nic.mac.replace(":", ""))
        identifier = bytes([octets[0] ^ 0x02, *octets[1:3], 0xFF, 0xFE, *octets[3:]])
        address = prefix[int.from_bytes(identifier, "big")]
        self.addresses.append(ip_interface(f"{address}/64"))
        self.places[address] = f"NIC_{self.nic.index}_NETWORK_SUBNET6"
        self._note_source(f"Ganeti network {network.name}")
        return True

    def _note_source(self, name: str) -> None:
        if name not in self._sources:
            self._sources.append(name)

    def _add_gateways(self, providers: Sequence[Provider]) -> None:
        """Add a default route for each family that has an address."""
        if self.said.gateways is not None:
            self.gateways = [ip_address(text) for text in self.said.gateways]
            self._check_gateways_reachable()
        else:
            for version in (4, 6):
                own = [interface.ip for interface in self.addresses if interface.version == version]
                gateways = [provider.gateway(version) for provider in providers if _speaks_for(provider, own, version)]
                self.gateways += [gateway for gateway in gateways if gateway][:1]
        for gateway in self.gateways:
            if gateway in self.places:
                self.complain(self.places[gateway], f"{gateway} is the gateway's address; take another")

    def _check_gateways_reachable(self) -> None:
        """A gateway of a family that the NIC does not speak would be a default route to nowhere."""
        given = _asked_for(self._resolved.dhcp4, self._resolved.slaac)
        families = {interface.version for interface in self.addresses} | given
        for gateway in self.gateways:
            if gateway.version not in families:
                message = f"gateways: {gateway} needs an IPv{gateway.version} address beside it; add one"
                self.complain(self.instance_file, message)

    def _add_settings(self, providers: Sequence[Provider], network: NetworkSettings) -> None:
        """Add name servers and the MTU, unless the NIC is left alone."""
        resolved = self._resolved
        if not (self.addresses or resolved.dhcp4 or resolved.slaac):
            return
        choices = [self.said.dns] if self.said.dns else [*(provider.dns for provider in providers), network.dns]
        mtus = [self.said.mtu, *(provider.mtu for provider in providers)]
        self._resolved = replace(
            resolved,
            dns_servers=next((dns.servers for dns in choices if dns.servers), ()),
            dns_search=next((dns.search for dns in choices if dns.search), ()),
            mtu=next((mtu for mtu in mtus if mtu is not None), None),
        )


def _asked_for(dhcp: bool, slaac: bool) -> set[int]:
    """The families whose addresses the network gives."""
    return ({4} if dhcp else set()) | ({6} if slaac else set())


def _speaks_for(provider: Provider, addresses: Sequence[Address], version: int) -> bool:
    """Is this provider's gateway good for these addresses, all of one family?

    One that says nothing of the family's networks may still know its gateway (routed NICs).
    """
    if not addresses:
        return False
    return not provider.of_version(version) or any(provider.holding(address) for address in addresses)
