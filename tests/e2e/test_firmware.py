"""One disk, made by `create` exactly as Ganeti calls it, boots under SeaBIOS and under OVMF."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from osprovider.ganeti.synthesis import synthesize
from tests.e2e.observation import Observation, observe_inside
from tests.e2e.tree import NodeTree
from tests.support.containers import Container, Overlay, container
from tests.support.qemu import KERNEL_ARGS, Firmware, UserNetwork, boot
from tests.support.runs import own_part

_NAME = "web1.example.org"
_CREATE = "/usr/share/ganeti/os/osprovider/create"
_DISK_MIB = 2048
_NETWORK = UserNetwork()
_FIRMWARE = (Firmware.BIOS, Firmware.UEFI)  # the image has nothing that is signed


@pytest.fixture(scope="module")
def booted(own_directory: Path, node_tree: NodeTree) -> Iterator[Mapping[Firmware, Observation]]:
    """The disk, booted under each firmware, side by side."""
    directory = own_directory
    with ExitStack() as stack:
        node = stack.enter_context(container(Overlay(node_tree.root, directory), "node.example.org"))
        path = f"/srv/{own_part()}/disk0"
        _create(node, path, node_tree.public_key)
        # The file's own name: QEMU has to open it outside of the container.
        disk = directory / f"upper{path}"
        guests = {}
        for firmware in _FIRMWARE:
            own = directory / firmware
            own.mkdir()
            guests[firmware] = stack.enter_context(boot(disk, own, node_tree.key, firmware=firmware, network=_NETWORK))
        seen = {}
        for firmware, guest in guests.items():
            guest.wait_for_console(r"^web1 login:", 1800)
            guest.wait_for_ssh()
            seen[firmware] = observe_inside(guest.shell, guest.console.text())
        yield seen


@pytest.mark.parametrize("firmware", _FIRMWARE)
def test_the_disk_boots(booted: Mapping[Firmware, Observation], firmware: Firmware) -> None:
    guest = booted[firmware]
    assert guest.firmware == firmware
    assert guest.fqdn == _NAME
    assert guest.state == "running", guest.failed_units


def test_it_is_the_same_guest(booted: Mapping[Firmware, Observation]) -> None:
    assert booted[Firmware.BIOS].identity == booted[Firmware.UEFI].identity


def _create(node: Container, disk: str, public_key: str) -> None:
    """Install an instance on a new file."""
    node.run(["mkdir", "-p", str(Path(disk).parent)])
    node.run(["truncate", f"--size={_DISK_MIB}M", disk])
    environment = synthesize(
        _NAME,
        "debian-12",
        disks=[{"path": disk, "size_mib": _DISK_MIB, "backend_type": "file:loop"}],
        nics=[{"mac": _NETWORK.mac, "ip": _NETWORK.address, "link": "br0", "network_subnet": _NETWORK.subnet,
               "network_gateway": _NETWORK.gateway, "network_name": "lab"}],
        parameters={"ssh_authorized_keys": public_key, "kernel_args": " ".join(KERNEL_ARGS)},
    )  # fmt: skip
    node.run([_CREATE], environment=environment)
