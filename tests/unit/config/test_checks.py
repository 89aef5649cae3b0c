"""Values that are let through, and values that would mean something else where they end up."""

from __future__ import annotations

import pytest

from osprovider.config import checks
from osprovider.config.value_check import Check

ED25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJL+jXQD5j1m+rJrMItbsnP/UKz9kzfaHoA9E9Umewmg"
ECDSA = (
    "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBJn2f+A8SACaC9CwAJJYBTiNIRFZrvruWbY9BEH4l"
    "HxO5MKj3maTuZWnxfkpWiJvFFx+i3eEX2NJ3IjuYRfM+Os="
)
# Each of the password "secret", by crypt(3).
YESCRYPT = "$y$j9T$F5Jx5fExrKuPp53xLKQ..1$GmcwIgvdUC9qLWcKCi6gklUa1dM3ziD43YxYNURLKy0"
GOST = "$gy$j9T$F5Jx5fExrKuPp53xLKQ..1$uE5FcoxTz78xZpMZkpTmj/0MogyeNUSLIjdCxpQjz.8"
SCRYPT = "$7$CU..../....abcdefghijklmnopqrstuv$ElUMWekZNPJnZWcDmCZQTWSQVUCDj2wr8QPz/49OqP0"
BCRYPT = "$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a"
SHA512 = "$6$abcdefghijklmnop$J/AWykHqo2Tx5UtavGnFc3ytI33la50JpzLTarSWVhkIXK6wOjNwwZjsrIw2UgmrER2EKrSHCeQyAINEEXAk1/"
SHA256 = "$5$abcdefghijklmnop$i7zHaTeYqXlesRXJ8dXj6o.MEFQdzfIJpJpcWAtszs6"

GOOD: list[tuple[Check, list[str]]] = [
    (checks.name, ["debian-12", "a", "12", "a.b_c-D", "x" * 64]),
    (checks.account, ["root", "_apt", "www-data", "a" * 32]),
    (checks.package, ["linux-image-amd64", "g++", "libc6", "0ad", "python3.11"]),
    (checks.suite, ["bookworm", "stable", "bookworm-updates", "noble"]),
    (checks.hook_order, ["after network", "before my-hook.py"]),
    (checks.text, ["", "Debian 12 (bookworm)", "für alle"]),
    (checks.line, ["gnt-br0", "br 0"]),
    (checks.gecos, ["", "Jürgen Müller,Raum 1,,", "A & B"]),
    (checks.serial, ["auto", "none", "ttyS0", "ttyS1,115200", "hvc0", "ttyAMA0,38400"]),
    (
        checks.kernel_argument,
        [
            "quiet",
            "panic=10",
            "console=tty0",
            "net.ifnames=0",
            "ip=198.51.100.1::198.51.100.254:255.255.255.0",
            "pci=0000:00:1f.2",
            "systemd.unit=rescue.target",
            "isolcpus=1,2-4",
            "crashkernel=512M@16M",
            "rootwait",
            "rootflags=data=journal",
        ],
    ),
    (checks.hostname, ["fqdn", "short", "web1", "web1.example.org", "1a", "a" * 63, "4pm.example"]),
    (checks.timezone, ["Etc/UTC", "UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires", "Etc/GMT+5", "GMT-0"]),
    (checks.locale, ["C", "POSIX", "C.UTF-8", "de_DE.UTF-8", "en_US.utf8", "ca_ES.UTF-8@valencia", "ast_ES.UTF-8"]),
    (checks.shell, ["/bin/bash", "/usr/bin/x86_64-linux-gnu.sh", "/bin/..sh"]),
    (
        checks.password_hash,
        [YESCRYPT, GOST, SCRYPT, BCRYPT, SHA512, SHA512.replace("$6$", "$6$rounds=5000$"), SHA256],
    ),
    (
        checks.ssh_key,
        [
            ED25519,
            f"{ED25519} a@b",
            f"{ED25519} two words, with a comma; and a semicolon",
            f"{ECDSA} ",
            f"restrict {ED25519}",
            f'from="198.51.100.0/24,2001:db8::/32",command="echo \\"hi there\\"" {ED25519} a@b',
            f"\tno-pty\t{ED25519}\ta@b".strip(),
        ],
    ),
    (checks.address, ["198.51.100.53", "2001:db8::53", "::1", "fe80::1", "::ffff:198.51.100.1", "127.0.0.53"]),
    (checks.cidr, ["198.51.100.0/24", "2001:db8:1::/64", "2001:DB8:1:0::/64", "198.51.100.8/32", "0.0.0.0/0"]),
    (
        checks.interface_address,
        ["198.51.100.21", "198.51.100.21/24", "2001:db8::21/64", "198.51.100.0/31", "198.51.100.0", "2001:db8::/127"],
    ),
    (checks.domain, ["example.org", "local", "a-b.example", "10.in-addr.arpa"]),
    (
        checks.url,
        [
            "http://mirror.example.org/debian",
            "https://mirror.example.org:8443/debian/",
            "http://[2001:db8::1]/debian",
            "http://198.51.100.1",
            "file:///srv/mirror",
        ],
    ),
    (checks.repository_suite, ["bookworm", "bookworm/updates", "./", "/", "el9-x/", "stable/", "20.04", "bookworm~1"]),
    (checks.deb, ["a.deb", "site-tools_1.0~rc1+b1_all.deb", "/srv/debs/a_1_amd64.deb"]),
    (checks.script, ["motd", "10-motd.sh", "/srv/scripts/motd"]),
]

INJECTIONS = ["a\nb", "a\n", "\na", "a\r", "a\x00b", "a\x1b[31m", "a\u2028b", "a\x85b"]

BAD: list[tuple[Check, list[str]]] = [
    (checks.name, ["", ".", "..", "../etc", "a/b", "-rf", ".hidden", "a b", "a+b", "ä", "x" * 65]),
    (checks.account, ["", "Root", "a:b", "0a", "a b", "-a", "a" * 33, "a,b", "root$"]),
    (checks.package, ["", "a", "Foo", "a,b", "foo=1.0", "foo/bookworm", "-o", "?essential", "a b"]),
    (checks.suite, ["", "12", "Bookworm", "book worm", "../x", "a/b"]),
    (checks.repository_suite, ["", "a b", "../", "a/../b", "a//b", "[trusted=yes]", "-a", "a\nb", "a;b"]),
    (checks.deb, ["", "a", ".deb", "a/b.deb", "../a.deb", "a b.deb", "-a.deb", "debs/"]),
    (checks.script, ["", "a/b", "../a", "-a", "a b", ".hidden", "$(id)"]),
    (checks.hook_order, ["", "after", "network", "after  network", "behind network", "after ../x"]),
    (checks.line, [""]),
    (checks.gecos, ["a:b", "root:x:0:0"]),
    (checks.serial, ["", "ttyS0,", "ttyS0,115200n8", "ttyS0,1234", "/dev/ttyS0", "ttyS0 quiet", "com1"]),
    (
        checks.kernel_argument,
        ["", "a b", '"', "a'b", "a\\b", "$(id)", "a`b`", "a;b", "a&b", "a|b", "<a", ">a", "{a}", "root=/dev/sda", "ä"],
    ),
    (checks.hostname, ["", ".", "a..b", "-a", "a-", "a_b", "a.", "198.51.100.1", "12", "a" * 64, "a.b" * 22, "a b"]),
    (checks.timezone, ["", "/etc/passwd", "../UTC", "Europe/../UTC", "Europe/", "Europe Berlin", "a//b"]),
    (checks.locale, ["", "german", "de_DE.UTF-8\nA=b", "de_de", "$(id)", "C;id"]),
    (checks.shell, ["", "/", "bash", "/bin/", "/bin//sh", "/bin/../sh", "/./sh", "/a:b", "/a b"]),
    (
        checks.password_hash,
        [
            "",
            "secret",
            "!",
            "*",
            "x:y",
            "$1$abcdefgh$IxuF9oSc6oXbiJbRPlM9C1",
            YESCRYPT[:-1],
            f"{SHA512}:",
            f"!{SHA512}",
        ],
    ),
    (
        checks.ssh_key,
        [
            "",
            "ssh-ed25519",
            ED25519[:-8],
            ED25519[:-1],
            ED25519.replace("ssh-ed25519", "ssh-rsa"),
            f"{ED25519} a@b {ED25519} c@d",
            f"{ED25519} a@bn{ED25519}",  # what Ganeti makes of an escaped line break
            f'command="id {ED25519}',
            "ssh-dss AAAAB3NzaC1kc3MAAACBAPY8ZOHY2yFSJA6XYC9HRwNHxaehvx5wOJ0rzZdzoSOXxbETW6ToHv8D1UJ/z+zHo9Fiko5XybZn",
            "-----BEGIN OPENSSH PRIVATE KEY-----",
        ],
    ),
    (
        checks.address,
        ["", "198.51.100", "198.51.100.256", "198.051.100.1", "fe80::1%eth0", "example.org", "1.2.3.4/24"],
    ),
    (
        checks.cidr,
        ["", "198.51.100.0", "198.51.100.1/24", "198.51.100.0/33", "2001:db8::1/64", "198.51.100.0/255.255.255.0"],
    ),
    (
        checks.interface_address,
        [
            "",
            "0.0.0.0",  # noqa: S104 - nothing is bound here
            "::",
            "::1",
            "127.0.0.1/8",
            "224.0.0.1",
            "ff02::1",
            "198.51.100.0/24",
            "198.51.100.255/24",
            "2001:db8::/64",
            "198.51.100.21/33",
            "198.51.100.21/255.255.255.0",
        ],
    ),
    (checks.domain, ["", ".", "example..org", "-a.org", "a b", "example.org."]),
    (
        checks.url,
        [
            "",
            "ftp://example.org/",
            "mirror.example.org",
            "http://",
            "http://user:secret@example.org/",
            "http://example.org/ [trusted=yes]",
            "http://example.org/a b",
            "http://example.org/$(id)",
            "file://host/x",
        ],
    ),
]


@pytest.mark.parametrize(("check", "value"), [(check, value) for check, values in GOOD for value in values])
def test_what_is_right_is_let_through(check: Check, value: str) -> None:
    check(value)


@pytest.mark.parametrize(("check", "value"), [(check, value) for check, values in BAD for value in values])
def test_what_is_wrong_is_refused_in_one_line_that_says_what_to_write(check: Check, value: str) -> None:
    with pytest.raises(ValueError, match=r"; .*(write|shorten|remove|copy|close)") as refusal:
        check(value)
    assert str(refusal.value).isprintable()


@pytest.mark.parametrize("check", [check for check, _ in GOOD])
@pytest.mark.parametrize("value", INJECTIONS)
def test_no_check_lets_line_breaks_and_control_characters_through(check: Check, value: str) -> None:
    with pytest.raises(ValueError, match="; "):
        check(value)


@pytest.mark.parametrize(("check", "values"), GOOD)
def test_a_line_break_after_a_good_value_is_refused(check: Check, values: list[str]) -> None:
    for value in values:
        with pytest.raises(ValueError, match="; "):
            check(f"{value}\n")


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [(checks.seconds, [0, 1, 3600], [-1, 3601]), (checks.mtu, [68, 1500, 65535], [0, 67, 65536])],
)
def test_numbers_have_their_bounds(check: Check, good: list[int], bad: list[int]) -> None:
    for value in good:
        check(value)
    for value in bad:
        with pytest.raises(ValueError, match=rf"{value} .*; write a number of"):
            check(value)


def test_host_bits_in_a_network_are_answered_with_the_network() -> None:
    with pytest.raises(ValueError, match=r'"198\.51\.100\.21/24" has host bits set; write 198\.51\.100\.0/24'):
        checks.cidr("198.51.100.21/24")


@pytest.mark.parametrize(
    ("check", "value"),
    [
        (checks.password_hash, "hunter2"),
        (checks.ssh_key, "-----BEGIN OPENSSH PRIVATE KEY-----\nhunter2"),
        (checks.url, "https://user:hunter2@mirror.example.org/"),
    ],
)
def test_a_secret_is_not_repeated_in_the_message(check: Check, value: str) -> None:
    with pytest.raises(ValueError, match="this does not fit") as refusal:
        check(value)
    assert "hunter2" not in str(refusal.value)


def test_a_long_value_is_not_repeated_whole() -> None:
    with pytest.raises(ValueError, match="longer than 64 characters") as refusal:
        checks.name("x" * 100_000)
    assert len(str(refusal.value)) < 200
