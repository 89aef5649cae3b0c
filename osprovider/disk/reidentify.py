"""Whatever names a file system or partition by what it was called in the image follows it to its new name.

An image's own files do: fstab, crypttab, mount units, GRUB's menus and their stubs on the EFI system partition, boot
loader entries, the kernel's command line, the initramfs' resume device. Only whole names are replaced, so doing it
twice changes nothing. A file that cannot be read is kept, and told of.
Not for: the UUIDs themselves (:mod:`osprovider.guest.appliance`), nor files that hooks write anew.
Sources: fstab(5), crypttab(5), systemd.mount(5), the Boot Loader Specification, grub-mkconfig's 10_linux,
initramfs-tools(7).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from osprovider.errors import GuestError
from osprovider.guest.protocol import Guest
from osprovider.images.manifest import ImageTable
from osprovider.layout import TablePlan, msdos_partition_uuid
from osprovider.log import reporter

__all__ = ["new_names", "rewrite"]

_FILES = (
    "/etc/fstab",
    "/etc/crypttab",
    "/etc/kernel/cmdline",
    "/etc/default/grub",
    "/etc/default/grub.d/*",
    "/etc/grub.d/*",
    "/etc/initramfs-tools/conf.d/*",
    "/etc/dracut.conf.d/*",
    "/etc/systemd/system/*.mount",
    "/etc/systemd/system/*.swap",
    "/etc/extlinux.conf",
    "/etc/update-extlinux.conf",
    *(
        f"{directory}/{names}"
        for directory in ("/boot/grub", "/boot/grub2")
        for names in ("grub.cfg", "grub.conf", "custom.cfg", "load.cfg", "*/load.cfg", "grubenv")
    ),
    "/boot/extlinux/*.conf",
    "/boot/extlinux.conf",
    "/boot/syslinux/*.cfg",
    "/boot/loader/entries/*.conf",
    *(
        f"{esp}/{names}"
        for esp in ("/boot/efi", "/efi", "/boot")
        for names in ("EFI/*/*.cfg", "EFI/*/grubenv", "loader/entries/*.conf", "grub/grub.cfg")
    ),
)
"""Where names of file systems and partitions stand in a guest."""

_WORD = "0-9A-Za-z"


def new_names(image: ImageTable, table: TablePlan) -> dict[str, str]:
    """What each name of the image's became: file systems' UUIDs, partitions' GUIDs.

    Args:
        image: the image's table.
        table: the instance's.
    """
    # An msdos table's signature by itself is named nowhere, and eight digits are often something else.
    names = {image.id: table.guid} if image.type == "gpt" else {}
    planned = {part.number: part for part in table.partitions}
    for part in image.partitions:
        now = planned[part.number]
        names[part.guid or msdos_partition_uuid(image.id, part.number)] = now.guid
        if part.filesystem is not None and part.filesystem.uuid and now.filesystem_uuid:
            names[part.filesystem.uuid] = now.filesystem_uuid
    return names


def rewrite(guest: Guest, names: Mapping[str, str]) -> int:
    """Have a guest's files say the new names.

    Args:
        guest: all its file systems mounted.
        names: old names and new ones.

    Returns:
        how many files changed.

    Raises:
        GuestError: a file cannot be written.
    """
    by_old = {old.lower(): new for old, new in names.items() if old and old.lower() != new.lower()}
    if not by_old:
        return 0
    old_names = "|".join(re.escape(old) for old in sorted(by_old, key=len, reverse=True))
    pattern = re.compile(f"(?<![{_WORD}])({old_names})(?![{_WORD}])", re.IGNORECASE)
    changed = 0
    for path in dict.fromkeys(found for glob in _FILES for found in guest.glob(glob)):
        if guest.is_directory(path) or guest.is_symlink(path):
            continue
        try:
            text = guest.read_text(path)
        except GuestError as error:
            reporter.warning(f"{error}; if it names the image's UUIDs, it still does")
            continue
        new = pattern.sub(lambda match: by_old[match[1].lower()], text)
        if new != text:
            guest.write(path, new)
            changed += 1
    return changed
