"""Sites that capture disks, and disks that are captured.

Not for: instances as they are installed (``test_instances``).
"""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support.sparse import sparse_file
from tests.support.template import CHECKOUT, copy_cache, shared_cache
from tests.system.create.site import Site

__all__ = ["GIB", "KINDS", "LESS", "SECRET", "digest_of", "in_mount", "own_site", "small_system", "started"]

GIB = 1 << 30
KINDS = ("tar", "qcow2")
SECRET = "a line that only this instance knows"
LESS = """
rm -r root/usr/lib/modules root/usr/lib/udev root/usr/share/{doc,locale,man}
for file in root/boot/{vmlinuz,initrd.img}-*; do echo unpacked in no time >$file; done
fstrim root
"""
"""Takes out more than half of a Debian that is captured and not booted: an emulated machine packs it, or looks at it.

For bash, in a file system that is mounted at ``root``.
"""


@contextmanager
def own_site(run_directory: Path) -> Iterator[Site]:
    """A site with a cache of its own, in which the template of debian-12 is ready."""
    shared = shared_cache(run_directory)
    with tempfile.TemporaryDirectory(dir=run_directory) as name:
        cache = copy_cache(shared, Path(name) / "cache")
        (Path(name) / "site").mkdir()
        yield Site(Path(name) / "site", cache)


def in_mount(image: Path, commands: str, options: str = "loop") -> None:
    """Run shell commands where `image` is mounted at ``root``, in namespaces of their own."""
    mount = f'mount -t tmpfs none /mnt; cd /mnt; mkdir root; mount -o {options} "$0" root;'
    script = f"set -o errexit -o pipefail; {mount} {commands}\numount root"
    words = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "bash", "-c", script, str(image)]
    subprocess.run(words, check=True, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"})


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def small_system(path: Path, make: Sequence[str], *, size: int = 400 << 20, commands: str = "") -> None:
    """A file system with as much of a system as it takes to be one."""
    sparse_file(path, size)
    subprocess.run([*make, path], check=True, capture_output=True)
    system = "mkdir -p root/etc root/usr/bin root/var/log; echo 'ID=own\nPRETTY_NAME=Own' >root/etc/os-release; "
    in_mount(path, f"{system} echo old >root/etc/machine-id; echo log >root/var/log/x.1; {commands}")


def started(site: Site, disk: Path, name: str, *words: str, until: str) -> subprocess.Popen[str]:
    """A capture that has come to a step."""
    process = subprocess.Popen(
        [CHECKOUT / "tools" / "osprovider", "image", "capture", disk, "--name", name, *words],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **site.directories()},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    said = ""
    while until not in said:
        more = process.stdout.read(1)
        assert more, said
        said += more
    return process
