"""Ganeti's environment becomes a request, or one error that names everything wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from osprovider.errors import RequestError, UsageError
from osprovider.ganeti.environment import parse
from osprovider.ganeti.hypervisor import has_external_kernel, serial_console
from osprovider.ganeti.request import Disk, Network, Nic, Request, Script, Transfer
from osprovider.ganeti.synthesis import synthesize

UUID = "4a0b3bd2-0d1c-4c4d-9f51-6f1d6bb0a6f5"

# As a Ganeti 3.0.2 sets it for an instance of the file template with one NIC in a network.
GANETI_3_0 = {
    "OS_API_VERSION": "20",
    "OS_NAME": "osprovider",
    "OS_VARIANT": "debian-12",
    "DEBUG_LEVEL": "1",
    "PATH": "/sbin:/bin:/usr/sbin:/usr/bin",
    "OSP_DNS_SERVERS": "198.51.100.53",
    "OSP_ROOT_PASSWORD_HASH": "$y$secret",
    "INSTANCE_NAME": "web1.example.org",
    "INSTANCE_OS": "osprovider+debian-12",
    "INSTANCE_UUID": UUID,
    "INSTANCE_CTIME": "1793577600.25",
    "INSTANCE_MTIME": "1793577601.5",
    "INSTANCE_PRIMARY_NODE": "0a1b3bd2-0d1c-4c4d-9f51-6f1d6bb0a6f5",
    "INSTANCE_SECONDARY_NODES": "1a1b3bd2-0d1c-4c4d-9f51-6f1d6bb0a6f5 2a1b3bd2-0d1c-4c4d-9f51-6f1d6bb0a6f5",
    "HYPERVISOR": "kvm",
    "DISK_COUNT": "2",
    "DISK_0_ACCESS": "rw",
    "DISK_0_UUID": "5a0b3bd2-0d1c-4c4d-9f51-6f1d6bb0a6f5",
    "DISK_0_SIZE": "10240",
    "DISK_0_PATH": "/srv/ganeti/file-storage/web1.example.org/0a.file.disk0",
    "DISK_0_FRONTEND_TYPE": "paravirtual",
    "DISK_0_BACKEND_TYPE": "file:loop",
    "DISK_1_ACCESS": "ro",
    "DISK_1_UUID": "6a0b3bd2-0d1c-4c4d-9f51-6f1d6bb0a6f5",
    "DISK_1_SIZE": "512",
    "DISK_1_URI": "rbd:rbd/data",
    "DISK_1_NAME": "data",
    "DISK_1_BACKEND_TYPE": "block",
    "NIC_COUNT": "1",
    "NIC_0_MAC": "AA:00:00:35:A2:1F",
    "NIC_0_UUID": "7a0b3bd2-0d1c-4c4d-9f51-6f1d6bb0a6f5",
    "NIC_0_NAME": "front",
    "NIC_0_IP": "198.51.100.21",
    "NIC_0_MODE": "bridged",
    "NIC_0_BRIDGE": "br0",
    "NIC_0_LINK": "br0",
    "NIC_0_FRONTEND_TYPE": "paravirtual",
    "NIC_0_NETWORK_NAME": "prod",
    "NIC_0_NETWORK_UUID": "8a0b3bd2-0d1c-4c4d-9f51-6f1d6bb0a6f5",
    "NIC_0_NETWORK_TAGS": "front public",
    "NIC_0_NETWORK_SUBNET": "198.51.100.0/24",
    "NIC_0_NETWORK_GATEWAY": "198.51.100.1",
    "NIC_0_NETWORK_SUBNET6": "2001:0db8:1::/64",
    "NIC_0_NETWORK_GATEWAY6": "2001:db8:1::1",
    "NIC_0_NETWORK_MAC_PREFIX": "aa:00:01",
    "INSTANCE_BE_maxmem": "512",
    "INSTANCE_BE_auto_balance": "True",
    "INSTANCE_HV_kernel_path": "",
    "INSTANCE_HV_serial_console": "True",
    "INSTANCE_HV_serial_speed": "115200",
}


def changed(**variables: str | None) -> dict[str, str]:
    """Ganeti's environment with other values; None takes one away."""
    return {name: value for name, value in {**GANETI_3_0, **variables}.items() if value is not None}


def complaints(environ: Mapping[str, str], script: Script = Script.CREATE) -> list[str]:
    with pytest.raises(RequestError) as caught:
        parse(script, environ)
    assert caught.value.exit_code == 2
    return str(caught.value).splitlines()


def on(hypervisor: str, **parameters: str) -> Request:
    return parse(Script.CREATE, synthesize("a.example.org", hypervisor=hypervisor, hypervisor_parameters=parameters))


# Every variable has its place


def test_every_variable_of_an_instance_has_its_place() -> None:
    request = parse(Script.CREATE, GANETI_3_0)
    assert (request.api_version, request.os_name, request.variant) == (20, "osprovider", "debian-12")
    assert request.debug_level == 1
    instance = request.instance
    assert instance is not None
    assert (instance.name, instance.uuid, instance.os) == ("web1.example.org", UUID, "osprovider+debian-12")
    assert (instance.ctime, instance.mtime) == ("1793577600.25", "1793577601.5")
    assert instance.primary_node == "0a1b3bd2-0d1c-4c4d-9f51-6f1d6bb0a6f5"
    assert len(instance.secondary_nodes) == 2
    assert instance.backend == {"maxmem": "512", "auto_balance": "True"}
    assert instance.hypervisor_parameters == {"kernel_path": "", "serial_console": "True", "serial_speed": "115200"}
    assert request.disks == (
        Disk(
            index=0,
            access="rw",
            path=Path("/srv/ganeti/file-storage/web1.example.org/0a.file.disk0"),
            uuid="5a0b3bd2-0d1c-4c4d-9f51-6f1d6bb0a6f5",
            size_mib=10240,
            frontend_type="paravirtual",
            backend_type="file:loop",
        ),
        Disk(
            index=1,
            access="ro",
            uri="rbd:rbd/data",
            uuid="6a0b3bd2-0d1c-4c4d-9f51-6f1d6bb0a6f5",
            name="data",
            size_mib=512,
            backend_type="block",
        ),
    )
    assert request.nics == (
        Nic(
            index=0,
            mac="aa:00:00:35:a2:1f",
            uuid="7a0b3bd2-0d1c-4c4d-9f51-6f1d6bb0a6f5",
            name="front",
            ip="198.51.100.21",
            mode="bridged",
            link="br0",
            bridge="br0",
            frontend_type="paravirtual",
            network=Network(
                name="prod",
                uuid="8a0b3bd2-0d1c-4c4d-9f51-6f1d6bb0a6f5",
                tags=("front", "public"),
                subnet="198.51.100.0/24",
                gateway="198.51.100.1",
                subnet6="2001:db8:1::/64",
                gateway6="2001:db8:1::1",
                mac_prefix="aa:00:01",
            ),
        ),
    )
    assert not request.reinstall
    assert request.transfer is None


def test_hooks_get_ganetis_variables_as_they_came_but_no_os_parameters_and_nothing_of_the_node() -> None:
    environment = parse(Script.CREATE, {**GANETI_3_0, "HOME": "/root", "OS_CLOUD": "x"}).environment
    expected = {name: value for name, value in GANETI_3_0.items() if not name.startswith("OSP_") and name != "PATH"}
    assert environment == expected


def test_os_parameters_are_not_in_what_a_request_shows_of_itself() -> None:
    assert "secret" not in repr(parse(Script.CREATE, GANETI_3_0))


def test_unset_values_that_ganeti_writes_as_none_are_none() -> None:
    request = parse(Script.CREATE, changed(INSTANCE_CTIME="None", INSTANCE_MTIME="None", INSTANCE_SECONDARY_NODES=""))
    assert request.instance is not None
    assert (request.instance.ctime, request.instance.mtime, request.instance.secondary_nodes) == (None, None, ())


def test_instance_without_disks_and_nics_is_a_request() -> None:
    request = parse(Script.CREATE, synthesize("a.example.org", "debian-12"))
    assert (request.disks, request.nics) == ((), ())


def test_verify_needs_the_core_variables_only() -> None:
    core = {"OS_API_VERSION": "20", "OS_NAME": "osprovider", "OS_VARIANT": "", "OSP_WIPE": "zero"}
    request = parse(Script.VERIFY, core)
    assert request.instance is None
    assert request.parameters == {"wipe": "zero"}
    assert request.variant == ""


def test_api_10_has_neither_variant_nor_parameters() -> None:
    environ = changed(OS_API_VERSION="10", OS_VARIANT=None, INSTANCE_OS="osprovider", DEBUG_LEVEL=None)
    request = parse(Script.CREATE, environ)
    assert (request.api_version, request.variant, request.parameters, request.debug_level) == (10, "", {}, 0)


def test_api_15_has_a_variant_but_no_parameters() -> None:
    request = parse(Script.CREATE, changed(OS_API_VERSION="15"))
    assert (request.variant, request.parameters) == ("debian-12", {})


def test_disk_of_a_ganeti_before_3_0_has_no_size() -> None:
    assert parse(Script.CREATE, changed(DISK_0_SIZE=None)).disks[0].size_mib is None


# OS parameters


def test_os_parameters_have_their_own_names() -> None:
    environ = changed(OSP_OS_IMAGE="/srv/x.img", OSP_MY_SITE_KEY="1", OSP_UNKNOWN_ONE="2", OSP_EMPTY="")
    parameters = parse(Script.CREATE, environ, ["dns_servers", "my-site-key"]).parameters
    assert parameters == {
        "dns_servers": "198.51.100.53",
        "root_password_hash": "$y$secret",
        "os-image": "/srv/x.img",
        "my-site-key": "1",
        "unknown_one": "2",
        "empty": "",
    }


# Scripts


def test_reinstall_is_a_create_over_an_old_instance() -> None:
    assert parse(Script.CREATE, changed(INSTANCE_REINSTALL="1")).reinstall


def test_rename_knows_the_old_name() -> None:
    assert parse(Script.RENAME, changed(OLD_INSTANCE_NAME="old.example.org")).old_name == "old.example.org"


def test_export_reads_the_snapshot_not_the_live_disk() -> None:
    environ = changed(EXPORT_DEVICE="/dev/vg/snap", EXPORT_DISK_PATH="/dev/vg/snap", EXPORT_INDEX="0", EXP_SIZE_FD="11")
    assert parse(Script.EXPORT, environ).transfer == Transfer(index=0, path=Path("/dev/vg/snap"), size_fd=11)


def test_export_of_an_older_ganeti_has_the_device_only() -> None:
    transfer = parse(Script.EXPORT, changed(EXPORT_DEVICE="/dev/vg/snap", EXPORT_INDEX="1")).transfer
    assert transfer == Transfer(index=1, path=Path("/dev/vg/snap"))


def test_import_of_a_userspace_disk_has_a_uri() -> None:
    transfer = parse(Script.IMPORT, changed(IMPORT_DISK_URI="rbd:rbd/data", IMPORT_INDEX="1")).transfer
    assert transfer == Transfer(index=1, uri="rbd:rbd/data")


# Everything that is wrong is named


@pytest.mark.parametrize(
    "variable",
    [
        "OS_API_VERSION",
        "OS_NAME",
        "INSTANCE_NAME",
        "INSTANCE_UUID",
        "INSTANCE_OS",
        "HYPERVISOR",
        "DISK_COUNT",
        "DISK_0_ACCESS",
        "DISK_0_PATH",
        "DISK_1_URI",
        "NIC_COUNT",
        "NIC_0_MAC",
        "NIC_0_NETWORK_NAME",
    ],
)
def test_missing_variable_is_named(variable: str) -> None:
    problems = complaints(changed(**{variable: None}))
    assert any(variable in problem and "is not set" in problem and "; Ganeti sets " in problem for problem in problems)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OS_API_VERSION", "5"),
        ("OS_API_VERSION", "30"),
        ("OS_API_VERSION", "twenty"),
        ("OS_NAME", "../etc"),
        ("OS_VARIANT", "../../tmp/x"),
        ("OS_VARIANT", ".hidden"),
        ("DEBUG_LEVEL", "-1"),
        ("INSTANCE_NAME", "../../etc/passwd"),
        ("INSTANCE_NAME", "Web1.example.org"),
        ("INSTANCE_NAME", "web1.example.org\n"),
        ("INSTANCE_NAME", "web1..example.org"),
        ("INSTANCE_NAME", "-x.example.org"),
        ("INSTANCE_NAME", "a" * 64 + ".example.org"),
        ("INSTANCE_NAME", ".".join(["a" * 49] * 6)),
        ("INSTANCE_UUID", "4A0B3BD2-0D1C-4C4D-9F51-6F1D6BB0A6F5"),
        ("INSTANCE_UUID", "1"),
        ("HYPERVISOR", "kvm;reboot"),
        ("INSTANCE_REINSTALL", "yes"),
        ("INSTANCE_HV_serial_speed", "fast"),
        ("DISK_COUNT", "two"),
        ("DISK_COUNT", "-1"),
        ("DISK_COUNT", "²"),
        ("DISK_0_ACCESS", "w"),
        ("DISK_0_PATH", "disk0"),
        ("DISK_0_SIZE", "10G"),
        ("DISK_0_UUID", "x/y"),
        ("NIC_0_MAC", "aa:00:00:35:a2"),
        ("NIC_0_MAC", "aa-00-00-35-a2-1f"),
        ("NIC_0_UUID", "x"),
        ("NIC_0_IP", "198.51.100.21/24"),
        ("NIC_0_IP", "pool"),
        ("NIC_0_NETWORK_SUBNET", "198.51.100.7/24"),
        ("NIC_0_NETWORK_SUBNET", "2001:db8::/64"),
        ("NIC_0_NETWORK_SUBNET6", "198.51.100.0/24"),
        ("NIC_0_NETWORK_GATEWAY", "router"),
        ("NIC_0_NETWORK_GATEWAY6", "2001:db8:1::1/64"),
    ],
)
def test_malformed_variable_is_named_alone(variable: str, value: str) -> None:
    problems = complaints(changed(**{"INSTANCE_OS": "osprovider", variable: value}))
    named = {problem.partition(":")[0] for problem in problems}
    assert named == {variable} | ({"INSTANCE_OS"} if variable == "OS_NAME" else set())


@pytest.mark.parametrize("name", ["web1", "web-1.example.org", "_x.example.org", "1.example.org", "xn--bcher-kva.de"])
def test_host_names_that_ganeti_allows_are_taken(name: str) -> None:
    request = parse(Script.CREATE, changed(INSTANCE_NAME=name))
    assert request.instance is not None
    assert request.instance.name == name


def test_disks_that_are_counted_but_not_there_are_named() -> None:
    problems = complaints(changed(DISK_COUNT="3"))
    assert [problem.partition(":")[0] for problem in problems] == ["DISK_2_ACCESS", "DISK_2_PATH"]


def test_devices_beyond_the_count_are_named() -> None:
    problems = complaints(changed(DISK_COUNT="1", NIC_COUNT="0"))
    assert problems == [
        "DISK_1_*: is set although DISK_COUNT is 1; Ganeti sets no more devices than that",
        "NIC_0_*: is set although NIC_COUNT is 0; Ganeti sets no more devices than that",
    ]


def test_absurd_count_does_not_flood_the_log() -> None:
    problems = complaints(changed(DISK_COUNT="999999999"))
    assert "DISK_COUNT: 999999999 is too many; Ganeti sets at most 64" in problems
    assert len(problems) < 200


def test_disk_with_neither_path_nor_uri_is_named() -> None:
    (problem,) = complaints(changed(DISK_1_URI=None))
    assert problem == "DISK_1_PATH: is not set, nor is DISK_1_URI; Ganeti sets one of them at least"


def test_duplicate_macs_are_named_whatever_their_case() -> None:
    (problem,) = complaints(changed(NIC_COUNT="2", NIC_1_MAC="aa:00:00:35:a2:1f"))
    assert problem == "NIC_1_MAC: 'aa:00:00:35:a2:1f' is also NIC_0_MAC; Ganeti sets another one for every NIC"


def test_os_that_contradicts_itself_is_named() -> None:
    (problem,) = complaints(changed(INSTANCE_OS="noop+debian-12"))
    assert problem.startswith("INSTANCE_OS: 'noop+debian-12' is not OS_NAME, 'osprovider';")
    (problem,) = complaints(changed(INSTANCE_OS="osprovider+sid"))
    assert problem.startswith("INSTANCE_OS: 'osprovider+sid' is not OS_VARIANT, 'debian-12';")


def test_os_without_a_variant_takes_the_one_that_ganeti_chose() -> None:
    assert parse(Script.CREATE, changed(INSTANCE_OS="osprovider")).variant == "debian-12"


def test_rename_without_the_old_name_is_named() -> None:
    (problem,) = complaints(GANETI_3_0, Script.RENAME)
    assert problem.startswith("OLD_INSTANCE_NAME: is not set;")


def test_old_name_that_could_leave_a_directory_is_refused() -> None:
    (problem,) = complaints(changed(OLD_INSTANCE_NAME="../x"), Script.RENAME)
    assert problem.startswith("OLD_INSTANCE_NAME: '../x' is malformed;")


@pytest.mark.parametrize("script", [Script.EXPORT, Script.IMPORT])
def test_transfer_without_its_disk_is_named(script: Script) -> None:
    problems = complaints(GANETI_3_0, script)
    kind = script.name
    assert [problem.partition(":")[0] for problem in problems] == [f"{kind}_INDEX", f"{kind}_DEVICE"]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"EXPORT_INDEX": "2"}, "EXPORT_INDEX"),
        ({"EXPORT_INDEX": "-1"}, "EXPORT_INDEX"),
        ({"EXPORT_DEVICE": "/dev/vg/other"}, "EXPORT_DEVICE"),
        ({"EXP_SIZE_FD": "eleven"}, "EXP_SIZE_FD"),
        ({"EXP_SIZE_FD": "1"}, "EXP_SIZE_FD"),
    ],
)
def test_transfer_that_contradicts_itself_is_named(given: dict[str, str], named: str) -> None:
    whole = changed(EXPORT_DEVICE="/dev/vg/snap", EXPORT_DISK_PATH="/dev/vg/snap", EXPORT_INDEX="0")
    (problem,) = complaints({**whole, **given}, Script.EXPORT)
    assert problem.startswith(f"{named}: ")


def test_empty_environment_names_all_that_is_missing_at_once() -> None:
    problems = complaints({}, Script.RENAME)
    assert [problem.partition(":")[0] for problem in problems] == [
        "OS_API_VERSION",
        "OS_NAME",
        "INSTANCE_OS",
        "INSTANCE_NAME",
        "INSTANCE_UUID",
        "HYPERVISOR",
        "DISK_COUNT",
        "NIC_COUNT",
        "OLD_INSTANCE_NAME",
    ]


# The hypervisor's facts


@pytest.mark.parametrize(
    ("hypervisor", "parameters", "expected"),
    [
        ("kvm", {}, ("ttyS0", 38400)),
        ("kvm", {"serial_speed": "115200"}, ("ttyS0", 115200)),
        ("kvm", {"serial_speed": ""}, ("ttyS0", 38400)),
        ("kvm", {"serial_console": "False"}, None),
        ("xen-hvm", {}, ("ttyS0", 38400)),
        ("xen-pvm", {}, ("hvc0", 38400)),
        ("lxc", {}, None),
        ("chroot", {}, None),
        ("fake", {}, None),
    ],
)
def test_serial_console_is_what_the_hypervisor_gives(
    hypervisor: str, parameters: dict[str, str], expected: tuple[str, int] | None
) -> None:
    assert serial_console(on(hypervisor, **parameters)) == expected


@pytest.mark.parametrize(
    ("hypervisor", "parameters", "expected"),
    [
        ("kvm", {"kernel_path": ""}, False),
        ("kvm", {"kernel_path": "None"}, False),
        ("kvm", {"kernel_path": "/boot/vmlinuz-3-kvmU"}, True),
        ("xen-pvm", {"use_bootloader": "False", "kernel_path": "/boot/vmlinuz-3-xenU"}, True),
        ("xen-pvm", {"use_bootloader": "True", "kernel_path": "/boot/vmlinuz-3-xenU"}, False),
        ("xen-pvm", {"use_bootloader": "False", "kernel_path": "/usr/lib/grub-xen/grub-x86_64-xen.bin"}, False),
        ("xen-hvm", {}, False),
        ("lxc", {}, True),
        ("chroot", {}, True),
        ("fake", {}, False),
    ],
)
def test_external_kernel_is_one_that_the_disk_does_not_hold(
    hypervisor: str, parameters: dict[str, str], expected: bool
) -> None:
    assert has_external_kernel(on(hypervisor, **parameters)) == expected


# Synthesis


def test_synthesis_is_the_same_each_time_and_differs_by_name() -> None:
    assert synthesize("a.example.org", nics=[{}]) == synthesize("a.example.org", nics=[{}])
    one, other = (parse(Script.CREATE, synthesize(f"{name}.example.org", nics=[{}])) for name in "ab")
    assert one.instance is not None
    assert other.instance is not None
    assert one.instance.uuid != other.instance.uuid
    assert one.nics[0].mac != other.nics[0].mac
    assert one.nics[0].mac.startswith("aa:00:00:")


def test_synthesis_says_what_it_is_told_of_disks_and_nics() -> None:
    request = parse(
        Script.CREATE,
        synthesize(
            "a.example.org",
            disks=[
                {"path": Path("/srv/disk0"), "size_mib": "2048", "backend_type": "file:loop"},
                {"index": 9, "uri": "rbd:x"},
            ],
            nics=[
                {"ip": "198.51.100.5", "link": "br1", "network": "prod", "network_subnet": "198.51.100.0/24"},
                {"index": 9, "mac": "aa:00:00:00:00:07", "mode": "routed", "link": "100"},
            ],
        ),
    )
    first, second = request.disks
    assert (first.path, first.size_mib, first.backend_type) == (Path("/srv/disk0"), 2048, "file:loop")
    assert (second.index, second.path, second.uri) == (1, None, "rbd:x")
    front, back = request.nics
    assert (front.ip, front.link, front.bridge, front.mode) == ("198.51.100.5", "br1", "br1", "bridged")
    assert front.network == Network(name="prod", subnet="198.51.100.0/24")
    assert (back.index, back.mac, back.mode, back.link, back.bridge) == (1, "aa:00:00:00:00:07", "routed", "100", None)


def test_synthesis_of_verify_says_nothing_of_an_instance() -> None:
    environ = synthesize("a.example.org", script=Script.VERIFY, disks=[{"path": "/x"}], parameters={"wipe": "zero"})
    assert set(environ) == {"OS_API_VERSION", "OS_NAME", "OS_VARIANT", "DEBUG_LEVEL", "PATH", "OSP_WIPE"}


@pytest.mark.parametrize(
    ("disks", "nics"), [([{"pth": "/x"}], []), ([], [{"adress": "x"}]), ([], [{"network_gate": "x"}])]
)
def test_synthesis_refuses_words_that_it_does_not_know(disks: list[dict[str, str]], nics: list[dict[str, str]]) -> None:
    with pytest.raises(UsageError, match=r"pth|adress|gate"):
        synthesize("a.example.org", disks=disks, nics=nics)
