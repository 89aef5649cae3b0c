"""Which features of a file system a guest knows, by its age: its kernel, its own checker, and its GRUB.

What this node's mkfs can make, a guest of ten years ago cannot check, mount or boot from. So each feature that came
late has here the first release of each distribution that knows it with all three. Who is not listed, and who gives no
version (Debian's testing, Arch), is taken for new. What has no os-release(5) at all is older than 2012.

- ``metadata_csum``: e2fsprogs 1.43. Debian 8 (1.42.12), Ubuntu 16.04 (1.42.13: https://bugs.launchpad.net/bugs/1601997),
  CentOS 7 and Amazon Linux 2 (1.42.9) check no file system that has it. GRUB and kernels older than it read on.
- ``64bit``: e2fsprogs 1.42. Debian 6 and CentOS 6 (both 1.41.12), Ubuntu 10.04 (1.41.11) have the kernel alone.
- ``reflink``: an experiment until Linux 4.16; RHEL has it in 8. ``sparse``: Linux 4.2, but GRUB 2.04, and RHEL 8's
  2.02 (GRUB's commit cda0a857dd: such an xfs was unknown before). ``bigtime`` and ``inobtcount``: Linux 5.10, GRUB
  2.06.
- ``free-space-tree``, of btrfs: Linux 4.5, and sound since 4.9.

All that an ext3 or ext2 of ours has is older than any of them. The distributions that come with this project know all.
Sources: ext4(5), xfs(5), btrfs(5), xfsprogs' mkfs/lts_*.conf; the releases' own lists of packages.
Not for: making file systems (:mod:`osprovider.disk.filesystem`, :mod:`osprovider.disk.fill`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from osprovider.manifest import Distribution

__all__ = ["unknown_to"]

_FEATURES: Mapping[str, tuple[str, ...]] = {
    "ext4": ("metadata_csum", "64bit"),
    "xfs": ("bigtime", "inobtcount", "reflink", "sparse"),
    "btrfs": ("free-space-tree",),
}

_FAMILIES: Mapping[str, str] = {
    "debian": "debian",
    "ubuntu": "ubuntu",
    **dict.fromkeys(("rhel", "centos", "rocky", "almalinux", "ol", "scientific"), "rhel"),
    **dict.fromkeys(("opensuse-leap", "sles"), "suse"),
    "opensuse": "opensuse",  # up to Leap 42
    "fedora": "fedora",
    "amzn": "amazon",
}

_NEITHER = {"opensuse": (43,), "amazon": (2023,)}
_LINUX_5_10 = {"debian": (11,), "ubuntu": (22, 4), "rhel": (9,), "suse": (15, 4), "fedora": (34,), **_NEITHER}
_GRUB_2_04 = {"debian": (11,), "ubuntu": (20, 4), "rhel": (8,), "suse": (15, 2), "fedora": (31,), **_NEITHER}
_SINCE: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    "64bit": {"debian": (7,), "ubuntu": (12, 4), "rhel": (7,)},
    "metadata_csum": {"debian": (9,), "ubuntu": (18, 4), "rhel": (8,), "suse": (15,), **_NEITHER},
    "reflink": {"debian": (10,), "ubuntu": (20, 4), "rhel": (8,), "suse": (15, 2), **_NEITHER},
    "sparse": _GRUB_2_04,
    "bigtime": _LINUX_5_10,
    "inobtcount": _LINUX_5_10,
    "free-space-tree": {"debian": (9,), "ubuntu": (18, 4), "rhel": (8,), "suse": (15,), **_NEITHER},
}
_NAMELESS = "linux"  # what os-release(5) has a system be that does not say, or has no such file


def unknown_to(distribution: Distribution, filesystem: str) -> frozenset[str]:
    """The features that a guest does not know, of those that a file system would get here.

    Args:
        distribution: the guest's.
        filesystem: its type.

    Returns:
        names as the file system's mkfs has them; none for a guest that knows all.
    """
    return frozenset(name for name in _FEATURES.get(filesystem, ()) if not _knows(distribution, name))


def _knows(distribution: Distribution, feature: str) -> bool:
    if distribution.id == _NAMELESS:
        return False
    since = _SINCE[feature].get(_FAMILIES.get(distribution.id, ""))
    version = tuple(map(int, re.findall(r"\d+", distribution.version_id)[:2]))
    return since is None or not version or version >= since
