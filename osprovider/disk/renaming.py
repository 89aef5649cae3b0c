r"""What a guest's files say of its disk, said with new names: text in, text out.

Only whole names are replaced, so doing it twice changes nothing, and what is between them stays as it was. Names that
a hypervisor or a kernel gives (``/dev/vda1``) become UUIDs, since the next hypervisor's are others. Labels stay: the
file systems and partitions keep them.
Not for: which files these are (:mod:`osprovider.disk.reidentify`).
Sources: fstab(5), crypttab(5), systemd.unit(5) ("STRING ESCAPING FOR INCLUSION IN UNIT NAMES"); GRUB's
grub-core/lib/envblk.c; Linux' block/early-lookup.c (which UUIDs a kernel without an initrd looks up); Microsoft's
PE Format ("Optional Header Data Directories").
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from osprovider.guest import fstab
from osprovider.guest.fstab import NODE

__all__ = ["NewNames", "Renaming", "is_signed"]

# All that may be a name is found by its shape, and looked up then: that takes a tenth of the time of looking for each.
# A short one could be a part of a GUID, but not where it is escaped.
_HEX = "[0-9A-Fa-f]"
_DASH, _ESCAPED_DASH = "-", r"\\x2d"
_SHORT, _SHORT_ESCAPED = (  # what a FAT is called, or a partition of an msdos table
    rf"{_HEX}{{4}}{dash}{_HEX}{{4}}|{_HEX}{{8}}{dash}{_HEX}{{2}}" for dash in (_DASH, _ESCAPED_DASH)
)
_GUID = rf"{_HEX}{{8}}(?:(?:{_DASH}|{_ESCAPED_DASH}){_HEX}{{4}}){{3}}(?:{_DASH}|{_ESCAPED_DASH}){_HEX}{{12}}"
_NAME = rf"(?<![0-9A-Za-z])(?:{_GUID}|(?<!-)(?:{_SHORT})(?!-)|{_SHORT_ESCAPED})(?![0-9A-Za-z])"
_NAME_IN_TEXT, _NAME_IN_PROGRAM = re.compile(_NAME), re.compile(_NAME.encode())

_KERNEL_ARGUMENT = re.compile(rf"(?<![\w.-])((?:root|real_root|resume|ROOT|RESUME)=\\?[\"']?){NODE}")
_WHAT = re.compile(rf"(?m)^([ \t]*What[ \t]*=[ \t]*){NODE}")
_UNIT = re.compile(r"(?<![\w-])dev-(?:[shv]da|xvda|nvme0n1p|mmcblk0p)([1-9][0-9]{0,2})(?=\.)")
_CRYPTTAB = re.compile(rf"(?m)^([^\s#]\S*[ \t]+){NODE}(?=\s)")

_OTHER_NODE = re.compile(r"/dev/(?:(?:[shv]d|xvd|nvme|mmcblk)\w+|disk/by-(?:path|id)/.+)")
_NOT_NEEDED = frozenset({"noauto", "nofail", "_netdev"})

_MOST_SHOWN = 100  # characters
_BLOCK_PADDING = b"#"
_PE_DIRECTORIES = {0x10B: 96, 0x20B: 112}  # where they begin in the optional header of PE32 and PE32+
_PE_CERTIFICATES = 4


@dataclass(frozen=True, slots=True)
class NewNames:
    """What a partition is called now.

    Attributes:
        uuid: its file system's UUID; None where that is not known.
        guid: its PARTUUID.
    """

    uuid: str | None
    guid: str


class Renaming:
    """New names for old ones.

    Args:
        words: old names (UUIDs, GUIDs, volume IDs) and what they became.
        partitions: what each partition is called now, by number.
        has_initrd: the guest's kernels look UUIDs of file systems up; by itself a kernel only knows partitions'.
    """

    def __init__(self, words: Mapping[str, str], partitions: Mapping[int, NewNames], *, has_initrd: bool) -> None:
        self._words = {old.lower(): new for old, new in words.items() if old and old.lower() != new.lower()}
        self._words |= {_escaped(old): _escaped(new) for old, new in self._words.items()}
        own = (name for each in partitions.values() for name in (each.uuid, each.guid) if name)
        self._new = frozenset(name.lower() for name in (*words.values(), *own))
        self._partitions = partitions
        self._has_initrd = has_initrd

    @property
    def is_empty(self) -> bool:
        """Is there nothing to rename."""
        return not self._words and not self._partitions

    def text(self, text: str) -> str:
        """A file that may name anything: a boot loader's menu, settings, the kernel's command line."""
        return _KERNEL_ARGUMENT.sub(self._argument, self._renamed(text))

    def fstab(self, text: str) -> tuple[str, list[str]]:
        """An fstab, and what is to be said of it: lines that are no lines, and file systems that it does not have.

        Comments are texts, too; a line with too few fields stays as it is.
        """
        kept, said = text.split("\n"), []
        entries = {line.number: line for line in fstab.lines(text)}
        for index, before in enumerate(kept):
            line = entries.get(index + 1)
            if line is None:
                kept[index] = self._renamed(before)
            elif not line.is_whole:
                said.append(f"line {line.number} has less than three fields")
            else:
                device = self._device(line.device)
                kept[index] = self._renamed(before.replace(line.device, device, 1))
                is_ours = line.place == "/" and not self._partitions  # it gets a table, and the hook fstab names it
                if not is_ours and self._is_elsewhere(device) and not _NOT_NEEDED & set(line.options):
                    said.append(f"line {line.number} names {line.device[:_MOST_SHOWN]}, which the image does not have")
        return "\n".join(kept), said

    def crypttab(self, text: str) -> str:
        """A crypttab. A partition that is encrypted anew at every boot has no lasting UUID but its own."""
        return _CRYPTTAB.sub(self._encrypted, self._renamed(text))

    def unit(self, text: str) -> str:
        """A unit of systemd's, and other units' names in it."""
        return _WHAT.sub(self._what, _UNIT.sub(self._unit, self.text(text)))

    def unit_name(self, name: str) -> str:
        """The name of a unit's file, which is the device's for swap."""
        return _UNIT.sub(self._unit, self._renamed(name))

    def environment_block(self, block: bytes) -> bytes:
        """A grubenv, which stays as long as it was: GRUB writes into its place on the disk.

        Raises:
            ValueError: the new names do not fit into it.
        """
        text = block.rstrip(_BLOCK_PADDING).decode("utf-8", "surrogateescape")
        new = self.text(text).encode("utf-8", "surrogateescape")
        if len(new) > len(block):
            raise ValueError(f"{len(new)} bytes do not fit into its {len(block)}")
        return new.ljust(len(block), _BLOCK_PADDING)

    def program(self, program: bytes) -> bytes:
        """A boot loader that has names built in, none of which becomes longer or shorter."""
        return _NAME_IN_PROGRAM.sub(self._built_in, program)

    def _renamed(self, text: str) -> str:
        return _NAME_IN_TEXT.sub(lambda match: self._words.get(match[0].lower(), match[0]), text)

    def _built_in(self, match: re.Match[bytes]) -> bytes:
        new = self._words.get(match[0].decode().lower(), "").encode()
        return new if len(new) == len(match[0]) else match[0]

    def _device(self, spelling: str) -> str:
        """A device in fstab, by UUID where it was a node of the first disk."""
        number = fstab.node_number(spelling)
        if number is None or number not in self._partitions:
            return spelling
        names = self._partitions[number]
        return f"UUID={names.uuid}" if names.uuid else f"PARTUUID={names.guid}"

    def _is_elsewhere(self, device: str) -> bool:
        """Does it name a disk or a UUID that is not among ours."""
        tag = fstab.tag_of(device)
        if tag is not None and tag[0].endswith("uuid"):
            return tag[1].lower() not in self._words and tag[1].lower() not in self._new
        return tag is None and _OTHER_NODE.fullmatch(device) is not None

    def _argument(self, match: re.Match[str]) -> str:
        names = self._partitions.get(int(match[2]))
        if names is None:
            return match[0]
        by_uuid = self._has_initrd and names.uuid
        return f"{match[1]}UUID={names.uuid}" if by_uuid else f"{match[1]}PARTUUID={names.guid}"

    def _encrypted(self, match: re.Match[str]) -> str:
        names = self._partitions.get(int(match[2]))
        return f"{match[1]}PARTUUID={names.guid}" if names else match[0]

    def _what(self, match: re.Match[str]) -> str:
        names = self._partitions.get(int(match[2]))
        return f"{match[1]}{_path(names)}" if names else match[0]

    def _unit(self, match: re.Match[str]) -> str:
        names = self._partitions.get(int(match[1]))
        return _escaped(_path(names).lstrip("/")).replace("/", "-") if names else match[0]


def is_signed(program: bytes) -> bool:
    """Has a program for UEFI a signature, which a change would break."""
    try:
        (header,) = struct.unpack_from("<I", program, 0x3C)
        optional = header + 24
        (magic,) = struct.unpack_from("<H", program, optional)
        _, size = struct.unpack_from("<II", program, optional + _PE_DIRECTORIES[magic] + 8 * _PE_CERTIFICATES)
    except (struct.error, KeyError):
        return False
    return bool(size)


def _path(names: NewNames) -> str:
    return f"/dev/disk/by-uuid/{names.uuid}" if names.uuid else f"/dev/disk/by-partuuid/{names.guid}"


def _escaped(name: str) -> str:
    """A name as systemd has it in those of units."""
    return name.replace("-", r"\x2d")
