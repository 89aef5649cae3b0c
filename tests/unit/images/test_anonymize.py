"""What of a system that was in use is not in a template made of it, and what stays."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from osprovider.images.anonymize import anonymize
from tests.support.guests import directory_guest
from tests.unit.hooks.trees import write_tree

GONE = {
    "/etc/ssh/ssh_host_ed25519_key": "secret",
    "/etc/ssh/ssh_host_ed25519_key.pub": "public",
    "/etc/osprovider.json": "{}",
    "/etc/systemd/network/10-osprovider-nic0.link": "[Match]\n",
    "/etc/cloud/cloud.cfg.d/99-osprovider-network.cfg": "network: {config: disabled}\n",
    "/etc/netplan/50-cloud-init.yaml": "network: {}\n",
    "/etc/udev/rules.d/70-persistent-net.rules": "SUBSYSTEM==net\n",
    "/etc/krb5.keytab": "secret",
    "/etc/resolv.conf": "nameserver 198.51.100.53\n",
    "/var/lib/systemd/random-seed": "seed",
    "/var/lib/dhcp/dhclient.eth0.leases": "lease {}\n",
    "/var/lib/cloud/instances/i-1/obj.pkl": "pickle",
    "/var/lib/cloud/sem/x.once": "",
    "/var/lib/cloud/seed/nocloud-net/user-data": "#cloud-config\nhostname: web1\n",
    "/var/lib/dhcpcd/duid": "00:04:01",
    "/var/lib/dhcpcd/secret": "secret",
    "/var/lib/wicked/duid.xml": "<duid/>",
    "/etc/nvme/hostnqn": "nqn.2014-08.org.nvmexpress:uuid:1",
    "/etc/nvme/hostid": "1",
    "/etc/pki/entitlement/1-key.pem": "secret",
    "/etc/zypp/credentials.d/SCCcredentials": "secret",
    "/var/lib/ubuntu-advantage/private/machine-token.json": "secret",
    "/etc/apt/auth.conf.d/90ubuntu-advantage": "secret",
    "/var/cache/dnf/fedora.solv": "cache",
    "/var/lib/tailscale/tailscaled.state": "key",
    "/var/lib/zerotier-one/identity.secret": "key",
    "/var/lib/lastlog/lastlog2.db": "ada from 198.51.100.7",
    "/var/lib/wtmpdb/wtmp.db": "ada from 198.51.100.7",
    "/var/log/syslog.1": "rotated",
    "/var/log/nginx/access.log.2.gz": "rotated",
    "/var/log/journal/0123/system.journal": "journal",
    "/run/x.pid": "1",
    "/root/.bash_history": "ssh web1",
    "/root/.ssh/id_ed25519": "secret",
    "/root/.ssh/deploy": "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n",
    "/root/.local/share/fish/fish_history": "- cmd: ssh web1",
    "/root/.ssh/authorized_keys": "ssh-ed25519 AAAA",
    "/home/ada/.ssh/authorized_keys": "ssh-ed25519 AAAA",
    "/srv/git/.ssh/authorized_keys": "ssh-ed25519 AAAA",
    "/home/Jürgen [x]/.ssh/authorized_keys": "ssh-ed25519 AAAA",
    "/swapfile": "memory",
}
STAYS = {
    "/etc/shadow": "root:$y$x:1::::::\n",
    "/etc/systemd/network/20-own.network": "[Match]\n",
    "/etc/apt/apt.conf.d/30-site-proxy": "Acquire::http::Proxy",
    "/home/ada/work": "work",
    "/root/.ssh/config": "Host *\n",
    "/root/.ssh/known_hosts": "web2 ssh-ed25519 AAAA\n",
    "/srv/git/repository/HEAD": "ref",
    "/var/www/index.html": "<p>",
    "/var/lib/dpkg/status": "Package: x\n",
}
PASSWD = (
    "root:x:0:0:root:/root:/bin/bash\n"
    "ada:x:1000:1000::/home/ada:/bin/bash\n"
    "git:x:1001:1001::/srv/git/:/bin/sh\n"
    "juergen:x:1003:1003::/home/Jürgen [x]:/bin/sh\n"
    "strange:x:1002:1002::/home/*:/bin/sh\n"
    "short:x\n"
)
HOSTS = (
    "127.0.0.1\tlocalhost\n"
    "# osprovider: this host\n198.51.100.21\tweb1.example.org web1\n# osprovider: end\n"
    "198.51.100.21 web1.example.org web1\n"
    "::1 localhost web1\n"
    "198.51.100.7 db1.example.org  # of web1\n"
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_tree(
        tmp_path,
        {
            **GONE,
            **STAYS,
            "/etc/passwd": PASSWD,
            "/etc/hostname": "web1.example.org\n",
            "/etc/hosts": HOSTS,
            "/etc/mailname": "web1.example.org\n",
            "/etc/machine-id": "0123456789abcdef0123456789abcdef\n",
            "/etc/network/interfaces": "auto nic0\niface nic0 inet static\n    address 198.51.100.21/24\n",
            "/etc/fstab": "UUID=x / ext4 defaults 0 1\n/swapfile none swap sw 0 0\n/dev/sda3 none swap sw 0 0\n",
            "/var/log/syslog": "Nov 21 web1",
            "/var/log/pods/web_1/nginx/0.log": "from 198.51.100.7",
            "/home/x/.ssh/authorized_keys": "of no account",
        },
    )


def test_what_makes_it_unique_is_gone_and_what_was_made_stays(root: Path) -> None:
    with directory_guest(root) as guest:
        anonymize(guest)
    there = {f"/{path.relative_to(root)}" for path in root.rglob("*") if path.is_file()}
    assert not there & set(GONE)
    assert set(STAYS) <= there
    assert (root / "home/x/.ssh/authorized_keys").read_text() == "of no account"


def test_it_has_no_name_and_no_address(root: Path) -> None:
    with directory_guest(root) as guest:
        anonymize(guest)
    assert (root / "etc/machine-id").read_text() == ""
    assert (root / "etc/hostname").read_text() == "localhost\n"
    assert (root / "etc/mailname").read_text() == "localhost\n"
    assert (root / "etc/hosts").read_text() == (
        "127.0.0.1\tlocalhost\n::1\tlocalhost\n198.51.100.7 db1.example.org  # of web1\n"
    )
    assert "198.51.100" not in (root / "etc/network/interfaces").read_text()
    assert (root / "var/log/syslog").read_text() == ""
    assert (root / "var/log/pods/web_1/nginx/0.log").read_text() == ""


def test_it_does_not_look_for_the_swap_file_that_is_gone(root: Path) -> None:
    with directory_guest(root) as guest:
        anonymize(guest)
    assert (root / "etc/fstab").read_text() == "UUID=x / ext4 defaults 0 1\n/dev/sda3 none swap sw 0 0\n"


def test_patterns_say_what_stays_and_what_else_goes(root: Path) -> None:
    with directory_guest(root) as guest:
        anonymize(guest, keep=["/home/*/authorized_keys", "/var/log/syslog"], remove=["/srv/git/repository", "/none/*"])
    assert (root / "home/ada/.ssh/authorized_keys").exists()
    assert not (root / "root/.ssh/authorized_keys").exists()
    assert (root / "var/log/syslog").read_text() == "Nov 21 web1"
    assert not (root / "srv/git/repository").exists()


def test_what_is_written_over_can_be_kept_as_well(root: Path) -> None:
    kept = ["hostname", "hosts", "mailname", "machine-id", "resolv.conf", "network/interfaces", "fstab"]
    before = {name: (root / "etc" / name).read_text() for name in kept}
    with directory_guest(root) as guest:
        anonymize(guest, keep=["/etc/*", "/swapfile"])
    assert {name: (root / "etc" / name).read_text() for name in kept} == before
    assert (root / "swapfile").exists()


def test_what_is_kept_in_a_directory_that_goes_stays_alone(root: Path) -> None:
    write_tree(root, {"/root/.cache/models/a": "a", "/root/.cache/models/b": "b", "/root/.cache/other/[c]": "c"})
    with directory_guest(root) as guest:
        anonymize(guest, keep=["/root/.cache/*/a", "/var/lib/cloud/instances/*"])
    assert [path.name for path in (root / "root/.cache").rglob("*") if path.is_file()] == ["a"]
    assert not (root / "root/.cache/other").exists()
    assert (root / "var/lib/cloud/instances/i-1/obj.pkl").exists()


def test_what_is_no_file_among_the_logs_does_not_matter(root: Path) -> None:
    os.mkfifo(root / "var/log/pipe")
    with directory_guest(root) as guest:
        anonymize(guest)
    assert (root / "var/log/pipe").is_fifo()


def test_an_empty_tree_gets_what_every_template_has(tmp_path: Path) -> None:
    with directory_guest(tmp_path) as guest:
        anonymize(guest)
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {"etc/hostname", "etc/machine-id"}
