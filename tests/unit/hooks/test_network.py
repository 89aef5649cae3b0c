"""The hook network: files for both stacks, for every way that a NIC can be configured."""

from __future__ import annotations

from pathlib import Path

import pytest

from osprovider.config.model import NetworkSettings, Variant
from osprovider.errors import HookError
from osprovider.nics import ResolvedNic
from tests.support.boot_context import run_hook
from tests.unit.hooks.trees import changes, check_golden, context, snapshot, write_tree

MAC, MAC1, MAC2 = "aa:00:00:11:22:33", "aa:00:00:11:22:34", "aa:00:00:11:22:35"
DNS = {"dns_servers": ("198.51.100.53", "2001:db8:1::53"), "dns_search": ("example.org", "example.net")}

CASES = {
    "static": (
        ResolvedNic(
            0,
            MAC,
            "nic0",
            ("198.51.100.21/24", "198.51.100.22/24", "2001:db8:1::21/64", "2001:db8:1::22/64"),
            ("198.51.100.1", "2001:db8:1::1"),
            mtu=1400,
            source="subnets/prod.yaml",
            dns_servers=DNS["dns_servers"],
            dns_search=DNS["dns_search"],
        ),
    ),
    "static-ipv4": (ResolvedNic(0, MAC, "nic0", ("198.51.100.21/24",), ("198.51.100.1",)),),
    "static-ipv6": (
        ResolvedNic(0, MAC, "nic0", ("2001:db8:1::21/64",), ("2001:db8:1::1",), dns_servers=("2001:db8:1::53",)),
    ),
    "onlink": (
        ResolvedNic(0, MAC, "nic0", ("198.51.100.21/32", "2001:db8:1::21/128"), ("203.0.113.1", "2001:db8:ffff::1")),
    ),
    "link-local-gateway": (ResolvedNic(0, MAC, "nic0", ("2001:db8:1::21/64",), ("fe80::1",)),),
    "dhcp": (ResolvedNic(0, MAC, "nic0", dhcp4=True, source="network.default"),),
    "slaac": (ResolvedNic(0, MAC, "nic0", slaac=True),),
    "dhcp-and-slaac": (ResolvedNic(0, MAC, "nic0", dhcp4=True, dhcp6=True, slaac=True),),
    "static-ipv4-and-slaac": (ResolvedNic(0, MAC, "nic0", ("198.51.100.21/24",), ("198.51.100.1",), slaac=True),),
    "static-ipv6-and-slaac": (ResolvedNic(0, MAC, "nic0", ("2001:db8:1::21/64",), slaac=True),),
    "dhcp-and-static-ipv6": (ResolvedNic(0, MAC, "nic0", ("2001:db8:1::21/64",), ("2001:db8:1::1",), dhcp4=True),),
    "several": (
        ResolvedNic(0, MAC, "nic0", ("198.51.100.21/24",), ("198.51.100.1",), dns_servers=("198.51.100.53",)),
        ResolvedNic(1, MAC1, "nic1", dhcp4=True, mtu=9000),
        ResolvedNic(2, MAC2, "nic2"),
    ),
    "none": (),
}

NETWORKING = (
    "[Unit]\nDescription=Raise\n\n[Install]\nWantedBy=multi-user.target\nWantedBy=network-online.target\n\n[Service]\n"
)
NETWORKD = (
    "[Install]\nWantedBy=multi-user.target\nAlso=systemd-networkd.socket\nAlias=dbus-org.freedesktop.network1.service\n"
    "# why\nAlso=systemd-network-generator.service\nAlso=systemd-networkd-wait-online.service\n"
)
RESOLVED = "[Install]\nWantedBy=sysinit.target\nAlias=dbus-org.freedesktop.resolve1.service\n"
UNITS = "/usr/lib/systemd/system"
WAITS = "/etc/systemd/system/network-online.target.wants/systemd-networkd-wait-online.service"

GUESTS: dict[str, dict[str, str | None]] = {
    "ifupdown": {
        "/lib": "-> usr/lib",
        "/etc/network/interfaces": "auto eth0\niface eth0 inet dhcp\n",
        "/etc/resolv.conf": "nameserver 192.0.2.1\n",
        f"{UNITS}/networking.service": NETWORKING,
        f"{UNITS}/systemd-networkd.service": NETWORKD,
        "/etc/systemd/system/multi-user.target.wants/systemd-networkd.service": f"-> {UNITS}/systemd-networkd.service",
        "/etc/systemd/system/sockets.target.wants/systemd-networkd.socket": f"-> {UNITS}/systemd-networkd.socket",
        WAITS: f"-> {UNITS}/systemd-networkd-wait-online.service",
    },
    "networkd": {
        "/lib": "-> usr/lib",
        f"{UNITS}/systemd-networkd.service": NETWORKD,
        f"{UNITS}/systemd-networkd.socket": "[Install]\nWantedBy=sockets.target\n",
        f"{UNITS}/systemd-networkd-wait-online.service": "[Install]\nWantedBy=network-online.target\n",
        f"{UNITS}/systemd-network-generator.service": "[Install]\nWantedBy=sysinit.target\n",
        f"{UNITS}/systemd-resolved.service": RESOLVED,
    },
}


@pytest.mark.parametrize("stack", GUESTS)
@pytest.mark.parametrize("case", CASES)
def test_the_files_are_as_they_should_be_and_a_second_run_changes_nothing(
    tmp_path: Path, stack: str, case: str
) -> None:
    write_tree(tmp_path, GUESTS[stack])
    before = snapshot(tmp_path)
    run_hook("network", tmp_path, context(nics=CASES[case], stacks=(stack,)))
    after = snapshot(tmp_path)
    check_golden(f"network-{stack}-{case}", changes(before, after))
    run_hook("network", tmp_path, context(nics=CASES[case], stacks=(stack,)))
    assert snapshot(tmp_path) == after


def test_what_an_earlier_run_wrote_for_other_nics_is_gone(tmp_path: Path) -> None:
    write_tree(tmp_path, GUESTS["networkd"])
    run_hook("network", tmp_path, context(nics=CASES["several"], stacks=("networkd",)))
    run_hook("network", tmp_path, context(nics=CASES["dhcp"], stacks=("networkd",)))
    assert [path.name for path in (tmp_path / "etc/systemd/network").iterdir()] == ["10-osprovider-nic0.network"]


def test_auto_takes_the_stack_that_the_image_prefers(tmp_path: Path) -> None:
    write_tree(tmp_path, GUESTS["networkd"])
    run_hook("network", tmp_path, context(nics=CASES["dhcp"], stacks=("networkd", "ifupdown")))
    assert (tmp_path / "etc/systemd/network/10-osprovider-nic0.network").exists()


def test_with_networkd_ifupdown_is_left_the_loopback_alone(tmp_path: Path) -> None:
    write_tree(tmp_path, GUESTS["ifupdown"])
    run_hook("network", tmp_path, context(nics=CASES["dhcp"], stacks=("networkd", "ifupdown")))
    lines = (tmp_path / "etc/network/interfaces").read_text().splitlines()
    assert [line for line in lines if line.startswith(("auto", "iface"))] == ["auto lo", "iface lo inet loopback"]


def test_without_resolved_networkd_gets_its_name_servers_by_the_file(tmp_path: Path) -> None:
    write_tree(tmp_path, {f"{UNITS}/systemd-networkd.service": NETWORKD})
    run_hook("network", tmp_path, context(nics=CASES["static"], stacks=("networkd",)))
    expected = "search example.org example.net\nnameserver 198.51.100.53\nnameserver 2001:db8:1::53\n"
    assert (tmp_path / "etc/resolv.conf").read_text() == expected


def test_without_resolved_and_name_servers_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tree(tmp_path, {f"{UNITS}/systemd-networkd.service": NETWORKD})
    run_hook("network", tmp_path, context(nics=CASES["dhcp"], stacks=("networkd",)))
    assert "nothing tells the guest its name servers" in capsys.readouterr().err


def test_a_link_in_the_place_of_resolv_conf_stays(tmp_path: Path) -> None:
    write_tree(tmp_path, GUESTS["ifupdown"])
    (tmp_path / "etc/resolv.conf").unlink()
    (tmp_path / "etc/resolv.conf").symlink_to("/run/resolvconf/resolv.conf")
    run_hook("network", tmp_path, context(nics=CASES["static"]))
    assert str((tmp_path / "etc/resolv.conf").readlink()) == "/run/resolvconf/resolv.conf"


def test_cloud_init_is_kept_from_the_network(tmp_path: Path) -> None:
    write_tree(tmp_path, {**GUESTS["ifupdown"], "/etc/cloud/cloud.cfg.d": None})
    run_hook("network", tmp_path, context(nics=CASES["static"]))
    written = (tmp_path / "etc/cloud/cloud.cfg.d/99-osprovider-network.cfg").read_text()
    assert "network: {config: disabled}" in written


def test_none_leaves_everything_as_it_is(tmp_path: Path) -> None:
    write_tree(tmp_path, GUESTS["ifupdown"])
    before = snapshot(tmp_path)
    variant = Variant(network=NetworkSettings(renderer="none"))
    run_hook("network", tmp_path, context(variant=variant, nics=CASES["static"]))
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("renderer", "stacks", "message"),
    [
        ("auto", (), "the image has neither ifupdown nor systemd-networkd"),
        ("networkd", ("ifupdown",), "network.renderer is networkd, but the image has ifupdown"),
    ],
)
def test_a_stack_that_the_image_lacks_is_refused(
    tmp_path: Path, renderer: str, stacks: tuple[str, ...], message: str
) -> None:
    variant = Variant(network=NetworkSettings(renderer=renderer))  # type: ignore[arg-type]
    with pytest.raises(HookError, match=message):
        run_hook("network", tmp_path, context(variant=variant, nics=CASES["static"], stacks=stacks))
