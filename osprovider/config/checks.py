r"""Checks of single values, each of them also what JSON Schema can say about it.

They let through what is right, and nothing that would mean something else where the value ends up: no line breaks in
files of lines, no colon in passwd(5), no quotes and no white space on a kernel's command line, no slash in file names.
Not for: what a check is (:mod:`osprovider.config.value_check`), types (:mod:`osprovider.config.schema`), and what more
than one field decides (``consistency``).
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_interface, ip_network

from osprovider.config.value_check import Number, Text
from osprovider.config.wording import quote

__all__ = [
    "account",
    "address",
    "boot_partition",
    "checksums",
    "cidr",
    "deb",
    "disk",
    "domain",
    "gecos",
    "hook_order",
    "hostname",
    "image_source",
    "interface_address",
    "is_reserved",
    "kernel_argument",
    "keyring",
    "label",
    "line",
    "locale",
    "mount_option",
    "mount_point",
    "mtu",
    "name",
    "package",
    "password_hash",
    "repository_suite",
    "script",
    "seconds",
    "serial",
    "shell",
    "size",
    "ssh_key",
    "suite",
    "swap",
    "text",
    "timezone",
    "url",
]


# Names

_LABEL = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"

name = Text(
    "a name of letters, digits, '.', '_' and '-' that starts with a letter or digit",
    "^[A-Za-z0-9][A-Za-z0-9._-]*$",
    64,
)
account = Text(
    "a name as useradd takes it: lower-case letters, digits, '_' and '-', a letter or '_' first",
    "^[a-z_][a-z0-9_-]*$",
    32,  # useradd(8)
)
package = Text(
    "a package's name alone, such as openssh-server",
    "^[a-z0-9][a-z0-9+.-]+$",  # Debian Policy 5.6.1
    128,
)
suite = Text("a release's code name, such as bookworm", "^[a-z][a-z0-9.-]*$", 64)
repository_suite = Text(
    "a suite such as bookworm or bookworm/updates, or a path with a slash at its end, such as ./",
    "^(\\./|/|/?[A-Za-z0-9][A-Za-z0-9._~+-]*(/[A-Za-z0-9][A-Za-z0-9._~+-]*)*/?)$",  # sources.list(5)
    128,
)
hook_order = Text(
    "'after HOOK' or 'before HOOK'",
    "^(after|before) [A-Za-z0-9][A-Za-z0-9._-]*$",
    80,
)


# Images

_SIZE = "[1-9][0-9]{0,8}(KiB|MiB|GiB|TiB)"
size = Text("a number of bytes with its unit, such as 512MiB or 20GiB", f"^{_SIZE}$", 12)
_URL_CHARACTERS = r"[!#$%&'()*+,./0-9:;=?@A-Z\[\]_a-z~-]"


def _checksums(value: str) -> None:
    if weak := re.match(r"(md5|sha1):", value):
        raise ValueError(
            f"{quote(value)} is {weak[1].upper()}, which can be forged; write sha256:DIGITS or sha512:DIGITS"
        )
    _image_source(value)


def _image_source(value: str) -> None:
    if re.match(r"https?://[^/?#]*@", value):
        raise ValueError("this URL holds a password, which logs would show; write it without user and password")
    if re.match(r"https?:///|https?://$", value):
        raise ValueError(f"{quote(value)} names no server; write it as in https://cloud.example.org/debian-12.qcow2")
    if "://" in value and not value.startswith(("http://", "https://")):
        raise ValueError(f"{quote(value)} cannot be fetched; write an http or https URL, or a path")


image_source = Text(
    "an absolute path without spaces and letters beyond ASCII, or a URL such as "
    "https://cloud.example.org/debian-12.qcow2",
    f"^{_URL_CHARACTERS}+$",
    2048,
    _image_source,
)
checksums = Text(
    "sha256:DIGITS, sha512:DIGITS, or where a list of checksums lies, such as SHA512SUMS",
    rf"^(sha256:[0-9a-f]{{64}}|sha512:[0-9a-f]{{128}}|(?!sha(256|512):){_URL_CHARACTERS}+)$",
    2048,
    _checksums,
)
keyring = Text(
    "a file's name in keys/, such as debian-cloud.gpg, or an absolute path",
    "^([A-Za-z0-9][A-Za-z0-9._-]*|(/[A-Za-z0-9._+-]+)+)$",
    256,
)
deb = Text(
    "a file's name in debs/, such as site-tools_1.0_all.deb, or an absolute path",
    r"^([A-Za-z0-9][A-Za-z0-9._+~-]*|(/[A-Za-z0-9._+~-]+)+)\.deb$",
    256,
)
script = Text(
    "a file's name in scripts/, such as motd, or an absolute path",
    "^([A-Za-z0-9][A-Za-z0-9._-]*|(/[A-Za-z0-9._+-]+)+)$",
    256,
)


# Disks


def _disk(value: str) -> None:
    if value == "0":
        raise ValueError('"0" is the disk of the system; write the index of another, such as 1, or its name in Ganeti')


boot_partition = Text("none, or a map such as {size: 1GiB, filesystem: ext4}", "^none$", 4)
swap = Text(
    "none, memory, a size such as 2GiB, or a map, in a file alone: {disk: 1}, {disk: NAME} or {file: 1GiB}",
    f"^(none|memory|{_SIZE})$",
    12,
)
disk = Text(
    "a disk's index, such as 1, or its name in Ganeti: letters, digits, '.', '_' and '-'",
    "^[A-Za-z0-9][A-Za-z0-9._-]*$",
    64,
    _disk,
    takes_numbers=True,
)
# mke2fs(8): 16 bytes; mkfs.xfs(8) takes 12.
label = Text("a label of letters, digits, '.', '_', '-' and '/'", "^[A-Za-z0-9/][A-Za-z0-9._/-]*$", 16)
mount_option = Text(
    "one option as in fstab(5), without commas and white space, such as noatime",
    "^[A-Za-z0-9][A-Za-z0-9._:=/@+-]*$",
    128,
)


# Text

_CONTROL = r"\u0000-\u001f\u007f-\u009f\u2028\u2029"


def _printable(value: str) -> None:
    if not value.isprintable():
        odd = next(character for character in value if not character.isprintable())
        raise ValueError(f"{quote(value)} holds the character U+{ord(odd):04X}; write one line of printable characters")


text = Text("one line of text", f"^[^{_CONTROL}]*$", 256, _printable)
line = Text("one line of text", f"^[^{_CONTROL}]+$", 256, _printable)
gecos = Text(
    "one line of text without ':', which separates the fields of passwd(5)",
    f"^[^:{_CONTROL}]*$",
    256,
    _printable,
)


# The system


def _kernel_argument(value: str) -> None:
    if value.partition("=")[0] == "root":
        raise ValueError(f"{quote(value)} is not needed: osprovider names the root file system; remove it")


def _path(value: str) -> None:
    if any(part in (".", "..") for part in value.split("/")):
        raise ValueError(f"{quote(value)} holds '.' or '..'; write the path without them")


def _hostname(value: str) -> None:
    if value.rpartition(".")[2].isdigit():
        raise ValueError(f"{quote(value)} looks like an address; write fqdn, short, or a host name")


_SPEED = "1200|2400|4800|9600|19200|38400|57600|115200|230400|460800|921600"
serial = Text(
    "auto, none, or DEVICE or DEVICE,SPEED, such as ttyS0,115200 (speeds as termios(3) has them)",
    f"^(auto|none|(tty[A-Z]{{1,6}}|hvc)[0-9]{{1,3}}(,({_SPEED}))?)$",
    32,
)
# It ends up in grub.cfg and in /etc/default/grub, a shell's file.
kernel_argument = Text(
    "one word of printable ASCII without quotes or any of \\ $ ` ; & | < > { }, such as panic=10",
    r"^[!#%()*+,./0-9:=?@A-Z\[\]^_a-z~-]+$",
    256,
    _kernel_argument,
)
seconds = Number("a number of seconds from 0 to 3600", 0, 3600)
hostname = Text(
    "fqdn, short, or a host name of letters, digits and '-', in parts separated by '.'",
    rf"^{_LABEL}(\.{_LABEL})*$",
    64,  # HOST_NAME_MAX, limits.h
    _hostname,
)
timezone = Text(
    "a name of the tz database, such as Europe/Berlin or Etc/UTC",
    "^[A-Za-z0-9][A-Za-z0-9_+-]*(/[A-Za-z0-9][A-Za-z0-9_+-]*)*$",
    64,
)
locale = Text(
    "a locale, such as C.UTF-8 or de_DE.UTF-8",
    r"^(C|POSIX|[a-z]{2,3}(_[A-Z]{2})?)(\.[A-Za-z0-9-]+)?(@[a-z]+)?$",
    64,
)
_ABSOLUTE = "^(/[A-Za-z0-9._+-]+)+$"
shell = Text("an absolute path of letters, digits, '.', '_', '+' and '-', such as /bin/bash", _ABSOLUTE, 256, _path)
mount_point = Text(
    "an absolute path of letters, digits, '.', '_', '+' and '-', such as /srv, without a slash at its end",
    _ABSOLUTE,
    256,
    _path,
)

_B64 = "[./0-9A-Za-z]"
password_hash = Text(
    "the whole output of mkpasswd in single quotes (yescrypt, gost-yescrypt, scrypt, bcrypt, sha512crypt, sha256crypt) "
    "or leave it out to lock the password",
    # crypt(5), "Hashed passphrase format". md5crypt and older are guessed in seconds.
    (
        rf"^(\$(y|gy)\${_B64}+\${_B64}{{1,86}}\${_B64}{{43}}"
        rf"|\$7\${_B64}{{11,97}}\${_B64}{{43}}"
        rf"|\$2[aby]\$[0-9]{{2}}\${_B64}{{53}}"
        rf"|\$6\$(rounds=[1-9][0-9]+\$)?{_B64}{{1,16}}\${_B64}{{86}}"
        rf"|\$5\$(rounds=[1-9][0-9]+\$)?{_B64}{{1,16}}\${_B64}{{43}})$"
    ),
    384,
    secret=True,
)


# ssh

_KEY_TYPES = (
    r"ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(256|384|521)"
    r"|sk-ssh-ed25519@openssh\.com|sk-ecdsa-sha2-nistp256@openssh\.com"
)
_KEY = rf"(?P<type>{_KEY_TYPES})[ \t]+(?P<blob>AAAA[A-Za-z0-9+/]*={{0,2}})"


def _ssh_key(value: str) -> None:
    """Judge a line of sshd(8)'s authorized_keys: options, type, base64, comment."""
    from binascii import Error, a2b_base64

    found = list(re.finditer(_KEY, value))
    if len(found) != 1:  # also where the line break between two was lost, and the second follows the first's comment
        raise ValueError(f"{quote(value)} holds {len(found)} public keys; write one a line")
    key = found[0]
    kind = key["type"].encode()
    try:
        blob = a2b_base64(key["blob"], strict_mode=True)
    except Error:
        blob = b""
    # RFC 4253, 6.6: the blob starts with its type, counted by four bytes, and something follows.
    if not blob.startswith(len(kind).to_bytes(4, "big") + kind) or len(blob) < len(kind) + 4 + 32:
        raise ValueError(f"{quote(value)} is not a whole {key['type']} key; copy it again, all of its line")
    if value[: key.start()].count('"') % 2:
        raise ValueError(f"{quote(value)} has a quote in its options that is not closed; close it")


ssh_key = Text(
    "one line as in authorized_keys: [OPTIONS] ssh-ed25519 AAAA... [COMMENT] (not ssh-dss, which sshd no longer takes)",
    rf"^([^{_CONTROL}]*[ \t])?({_KEY_TYPES})[ \t]+AAAA[A-Za-z0-9+/]*={{0,2}}([ \t][^{_CONTROL}]*)?$",
    8192,  # an RSA key of 16384 bits has about 2800, and options come on top
    _ssh_key,
    secret=True,  # somebody may have pasted the private key
)


# The network


def _address(value: str) -> None:
    try:
        ip_address(value)
    except ValueError:
        raise ValueError(f"{quote(value)} is not an address; write one such as 198.51.100.53 or 2001:db8::53") from None


def _cidr(value: str) -> None:
    try:
        network = ip_network(value, strict=False)
    except ValueError:
        raise ValueError(
            f"{quote(value)} is not a network; write one such as 198.51.100.0/24 or 2001:db8:1::/64"
        ) from None
    if ip_interface(value).ip != network.network_address:
        raise ValueError(f"{quote(value)} has host bits set; write {network}")


def _interface_address(value: str) -> None:
    try:
        interface = ip_interface(value)
    except ValueError:
        example = "198.51.100.21, 198.51.100.21/24 or 2001:db8:1::21/64"
        raise ValueError(f"{quote(value)} is not an address; write one such as {example}") from None
    ip = interface.ip
    if ip.is_unspecified or ip.is_multicast or ip.is_loopback:
        raise ValueError(f"{quote(value)} is not an address that an interface can have; write the NIC's own")
    if is_reserved(ip, interface.network):
        raise ValueError(f"{quote(value)} is {interface.network}'s own or broadcast address; write one between them")


def is_reserved(ip: IPv4Address | IPv6Address, network: IPv4Network | IPv6Network) -> bool:
    """Is this the network's own address, or its broadcast address; /31 and /127 have neither (RFC 3021, RFC 6164)."""
    ends = (network.network_address, network.broadcast_address) if network.version == 4 else (network.network_address,)
    return network.num_addresses > 2 and ip in ends


_ADDRESS = "[0-9A-Fa-f.:]{2,45}"
address = Text("an address such as 198.51.100.53 or 2001:db8::53", f"^{_ADDRESS}$", 45, _address)
cidr = Text(
    "a network such as 198.51.100.0/24 or 2001:db8:1::/64",
    f"^{_ADDRESS}/[0-9]{{1,3}}$",
    49,
    _cidr,
)
interface_address = Text(
    "an address such as 198.51.100.21, 198.51.100.21/24 or 2001:db8:1::21/64",
    f"^{_ADDRESS}(/[0-9]{{1,3}})?$",
    49,
    _interface_address,
)
domain = Text(
    "a domain such as example.org",
    rf"^{_LABEL}(\.{_LABEL})*$",
    253,  # RFC 1035, 2.3.4, as text
)
mtu = Number("a number of bytes from 68 to 65535, such as 1500", 68, 65535)  # 68: RFC 791
url = Text(
    "a URL such as https://mirror.example.org/debian, without a user's name",
    r"^(https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(:[0-9]{1,5})?(/[A-Za-z0-9._~%/+:=-]*)?|file:///[A-Za-z0-9._~%/+-]+)$",
    2048,
    secret=True,
)
