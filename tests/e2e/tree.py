"""The tree that every node of a test cluster runs on: Debian 12 with Ganeti, built once a run.

Not for: anything that differs between nodes; that is written to each node's overlay.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.support.containers import run_in_tree
from tests.support.debian import lay_debian
from tests.support.runs import locked
from tests.support.ssh import make_key
from tests.support.template import IMAGE, shared_cache

__all__ = ["NodeTree", "build_node_tree", "shared_node_tree"]

# dump, fuse2fs, python3-guestfs and qemu-utils are recommended; libguestfs makes its appliance of the kernel.
_PACKAGES = (
    "dump",
    "fuse2fs",
    "ganeti",
    "ganeti-os-noop",
    "ganeti-testsuite",
    "iproute2",
    "iputils-ping",
    "kmod",
    "linux-image-cloud-amd64",
    "openssh-client",
    "openssh-server",
    "procps",
    "python3-guestfs",
    "qemu-system-x86",
    "qemu-utils",
)


@dataclass(frozen=True, slots=True)
class NodeTree:
    """A finished tree.

    Attributes:
        root: the directory that is a node's root.
        key: the private key that logs in to guests; ``key.pub`` lies beside it.
    """

    root: Path
    key: Path

    @property
    def public_key(self) -> str:
        """The line for an ``authorized_keys``."""
        return self.key.with_name(f"{self.key.name}.pub").read_text().strip()


def build_node_tree(directory: Path, packages: Sequence[Path] = ()) -> NodeTree:
    """Build a node's tree, from the package mirrors and from `packages`.

    All nodes have the same ssh host keys, as Ganeti has it, and root may log in from one to the other.

    Args:
        directory: an existing directory, where ``root`` and the keys are put.
        packages: further Debian packages (files).
    """
    root = directory / "root"
    lay_debian(root, _PACKAGES, packages)
    subprocess.run(["ssh-keygen", "-q", "-A", "-f", str(root)], check=True)
    _make_patient(root)
    # RSA is what Ganeti looks for where it has not been told otherwise.
    ssh = root / "root/.ssh"
    ssh.mkdir(mode=0o700, exist_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-N", "", "-C", "root", "-f", str(ssh / "id_rsa")], check=True)
    shutil.copyfile(ssh / "id_rsa.pub", ssh / "authorized_keys")
    make_key(directory / "key")
    return NodeTree(root, directory / "key")


def _make_patient(root: Path) -> None:
    """Have Ganeti wait for a node of a machine whose few processors boot guests meanwhile; by itself it waits 5 s."""
    (constants,) = root.glob("usr/share/ganeti/*/ganeti/_constants.py")
    text, count = re.subn(r"(?m)^RPC_CONNECT_TIMEOUT = 5$", "RPC_CONNECT_TIMEOUT = 60", constants.read_text())
    assert count == 1
    constants.write_text(text)


def shared_node_tree(directory: Path, package: Path) -> NodeTree:
    """Return the tree that all processes of a run use, built by the first of them to ask.

    The template of debian-12 is ready in the tree's cache, for nodes have no way to a mirror.

    Args:
        directory: the run's.
        package: osprovider's Debian package.
    """
    finished = directory / "node-tree"
    with locked(directory / "node-tree.lock"):
        if not finished.exists():
            begun = directory / "node-tree.begun"
            shutil.rmtree(begun, ignore_errors=True)  # of a process whose attempt failed
            begun.mkdir()
            with ThreadPoolExecutor(1) as beside:
                cache = beside.submit(shared_cache, directory)
                root = build_node_tree(begun, [package]).root
            prepared = [cache.result() / name for name in ("history", "templates")]
            target = root / "var/cache/ganeti-osprovider"
            subprocess.run(["cp", "--archive", "--sparse=always", *prepared, target], check=True)
            # The tree's own osprovider has nothing left to do where it takes the template for what it would build.
            run_in_tree(root, ["osprovider", "image", "build", IMAGE], timeout=1800)
            begun.rename(finished)
    return NodeTree(finished / "root", finished / "key")
