"""What has to fit together in the configuration beyond single values: addresses, subnets, gateways.

Not for: what takes more than configuration to judge, such as the NICs that Ganeti gives an instance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_address, ip_interface, ip_network

from osprovider.config import checks
from osprovider.config.document import Mark, Node
from osprovider.config.model import BootstrapBuild, Image, InstanceNic, Subnet
from osprovider.config.wording import enumerate_words, suggest
from osprovider.errors import Problem

__all__ = ["check_image", "check_nics", "check_subnet", "check_subnets", "nic_addresses"]

_MINIMUM_MTU_IPV6 = 1280  # RFC 8200, 5


def check_image(image: Image, node: Node, problems: list[Problem]) -> None:
    """Check a definition as a whole; problems point into ``node``, its tree."""
    if (image.build is None) == (image.source is None):
        what = "says nothing of where it comes from" if image.build is None else "has build and source"
        problems.append(node.mark.problem(f"the image {what}; write one of build (packages) and source (a file)"))
    if image.build is not None and image.source is None:
        problems.extend(
            node.at(key).mark.problem(f"{key}: is for images with a source; remove it")
            for key in ("checksums", "signature", "keyring", "format", "max_size")
            if node.at(key) is not node
        )
    if image.build is not None:
        _check_build(image.build, node.at("build"), problems)
    if image.source is not None and not image.source.startswith(("/", "http://", "https://")):
        problems.append(node.at("source").mark.problem(f"source: {image.source} is relative; write an absolute path"))
    is_list = image.checksums is not None and not image.checksums.startswith(("sha256:", "sha512:"))
    if image.signature is not None and not is_list:
        message = "signature: signs a list of checksums, and there is none; write checksums: SHA512SUMS or the like"
        problems.append(node.at("signature").mark.problem(message))
    if (image.signature is None) != (image.keyring is None):
        message = "signature and keyring belong together: write both, or neither"
        problems.append(node.at("signature" if image.keyring is None else "keyring").mark.problem(message))


def _check_build(build: BootstrapBuild, node: Node, problems: list[Problem]) -> None:
    for index, name in enumerate(build.exclude):
        if name in build.packages:
            message = f"build.exclude[{index}]: {name} is among the packages as well; keep one"
            problems.append(node.at("exclude", index).mark.problem(message))
    if build.security_mirror is not None and (build.mirror is None or not build.security):
        message = "build.security_mirror: goes with a mirror and with security; add them, or remove it"
        problems.append(node.at("security_mirror").mark.problem(message))
    for name, repository in build.repositories.items():
        place = node.at("repositories", name)
        if name == "archive":
            message = "archive is what the distribution's own keys are called; choose another name"
        elif repository.suite.endswith("/") and repository.components:
            message = f"{repository.suite} is a path, which has no components; write components: []"
        elif not repository.suite.endswith("/") and not repository.components:
            message = f"the suite {repository.suite} has components; write some, or a path such as ./"
        else:
            continue
        problems.append(place.mark.problem(f"build.repositories.{name}: {message}"))


def check_subnet(subnet: Subnet, node: Node, problems: list[Problem]) -> None:
    """Check a subnet's file on its own; problems point into ``node``, its tree."""
    _check_gateways(subnet.gateways, node, problems)
    networks = [ip_network(text) for text in subnet.networks]
    for index, network in enumerate(networks):
        mark = node.at("networks", index).mark
        problems.extend(
            mark.problem(f"networks[{index}]: {network} overlaps {other}; keep one")
            for other in networks[:index]
            if network.version == other.version and network.overlaps(other)
        )
    if subnet.mtu is not None and subnet.mtu < _MINIMUM_MTU_IPV6 and any(network.version == 6 for network in networks):
        problems.append(node.at("mtu").mark.problem(f"mtu: IPv6 needs {_MINIMUM_MTU_IPV6} bytes at least; write more"))
    if subnet.match is not None and subnet.match.link is None and subnet.match.network is None:
        message = "match: says nothing; write link, network or both, or leave it out"
        problems.append(node.at("match").mark.problem(message))


def check_subnets(subnets: Mapping[str, Subnet], nodes: Mapping[str, Node], problems: list[Problem]) -> None:
    """Check that no NIC can belong to two subnets for the same reason.

    Args:
        subnets: by name.
        nodes: their trees, by name.
        problems: what is wrong is added here.
    """
    claimed: dict[object, str] = {}
    for name, subnet in sorted(subnets.items()):
        node = nodes[name]
        claims: list[tuple[object, str, Mark]]
        if subnet.match is not None:
            claims = [((subnet.match.link, subnet.match.network), "match: ", node.at("match").mark)]
        else:
            claims = [
                (ip_network(text), f"networks[{index}]: {text} ", node.at("networks", index).mark)
                for index, text in enumerate(subnet.networks)
            ]
        for claim, what, mark in claims:
            if (other := claimed.setdefault(claim, name)) != name:
                message = f"{what}is also what subnet {other} says ({nodes[other].mark.file}); tell them apart by match"
                problems.append(mark.problem(message))


def check_nics(
    nics: Sequence[InstanceNic],
    node: Node,
    subnets: Mapping[str, Subnet],
    broken: frozenset[str],
    problems: list[Problem],
) -> None:
    """Check an instance file's NICs.

    Args:
        nics: the NICs.
        node: the instance file's tree.
        subnets: all there are, by name.
        broken: the names of those that exist and have problems of their own.
        problems: what is wrong is added here.
    """
    seen: dict[str, Mark] = {}
    for index, nic in enumerate(nics):
        nic_node = node.at("nics", index)
        path = f"nics[{index}]"
        if nic.gateways is not None:
            _check_gateways(nic.gateways, nic_node, problems, f"{path}.")
        if nic.subnet is not None and nic.subnet not in subnets and nic.subnet not in broken:
            message = f'{path}.subnet: there is no subnet "{nic.subnet}"{suggest(nic.subnet, {*subnets, *broken})}'
            problems.append(nic_node.at("subnet").mark.problem(message))
        for position, text in enumerate(nic.addresses):
            mark = nic_node.at("addresses", position).mark
            address = str(ip_interface(text).ip)
            wrong = _address_problem(text, nic, subnets)
            if address in seen:
                wrong = f"{address} stands in line {seen[address].line} already; it can be there once"
            if wrong:
                problems.append(mark.problem(f"{path}.addresses[{position}]: {wrong}"))
            seen.setdefault(address, mark)


def nic_addresses(nics: Sequence[InstanceNic], node: Node) -> list[tuple[str | None, str, Mark]]:
    """Each address of an instance file's NICs: its subnet's name, itself without a prefix length, its place."""
    return [
        (nic.subnet, str(ip_interface(text).ip), node.at("nics", index, "addresses", position).mark)
        for index, nic in enumerate(nics)
        for position, text in enumerate(nic.addresses)
    ]


def _address_problem(text: str, nic: InstanceNic, subnets: Mapping[str, Subnet]) -> str | None:
    """What is wrong with an address of a NIC, given its subnet."""
    if nic.subnet is None:
        example = f"{text}/{24 if ip_interface(text).version == 4 else 64}"
        return (
            None
            if "/" in text
            else f"{text} has no prefix length; write one, as in {example}, or name the NIC's subnet"
        )
    if nic.subnet not in subnets:
        return None  # already said
    networks = subnets[nic.subnet].networks
    ip = ip_interface(text).ip
    holding = [network for network in map(ip_network, networks) if ip in network]
    if not holding:
        where = enumerate_words(networks, "and") if networks else "no networks at all"
        return f"{text} is outside of subnet {nic.subnet}, which has {where}; correct one of them"
    if checks.is_reserved(ip, holding[0]):
        return f"{text} is {holding[0]}'s own or broadcast address; write one between them"
    return None


def _check_gateways(gateways: Sequence[str], node: Node, problems: list[Problem], path: str = "") -> None:
    """One default route for each family; outside of the networks is legal (it gets an on-link route)."""
    versions: dict[int, str] = {}
    for index, text in enumerate(gateways):
        version = ip_address(text).version
        if version in versions:
            message = f"{text} is a second gateway for IPv{version} after {versions[version]}; keep one"
            problems.append(node.at("gateways", index).mark.problem(f"{path}gateways[{index}]: {message}"))
        versions.setdefault(version, text)
