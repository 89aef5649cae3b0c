"""Addresses that Ganeti takes for a NIC and that no interface can have."""

from __future__ import annotations

import pytest

from osprovider.addressing.resolve import resolve
from osprovider.config.model import NetworkSettings
from osprovider.errors import ConfigurationError
from osprovider.ganeti.request import Network, Nic

BLUE = Network(name="blue", subnet="198.51.100.0/24", subnet6="2001:db8::/64")


def _refusal(nic: Nic) -> str:
    with pytest.raises(ConfigurationError) as refused:
        resolve([nic], [], {}, NetworkSettings())
    return str(refused.value)


@pytest.mark.parametrize("ip", ["127.0.0.1", "0.0.0.0", "224.0.0.5", "::", "::1", "ff02::1"])  # noqa: S104
def test_an_address_that_is_no_interface_s_is_refused(ip: str) -> None:
    nic = Nic(0, "aa:00:00:00:00:01", ip=ip, mode="routed")
    assert _refusal(nic) == f"NIC_0_IP: {ip} is not an address that an interface can have; take another"


@pytest.mark.parametrize("ip", ["198.51.100.0", "198.51.100.255", "2001:db8::"])
def test_a_network_s_own_address_is_refused(ip: str) -> None:
    assert _refusal(Nic(0, "aa:00:00:00:00:01", ip=ip, network=BLUE)).startswith(f"NIC_0_IP: {ip} is the first or last")
