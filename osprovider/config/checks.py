r"""Checks of single values, each of them also what JSON Schema can say about it.

They let through what is right, and nothing that would mean something else where the value ends up: no line breaks in
files of lines, no colon in passwd(5), no quotes and no white space on a kernel's command line, no slash in file names.
A pattern is for both readers, so it keeps to what Python and ECMA-262 agree on and is anchored with ``^`` and ``$``.
Not for: types (:mod:`osprovider.config.schema`) and what more than one field decides (``consistency``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface, ip_network
from typing import Any

__all__ = [
    "Check",
    "absolute_path",
    "account",
    "address",
    "cidr",
    "domain",
    "gecos",
    "hook_order",
    "hostname",
    "interface_address",
    "kernel_argument",
    "line",
    "locale",
    "mtu",
    "name",
    "package",
    "password_hash",
    "seconds",
    "serial",
    "ssh_key",
    "suite",
    "text",
    "timezone",
    "url",
]


class Check:
    """A check that is called with a value and returns nothing.

    Attributes:
        schema: the keywords of JSON Schema that say the same, or as much of it as they can.
        secret: the value must not appear in a message.

    Raises (when called):
        ValueError: what is wrong, and what to write instead.
    """

    __slots__ = ("_extra", "_fullmatch", "_message", "schema", "secret")

    def __init__(
        self,
        message: str,
        *,
        extra: Callable[[Any], None] | None = None,
        secret: bool = False,
        **schema: Any,
    ) -> None:
        """Make a check.

        Args:
            message: what values look like, after "write".
            extra: what keywords cannot say; called with values that satisfy them; raises ValueError.
            secret: see above.
            schema: ``pattern`` and ``maxLength`` for text, ``minimum`` and ``maximum`` for a number.
        """
        self.schema: Mapping[str, Any] = schema
        self.secret = secret
        self._message = message
        self._extra = extra
        self._fullmatch: Callable[[str], object] | None = None  # compiled when needed: there are many, few are used

    def __call__(self, value: Any) -> None:
        if not (self._fits_text(value) if isinstance(value, str) else self._fits_number(value)):
            raise ValueError(f"{'this' if self.secret else _show(value)} does not fit; write {self._message}")
        if self._extra:
            self._extra(value)

    def _fits_number(self, value: int) -> bool:
        return bool(self.schema["minimum"] <= value <= self.schema["maximum"])

    def _fits_text(self, value: str) -> bool:
        longest = self.schema["maxLength"]
        if len(value) > longest:
            raise ValueError(f"{'this' if self.secret else _show(value)} is longer than {longest} characters; shorten it")
        if self._fullmatch is None:
            self._fullmatch = re.compile(self.schema["pattern"]).fullmatch
        return self._fullmatch(value) is not None


def _show(value: Any) -> str:
    """The value as a message quotes it: on one line, and not endless."""
    if not isinstance(value, str):
        return str(value)
    printable = value if value.isprintable() else ascii(value)[1:-1]
    return f'"{printable if len(printable) <= 60 else printable[:57] + "..."}"'


# Names

_LABEL = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"

name = Check(
    "a name of letters, digits, '.', '_' and '-' that starts with a letter or digit",
    pattern="^[A-Za-z0-9][A-Za-z0-9._-]*$",
    maxLength=64,
)
account = Check(
    "a name as useradd takes it: lower-case letters, digits, '_' and '-', a letter or '_' first",
    pattern="^[a-z_][a-z0-9_-]*$",
    maxLength=32,  # useradd(8)
)
package = Check(
    "a package's name alone, such as openssh-server",
    pattern="^[a-z0-9][a-z0-9+.-]+$",  # Debian Policy 5.6.1
    maxLength=128,
)
suite = Check("a release's code name, such as bookworm", pattern="^[a-z][a-z0-9.-]*$", maxLength=64)
hook_order = Check(
    "'after HOOK' or 'before HOOK'",
    pattern="^(after|before) [A-Za-z0-9][A-Za-z0-9._-]*$",
    maxLength=80,
)


# Text

_CONTROL = r"\u0000-\u001f\u007f-\u009f\u2028\u2029"


def _printable(value: str) -> None:
    if not value.isprintable():
        odd = next(character for character in value if not character.isprintable())
        raise ValueError(f"{_show(value)} holds the character U+{ord(odd):04X}; write one line of printable characters")


text = Check("one line of text", pattern=f"^[^{_CONTROL}]*$", maxLength=256, extra=_printable)
line = Check("one line of text", pattern=f"^[^{_CONTROL}]+$", maxLength=256, extra=_printable)
gecos = Check(
    "one line of text without ':', which separates the fields of passwd(5)",
    pattern=f"^[^:{_CONTROL}]*$",
    maxLength=256,
    extra=_printable,
)


# The system


def _kernel_argument(value: str) -> None:
    if value.partition("=")[0] == "root":
        raise ValueError(f"{_show(value)} is not needed: osprovider names the root file system; remove it")


def _path(value: str) -> None:
    if any(part in (".", "..") for part in value.split("/")):
        raise ValueError(f"{_show(value)} holds '.' or '..'; write the path without them")


def _hostname(value: str) -> None:
    if value.rpartition(".")[2].isdigit():
        raise ValueError(f"{_show(value)} looks like an address; write fqdn, short, or a host name")


_SPEED = "1200|2400|4800|9600|19200|38400|57600|115200|230400|460800|921600"
serial = Check(
    "auto, none, or DEVICE or DEVICE,SPEED, such as ttyS0,115200 (speeds as termios(3) has them)",
    pattern=f"^(auto|none|(tty[A-Z]{{1,6}}|hvc)[0-9]{{1,3}}(,({_SPEED}))?)$",
    maxLength=32,
)
# It ends up in grub.cfg and in /etc/default/grub, a shell's file.
kernel_argument = Check(
    "one word of printable ASCII without quotes or any of \\ $ ` ; & | < > { }, such as panic=10",
    pattern=r"^[!#%()*+,./0-9:=?@A-Z\[\]^_a-z~-]+$",
    maxLength=256,
    extra=_kernel_argument,
)
seconds = Check("a number of seconds from 0 to 3600", minimum=0, maximum=3600)
hostname = Check(
    "fqdn, short, or a host name of letters, digits and '-', in parts separated by '.'",
    pattern=rf"^{_LABEL}(\.{_LABEL})*$",
    maxLength=64,  # HOST_NAME_MAX, limits.h
    extra=_hostname,
)
timezone = Check(
    "a name of the tz database, such as Europe/Berlin or Etc/UTC",
    pattern="^[A-Za-z0-9][A-Za-z0-9_+-]*(/[A-Za-z0-9][A-Za-z0-9_+-]*)*$",
    maxLength=64,
)
locale = Check(
    "a locale, such as C.UTF-8 or de_DE.UTF-8",
    pattern=r"^(C|POSIX|[a-z]{2,3}(_[A-Z]{2})?)(\.[A-Za-z0-9-]+)?(@[a-z]+)?$",
    maxLength=64,
)
absolute_path = Check(
    "an absolute path of letters, digits, '.', '_', '+' and '-', such as /bin/bash",
    pattern="^(/[A-Za-z0-9._+-]+)+$",
    maxLength=256,
    extra=_path,
)

_B64 = "[./0-9A-Za-z]"
password_hash = Check(
    "the whole output of mkpasswd in single quotes (yescrypt, gost-yescrypt, scrypt, bcrypt, sha512crypt or sha256crypt); "
    "leave it out to lock the password",
    # crypt(5), "Hashed passphrase format". md5crypt and older are guessed in seconds.
    pattern=(
        rf"^(\$(y|gy)\${_B64}+\${_B64}{{1,86}}\${_B64}{{43}}"
        rf"|\$7\${_B64}{{11,97}}\${_B64}{{43}}"
        rf"|\$2[aby]\$[0-9]{{2}}\${_B64}{{53}}"
        rf"|\$6\$(rounds=[1-9][0-9]+\$)?{_B64}{{1,16}}\${_B64}{{86}}"
        rf"|\$5\$(rounds=[1-9][0-9]+\$)?{_B64}{{1,16}}\${_B64}{{43}})$"
    ),
    maxLength=384,
    secret=True,
)


# ssh

_KEY_TYPES = (
    "ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(256|384|521)|sk-ssh-ed25519@openssh\\.com|sk-ecdsa-sha2-nistp256@openssh\\.com"
)
_KEY = re.compile(rf"(?:^|[ \t])(?P<type>{_KEY_TYPES})[ \t]+(?P<blob>AAAA[A-Za-z0-9+/]*={{0,2}})(?=[ \t]|$)")


def _ssh_key(value: str) -> None:
    """Judge a line of sshd(8)'s authorized_keys: options, type, base64, comment."""
    from binascii import Error, a2b_base64

    found = list(_KEY.finditer(value))
    if len(found) != 1:
        raise ValueError(f"{_show(value)} holds {len(found)} public keys; write one a line")
    key = found[0]
    kind = key["type"].encode()
    try:
        blob = a2b_base64(key["blob"], strict_mode=True)
    except Error:
        blob = b""
    # RFC 4253, 6.6: the blob starts with its type, counted by four bytes, and something follows.
    if not blob.startswith(len(kind).to_bytes(4, "big") + kind) or len(blob) < len(kind) + 4 + 32:
        raise ValueError(f"{_show(value)} is not a whole {key['type']} key; copy it again, all of its line")
    if value[: key.start()].count('"') % 2:
        raise ValueError(f"{_show(value)} has a quote in its options that is not closed; close it")


ssh_key = Check(
    "a public key as in authorized_keys, one line: [OPTIONS] ssh-ed25519 AAAA... [COMMENT] (ssh-dss is not taken any more)",
    pattern=rf"^([^{_CONTROL}]*[ \t])?({_KEY_TYPES})[ \t]+AAAA[A-Za-z0-9+/]*={{0,2}}([ \t][^{_CONTROL}]*)?$",
    maxLength=8192,  # SSH_MAX_PUBKEY_BYTES of OpenSSH's authfile.h is 16384; sshd's lines are half of that in practice
    extra=_ssh_key,
)


# The network


def _address(value: str) -> None:
    try:
        ip_address(value)
    except ValueError:
        raise ValueError(f"{_show(value)} is not an address; write one such as 198.51.100.53 or 2001:db8::53") from None


def _cidr(value: str) -> None:
    try:
        network = ip_network(value, strict=False)
    except ValueError:
        raise ValueError(f"{_show(value)} is not a network; write one such as 198.51.100.0/24 or 2001:db8:1::/64") from None
    if ip_interface(value).ip != network.network_address:
        raise ValueError(f"{_show(value)} has host bits set; write {network}")


def _interface_address(value: str) -> None:
    try:
        interface = ip_interface(value)
    except ValueError:
        example = "198.51.100.21, 198.51.100.21/24 or 2001:db8:1::21/64"
        raise ValueError(f"{_show(value)} is not an address; write one such as {example}") from None
    ip: IPv4Address | IPv6Address = interface.ip
    if ip.is_unspecified or ip.is_multicast or ip.is_loopback:
        raise ValueError(f"{_show(value)} is not an address that an interface can have; write the NIC's own")
    network = interface.network
    if network.num_addresses > 2 and (ip == network.network_address or _is_broadcast(interface.ip, network)):
        raise ValueError(f"{_show(value)} is {network}'s own or broadcast address; write one between them")


def _is_broadcast(ip: IPv4Address | IPv6Address, network: Any) -> bool:
    return ip.version == 4 and ip == network.broadcast_address


_ADDRESS = "[0-9A-Fa-f.:]{2,45}"
address = Check(
    "an address such as 198.51.100.53 or 2001:db8::53", pattern=f"^{_ADDRESS}$", maxLength=45, extra=_address
)
cidr = Check(
    "a network such as 198.51.100.0/24 or 2001:db8:1::/64",
    pattern=f"^{_ADDRESS}/[0-9]{{1,3}}$",
    maxLength=49,
    extra=_cidr,
)
interface_address = Check(
    "an address such as 198.51.100.21, 198.51.100.21/24 or 2001:db8:1::21/64",
    pattern=f"^{_ADDRESS}(/[0-9]{{1,3}})?$",
    maxLength=49,
    extra=_interface_address,
)
domain = Check(
    "a domain such as example.org",
    pattern=rf"^{_LABEL}(\.{_LABEL})*$",
    maxLength=253,  # RFC 1035, 2.3.4, as text
)
mtu = Check("a number of bytes from 68 to 65535, such as 1500", minimum=68, maximum=65535)  # 68: RFC 791
url = Check(
    "a URL such as https://mirror.example.org/debian, without a user's name (credentials belong in apt's auth.conf)",
    pattern=r"^(https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(:[0-9]{1,5})?(/[A-Za-z0-9._~%/+:=-]*)?|file:///[A-Za-z0-9._~%/+-]+)$",
    maxLength=2048,
    secret=True,
)
