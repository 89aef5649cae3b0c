"""A guest as ssh reaches it: commands run in it, and waiting until it answers.

The guest's host key is new with every installation, and the way to it is a loopback port or a namespace of the test's
own, so host keys are neither checked nor remembered.

Not for: the nodes of a test cluster; their commands run by nsenter.
"""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["SshTarget", "make_key"]


@dataclass(frozen=True, slots=True)
class SshTarget:
    """Where and how to log in.

    Attributes:
        host: address.
        key: private key file.
        port: TCP port.
        user: whom to log in as.
        prefix: an argv that the ssh client runs under, such as an nsenter into the namespace that has the way.
    """

    host: str
    key: Path
    port: int = 22
    user: str = "root"
    prefix: tuple[str, ...] = ()

    def command(self) -> list[str]:
        """Return the argv that opens a shell in the guest."""
        options = {
            "BatchMode": "yes",
            "ConnectTimeout": "30",
            "IdentitiesOnly": "yes",
            "LogLevel": "ERROR",
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": "/dev/null",
        }
        return [
            *self.prefix,
            *["ssh", "-F", "none", "-i", str(self.key), "-p", str(self.port), "-l", self.user],
            *[word for name, value in options.items() for word in ("-o", f"{name}={value}")],
            self.host,
        ]

    def run(self, argv: Sequence[str], *, timeout: float = 600, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `argv` in the guest, its words kept as they are.

        Args:
            argv: program and arguments.
            timeout: seconds; an emulated guest takes several for the key exchange alone.
            check: raise where the exit code is not 0.

        Raises:
            subprocess.CalledProcessError, subprocess.TimeoutExpired: it failed, or took too long.
        """
        return subprocess.run(
            [*self.command(), "--", shlex.join(argv)],
            check=check,
            timeout=timeout,
            text=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
        )

    def wait(self, timeout: float, *, is_alive: Callable[[], bool] = lambda: True) -> None:
        """Wait until a login succeeds.

        Args:
            timeout: seconds.
            is_alive: asked between attempts; where it says no, waiting is of no use.

        Raises:
            TimeoutError: with what ssh said last.
        """
        end = time.monotonic() + timeout
        said = "never tried"
        while is_alive() and time.monotonic() < end:
            try:
                attempt = self.run(["true"], check=False, timeout=max(1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                break
            if attempt.returncode == 0:
                return
            said = attempt.stderr.strip()
            time.sleep(1)
        message = f"{self.user}@{self.host} port {self.port} lets nobody in; ssh says: {said}"
        raise TimeoutError(message)


def make_key(path: Path) -> str:
    """Make a key pair, the private key at `path`, and return the public key's line (``ssh-ed25519 AAAA… test``)."""
    arguments = ["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(path)]
    subprocess.run(["ssh-keygen", *arguments], check=True, stdin=subprocess.DEVNULL)
    return path.with_name(f"{path.name}.pub").read_text().strip()
