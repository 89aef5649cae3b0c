"""Which configuration each NIC gets, by who describes it first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_interface

import pytest

from osprovider.addressing.resolve import resolve
from osprovider.config.model import Dns, InstanceNic, NetworkSettings, Subnet, SubnetMatch
from osprovider.errors import ConfigurationError
from osprovider.ganeti.request import Network, Nic
from osprovider.nics import ResolvedNic, is_onlink

PROD = Subnet(
    networks=("198.51.100.0/24", "2001:db8:1::/64"),
    gateways=("198.51.100.1", "2001:db8:1::1"),
    dns=Dns(servers=("198.51.100.53",), search=("example.org",)),
    mtu=1450,
)
DMZ = Subnet(networks=("203.0.113.0/24",), gateways=("203.0.113.1",))
GANETI = Network(name="blue", subnet="192.0.2.0/25", gateway="192.0.2.1")
DUAL = Network(
    name="blue", subnet="192.0.2.0/25", gateway="192.0.2.1", subnet6="2001:db8:b::/64", gateway6="2001:db8:b::1"
)


def nic(index: int = 0, **about: object) -> Nic:
    given = {"mac": f"aa:00:00:00:00:{index + 1:02x}", "mode": "bridged", "link": "br0", **about}
    return Nic(index=index, **given)  # type: ignore[arg-type]


def one(
    what: Nic,
    said: InstanceNic | None = None,
    subnets: Mapping[str, Subnet] | None = None,
    network: NetworkSettings | None = None,
) -> ResolvedNic:
    (resolved,) = resolve([what], [said] if said else [], subnets or {}, network or NetworkSettings())
    return resolved


def complaints(
    nics: Sequence[Nic], said: Sequence[InstanceNic] = (), subnets: Mapping[str, Subnet] | None = None
) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        resolve(nics, said, subnets or {}, NetworkSettings(), instance_file="instances/web1.yaml")
    return [str(problem) for problem in caught.value.problems]


# Who describes a NIC


def test_instance_file_comes_before_the_address_that_ganeti_gives() -> None:
    said = InstanceNic(subnet="prod", addresses=("198.51.100.21",))
    resolved = one(nic(ip="192.0.2.5", network=GANETI), said, {"prod": PROD})
    assert resolved.addresses == ("198.51.100.21/24",)
    assert resolved.gateways == ("198.51.100.1",)
    assert resolved.source == "instance file, subnets/prod.yaml"


def test_ganeti_network_gives_the_address_its_prefix_and_gateway() -> None:
    resolved = one(nic(ip="192.0.2.5", network=GANETI))
    assert (resolved.addresses, resolved.gateways) == (("192.0.2.5/25",), ("192.0.2.1",))
    assert not resolved.dhcp4
    assert resolved.source == "Ganeti network blue"


def test_ganeti_network_comes_before_a_subnet_that_matches() -> None:
    wider = Subnet(networks=("192.0.2.0/24",), gateways=("192.0.2.254",), match=SubnetMatch(network="blue"))
    resolved = one(nic(ip="192.0.2.5", network=GANETI), subnets={"blue": wider})
    assert (resolved.addresses, resolved.gateways) == (("192.0.2.5/25",), ("192.0.2.1",))


def test_matching_subnet_gives_what_a_ganeti_network_cannot_say() -> None:
    more = Subnet(dns=Dns(servers=("192.0.2.53",)), mtu=9000, match=SubnetMatch(network="blue"))
    resolved = one(nic(ip="192.0.2.5", network=GANETI), subnets={"blue": more})
    assert (resolved.dns_servers, resolved.mtu) == (("192.0.2.53",), 9000)


def test_matching_subnet_gives_the_gateway_that_a_ganeti_network_lacks() -> None:
    more = Subnet(networks=("192.0.2.0/25",), gateways=("192.0.2.126",))
    resolved = one(nic(ip="192.0.2.5", network=replace(GANETI, gateway=None)), subnets={"more": more})
    assert resolved.gateways == ("192.0.2.126",)


def test_gateway_of_a_subnet_that_does_not_hold_the_address_is_not_taken() -> None:
    other = replace(DMZ, match=SubnetMatch(link="br0"))
    resolved = one(nic(ip="192.0.2.5", network=replace(GANETI, gateway=None)), subnets={"dmz": other})
    assert resolved.gateways == ()


def test_instance_file_that_names_only_a_subnet_leaves_the_address_to_ganeti() -> None:
    resolved = one(nic(ip="198.51.100.9"), InstanceNic(subnet="prod"), {"prod": PROD})
    assert resolved.addresses == ("198.51.100.9/24",)


def test_instance_file_with_an_ipv6_address_leaves_ipv4_to_ganeti() -> None:
    said = InstanceNic(subnet="prod", addresses=("2001:db8:1::21",))
    resolved = one(nic(ip="198.51.100.9"), said, {"prod": PROD})
    assert resolved.addresses == ("198.51.100.9/24", "2001:db8:1::21/64")
    assert resolved.gateways == ("198.51.100.1", "2001:db8:1::1")


def test_instance_file_with_slaac_leaves_ipv4_to_ganeti() -> None:
    resolved = one(nic(ip="192.0.2.5", network=GANETI), InstanceNic(slaac=True))
    assert (resolved.addresses, resolved.slaac, resolved.dhcp4) == (("192.0.2.5/25",), True, False)


def test_instance_file_with_dhcp_sets_ganetis_address_aside() -> None:
    resolved = one(nic(ip="192.0.2.5", network=GANETI), InstanceNic(dhcp=True))
    assert (resolved.addresses, resolved.gateways, resolved.dhcp4) == ((), (), True)


def test_instance_file_with_an_address_does_not_fall_back_to_the_default() -> None:
    resolved = one(nic(), InstanceNic(addresses=("2001:db8::5/64",)), network=NetworkSettings(default="dhcp+slaac"))
    assert (resolved.dhcp4, resolved.slaac, resolved.dhcp6) == (False, False, False)


def test_own_prefix_length_gateway_mtu_and_name_servers_come_before_the_subnets() -> None:
    said = InstanceNic(
        subnet="prod",
        addresses=("198.51.100.21/32",),
        gateways=("198.51.100.254",),
        dns=Dns(servers=("192.0.2.53",)),
        mtu=1280,
    )
    resolved = one(nic(), said, {"prod": PROD})
    assert resolved.addresses == ("198.51.100.21/32",)
    assert resolved.gateways == ("198.51.100.254",)
    assert (resolved.dns_servers, resolved.dns_search, resolved.mtu) == (("192.0.2.53",), (), 1280)


def test_empty_gateways_of_the_instance_file_mean_no_default_route() -> None:
    said = InstanceNic(subnet="prod", addresses=("198.51.100.21",), gateways=())
    assert one(nic(), said, {"prod": PROD}).gateways == ()


@pytest.mark.parametrize(
    ("default", "dhcp4", "dhcp6", "slaac"),
    [
        ("dhcp", True, False, False),
        ("slaac", False, False, True),
        ("dhcp+slaac", True, True, True),
        ("none", False, False, False),
    ],
)
def test_nic_that_nothing_describes_gets_the_default(default: str, dhcp4: bool, dhcp6: bool, slaac: bool) -> None:
    resolved = one(nic(), network=NetworkSettings(default=default))  # type: ignore[arg-type]
    assert (resolved.dhcp4, resolved.dhcp6, resolved.slaac) == (dhcp4, dhcp6, slaac)
    assert (resolved.addresses, resolved.source) == ((), "network.default")


def test_nic_of_a_matching_subnet_without_an_address_gets_the_default_with_the_subnets_settings() -> None:
    resolved = one(nic(), subnets={"prod": replace(PROD, match=SubnetMatch(link="br0"))})
    assert (resolved.dhcp4, resolved.addresses, resolved.gateways) == (True, (), ())
    assert (resolved.dns_servers, resolved.mtu) == (("198.51.100.53",), 1450)


def test_nic_that_is_left_alone_has_no_settings() -> None:
    settings = NetworkSettings(default="none", dns=Dns(servers=("192.0.2.53",)))
    resolved = one(nic(), subnets={"prod": replace(PROD, match=SubnetMatch(link="br0"))}, network=settings)
    assert (resolved.dns_servers, resolved.dns_search, resolved.mtu) == ((), (), None)


def test_name_servers_of_the_settings_serve_nics_whose_subnet_names_none() -> None:
    settings = NetworkSettings(dns=Dns(servers=("192.0.2.53",), search=("example.net",)))
    searching = replace(DMZ, dns=Dns(search=("dmz.example.org",)))
    resolved = one(nic(ip="203.0.113.5"), subnets={"dmz": searching}, network=settings)
    assert (resolved.dns_servers, resolved.dns_search) == (("192.0.2.53",), ("dmz.example.org",))


def test_interfaces_are_named_by_index_and_known_by_mac() -> None:
    resolved = resolve([nic(0), nic(1)], [], {}, NetworkSettings())
    assert [(item.index, item.name, item.mac) for item in resolved] == [
        (0, "nic0", "aa:00:00:00:00:01"),
        (1, "nic1", "aa:00:00:00:00:02"),
    ]


# Which subnet a NIC belongs to


def test_subnet_without_match_takes_nics_whose_address_it_holds() -> None:
    subnets = {"prod": PROD, "dmz": DMZ}
    assert one(nic(ip="203.0.113.5"), subnets=subnets).addresses == ("203.0.113.5/24",)
    assert one(nic(ip="2001:db8:1::5"), subnets=subnets).addresses == ("2001:db8:1::5/64",)


@pytest.mark.parametrize(
    "match", [SubnetMatch(link="br0"), SubnetMatch(network="blue"), SubnetMatch(link="br0", network="blue")]
)
def test_subnet_matches_by_link_and_by_ganeti_network(match: SubnetMatch) -> None:
    bare = Network(name="blue")
    resolved = one(nic(ip="203.0.113.5", network=bare), subnets={"dmz": replace(DMZ, match=match)})
    assert resolved.addresses == ("203.0.113.5/24",)


@pytest.mark.parametrize(
    "match", [SubnetMatch(link="br1"), SubnetMatch(network="red"), SubnetMatch(link="br0", network="red")]
)
def test_subnet_whose_match_says_otherwise_is_not_taken_even_if_it_holds_the_address(match: SubnetMatch) -> None:
    blue = nic(ip="203.0.113.5", network=Network(name="blue"))
    (problem,) = complaints([blue], [], {"dmz": replace(DMZ, match=match)})
    assert problem.startswith("NIC_0_IP: nothing gives 203.0.113.5 a prefix length")


def test_address_decides_between_subnets_on_one_link() -> None:
    match = SubnetMatch(link="br0")
    subnets = {"prod": replace(PROD, match=match), "dmz": replace(DMZ, match=match)}
    assert one(nic(ip="198.51.100.5"), subnets=subnets).gateways == ("198.51.100.1",)
    assert one(nic(ip="203.0.113.5"), subnets=subnets).gateways == ("203.0.113.1",)


def test_ganeti_network_decides_between_subnets_on_one_link() -> None:
    near = Subnet(networks=("203.0.113.0/24",), mtu=1400, match=SubnetMatch(network="blue"))
    far = Subnet(networks=("203.0.113.0/24",), mtu=1500, match=SubnetMatch(link="br0"))
    assert one(nic(ip="203.0.113.5", network=Network(name="blue")), subnets={"a": far, "b": near}).mtu == 1400
    assert one(nic(ip="203.0.113.5"), subnets={"a": far, "b": near}).mtu == 1500


def test_longer_prefix_decides_between_subnets_that_hold_an_address() -> None:
    part = Subnet(networks=("203.0.113.0/26",), gateways=("203.0.113.62",))
    resolved = one(nic(ip="203.0.113.5"), subnets={"dmz": DMZ, "part": part})
    assert (resolved.addresses, resolved.gateways) == (("203.0.113.5/26",), ("203.0.113.62",))


def test_subnets_that_match_equally_are_both_named() -> None:
    (problem,) = complaints([nic(ip="203.0.113.5")], [], {"dmz": DMZ, "dmz2": DMZ})
    assert problem.startswith("subnets/dmz2.yaml: nic 0 belongs to it as much as to subnets/dmz.yaml;")


# IPv6 of Ganeti networks


def test_ganetis_ipv6_subnet_and_gateway_mean_the_eui64_address() -> None:
    resolved = one(nic(ip="192.0.2.5", network=DUAL, mac="aa:00:00:12:34:56"))
    assert resolved.addresses == ("192.0.2.5/25", "2001:db8:b:0:a800:ff:fe12:3456/64")
    assert resolved.gateways == ("192.0.2.1", "2001:db8:b::1")
    assert not resolved.slaac


@pytest.mark.parametrize(
    "network",
    [
        replace(DUAL, gateway6=None),
        replace(DUAL, subnet6="2001:db8:b::/48"),
        replace(DUAL, subnet6="2001:db8:b::/80"),
    ],
)
def test_ganetis_ipv6_subnet_is_left_to_the_router_where_it_gives_no_address(network: Network) -> None:
    resolved = one(nic(ip="192.0.2.5", network=network))
    assert (resolved.addresses, resolved.gateways, resolved.slaac) == (("192.0.2.5/25",), ("192.0.2.1",), True)


def test_ganetis_ipv6_address_stands_beside_the_default_for_ipv4() -> None:
    resolved = one(nic(network=DUAL), network=NetworkSettings(default="dhcp+slaac"))
    assert resolved.dhcp4
    assert not resolved.slaac
    assert resolved.addresses == ("2001:db8:b:0:a800:ff:fe00:1/64",)
    assert resolved.source == "Ganeti network blue, network.default"


@pytest.mark.parametrize("said", [InstanceNic(slaac=True), InstanceNic(addresses=("2001:db8:c::5/64",))])
def test_instance_file_comes_before_ganetis_ipv6(said: InstanceNic) -> None:
    resolved = one(nic(ip="192.0.2.5", network=DUAL), said)
    assert "2001:db8:b:0:a800:ff:fe00:1/64" not in resolved.addresses
    assert resolved.slaac == said.slaac


def test_ipv6_address_from_ganeti_takes_the_ipv6_subnet() -> None:
    resolved = one(nic(ip="2001:db8:b::77", network=DUAL))
    assert (resolved.addresses, resolved.gateways) == (("2001:db8:b::77/64",), ("2001:db8:b::1",))


# Addresses without a prefix, and routed NICs


def test_address_that_nothing_gives_a_prefix_is_refused_with_the_way_out() -> None:
    (problem,) = complaints([nic(ip="203.0.113.5")])
    assert problem.startswith("NIC_0_IP: nothing gives 203.0.113.5 a prefix length; write it into a subnet's networks")


@pytest.mark.parametrize(("ip", "expected"), [("203.0.113.5", "203.0.113.5/32"), ("2001:db8::5", "2001:db8::5/128")])
def test_routed_nic_without_a_subnet_gets_a_host_prefix(ip: str, expected: str) -> None:
    resolved = one(nic(ip=ip, mode="routed", link="100"))
    assert (resolved.addresses, resolved.gateways) == ((expected,), ())
    assert resolved.source == "NIC_0_IP (routed)"


def test_routed_nic_takes_the_gateway_of_a_subnet_without_networks() -> None:
    routed = Subnet(gateways=("192.0.2.1", "fe80::1"), match=SubnetMatch(link="100"))
    resolved = one(nic(ip="203.0.113.5", mode="routed", link="100"), subnets={"routed": routed})
    assert (resolved.addresses, resolved.gateways) == (("203.0.113.5/32",), ("192.0.2.1",))
    assert is_onlink(resolved, "192.0.2.1")


def test_routed_nic_in_a_ganeti_network_has_the_networks_prefix() -> None:
    assert one(nic(ip="192.0.2.5", mode="routed", network=GANETI)).addresses == ("192.0.2.5/25",)


# What network configuration goes wrong with elsewhere


def test_gateway_outside_of_the_prefix_is_kept_and_known_to_be_on_link() -> None:
    resolved = one(nic(), InstanceNic(addresses=("203.0.113.5/32",), gateways=("198.51.100.1",)))
    assert resolved.gateways == ("198.51.100.1",)
    assert is_onlink(resolved, "198.51.100.1")


def test_gateway_within_any_prefix_of_the_nic_is_not_on_link() -> None:
    resolved = one(nic(), InstanceNic(addresses=("203.0.113.5/32", "198.51.100.9/24"), gateways=("198.51.100.1",)))
    assert not is_onlink(resolved, "198.51.100.1")


def test_ipv6_gateway_outside_of_the_prefix_is_on_link() -> None:
    resolved = one(nic(), InstanceNic(addresses=("2001:db8:10::100/128",), gateways=("2001:db8:10::1",)))
    assert is_onlink(resolved, "2001:db8:10::1")


def test_link_local_gateway_needs_no_route_of_its_own() -> None:
    resolved = one(nic(), InstanceNic(addresses=("2001:db8:1::5/64",), gateways=("fe80::1",)))
    assert resolved.gateways == ("fe80::1",)
    assert not is_onlink(resolved, "fe80::1")


def test_gateway_of_a_family_that_the_nic_does_not_speak_is_left_out() -> None:
    assert one(nic(ip="198.51.100.5"), subnets={"prod": PROD}).gateways == ("198.51.100.1",)
    assert one(nic(ip="2001:db8:1::5"), subnets={"prod": PROD}).gateways == ("2001:db8:1::1",)


def test_ipv4_comes_first_whatever_the_files_order() -> None:
    said = InstanceNic(addresses=("2001:db8:1::5/64", "198.51.100.5/24"), gateways=("2001:db8:1::1", "198.51.100.1"))
    resolved = one(nic(), said)
    assert [ip_interface(text).version for text in resolved.addresses] == [4, 6]
    assert resolved.gateways == ("198.51.100.1", "2001:db8:1::1")


def test_static_ipv6_asks_for_no_automatic_one_and_leaves_ipv4_alone() -> None:
    resolved = one(nic(), InstanceNic(addresses=("2001:db8:1::5/64",)))
    assert (resolved.dhcp4, resolved.dhcp6, resolved.slaac) == (False, False, False)


def test_static_ipv6_and_slaac_may_stand_together() -> None:
    resolved = one(nic(), InstanceNic(addresses=("2001:db8:1::5/64",), slaac=True))
    assert (resolved.addresses, resolved.slaac) == (("2001:db8:1::5/64",), True)


def test_explicit_gateway_of_a_family_without_an_address_is_refused() -> None:
    problems = complaints([nic()], [InstanceNic(addresses=("198.51.100.5/24",), gateways=("2001:db8:1::1",))])
    assert problems == [
        "instances/web1.yaml: nics[0]: gateways: 2001:db8:1::1 needs an IPv6 address beside it; add one"
    ]


def test_only_the_first_nic_has_the_default_route_of_a_family() -> None:
    subnets = {"prod": PROD, "dmz": DMZ}
    nics = [nic(0, ip="203.0.113.5"), nic(1, ip="198.51.100.5"), nic(2, ip="2001:db8:1::5")]
    first, second, third = resolve(nics, [], subnets, NetworkSettings())
    assert first.gateways == ("203.0.113.1",)
    assert second.gateways == ()
    assert third.gateways == ("2001:db8:1::1",)


def test_gateway_that_the_instance_file_names_takes_the_default_route_from_an_earlier_nic() -> None:
    first, second = resolve(
        [nic(0, ip="203.0.113.5"), nic(1, ip="198.51.100.5")],
        [InstanceNic(), InstanceNic(gateways=("198.51.100.254",))],
        {"prod": PROD, "dmz": DMZ},
        NetworkSettings(),
    )
    assert (first.gateways, second.gateways) == ((), ("198.51.100.254",))


# Contradictions


def test_two_default_routes_in_the_instance_file_are_refused() -> None:
    said = [
        InstanceNic(addresses=("198.51.100.5/24",), gateways=("198.51.100.1",)),
        InstanceNic(addresses=("203.0.113.5/24",), gateways=("203.0.113.1",)),
    ]
    (problem,) = complaints([nic(0), nic(1)], said)
    assert problem.startswith("instances/web1.yaml: nics[1]: gateways: nics[0] has the IPv4 default route already")


def test_address_outside_of_its_matching_subnet_is_refused_naming_both() -> None:
    (problem,) = complaints([nic(ip="192.0.2.5")], [], {"prod": replace(PROD, match=SubnetMatch(link="br0"))})
    assert problem.startswith("NIC_0_IP: 192.0.2.5 is outside of subnets/prod.yaml, which has 198.51.100.0/24;")


def test_address_outside_of_its_ganeti_network_is_refused_naming_both() -> None:
    (problem,) = complaints([nic(ip="192.0.2.200", network=GANETI)])
    assert problem.startswith("NIC_0_IP: 192.0.2.200 is outside of Ganeti network blue, which has 192.0.2.0/25;")


@pytest.mark.parametrize("address", ["203.0.113.5", "203.0.113.5/24"])
def test_address_outside_of_the_subnet_that_the_instance_file_names_is_refused(address: str) -> None:
    (problem,) = complaints([nic()], [InstanceNic(subnet="prod", addresses=(address,))], {"prod": PROD})
    assert problem.startswith("instances/web1.yaml: nics[0]: 203.0.113.5 is outside of subnets/prod.yaml")


def test_ganetis_address_outside_of_the_subnet_that_the_instance_file_names_is_refused() -> None:
    (problem,) = complaints([nic(ip="192.0.2.5", network=GANETI)], [InstanceNic(subnet="prod")], {"prod": PROD})
    assert problem.startswith("NIC_0_IP: 192.0.2.5 is outside of subnets/prod.yaml")


@pytest.mark.parametrize("ip", ["198.51.100.0", "198.51.100.255"])
def test_first_and_last_address_of_a_network_are_refused(ip: str) -> None:
    (problem,) = complaints([nic(ip=ip)], [], {"prod": PROD})
    assert problem.startswith(f"NIC_0_IP: {ip} is the first or last of 198.51.100.0/24")


def test_both_addresses_of_a_point_to_point_network_can_be_had() -> None:
    link = {"link": Subnet(networks=("192.0.2.8/31",), gateways=("192.0.2.9",))}
    assert one(nic(ip="192.0.2.8"), subnets=link).addresses == ("192.0.2.8/31",)


def test_gateways_own_address_is_refused() -> None:
    (problem,) = complaints([nic(ip="198.51.100.1")], [], {"prod": PROD})
    assert problem == "NIC_0_IP: 198.51.100.1 is the gateway's address; take another"


def test_two_nics_with_one_address_are_refused() -> None:
    said = [InstanceNic(), InstanceNic(addresses=("198.51.100.5/25",))]
    problems = complaints([nic(0, ip="198.51.100.5"), nic(1)], said, {"prod": PROD})
    assert problems == ["instances/web1.yaml: nics[1]: 198.51.100.5 is nic 0's already; give one of them another"]


def test_one_address_twice_on_a_nic_is_refused() -> None:
    (problem,) = complaints([nic()], [InstanceNic(addresses=("198.51.100.5/25", "198.51.100.5/24"))])
    assert "198.51.100.5 is nic 0's already" in problem


def test_two_nics_with_one_mac_are_refused() -> None:
    problems = complaints([nic(0), nic(1, mac="aa:00:00:00:00:01")])
    assert problems == ["NIC_1_MAC: aa:00:00:00:00:01 is nic 0's already; give one of them another"]


def test_more_nics_in_the_instance_file_than_the_instance_has_are_refused() -> None:
    problems = complaints([nic()], [InstanceNic(), InstanceNic(dhcp=True)])
    assert problems == ["instances/web1.yaml: nics: 2 are described, but the instance has 1; remove what is too much"]


def test_unknown_subnet_is_refused_with_the_file_to_write() -> None:
    problems = complaints([nic()], [InstanceNic(subnet="prd")], {"prod": PROD})
    assert problems == ["instances/web1.yaml: nics[0]: there is no subnet prd; write subnets/prd.yaml"]


def test_all_that_is_wrong_is_said_at_once() -> None:
    problems = complaints(
        [nic(0, ip="192.0.2.200", network=GANETI), nic(1, ip="10.0.0.1"), nic(2, mac="aa:00:00:00:00:01")],
        [InstanceNic(), InstanceNic(), InstanceNic(subnet="prd"), InstanceNic()],
    )
    assert [problem.partition(": ")[0] for problem in problems] == [
        "NIC_0_IP",
        "NIC_1_IP",
        "NIC_2_MAC",
        "instances/web1.yaml",
        "instances/web1.yaml",
    ]


def test_diskless_and_netless_instances_are_fine() -> None:
    assert resolve([], [], {"prod": PROD}, NetworkSettings()) == ()


def test_name_servers_of_os_parameters_come_before_the_subnets() -> None:
    subnet = Subnet(networks=("198.51.100.0/24",), dns=Dns(servers=("198.51.100.53",), search=("example.org",)))
    (nic,) = resolve(
        [Nic(0, "aa:00:00:00:00:01", ip="198.51.100.21")],
        [],
        {"lab": subnet},
        NetworkSettings(),
        dns=Dns(servers=("198.51.100.99",)),
    )
    assert nic.dns_servers == ("198.51.100.99",)
    assert nic.dns_search == ("example.org",)
