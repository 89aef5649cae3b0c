"""Programs that not every node needs: missing ones are said before they are started, with the package to install.

Not for: running them (:mod:`osprovider.run`).
"""

from __future__ import annotations

import shutil

from osprovider import run
from osprovider.errors import NodeError

__all__ = ["is_installed", "require"]

_PACKAGES = {
    "btrfs": "btrfs-progs",
    "btrfstune": "btrfs-progs",
    "bwrap": "bubblewrap",
    "mcopy": "mtools",
    "mdeltree": "mtools",
    "mmd": "mtools",
    "pzstd": "zstd",
    "qemu-img": "qemu-utils",
    "xfs_admin": "xfsprogs",
    "xfs_growfs": "xfsprogs",
    "xfs_logprint": "xfsprogs",
    "xz": "xz-utils",
}
"""Of Debian; a program that is not here has a package of its own name."""


def is_installed(program: str) -> bool:
    """Is there a program of this name."""
    return shutil.which(program, path=run.BASE_ENVIRONMENT["PATH"]) is not None


def require(*programs: str, what: str) -> None:
    """See that programs are installed.

    Args:
        programs: their names.
        what: the file that needs them, for the message.

    Raises:
        NodeError: one is missing; names its package.
    """
    for program in programs:
        if not is_installed(program):
            package = _PACKAGES.get(program, program)
            raise NodeError(f"{what}: {program}, which this needs, is missing; apt install {package}")
