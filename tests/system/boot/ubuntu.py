"""Ubuntu's cells of the boot matrix: the shipped images, built from its archive, and what is found in a guest of them.

Not for: the cells' tests; each is a file of its own, so that they run side by side.
"""

from __future__ import annotations

from tests.support.documents import CHECKOUT
from tests.support.qemu import UserNetwork
from tests.system.boot.matrix import System

__all__ = ["NETWORK", "answers", "shipped"]

NETWORK = UserNetwork()


def shipped(image: str, tool: str) -> System:
    """A shipped image of Ubuntu's, built by `tool`."""
    definition = (CHECKOUT / "images" / f"{image}.yaml").read_text()
    if f"\n  tool: {tool}\n" in definition:
        return System(image, None)
    return System(image, definition.replace("\n  tool: mmdebstrap\n", f"\n  tool: {tool}\n"))


def answers(codename: str, kernel: str) -> tuple[tuple[str, str], ...]:
    """Commands of a guest's, and what their answers match: a kernel, a network and an sshd that are Ubuntu's own."""
    address, gateway = NETWORK.address.replace(".", r"\."), NETWORK.gateway
    return (
        ("sed -n s/^VERSION_CODENAME=//p /etc/os-release", codename),
        ("uname -r", kernel),
        ("dpkg --audit", ""),
        ("hostname --fqdn", r"web1\.example\.org"),
        ("systemctl is-active systemd-networkd systemd-resolved | uniq", "active"),
        ("ip -4 -brief address show scope global", rf"\S+\s+UP\s+{address}/24"),
        (f"ping -c 1 -W 30 {gateway} >/dev/null && echo answers", "answers"),
        (f"bash -c 'head -c 8 </dev/tcp/{NETWORK.address}/22'", r"SSH-2\.0-"),
    )
