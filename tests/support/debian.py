"""Debian trees of the tests' own, laid by mmdebstrap.

Not for: images that osprovider builds (`tests.support.template`).
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

__all__ = ["MORTAL", "lay_debian"]

# mmdebstrap mounts /proc, /sys and more into the tree: in namespaces that end, with every process and mount in them,
# when the thread that started them does (util-linux, setpriv(1)).
MORTAL = (
    *("setpriv", "--pdeathsig", "KILL"),
    *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
)
# None of these systems boots, so no kernel needs an initrd, which takes longer to make than to install the kernel.
_NO_INITRD = "path-exclude=/etc/kernel/postinst.d/initramfs-tools"
_INSTALL = 'chroot "$1" apt-get install --yes --no-install-recommends'


def lay_debian(
    root: Path, include: Sequence[str] = (), packages: Sequence[Path] = (), *, suite: str = "bookworm"
) -> None:
    """Lay a minimal Debian from the package mirrors.

    Args:
        root: the directory that becomes its root; missing.
        include: names of further packages.
        packages: Debian packages (files) that are installed with apt, as a site does it.
        suite: the release's code name; Debian 12's unless told otherwise.
    """
    command = [
        *("mmdebstrap", "--mode=root", "--variant=minbase", "--skip=output/dev"),
        f"--dpkgopt={_NO_INITRD}",
        *([f"--include={','.join(include)}"] if include else []),
        *[f"--customize-hook=copy-in {package} /tmp" for package in packages],
        *[f"--customize-hook={_INSTALL} /tmp/{package.name}" for package in packages],
        *(suite, str(root)),
    ]
    env = {**os.environ, "TMPDIR": str(root.parent)}  # it leaves a directory there where it is killed
    with tempfile.TemporaryFile() as log:
        words = [*MORTAL, *command]
        done = subprocess.run(words, check=False, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env)
        log.seek(0)
        assert done.returncode == 0, log.read().decode(errors="replace")[-4000:]
