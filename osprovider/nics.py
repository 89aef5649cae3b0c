"""Which network configuration each NIC of an instance gets: a pure decision, made before anything is written.

Each family of addresses, IPv4 and IPv6, is described by the first of: the instance file's ``nics[i]``; ``NIC_i_IP``;
the Ganeti network's IPv6 subnet. Where neither of the first two says anything, ``network.default`` fills in. Prefix
lengths, gateways, name servers and the MTU come from the first that has them of: the instance file, the subnet that it
names, the Ganeti network, and the subnet that matches the NIC.

Not for: writing the guest's files; the ``network`` hook renders what is decided here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)

from osprovider.config.checks import is_reserved
from osprovider.config.model import Dns, InstanceNic, NetworkSettings, Subnet
from osprovider.errors import ConfigurationError, Problem
from osprovider.ganeti.request import Network, Nic

__all__ = ["ResolvedNic", "is_onlink", "resolve"]

_Address = IPv4Address | IPv6Address
_Interface = IPv4Interface | IPv6Interface


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


def resolve(
    nics: Sequence[Nic],
    described: Sequence[InstanceNic],
    subnets: Mapping[str, Subnet],
    network: NetworkSettings,
    *,
    instance_file: str = "instance file",
    dns: Dns | None = None,
) -> tuple[ResolvedNic, ...]:
    """Decide how each NIC is configured.

    Args:
        nics: what Ganeti says of them.
        described: the instance file's ``nics``, by index; may be shorter.
        subnets: all there are, by name.
        network: the merged ``network`` settings.
        dns: name servers and search domains that come before all others, as OS parameters do.
        instance_file: what messages call the file that ``described`` is from.

    Raises:
        ConfigurationError: all that contradicts itself or is not enough, each named by its file or Ganeti's variable.
    """
    problems: list[Problem] = []
    if len(described) > len(nics):
        message = f"nics: {len(described)} are described, but the instance has {len(nics)}; remove what is too much"
        problems.append(Problem(instance_file, 0, 0, message))
    known = {name: _of_subnet(name, subnet) for name, subnet in subnets.items()}
    drafts = []
    for nic in nics:
        said = described[nic.index] if nic.index < len(described) else InstanceNic()
        drafts.append(_Draft(nic, said, instance_file, problems).fill(subnets, known, network))
    _check_distinct(drafts)
    _keep_one_default_route(drafts)
    if problems:
        raise ConfigurationError(problems)
    return tuple(draft.finished(dns or Dns()) for draft in drafts)


def is_onlink(nic: ResolvedNic, gateway: str) -> bool:
    """Does this gateway need an on-link route, because it lies outside all of the NIC's prefixes?

    An IPv6 link-local gateway does not: every interface has its network.
    """
    address = ip_address(gateway)
    if address.version == 6 and address.is_link_local:
        return False
    return not any(address in ip_interface(own).network for own in nic.addresses)


@dataclass(frozen=True, slots=True)
class _Provider:
    """What completes a NIC's description: a subnet's file or a Ganeti network, under the ``name`` that people know."""

    name: str
    networks: tuple[IPv4Network | IPv6Network, ...] = ()
    gateways: tuple[_Address, ...] = ()
    dns: Dns = field(default_factory=Dns)
    mtu: int | None = None

    def holding(self, address: _Address) -> IPv4Network | IPv6Network | None:
        """The longest of its prefixes that the address lies in."""
        holding = [network for network in self.networks if address in network]
        return max(holding, key=lambda network: network.prefixlen, default=None)

    def of_version(self, version: int) -> list[IPv4Network | IPv6Network]:
        return [network for network in self.networks if network.version == version]

    def gateway(self, version: int) -> _Address | None:
        return next((gateway for gateway in self.gateways if gateway.version == version), None)


def _of_subnet(name: str, subnet: Subnet) -> _Provider:
    return _Provider(
        f"subnets/{name}.yaml",
        tuple(ip_network(text) for text in subnet.networks),
        tuple(ip_address(text) for text in subnet.gateways),
        subnet.dns,
        subnet.mtu,
    )


def _of_ganeti(network: Network) -> _Provider:
    return _Provider(
        f"Ganeti network {network.name}",
        tuple(ip_network(text) for text in (network.subnet, network.subnet6) if text),
        tuple(ip_address(text) for text in (network.gateway, network.gateway6) if text),
    )


class _Draft:
    """A NIC while it is being decided; problems are noted and the decision goes on, so that all of them are said."""

    def __init__(self, nic: Nic, said: InstanceNic, instance_file: str, problems: list[Problem]) -> None:
        self.nic = nic
        self.said = said
        self.instance_file = instance_file
        self.problems = problems
        self.addresses: list[_Interface] = []
        self.places: dict[_Address, str] = {}  # where each address is written, for messages
        self.gateways: list[_Address] = []
        self.sources: list[str] = []
        self.resolved = ResolvedNic(nic.index, nic.mac, f"nic{nic.index}")

    def complain(self, file: str, message: str) -> None:
        where = f"nics[{self.nic.index}]: " if file == self.instance_file else ""
        self.problems.append(Problem(file, 0, 0, f"{where}{message}"))

    def fill(self, subnets: Mapping[str, Subnet], known: Mapping[str, _Provider], network: NetworkSettings) -> _Draft:
        """Decide everything that does not depend on the instance's other NICs."""
        said, ip = self.said, self.nic.ip
        written = [(ip_interface(text), "/" in text, self.instance_file) for text in said.addresses]
        families: set[int] = {interface.version for interface, *_ in written}
        families |= ({4} if said.dhcp else set()) | ({6} if said.slaac else set())
        if families:
            self.sources.append(self.instance_file)
        if ip and ip_address(ip).version not in families:
            written.append((ip_interface(ip), False, f"NIC_{self.nic.index}_IP"))
            families.add(ip_address(ip).version)
        providers = self.providers(subnets, known, [interface.ip for interface, *_ in written])
        for interface, has_prefix, place in written:
            self.add_address(interface, has_prefix, place, providers)
        dhcp, slaac, described = said.dhcp, said.slaac, bool(families)
        if 6 not in families and self.nic.network and self.nic.network.subnet6:
            slaac = not self.add_eui64(self.nic.network)
            families.add(6)
        if not described:
            dhcp = "dhcp" in network.default
            slaac = slaac or ("slaac" in network.default and 6 not in families)
            self.sources.append("network.default")
        self.resolved = replace(self.resolved, dhcp4=dhcp, dhcp6=dhcp and slaac, slaac=slaac)
        self.add_gateways(providers)
        self.add_settings(providers, network)
        return self

    def providers(
        self, subnets: Mapping[str, Subnet], known: Mapping[str, _Provider], addresses: Sequence[_Address]
    ) -> list[_Provider]:
        """Who completes the description, first first."""
        ganeti = [_of_ganeti(self.nic.network)] if self.nic.network else []
        if self.said.subnet is None:
            found = self.matching(subnets, known, addresses)
            return [*ganeti, *([known[found]] if found else [])]
        if self.said.subnet not in known:
            name = self.said.subnet
            self.complain(self.instance_file, f"there is no subnet {name}; write subnets/{name}.yaml")
            return ganeti
        return [known[self.said.subnet], *ganeti]

    def matching(
        self, subnets: Mapping[str, Subnet], known: Mapping[str, _Provider], addresses: Sequence[_Address]
    ) -> str | None:
        """The subnet that fits best: one that holds an address before others, then by how much its ``match`` says.

        So of two subnets on one link an address decides, and of two that hold an address the one that names the link.
        """
        ganeti_network = self.nic.network.name if self.nic.network else None
        ranked: dict[tuple[bool, bool, bool, int], list[str]] = {}
        for name, subnet in sorted(subnets.items()):
            holding = [held.prefixlen for address in addresses if (held := known[name].holding(address))]
            link = subnet.match.link if subnet.match else None
            network = subnet.match.network if subnet.match else None
            if link not in {None, self.nic.link} or network not in {None, ganeti_network}:
                continue
            if link or network or holding:
                rank = bool(holding), bool(network), bool(link), max(holding, default=0)
                ranked.setdefault(rank, []).append(name)
        if not ranked:
            return None
        first, *others = ranked[max(ranked)]
        for other in others:
            message = f"nic {self.nic.index} belongs to it as much as to {known[first].name}; tell them apart by match"
            self.complain(known[other].name, message)
        return first

    def add_address(self, interface: _Interface, has_prefix: bool, place: str, providers: Sequence[_Provider]) -> None:
        """Add an address; the providers give it a prefix length if it is written without one."""
        address = interface.ip
        for provider in providers[: 1 if self.said.subnet else 0] if has_prefix else providers:
            held, others = provider.holding(address), provider.of_version(address.version)
            if held and not has_prefix:
                interface, has_prefix = ip_interface(f"{address}/{held.prefixlen}"), True
                self.note_source(provider.name)
            if held:
                break
            if others:
                where = " and ".join(str(network) for network in others)
                self.complain(place, f"{address} is outside of {provider.name}, which has {where}; correct one of them")
                return
        if not has_prefix and self.nic.mode != "routed":
            message = f"nothing gives {address} a prefix length; write it into a subnet's networks (subnets/NAME.yaml)"
            self.complain(place, f"{message}, or connect the NIC to a Ganeti network")
            return
        if not has_prefix:
            self.note_source(f"{place} (routed)")
        if is_reserved(address, interface.network):
            message = f"{address} is the first or last of {interface.network}, which no host can have; take another"
            self.complain(place, message)
        elif address.is_unspecified or address.is_multicast or address.is_loopback:
            self.complain(place, f"{address} is not an address that an interface can have; take another")
        self.addresses.append(interface)
        self.places[address] = place

    def add_eui64(self, network: Network) -> bool:
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
            self.note_source(f"Ganeti network {network.name}")
            return False
        octets = bytes.fromhex(self.nic.mac.replace(":", ""))
        identifier = bytes([octets[0] ^ 0x02, *octets[1:3], 0xFF, 0xFE, *octets[3:]])
        address = prefix[int.from_bytes(identifier, "big")]
        self.addresses.append(ip_interface(f"{address}/64"))
        self.places[address] = f"NIC_{self.nic.index}_NETWORK_SUBNET6"
        self.note_source(f"Ganeti network {network.name}")
        return True

    def note_source(self, name: str) -> None:
        if name not in self.sources:
            self.sources.append(name)

    def add_gateways(self, providers: Sequence[_Provider]) -> None:
        """Add a default route for each family that has an address."""
        if self.said.gateways is not None:
            self.gateways = [ip_address(text) for text in self.said.gateways]
            self.check_gateways_reachable()
        else:
            for version in (4, 6):
                own = [interface.ip for interface in self.addresses if interface.version == version]
                gateways = [provider.gateway(version) for provider in providers if _speaks_for(provider, own, version)]
                self.gateways += [gateway for gateway in gateways if gateway][:1]
        for gateway in self.gateways:
            if gateway in self.places:
                self.complain(self.places[gateway], f"{gateway} is the gateway's address; take another")

    def check_gateways_reachable(self) -> None:
        """A gateway of a family that the NIC does not speak would be a default route to nowhere."""
        families: set[int] = {interface.version for interface in self.addresses}
        families |= ({4} if self.resolved.dhcp4 else set()) | ({6} if self.resolved.slaac else set())
        for gateway in self.gateways:
            if gateway.version not in families:
                message = f"gateways: {gateway} needs an IPv{gateway.version} address beside it; add one"
                self.complain(self.instance_file, message)

    def add_settings(self, providers: Sequence[_Provider], network: NetworkSettings) -> None:
        """Add name servers and the MTU, unless the NIC is left alone."""
        resolved = self.resolved
        if not (self.addresses or resolved.dhcp4 or resolved.slaac):
            return
        choices = [self.said.dns] if self.said.dns else [*(provider.dns for provider in providers), network.dns]
        mtus = [self.said.mtu, *(provider.mtu for provider in providers)]
        self.resolved = replace(
            resolved,
            dns_servers=next((dns.servers for dns in choices if dns.servers), ()),
            dns_search=next((dns.search for dns in choices if dns.search), ()),
            mtu=next((mtu for mtu in mtus if mtu is not None), None),
        )

    def finished(self, dns: Dns) -> ResolvedNic:
        """The NIC as decided, with ``dns`` in place of what was found where it says something."""
        return replace(
            self.resolved,
            dns_servers=dns.servers or self.resolved.dns_servers,
            dns_search=dns.search or self.resolved.dns_search,
            addresses=tuple(str(interface) for interface in sorted(self.addresses, key=lambda item: item.version)),
            gateways=tuple(str(gateway) for gateway in sorted(self.gateways, key=lambda item: item.version)),
            source=", ".join(self.sources),
        )


def _speaks_for(provider: _Provider, addresses: Sequence[_Address], version: int) -> bool:
    """Is this provider's gateway good for these addresses, all of one family?

    One that says nothing of the family's networks may still know its gateway (routed NICs).
    """
    if not addresses:
        return False
    return not provider.of_version(version) or any(provider.holding(address) for address in addresses)


def _check_distinct(drafts: Sequence[_Draft]) -> None:
    """No address and no MAC may be there twice."""
    owners: dict[str | _Address, int] = {}
    for draft in drafts:
        index = draft.nic.index
        having = [(draft.nic.mac, f"NIC_{index}_MAC"), *((item.ip, draft.places[item.ip]) for item in draft.addresses)]
        for thing, place in having:
            if thing in owners:
                draft.complain(place, f"{thing} is nic {owners[thing]}'s already; give one of them another")
            owners.setdefault(thing, index)


def _keep_one_default_route(drafts: Sequence[_Draft]) -> None:
    """Leave each family's default route to one NIC: the one whose gateway the instance file names, else the first.

    Two of equal metric can't both be there: ifupdown fails over the second, others take either.
    """
    for version in (4, 6):
        having = [draft for draft in drafts if any(gateway.version == version for gateway in draft.gateways)]
        named = [draft for draft in having if draft.said.gateways]
        for draft in named[1:]:
            first = named[0].nic.index
            draft.complain(
                draft.instance_file,
                f"gateways: nics[{first}] has the IPv{version} default route already; leave it to one of them",
            )
        for draft in having:
            if draft is not (named or having)[0]:
                draft.gateways = [gateway for gateway in draft.gateways if gateway.version != version]
