"""What a hook is told: everything about the instance, frozen.

Not for: changing the guest (:mod:`osprovider.guest.protocol`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from osprovider.config.model import Variant
from osprovider.config.schema import written
from osprovider.ganeti.hypervisor import SerialConsole
from osprovider.ganeti.request import Instance
from osprovider.manifest import Manifest
from osprovider.nics import ResolvedNic

__all__ = ["Context", "ContextDisk", "ContextPartition"]


@dataclass(frozen=True, slots=True)
class ContextPartition:
    """A partition of one of the instance's disks, or what fills a disk.

    Attributes:
        number: in the table, 1-based; 0 of what fills the disk.
        role: ``bios_boot``, ``esp``, ``boot``, ``swap``, ``root``, ``data``; of a disk image also ``other``.
        start_bytes: from the disk's start.
        size_bytes: its length.
        guid: the partition's own GUID (PARTUUID), lower case.
        filesystem: ``ext4``, ``vfat`` … or None.
        filesystem_uuid: as blkid(8) writes it (``1234-ABCD`` for vfat), or None.
        mount: where the guest has it, or None.
        options: of its mount, where it has others than its role's usual ones.
        subvolume: of a root on a btrfs, the subvolume that is the root; empty where that is the default one.
    """

    number: int
    role: str
    start_bytes: int
    size_bytes: int
    guid: str
    filesystem: str | None
    filesystem_uuid: str | None
    mount: str | None = None
    options: tuple[str, ...] = ()
    subvolume: str = ""


@dataclass(frozen=True, slots=True)
class ContextDisk:
    """A disk of the instance.

    Attributes:
        index: Ganeti's.
        path: the device or file; None for a disk that only userspace reaches.
        size_bytes: None where Ganeti does not say.
        sector_size: that its table counts in, in bytes.
        guid: the GPT's GUID, or an msdos table's signature; None where there is no table.
        partitions: those of disk 0; of another disk what fills it, where the variant names it.
    """

    index: int
    path: Path | None
    size_bytes: int | None
    sector_size: int
    guid: str | None
    partitions: tuple[ContextPartition, ...] = ()


@dataclass(frozen=True)
class Context:
    """What hooks work from.

    Attributes:
        event: why hooks run: ``create`` (also a reinstall) or ``rename``.
        instance: Ganeti's view of it.
        hostname: what the guest is called: the FQDN unless the configuration says otherwise.
        reinstall: the instance was installed before.
        old_name: the FQDN before a rename.
        nics: in Ganeti's order.
        disks: likewise.
        variant: the merged configuration.
        manifest: of the template; None at a rename.
        serial_console: the kernel's device and its speed in bits/s (``("ttyS0", 38400)``); None without one.
        external_kernel: the hypervisor brings the kernel, so the guest needs no boot loader.
        environment: Ganeti's variables as they came.
        templates: directories of Jinja2 templates, the site's first.
        scratch: a directory for files of the hooks on their way into the guest: on a tmpfs, for root alone, gone when
            the hooks are done. Each names its files after itself. None where no hook runs.
        prepared: what this hook's own ``prepare(context)`` returned.
    """

    event: Literal["create", "rename"]
    instance: Instance
    hostname: str
    variant: Variant
    nics: tuple[ResolvedNic, ...] = ()
    disks: tuple[ContextDisk, ...] = ()
    manifest: Manifest | None = None
    reinstall: bool = False
    old_name: str | None = None
    serial_console: SerialConsole | None = None
    external_kernel: bool = False
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    templates: tuple[Path, ...] = ()
    scratch: Path | None = None
    prepared: Any = None

    def partition(self, role: str) -> ContextPartition | None:
        """The partition of disk 0 with this role, or None."""
        disk = self.disks[0] if self.disks else None
        return next((part for part in disk.partitions if part.role == role), None) if disk else None

    def render(self, template: str, **values: object) -> str:
        """Render the Jinja2 template of this name, which sees ``values`` and this context as ``context``.

        Raises:
            HookError: there is no such template, or it fails; names its file and line.
        """
        from osprovider.customize.templates import render  # jinja2 is dear to import

        return render(self.templates, template, {**values, "context": self})

    def to_json(self) -> dict[str, object]:
        """What an executable hook reads on its standard input: the same, JSON-ready, without ``extents``."""
        data = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        del data["prepared"], data["environment"], data["templates"], data["scratch"]
        manifest = self.manifest.without_extents() if self.manifest else None
        told = {**data, "manifest": manifest, "variant": written(self.variant)}
        return {name: _plain(value) for name, value in told.items()}


def _plain(value: object) -> object:
    """Dataclasses, tuples and paths as JSON knows them."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
