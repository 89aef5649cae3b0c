"""Whatever names a file system or partition by what it was called in the image follows it to its new name.

An image's own files do: fstab, crypttab, systemd's units and their names, GRUB's menus, environment and stubs on the
EFI system partition, boot loader entries, the kernel's command line, the initramfs' resume device; and a GRUB for UEFI
that has the UUID of its file system built in (grub-install does that where there is no signed one). A file that cannot
be read or changed is kept, and told of.
Not for: the UUIDs themselves (:mod:`osprovider.guest.appliance_process`), how names are spelt
(:mod:`osprovider.disk.renaming`), files that hooks write anew; nor for what lies within an initramfs.
Sources: systemd.mount(5), systemd.swap(5), the Boot Loader Specification, grub-mkconfig's 10_linux, grub-install.c,
initramfs-tools(7), bootctl(1) ("random-seed").
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from osprovider.disk.renaming import NewNames, Renaming, is_signed
from osprovider.errors import GuestError
from osprovider.guest import fstab
from osprovider.guest.protocol import Guest
from osprovider.layout import TablePlan, msdos_partition_uuid
from osprovider.log import plain, reporter
from osprovider.manifest import Manifest

__all__ = ["renaming", "rewrite"]

_ESP = ("/boot/efi", "/efi", "/boot")
_EFI = "[eE][fF][iI]"  # a FAT has it in any case, and mounted without the kernel it minds the case
_GRUB = ("/boot/grub", "/boot/grub2")
_UNITS = "/etc/systemd/system"

_TEXTS = (
    "/etc/kernel/cmdline",
    "/etc/cmdline.d/*",
    "/etc/default/grub",
    "/etc/default/grub.d/*",
    "/etc/grub.d/*",
    "/etc/initramfs-tools/initramfs.conf",
    "/etc/dracut.conf.d/*",
    "/etc/extlinux.conf",
    "/etc/update-extlinux.conf",
    *(f"{directory}/{names}" for directory in _GRUB for names in ("*.cfg", "grub.conf", "menu.lst", "*/load.cfg")),
    "/boot/extlinux/*.conf",
    "/boot/extlinux.conf",
    "/boot/syslinux/*.cfg",
    *(
        f"{esp}/{names}"
        for esp in _ESP
        for names in (f"{_EFI}/*/*.cfg", f"{_EFI}/*/*.conf", "loader/*.conf", "loader/entries/*.conf", "grub/grub.cfg")
    ),
)
_ENVIRONMENTS = (
    *(f"{directory}/grubenv" for directory in _GRUB),
    *(f"{esp}/{names}" for esp in _ESP for names in (f"{_EFI}/*/grubenv", "grub/grubenv")),
)
_PROGRAMS = (
    *(f"{directory}/*/{name}.efi" for directory in _GRUB for name in ("core", "grub")),
    *(f"{esp}/{_EFI}/*/*.{_EFI}" for esp in _ESP),
)
_MOST_SAID = 5  # of one file
_MOST_FILES = 1000  # in one place; a distribution has a hundred where it has most
_BESIDE_SIGNED = ("shim", "mm", "fb")  # shim, its MokManager and its fallback
_SEEDS = tuple(f"{esp}/loader/random-seed" for esp in _ESP)
_SEED_BYTES = 512  # systemd-boot takes from 32 on


def renaming(manifest: Manifest, table: TablePlan) -> Renaming:
    """What each name of an image's became, and what its partitions are called now.

    Args:
        manifest: the image's.
        table: the instance's.
    """
    image = manifest.table
    has_initrd = all(kernel.initrd for kernel in manifest.kernels)
    if image is None:
        root = table.find("root")
        words = {manifest.filesystem.uuid: root.filesystem_uuid} if root and root.filesystem_uuid else {}
        return Renaming(words, {}, has_initrd=has_initrd)
    # An msdos table's signature by itself is named nowhere, and eight digits are often something else.
    words = {image.id: table.guid} if image.type == "gpt" else {}
    planned = {part.number: part for part in table.partitions}
    for part in image.partitions:
        now = planned[part.number]
        words[part.guid or msdos_partition_uuid(image.id, part.number)] = now.guid
        if part.filesystem is not None and part.filesystem.uuid:
            words[part.filesystem.uuid] = now.filesystem_uuid or part.filesystem.uuid
    partitions = {part.number: NewNames(part.filesystem_uuid, part.guid) for part in table.partitions}
    return Renaming(words, partitions, has_initrd=has_initrd)


def rewrite(guest: Guest, names: Renaming) -> int:
    """Have a guest's files say the new names.

    Args:
        guest: all its file systems mounted.
        names: old names and new ones.

    Returns:
        how many files changed.

    Raises:
        GuestError: a file cannot be written.
    """
    if names.is_empty:
        return 0
    changed = _rewrite_fstab(guest, names)
    changed += _rewrite_each(guest, _found(guest, "/etc/crypttab"), names.crypttab)
    changed += _rewrite_each(guest, _found(guest, *_TEXTS), names.text)
    changed += _rewrite_resume(guest, names)
    changed += sum(_rewrite_environment(guest, path, names) for path in _found(guest, *_ENVIRONMENTS))
    changed += sum(_rewrite_program(guest, path, names) for path in _programs(guest))
    changed += _rewrite_units(guest, names)
    for path in _found(guest, *_SEEDS):
        guest.write(path, os.urandom(_SEED_BYTES))
    return changed


# -- files ------------------------------------------------------------------------------------------------------------


def _glob(guest: Guest, pattern: str) -> list[str]:
    """The files of a pattern; refused where nobody knows how long it would take to read all of them."""
    paths = guest.glob(pattern)
    if len(paths) > _MOST_FILES:
        raise GuestError(
            f"{pattern} of the guest: more than {_MOST_FILES} files that may name its file systems; "
            "remove from the image what does not belong there"
        )
    return paths


def _found(guest: Guest, *patterns: str) -> list[str]:
    """The files that there are, each once; a link that dangles is none."""
    paths = dict.fromkeys(path for pattern in patterns for path in _glob(guest, pattern))
    return [path for path in paths if guest.exists(path) and not guest.is_directory(path)]


def _read(guest: Guest, path: str) -> bytes | None:
    """A file's content; None, and a warning, where it has none that can be read."""
    try:
        return guest.read(path)
    except GuestError as error:
        reporter.warning(f"{error}; if it names the image's UUIDs, it still does")
        return None


def _put(guest: Guest, path: str, before: bytes, after: bytes) -> bool:
    if after == before:
        return False
    guest.write(path, after)
    return True


def _rewrite_each(guest: Guest, paths: Iterable[str], change: Callable[[str], str]) -> int:
    changed = 0
    for path in paths:
        before = _read(guest, path)
        if before is not None:
            after = change(before.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
            changed += _put(guest, path, before, after)
    return changed


def _rewrite_fstab(guest: Guest, names: Renaming) -> int:
    said: list[str] = []

    def change(text: str) -> str:
        after, problems = names.fstab(text)
        said.extend(problems)
        return after

    changed = _rewrite_each(guest, _found(guest, fstab.PATH), change)
    for problem in said[:_MOST_SAID]:
        reporter.warning(f"/etc/fstab of the guest: {plain(problem)}; it is kept")
    if len(said) > _MOST_SAID:
        reporter.warning(f"/etc/fstab of the guest: so it is with {len(said) - _MOST_SAID} more lines")
    return changed


def _rewrite_resume(guest: Guest, names: Renaming) -> int:
    """What an initramfs has been told to resume from, which it has within itself as well."""
    changed = _rewrite_each(guest, _found(guest, "/etc/initramfs-tools/conf.d/*"), names.text)
    if changed:
        reporter.warning(
            "the guest's initramfs was made to resume from the image's swap, and waits for it at each boot until it is "
            "made anew (update-initramfs -u): set boot.kernel_args: [noresume]"
        )
    return changed


def _rewrite_environment(guest: Guest, path: str, names: Renaming) -> bool:
    block = _read(guest, path)
    if block is None:
        return False
    try:
        return _put(guest, path, block, names.environment_block(block))
    except ValueError as error:
        reporter.warning(f"{path} of the guest is kept, and names the image's disk: {error}")
        return False


def _programs(guest: Guest) -> list[str]:
    """Programs for UEFI that may have a UUID built in; not beside a shim, which starts nothing that was made here.

    An emulated appliance reads 6 MB in a second, and distributions have a dozen of signed ones.
    """
    found = _found(guest, *_PROGRAMS)
    names = {path: path.rpartition("/") for path in found}
    signed = {directory for directory, _, name in names.values() if name.lower().startswith(_BESIDE_SIGNED)}
    return [path for path in found if names[path][0] not in signed]


def _rewrite_program(guest: Guest, path: str, names: Renaming) -> bool:
    program = _read(guest, path)
    if program is None or (after := names.program(program)) == program:
        return False
    if is_signed(program):
        reporter.warning(f"{path} of the guest is kept, and names the image's disk: it is signed")
        return False
    return _put(guest, path, program, after)


# -- units ------------------------------------------------------------------------------------------------------------


def _rewrite_units(guest: Guest, names: Renaming) -> int:
    """Units by their contents; and by their names those that are called like a device: swap's, and drop-ins for any.

    A link in a ``.wants`` directory wants what its name says; where it points to does not count.
    """
    links = [path for kind in ("wants", "requires") for path in _glob(guest, f"{_UNITS}/*.{kind}/*")]
    own = [path for path in _found(guest, f"{_UNITS}/*", f"{_UNITS}/*.d/*") if not guest.is_symlink(path)]
    changed = _rewrite_each(guest, own, names.unit)
    for path in own:
        if (new := _renamed(path, names)) != path and (unit := _read(guest, path)) is not None:
            guest.write(new, unit)
            guest.remove(path)
            changed += 1
    for path in links:
        if (new := _renamed(path, names)) != path:
            guest.symlink(f"../{new.rpartition('/')[2]}", new)
            guest.remove(path)
            changed += 1
    for directory in _glob(guest, f"{_UNITS}/dev-*.*"):
        if guest.is_directory(directory) and _renamed(directory, names) != directory:
            guest.remove(directory)  # what was in it has moved
    return changed


def _renamed(path: str, names: Renaming) -> str:
    return "/".join([_UNITS, *map(names.unit_name, path.removeprefix(f"{_UNITS}/").split("/"))])
