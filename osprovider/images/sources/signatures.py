"""Lists of checksums, and the OpenPGP signatures that they are trusted for.

Not for: fetching them (:mod:`osprovider.images.sources.fetch`).
Sources: sha256sum(1), "coreutils --tag"; gpgv(1); GnuPG's doc/DETAILS, "Format of the --status-fd output"; RFC 9580, 7
(cleartext signatures), 6 (armor).
"""

from __future__ import annotations

import binascii
import re
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from osprovider.descriptors import in_memory, path_of
from osprovider.errors import ImageError, reason_of
from osprovider.run import run
from osprovider.sandbox import confine

__all__ = ["Checksum", "dearmoured", "find_checksum", "parse_checksum", "verify"]

_HEX_DIGITS = {"md5": 32, "sha1": 40, "sha256": 64, "sha512": 128}
_STRONG = frozenset({"sha256", "sha512"})
_DIGITS = r"[0-9A-Fa-f]{32,128}"
_GNU = re.compile(rf"\\?({_DIGITS})[ \t]+\*?(.+)")
_BSD = re.compile(rf"([\w/-]+) ?\((.+)\) ?= ?({_DIGITS})")
_BARE = re.compile(_DIGITS)
_HEADING = re.compile(r"# *([\w-]+) HASH")

_CLEAR_SIGNED = b"-----BEGIN PGP SIGNED MESSAGE-----"
_ARMOUR = re.compile(
    rb"-----BEGIN PGP PUBLIC KEY BLOCK-----[ \t\r]*\n(.*?)-----END PGP PUBLIC KEY BLOCK-----", re.DOTALL
)

_WEAK_HASHES = {"1": "MD5", "2": "SHA-1", "3": "RIPEMD-160"}  # RFC 9580, 9.5
_BAD = {
    "BADSIG": "the signature is not of this file: it was changed, or is another version's",
    "EXPSIG": "the signature has expired",
    "EXPKEYSIG": "the key has expired: get its renewed form from the publisher",
    "REVKEYSIG": "the key was revoked",
}


@dataclass(frozen=True, slots=True)
class Checksum:
    """What an image's content must have; ``algorithm`` is hashlib's name, ``digits`` are lower case."""

    algorithm: str
    digits: str

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.digits}"


def parse_checksum(text: str) -> Checksum | None:
    """``sha256:DIGITS`` or ``sha512:DIGITS`` of a definition; None where it says where a list is."""
    algorithm, colon, digits = text.partition(":")
    return Checksum(algorithm, digits) if colon and algorithm in _STRONG else None


def find_checksum(text: bytes, name: str, *, where: str) -> Checksum:
    """Look an image up in a list of checksums.

    Args:
        text: the list: as sha256sum(1) writes it, with ``--tag`` or without, or one digest alone; signed or not.
        name: the image's file name.
        where: what messages call the list, a path or URL. A list that is named after the image (``NAME.sha256``) and
            has a single entry is the image's whatever name stands in it, as where a link to the latest build was named.

    Raises:
        ImageError: the image is not in it, is in it twice with different digests, or only with a weak one.
    """
    entries = _entries(text.decode("utf-8-sig", errors="replace"))
    found = {checksum for entry, checksum in entries if entry in (name, f"./{name}", None)}
    if not found:  # as where the list is of a directory further up
        found = {checksum for entry, checksum in entries if entry and entry.rpartition("/")[2] == name}
    if not found and len(entries) == 1 and where.rpartition("/")[2].startswith(f"{name}."):
        found = {entries[0][1]}
    strong = {checksum for checksum in found if checksum.algorithm in _STRONG}
    if not strong and found:
        weak = sorted(checksum.algorithm.upper() for checksum in found)
        raise ImageError(f"{where}: has only {' and '.join(weak)} of {name}, which can be forged: name another list")
    if not strong:
        raise ImageError(f"{where}: {name} is not among its {len(entries)} checksums: correct checksums, or the source")
    best = max(checksum.algorithm for checksum in strong)
    chosen = {checksum for checksum in strong if checksum.algorithm == best}
    if len(chosen) > 1:
        raise ImageError(f"{where}: has {len(chosen)} different {best} checksums of {name}")
    return chosen.pop()


def _entries(text: str) -> list[tuple[str | None, Checksum]]:
    """The list's entries: a file's name, None where there is none, and its digest."""
    entries: list[tuple[str | None, Checksum]] = []
    heading: str | None = None  # of several algorithms, as Gentoo has it
    for each in text.splitlines():
        line = each.strip()
        name: str | None
        wanted = heading
        if match := _HEADING.fullmatch(line):
            heading = match[1].lower()
            continue
        if match := _BSD.fullmatch(line):
            wanted, name, digits = match[1].lower().replace("sha2-", "sha"), match[2], match[3]
        elif match := _GNU.fullmatch(line):
            name, digits = match[2], match[1]
        elif match := _BARE.fullmatch(line):
            name, digits = None, match[0]
        else:
            continue
        for algorithm, length in _HEX_DIGITS.items():
            if len(digits) == length and wanted in {None, algorithm}:
                entries.append((name, Checksum(algorithm, digits.lower())))
    return entries


def verify(text: bytes, signature: bytes | None, keyring: Path, *, where: str) -> tuple[bytes, str]:
    """Check a signature.

    Args:
        text: what was signed, or a text with its signature around it.
        signature: the detached signature, armoured or not; None where ``text`` has it around it.
        keyring: a file of OpenPGP keys, armoured or not, of which one must have signed.
        where: what messages call the signature, a path or URL.

    Returns:
        what was signed, and the fingerprint of who did.

    Raises:
        ImageError: there is no good signature by one of the keys, or a bad one; says which.
    """
    try:
        keys = dearmoured(keyring.read_bytes(), keyring)
    except OSError as error:
        raise ImageError(f"{keyring}: {reason_of(error)}; put the publisher's keys there") from error
    if signature is None and _CLEAR_SIGNED not in text:
        raise ImageError(f"{where}: no OpenPGP signature: correct signature")
    with ExitStack() as stack:
        ring, *files = [
            stack.enter_context(in_memory("signed", data))
            for data in (keys, *([] if signature is None else [signature]), text)
        ]
        said = stack.enter_context(in_memory("said"))
        gpgv = ["gpgv", "--homedir", "/tmp", "--weak-digest", "SHA1", "--status-fd", str(said)]  # noqa: S108 - its own
        output = ["--output", "-"] if signature is None else []
        boxed = confine([*gpgv, "--keyring", path_of(ring), *output, *map(path_of, files)])
        done = run(boxed, check=False, timeout=60, pass_fds=[ring, *files, said])
        with open(said, "rb", closefd=False) as file:
            file.seek(0)
            status = file.read().decode(errors="replace")
        if not status and done.status:
            raise ImageError(f"{where}: gpgv did not check it: {done.stderr.decode(errors='replace').strip()}")
        fingerprint = _judge(status, keyring, where)
    return (done.stdout if signature is None else text), fingerprint


def _judge(status: str, keyring: Path, where: str) -> str:
    """Read gpgv's status lines; returns the fingerprint of the key that signed well."""
    good = None
    missing = []
    for line in status.splitlines():
        words = line.split()
        if len(words) < 2 or words[0] != "[GNUPG:]":
            continue
        if words[1] in _BAD:
            raise ImageError(f"{where}: {_BAD[words[1]]} (key {words[2]})")
        if words[1] == "VALIDSIG":
            if weak := _WEAK_HASHES.get(words[9]):
                raise ImageError(f"{where}: signed over {weak}, which can be forged (key {words[2]})")
            good = words[-1]
        elif words[1] == "ERRSIG" and words[7] != "9":
            raise ImageError(
                f"{where}: the signature cannot be checked: over a hash that can be forged, or made in the future by "
                f"this node's clock (key {words[2]})"
            )
        elif words[1] == "NO_PUBKEY":
            missing.append(words[2])
    if good is None:
        what = f"signed by {', '.join(missing)}, and {keyring} has no such key" if missing else "no OpenPGP signature"
        raise ImageError(f"{where}: {what}: correct signature or keyring, or put the publisher's key there")
    return good


def dearmoured(keys: bytes, path: Path) -> bytes:
    """A keyring as gpgv(1) takes it, which reads no armour (RFC 9580, 6.2).

    Args:
        keys: the ring, armoured or not.
        path: the file that it is from, for messages.

    Raises:
        ImageError: the armour is damaged, or of something else.
    """
    if b"-----BEGIN PGP " not in keys:
        return keys
    packets = b""
    for block in _ARMOUR.findall(keys):
        lines = [line.strip() for line in block.splitlines()]
        body = lines[lines.index(b"") + 1 :] if b"" in lines[:-1] else lines  # behind the headers
        try:
            packets += binascii.a2b_base64(
                b"".join(line for line in body if not line.startswith(b"=")), strict_mode=True
            )
        except binascii.Error as error:
            raise ImageError(f"{path}: damaged armour: {error}; export the keys again") from error
    if not packets:
        raise ImageError(f"{path}: holds no public keys; export them again (gpg --export)")
    return packets
