"""New UUIDs for ext file systems, made while they are copied to a disk.

Where metadata has checksums, a new UUID means another one in every inode and directory: much reading and writing of
little pieces (:mod:`osprovider.disk.filesystem`). So tune2fs works in memory, on a copy of the file systems' own blocks
alone (12 MiB of 386), beside the copy of the template; then these blocks are written over the template's.
Not on the disk itself: the copy goes past the page cache and tune2fs through it, and where both touch one folio the
kernel fails them ("Page cache invalidation failure on direct I/O"; ``dio_warn_stale_pagecache`` in mm/filemap.c). It
did so twice in 320 creates on Linux 6.18, whose block devices have large folios.
Not for: a file system whose own blocks are not known: it gets its UUID when it is opened (:mod:`osprovider.opening`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from osprovider.background import Task
from osprovider.descriptors import in_memory
from osprovider.disk.changing import called
from osprovider.disk.copy import read_checked
from osprovider.disk.crew import LARGEST_EXTENT
from osprovider.disk.device import Device
from osprovider.disk.metadata import ExtInFile
from osprovider.disk.raw import read_all, start_writing, write_all
from osprovider.layout import PartitionPlan, TablePlan
from osprovider.log import reporter
from osprovider.manifest import EXT, Extent, Manifest, Template

__all__ = ["Renewal", "own_blocks", "renewing"]


class Renewal:
    """New UUIDs for what a template becomes on a disk.

    Args:
        template: its manifest names the file systems' own blocks.
        table: what the disk becomes.
        fd: an empty file for these blocks.
    """

    def __init__(self, template: Template, table: TablePlan, fd: int) -> None:
        self._template, self._fd = template, fd
        found = [(part, own_blocks(template.manifest, part)) for part in table.partitions]
        self._parts = [(part, part.filesystem_uuid, extents) for part, extents in found if extents]
        self._task = Task("renewal", self._make)

    def wait(self) -> None:
        """Wait until nothing works on it any more."""
        self._task.wait()

    def apply(self, device: Device) -> None:
        """Give them to the copy, once that is on the disk whole.

        Args:
            device: the disk.

        Raises:
            DamagedTemplate: the template's own blocks are not what they should be.
            DeviceError: the disk cannot be written.
            GuestError: a file system is broken beyond repair; does not name the disk.
            ToolError: tune2fs failed.
        """
        buffer = memoryview(bytearray(LARGEST_EXTENT))
        for part, _, extents in self._parts:
            with reporter.step(f"{called(part.mount, part.filesystem)}: new UUID"):
                self._task.result()
                for extent in extents:
                    data, place = buffer[: extent.length], part.start_bytes + extent.offset - (part.source_bytes or 0)
                    read_all(self._fd, data, extent.offset)
                    write_all(device.fd, data, place)
                    start_writing(device.fd, place, extent.length)

    def _make(self) -> None:
        manifest, buffer = self._template.manifest, memoryview(bytearray(LARGEST_EXTENT))
        os.truncate(self._fd, manifest.size_bytes)
        for part, uuid, extents in self._parts:
            for extent in extents:
                data = buffer[: extent.length]
                read_checked(self._template.fd, extent, data)
                write_all(self._fd, data, extent.offset)
            ExtInFile(self._fd, part.source_bytes or 0, is_ours=manifest.built_here).set_uuid(uuid or "")


def own_blocks(manifest: Manifest, part: PartitionPlan) -> tuple[Extent, ...]:
    """What of a template are the own blocks of a file system that gets its new UUID so; empty where it does not.

    Args:
        manifest: the template's.
        part: what the file system becomes.
    """
    if part.filesystem not in EXT or part.filesystem_uuid is None:
        return ()
    if manifest.table is None:
        return manifest.metadata if part.role == "root" else ()
    source = next(each for each in manifest.table.partitions if each.number == part.number)
    end = source.start_bytes + source.size_bytes
    return tuple(extent for extent in manifest.metadata if source.start_bytes <= extent.offset < end)


@contextmanager
def renewing(template: Template, table: TablePlan) -> Iterator[Renewal]:
    """Begin to make new UUIDs for what a template becomes on a disk.

    Args:
        template: its manifest names the file systems' own blocks.
        table: what the disk becomes.

    Yields:
        what gives them to the copy; begun beside.
    """
    with in_memory("metadata") as fd:
        renewal = Renewal(template, table, fd)
        try:
            yield renewal
        finally:
            renewal.wait()
