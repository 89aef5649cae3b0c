"""A file system's new UUID, made while it is copied to a disk.

Where metadata has checksums, a new UUID means another one in every inode and directory: much reading and writing of
little pieces (:mod:`osprovider.disk.filesystem`). So tune2fs works in memory, on a copy of the file system's own blocks
alone (12 MiB of 386), beside the copy of the template; then these blocks are written over the template's.
Not on the disk itself: the copy goes past the page cache and tune2fs through it, and where both touch one folio the
kernel fails them ("Page cache invalidation failure on direct I/O"; ``dio_warn_stale_pagecache`` in mm/filemap.c). It
did so twice in 320 creates on Linux 6.18, whose block devices have large folios.
Not for: what was not made here, or has more blocks of its own than fit into memory: it gets its UUID when it is opened
(:mod:`osprovider.opening`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from osprovider.background import Task
from osprovider.descriptors import in_memory
from osprovider.disk import filesystem
from osprovider.disk.copy import read_checked
from osprovider.disk.crew import LARGEST_EXTENT
from osprovider.disk.device import Device
from osprovider.disk.raw import read_all, start_writing, write_all
from osprovider.errors import DeviceError, GuestError
from osprovider.layout import PartitionPlan
from osprovider.manifest import Template

__all__ = ["Renewal", "renewing"]


class Renewal:
    """A new UUID for what a template becomes on a disk.

    Args:
        template: its manifest names the file system's own blocks.
        uuid: as blkid(8) writes it.
        fd: an empty file for the file system's own blocks.
    """

    def __init__(self, template: Template, uuid: str, fd: int) -> None:
        self._template, self._uuid, self._fd = template, uuid, fd
        self._task = Task("renewal", self._make)

    def wait(self) -> None:
        """Wait until nothing works on it any more."""
        self._task.wait()

    def apply(self, device: Device, part: PartitionPlan) -> None:
        """Give it to the copy, once that is on the disk whole.

        Args:
            device: the disk.
            part: where on it the template was copied to.

        Raises:
            DamagedTemplate: the template's own blocks are not what they should be.
            DeviceError: the disk cannot be written.
            GuestError: the file system is broken beyond repair; does not name the disk.
            ToolError: tune2fs failed.
        """
        self._task.result()
        buffer = memoryview(bytearray(LARGEST_EXTENT))
        for extent in self._template.manifest.metadata:
            data, place = buffer[: extent.length], part.start_bytes + extent.offset
            read_all(self._fd, data, extent.offset)
            write_all(device.fd, data, place)
            start_writing(device.fd, place, extent.length)

    def _make(self) -> None:
        manifest, buffer = self._template.manifest, memoryview(bytearray(LARGEST_EXTENT))
        os.truncate(self._fd, manifest.size_bytes)
        for extent in manifest.metadata:
            data = buffer[: extent.length]
            read_checked(self._template.fd, extent, data)
            write_all(self._fd, data, extent.offset)
        try:
            filesystem.set_uuid(Path(f"/proc/{os.getpid()}/fd/{self._fd}"), self._uuid)
        except DeviceError as error:  # which of its places is broken is not what the operator knows the disk by
            raise GuestError(str(error)) from error


@contextmanager
def renewing(template: Template, uuid: str) -> Iterator[Renewal]:
    """Begin to make a new UUID for what a template becomes on a disk.

    Args:
        template: its manifest names the file system's own blocks.
        uuid: as blkid(8) writes it.

    Yields:
        what gives it to the copy; begun beside.
    """
    with in_memory("metadata") as fd:
        renewal = Renewal(template, uuid, fd)
        try:
            yield renewal
        finally:
            renewal.wait()
