"""What a system knows of the disk that it was on, taken out of a tree that was unpacked from an archive.

The archive of an installed system brings a GRUB menu and an fstab(5) that name file systems and partitions which stayed
behind: its kernel would wait for a root that never comes, and its init for whatever else was mounted. Deployment writes
the lines of the root and the EFI system partition, and a menu, of its own.
Not for: disk images, whose file systems come along; what makes an instance unique (the hooks).
"""

from __future__ import annotations

import re

from osprovider.guest.protocol import Guest
from osprovider.guest.text import split_lines

__all__ = ["detach"]

_MENUS = ("/boot/grub/grub.cfg", "/boot/grub2/grub.cfg", "/boot/grub/device.map", "/boot/grub2/device.map")
_FSTAB = "/etc/fstab"

# A file system on a disk, as fstab(5) names it; not a network's, a virtual one, or a file.
_LEFT_BEHIND = re.compile(r"(?:(?:PART)?(?:UUID|LABEL)=|/dev/(?!fd|sr|cdrom|shm))\S*")


def detach(guest: Guest) -> tuple[str, ...]:
    """Take out what names the disk that a system was on.

    Args:
        guest: the tree.

    Returns:
        the lines of its fstab that are gone.

    Raises:
        GuestError: the file system refuses.
    """
    for path in _MENUS:
        guest.remove(path)
    if not guest.exists(_FSTAB):
        return ()
    lines = split_lines(guest.read_text(_FSTAB))
    gone = tuple(line for line in lines if (words := line.split()) and _LEFT_BEHIND.fullmatch(words[0]))
    if gone:
        guest.write(_FSTAB, "".join(f"{line}\n" for line in lines if line not in gone))
    return gone
