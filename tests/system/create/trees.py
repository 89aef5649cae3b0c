"""What two installed systems have in common: everything but what is new with each, and times.

Not for: reading a disk (:mod:`tests.system.create.cloud`).
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

__all__ = ["RANDOM", "Tree", "differences", "tree_of"]

Tree = dict[str, object]
"""What is to be seen of each file but times, by path."""

RANDOM = {
    *(f"etc/ssh/ssh_host_{kind}_key{suffix}" for kind in ("rsa", "ecdsa", "ed25519") for suffix in ("", ".pub")),
    "var/lib/systemd/random-seed",
    "loader/random-seed",
    "etc/osprovider.json",
}
"""New with every installation, or told the time of it."""


def tree_of(root: Path) -> Tree:
    """All files beneath a directory, with their owners, modes, links, attributes and contents."""
    found: Tree = {}
    for directory, names, files in os.walk(root):
        for name in (*names, *files):
            path = Path(directory, name)
            status = path.lstat()
            content = ""
            if stat.S_ISLNK(status.st_mode):
                content = str(path.readlink())
            elif stat.S_ISREG(status.st_mode):
                content = hashlib.sha256(path.read_bytes()).hexdigest()
            shown = str(path.relative_to(root))
            attributes = {key: os.getxattr(path, key, follow_symlinks=False) for key in _attributes(path)}
            links = status.st_nlink
            facts = (status.st_mode, status.st_uid, status.st_gid, status.st_rdev, links, attributes)
            found[shown] = (*facts, "" if shown in RANDOM else content)
    return found


def _attributes(path: Path) -> list[str]:
    return os.listxattr(path, follow_symlinks=False)


def differences(one: Tree, other: Tree) -> dict[str, tuple[object, object]]:
    """What is not the same in two trees, by path, with both."""
    both = {path: (one.get(path), other.get(path)) for path in one.keys() | other.keys()}
    return {path: pair for path, pair in both.items() if pair[0] != pair[1]}
