"""What Debian's own programs make of what the hooks wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from osprovider.config.model import User
from tests.system.hooks.debian import MACS, Debian

TWO_NICS = "\n".join(
    f"ip link add {{}}{number} address {mac} type veth peer name peer{number}; ip link set peer{number} up"
    for number, mac in enumerate(MACS)
)
TREE = r"""
find / -xdev -printf '%p %m %U:%G %l\n' | sort
find / -xdev -type f -print0 | xargs -0 sha256sum | sed -E 's/([^ ]+) +(.*)/\2 \1/'
"""


def addresses(said: str, name: str) -> set[str]:
    """Global addresses of an interface in what ``ip -j addr`` said."""
    found: list[dict[str, Any]] = json.loads(said)
    (link,) = (link for link in found if link["ifname"] == name)
    return {f"{item['local']}/{item['prefixlen']}" for item in link["addr_info"] if item["scope"] == "global"}


def default_routes(said: str) -> set[tuple[str, str]]:
    """Gateway and interface of each default route in what ``ip -j route`` said."""
    return {(route["gateway"], route["dev"]) for route in json.loads(said) if route["dst"] == "default"}


def check_network(said: str, names: tuple[str, str]) -> None:
    """Compare with what the context says, by lines of JSON: addresses, IPv4 and IPv6 routes."""
    links, routes4, routes6 = said.strip().splitlines()[-3:]
    assert addresses(links, names[0]) == {"198.51.100.21/24", "198.51.100.22/24", "2001:db8:1::21/64"}
    assert addresses(links, names[1]) == set()
    assert default_routes(routes4) == {("203.0.113.1", names[0])}
    assert default_routes(routes6) == {("2001:db8:ffff::1", names[0])}


SHOW = "ip -j addr; ip -j -4 route; ip -j -6 route"


def test_ifupdown_brings_the_network_up(with_ifupdown: Debian) -> None:
    said = with_ifupdown.run(
        f"{TWO_NICS.format('nic', 'nic')}\nifup --all\n"
        f"cat /proc/sys/net/ipv6/conf/nic0/accept_ra /proc/sys/net/ipv6/conf/nic1/accept_ra\n{SHOW}"
    )
    check_network(said, ("nic0", "nic1"))
    assert said.strip().splitlines()[-5:-3] == ["0", "0"]


def test_udev_names_the_nics_by_their_macs_and_nothing_else_that_has_one(with_ifupdown: Debian) -> None:
    script = TWO_NICS.format("eth", "eth") + f"\nip link add bridge0 address {MACS[0]} type bridge\n"
    script += "for name in eth0 eth1 bridge0; do udevadm test-builtin net_setup_link /sys/class/net/$name; done 2>&1"
    said = [
        line
        for line in with_ifupdown.run(script).splitlines()
        if line.startswith(("ID_NET_LINK_FILE=", "ID_NET_NAME="))
    ]
    assert said == [
        "ID_NET_LINK_FILE=/etc/systemd/network/10-osprovider-nic0.link",
        "ID_NET_NAME=nic0",
        "ID_NET_LINK_FILE=/etc/systemd/network/10-osprovider-nic1.link",
        "ID_NET_NAME=nic1",
        "ID_NET_LINK_FILE=/usr/lib/systemd/network/99-default.link",
        "ID_NET_NAME=bridge0",
    ]


def test_networkd_brings_the_network_up_by_mac(with_networkd: Debian) -> None:
    said = with_networkd.run(
        f"{TWO_NICS.format('eth', 'eth')}\n"
        "mkdir -p /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp\n"
        "chown -R systemd-network: /run/systemd/netif\n"
        "/lib/systemd/systemd-networkd >/run/log 2>&1 &\n"
        "/lib/systemd/systemd-networkd-wait-online --interface=eth0 --timeout=300 || { cat /run/log; exit 1; }\n"
        "grep -E '10-osprovider.*(Unknown|Failed|ignor)' /run/log && exit 1\n"
        f"cat /sys/class/net/eth0/mtu\n{SHOW}"
    )
    check_network(said, ("eth0", "eth1"))
    assert said.strip().splitlines()[-4] == "1400"


LINKS = "find /etc/systemd/system -type l -printf '%P %f\\n' | sort"


def test_networkd_is_enabled_as_systemctl_would(with_networkd: Debian, copies: Callable[[], Debian]) -> None:
    expected = copies().run(f"systemctl enable systemd-networkd 2>/dev/null; {LINKS}")
    assert with_networkd.run(LINKS) == expected
    assert with_networkd.run("systemctl is-enabled systemd-networkd") == "enabled\n"


def test_ifupdown_is_enabled_and_networkd_is_not(with_ifupdown: Debian) -> None:
    said = with_ifupdown.run("systemctl is-enabled networking systemd-networkd ssh", check=False)
    assert said.split() == ["enabled", "disabled", "enabled"]


ACCOUNT = """
for file in passwd group gshadow subuid subgid; do grep -E '^(admin|sudo|adm):' /etc/$file; done
grep ^admin: /etc/shadow | cut -d: -f1,3-
cd /home && find admin -not -path '*/.ssh*' -printf '%p %m %u:%g\\n' | sort
"""


def test_a_user_is_as_useradd_would_have_made_it(with_ifupdown: Debian, copies: Callable[[], Debian]) -> None:
    useradd = (
        "useradd --key HOME_MODE=0700 --create-home --shell /bin/bash --groups sudo,adm --comment 'The Admin' admin"
    )
    assert with_ifupdown.run(ACCOUNT) == copies().run(useradd + ACCOUNT)


def test_the_account_files_are_sound(with_ifupdown: Debian, pristine: Debian) -> None:
    check = "pwck -r || true; grpck -r"
    assert with_ifupdown.run(check) == pristine.run(check)
    assert with_ifupdown.run("visudo -c | grep osprovider") == "/etc/sudoers.d/osprovider-admin: parsed OK\n"


@pytest.mark.parametrize("pam", ["yes", "no"])
def test_keys_log_in_although_all_passwords_are_locked(
    with_ifupdown: Debian, users: tuple[dict[str, User], Path], pam: str
) -> None:
    said = with_ifupdown.run(
        "ip link set lo up; mkdir -p /run/sshd; umask 077\n"
        f"cat >/run/key <<'END'\n{users[1].read_text()}END\n"
        f"/usr/sbin/sshd -o UsePAM={pam}\n"
        "for kind in ed25519 ecdsa rsa; do\n"
        "  echo localhost $(cut -d' ' -f1,2 /etc/ssh/ssh_host_${kind}_key.pub)\n"
        "done >/run/known\n"
        "options='-o BatchMode=yes -o ConnectionAttempts=60'\n"
        'options="$options -o StrictHostKeyChecking=yes -o UserKnownHostsFile=/run/known"\n'
        'log_in() { ssh -i /run/key $options "$@"; }\n'
        "log_in root@localhost id -un\n"
        "log_in -o HostKeyAlgorithms=rsa-sha2-512 admin@localhost sudo -n id -un\n"
        "log_in -o HostKeyAlgorithms=ecdsa-sha2-nistp256 admin@localhost id -Gn\n"
    )
    assert said == "root\nroot\nadmin adm sudo\n"


def test_the_guest_knows_itself(with_ifupdown: Debian) -> None:
    said = with_ifupdown.run("hostname -F /etc/hostname; hostname; hostname -f; hostname -s; getent hosts web1")
    assert said.splitlines()[:3] == ["web1.example.org", "web1.example.org", "web1"]
    assert "web1.example.org" in said.splitlines()[3]
    assert len(with_ifupdown.run("systemd-machine-id-setup --print").strip()) == 32
    assert with_ifupdown.run("date +%Z; findmnt --fstab --noheadings --output TARGET,FSTYPE / ") == "UTC\n/      ext4\n"


def test_a_second_run_changes_secrets_alone(with_ifupdown: Debian, users: tuple[dict[str, User], Path]) -> None:
    before = with_ifupdown.run(TREE).splitlines()
    with_ifupdown.customise(with_ifupdown.context(users=users[0]))
    after = with_ifupdown.run(TREE).splitlines()
    changed = {line.split()[0] for line in {*before} ^ {*after}}
    secrets = {f"/etc/ssh/ssh_host_{kind}_key{end}" for kind in ("rsa", "ecdsa", "ed25519") for end in ("", ".pub")}
    assert changed == secrets | {"/var/lib/systemd/random-seed"}


EXECUTABLE = """#!/bin/sh
cat >"$TARGET/root/context.json"
{ echo "$TARGET|$ROOT_DEV|$FSYSDEV|$BLOCKDEV|$BOOT_DEV|$IMAGE_TYPE|$SUITE|$ARCH|$PARTITION_STYLE|$INSTANCE_NAME|$PATH"
findmnt --noheadings --output SOURCE "$TARGET"; } >"$TARGET/root/environment"
echo to the log; echo errors as well >&2
sleep 1000 &
"""


def test_a_program_gets_the_context_and_the_variables_that_it_knows(copies: Callable[[], Debian]) -> None:
    debian = copies()
    hooks = debian.config / "hooks"
    hooks.mkdir(parents=True)
    (hooks / "mine").write_text(EXECUTABLE)
    (hooks / "mine").chmod(0o755)
    said = debian.customise(debian.context())
    assert "\n  to the log\n  errors as well\n" in said
    told = json.loads(debian.run("cat /root/context.json"))
    assert (told["hostname"], told["nics"][0]["mac"]) == ("web1.example.org", MACS[0])
    environment, mounted = debian.run("cat /root/environment").splitlines()
    target, root, filesystem, disk, boot, *others = environment.split("|")
    assert target == f"{debian.directory}/run/mnt"
    assert root == filesystem == mounted
    assert (disk, boot) == (str(debian.image), "")
    assert others[:5] == ["tarball", "bookworm", "amd64", "gpt", "web1.example.org"]
    assert "/usr/sbin" in others[5]


def test_a_program_that_fails_is_named_with_what_it_said_last(copies: Callable[[], Debian]) -> None:
    debian = copies()
    hooks = debian.config / "hooks"
    hooks.mkdir(parents=True)
    (hooks / "mine").write_text("#!/bin/sh\necho starting\necho no such thing >&2\nexit 3\n")
    (hooks / "mine").chmod(0o755)
    said = debian.customise(debian.context())
    assert said.splitlines()[-1] == f"refused: hook {hooks}/mine: failed with exit status 3: no such thing"
