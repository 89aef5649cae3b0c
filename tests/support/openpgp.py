"""OpenPGP keys and signatures as publishers make them, by gpg(1), with a keyring of the test's own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Keys", "making_keys"]


@dataclass(frozen=True, slots=True)
class Keys:
    """Secret keys, by their names.

    Attributes:
        home: gpg's directory.
    """

    home: Path

    def gpg(self, *words: str | Path, at: str | None = None) -> bytes:
        """Run gpg, as if it was midnight on day `at` (``20200101``); returns what it prints."""
        when = [f"--faked-system-time={at}T000000!"] if at else []
        command: list[str | Path] = ["gpg", "--homedir", self.home, "--batch", "--yes", "--quiet", *when]
        command += ["--pinentry-mode=loopback", "--passphrase="]
        return subprocess.run([*command, *words], check=True, capture_output=True).stdout

    def make(self, name: str, *, expires: str = "never", at: str | None = None) -> str:
        """Make a key that signs; returns its fingerprint."""
        self.gpg("--quick-generate-key", f"{name} <{name}@example.org>", "ed25519", "sign", expires, at=at)
        return self.fingerprint(name)

    def fingerprint(self, name: str) -> str:
        """The fingerprint of a key."""
        lines = self.gpg("--with-colons", "--list-keys", f"<{name}@example.org>").decode().splitlines()
        return next(line.split(":")[9] for line in lines if line.startswith("fpr:"))

    def revoke(self, name: str) -> None:
        """Revoke a key, by the certificate that gpg makes with it."""
        certificate = self.home / "openpgp-revocs.d" / f"{self.fingerprint(name)}.rev"
        text = certificate.read_text().replace("\n:-----BEGIN", "\n-----BEGIN")
        certificate.write_text(text)
        self.gpg("--import", certificate)

    def export(self, *names: str, armour: bool = False) -> bytes:
        """The public keys of those names, or all."""
        return self.gpg(*(["--armor"] if armour else []), "--export", *(f"<{name}@example.org>" for name in names))

    def sign(self, file: Path, *names: str, how: str = "--detach-sign", options: tuple[str, ...] = ()) -> bytes:
        """Sign a file by the keys of those names: ``--detach-sign`` or ``--clearsign``; returns what came of it."""
        by = [f"--local-user=<{name}@example.org>" for name in names]
        return self.gpg(*by, *options, "--output", "-", how, file)


@contextmanager
def making_keys(home: Path) -> Iterator[Keys]:
    """Keys in a directory that is made; gpg's agent is gone afterwards."""
    home.mkdir(mode=0o700)
    try:
        yield Keys(home)
    finally:
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=True)
