"""What a system knows of the disk that it was on, taken out of a tree that was unpacked from an archive.

The archive of an installed system brings a GRUB menu, an fstab(5) and a crypttab(5) that name file systems and
partitions which stayed behind: its kernel would wait for a root that never comes, and its init for whatever else was
mounted or decrypted. Deployment writes the lines of the root and the EFI system partition, and a menu, of its own.
Not for: disk images, whose file systems come along; what makes an instance unique (the hooks).
"""

from __future__ import annotations

import re

from osprovider.guest import fstab
from osprovider.guest.protocol import Guest
from osprovider.guest.text import split_lines

__all__ = ["detach"]

_MENUS = ("/boot/grub/grub.cfg", "/boot/grub2/grub.cfg", "/boot/grub/device.map", "/boot/grub2/device.map")

# A file system on a disk, as fstab(5) names it; not a network's, a virtual one, or a file.
_LEFT_BEHIND = re.compile(r"(?:(?:PART)?(?:UUID|LABEL)=|/dev/(?!(?:fd|sr)\d|cdrom|shm))\S*")

_CRYPTTAB = "/etc/crypttab"
_DECRYPTED = re.compile(rf"\s*[^\s#]\S*\s+{_LEFT_BEHIND.pattern}(?!\S)")


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
    _decrypt_nothing(guest)
    if not guest.exists(fstab.PATH):
        return ()
    text = guest.read_text(fstab.PATH)
    gone = [line.number for line in fstab.lines(text) if _LEFT_BEHIND.fullmatch(line.device)]
    if gone:
        guest.write(fstab.PATH, fstab.without(text, gone))
    lines = split_lines(text)
    return tuple(lines[number - 1] for number in gone)


def _decrypt_nothing(guest: Guest) -> None:
    """Take the lines of what stayed behind out of crypttab(5)."""
    if guest.exists(_CRYPTTAB):
        before = split_lines(guest.read_text(_CRYPTTAB))
        after = [line for line in before if not _DECRYPTED.match(line)]
        if after != before:
            guest.write(_CRYPTTAB, "".join(f"{line}\n" for line in after))
