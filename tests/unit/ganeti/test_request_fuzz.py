"""Properties that hold for any request, tried on many made up from fixed seeds."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_interface
from pathlib import Path
from random import Random
from typing import TypeVar
from uuid import UUID

from osprovider.addressing.resolve import resolve
from osprovider.config.model import InstanceNic, NetworkSettings, Subnet, SubnetMatch
from osprovider.errors import ConfigurationError, RequestError
from osprovider.ganeti.environment import parse
from osprovider.ganeti.request import Disk, Instance, Network, Nic, Request, Script, Transfer
from osprovider.ganeti.variables import variables
from osprovider.nics import ResolvedNic

T = TypeVar("T")

SEEDS = range(300)
TEXTS = ("x", "front", "a b", "ä", "0", "-", "/", "..", "$(reboot)", "None", "", "\n", "\u0661", "9" * 20)


def maybe(random: Random, value: T) -> T | None:
    return value if random.random() < 0.6 else None


def some_uuid(random: Random) -> str:
    return str(UUID(int=random.getrandbits(128)))


def some_ip(random: Random, version: int) -> str:
    return f"192.0.2.{random.randrange(1, 40)}" if version == 4 else f"2001:db8::{random.randrange(1, 40):x}"


def some_disk(random: Random, index: int) -> Disk:
    path = maybe(random, Path(f"/dev/drbd{index}"))
    return Disk(
        index=index,
        access=random.choice(["rw", "ro"]),
        path=path,
        uri=maybe(random, f"rbd:rbd/{index}") if path else "rbd:rbd/x",
        uuid=maybe(random, some_uuid(random)),
        name=maybe(random, "data"),
        size_mib=maybe(random, random.randrange(1, 1 << 40)),
        frontend_type=maybe(random, "paravirtual"),
        backend_type=maybe(random, "file:loop"),
    )


def some_network(random: Random) -> Network:
    return Network(
        name=random.choice(["prod", "blue"]),
        uuid=maybe(random, some_uuid(random)),
        tags=tuple(random.sample(["a", "b", "c"], random.randrange(3))),
        subnet=maybe(random, "192.0.2.0/26"),
        gateway=maybe(random, some_ip(random, 4)),
        subnet6=maybe(random, random.choice(["2001:db8::/64", "2001:db8::/56"])),
        gateway6=maybe(random, some_ip(random, 6)),
        mac_prefix=maybe(random, "aa:00:01"),
    )


def some_nic(random: Random, index: int) -> Nic:
    return Nic(
        index=index,
        mac=f"aa:00:00:00:00:{index:02x}",
        uuid=maybe(random, some_uuid(random)),
        name=maybe(random, "front"),
        ip=maybe(random, some_ip(random, random.choice([4, 6]))),
        mode=maybe(random, random.choice(["bridged", "routed", "openvswitch"])),
        link=maybe(random, random.choice(["br0", "br1"])),
        bridge=maybe(random, "br0"),
        vlan=maybe(random, ".100"),
        frontend_type=maybe(random, "e1000"),
        network=maybe(random, some_network(random)),
    )


def some_request(random: Random) -> Request:
    script = random.choice(list(Script))
    core = Request(
        script=script,
        api_version=20,
        os_name="osprovider",
        variant=random.choice(["", "debian-12", "a.b"]),
        debug_level=random.randrange(3),
        parameters={name: random.choice(TEXTS) for name in random.sample(["dns_servers", "os-image", "wipe"], 2)},
    )
    if script is Script.VERIFY:
        return core
    disks = tuple(some_disk(random, index) for index in range(random.randrange(4)))
    transfer = None
    if script in {Script.EXPORT, Script.IMPORT}:
        disks = disks or (some_disk(random, 0),)
        size_fd = maybe(random, random.randrange(3, 99))
        transfer = Transfer(index=random.randrange(len(disks)), path=Path("/dev/vg/snap"), size_fd=size_fd)
    instance = Instance(
        name=random.choice(["web1", "web1.example.org"]),
        uuid=some_uuid(random),
        os="osprovider" if random.random() < 0.5 or not core.variant else f"osprovider+{core.variant}",
        hypervisor=random.choice(["kvm", "xen-pvm", "fake"]),
        primary_node=maybe(random, some_uuid(random)),
        secondary_nodes=tuple(some_uuid(random) for _ in range(random.randrange(3))),
        ctime=maybe(random, "1793577600.25"),
        mtime=maybe(random, "1793577600.25"),
        backend={"maxmem": "512"},
        hypervisor_parameters={"kernel_path": random.choice(["", "/boot/vmlinuz"]), "serial_console": "True"},
    )
    return replace(
        core,
        instance=instance,
        disks=disks,
        nics=tuple(some_nic(random, index) for index in range(random.randrange(4))),
        reinstall=script is Script.CREATE and random.random() < 0.5,
        old_name="old.example.org" if script is Script.RENAME else None,
        transfer=transfer,
    )


def test_parsing_what_ganeti_would_set_gives_the_request_back() -> None:
    for seed in SEEDS:
        request = some_request(Random(seed))
        environ = variables(request)
        parsed = parse(request.script, environ)
        assert replace(parsed, environment={}) == request, f"seed {seed}"
        assert variables(parsed) == environ, f"seed {seed}"


def test_damaged_environment_is_refused_or_understood_but_nothing_else() -> None:
    refused = 0
    for seed in SEEDS:
        random = Random(seed)
        request = some_request(random)
        environ = damaged(random, variables(request))
        try:
            parsed = parse(request.script, environ)
        except RequestError as error:
            refused += 1
            lines = str(error).splitlines()
        else:
            lines = []
            parse(request.script, variables(parsed))
        assert all("; Ganeti sets " in line for line in lines), f"seed {seed}"
    assert 0 < refused < len(SEEDS)


def damaged(random: Random, environ: dict[str, str]) -> dict[str, str]:
    """The same with a few variables taken away or replaced by junk."""
    for name in random.sample(sorted(environ), random.randrange(1, 5)):
        if random.random() < 0.3:
            del environ[name]
        else:
            environ[name] = random.choice(TEXTS)
    return environ


def test_resolved_nics_keep_their_promises_whatever_describes_them() -> None:
    refused = 0
    for seed in SEEDS:
        random = Random(seed)
        nics = tuple(some_nic(random, index) for index in range(random.randrange(1, 4)))
        described = [some_description(random) for _ in range(random.randrange(len(nics) + 1))]
        default = random.choice(["dhcp", "slaac", "dhcp+slaac", "none"])
        try:
            resolved = resolve(nics, described, SUBNETS, NetworkSettings(default=default))  # type: ignore[arg-type]
        except ConfigurationError:
            refused += 1
        else:
            check_promises(nics, resolved, f"seed {seed}")
    assert 0 < refused < len(SEEDS)


SUBNETS = {
    "prod": Subnet(networks=("192.0.2.0/26", "2001:db8::/60"), gateways=("192.0.2.62", "fe80::1")),
    "link": Subnet(networks=("192.0.2.0/27",), match=SubnetMatch(link="br0")),
}


def some_description(random: Random) -> InstanceNic:
    addresses = [some_ip(random, version) + random.choice(["", "/26"]) for version in (4, 6)]
    return InstanceNic(
        subnet=maybe(random, "prod"),
        addresses=tuple(address for address in addresses if random.random() < 0.3),
        gateways=(some_ip(random, 4),) if random.random() < 0.1 else None,
        dhcp=random.random() < 0.2,
        slaac=random.random() < 0.2,
    )


def check_promises(nics: tuple[Nic, ...], resolved: tuple[ResolvedNic, ...], message: str) -> None:
    """What :class:`ResolvedNic` says of itself."""
    assert [(nic.index, nic.mac) for nic in resolved] == [(nic.index, nic.mac) for nic in nics], message
    addresses = [ip_interface(text).ip for nic in resolved for text in nic.addresses]
    assert len(addresses) == len(set(addresses)), message
    gateways = [ip_interface(text).version for nic in resolved for text in nic.gateways]
    assert len(gateways) == len(set(gateways)), message
    for nic in resolved:
        automatic = ({4} if nic.dhcp4 else set()) | ({6} if nic.slaac else set())
        families = {int(ip_interface(text).version) for text in nic.addresses} | automatic
        assert {ip_interface(text).version for text in nic.gateways} <= families, message
        assert nic.slaac or not nic.dhcp6, message
        assert nic.source, message
