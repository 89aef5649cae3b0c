"""An ext file system in a file, and its own blocks there: where they are, and the UUID that is in all of them.

They are its superblocks, tables, bitmaps, directories and blocks of extents. The file system of an image may be
anybody's: tools that read it are confined, and it is first brought to the state that ours have, checked, its journal
replayed, and without what nothing refers to.
Sources: e2fsck(8), e2image(8), debugfs(8), tune2fs(8); the kernel's Documentation/filesystems/ext4/journal.rst.
Not for: file systems on devices (:mod:`osprovider.disk.filesystem`).
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from osprovider import linux
from osprovider.descriptors import opened, path_of
from osprovider.disk.filesystem import superblock_at
from osprovider.disk.loop import loop_device
from osprovider.disk.raw import BLOCK, data_ranges, name_of
from osprovider.errors import GuestError, ToolError
from osprovider.linux import Fallocate, fallocate
from osprovider.log import reporter
from osprovider.run import Completed, run
from osprovider.sandbox import confine

__all__ = ["ExtInFile"]

_MOST_MEMORY = 128 << 20  # e2fsck takes 60 MiB for a file system of 5 TiB
_MOST_SECONDS = 600
_BROKEN = ~3  # e2fsck(8): 1 and 2 say that errors were corrected
_JOURNAL = "<8>"  # its inode (Documentation/filesystems/ext4/special_inodes.rst)
_JOURNAL_SUPERBLOCK = struct.Struct(">I12xII4xI")  # magic, blocks, first block of the log, where what it holds begins
_JOURNAL_MAGIC = 0xC03B3998
_RUN = re.compile(r"^ *\d+ +(\d+) +(\d+)(?: +\d+)? +(\d+) *$", re.MULTILINE)
"""A line of debugfs' filefrag: its number, where the run is in the file, where in the file system, where it would be in
one piece, and its length."""


@dataclass(frozen=True, slots=True)
class ExtInFile:
    """An ext2, ext3 or ext4 in a file, not mounted.

    Attributes:
        fd: the file, open for reading and writing.
        start_bytes: where in it the file system begins.
        is_ours: it was made here.
    """

    fd: int
    start_bytes: int = 0
    is_ours: bool = False

    def settle(self, size_bytes: int) -> None:
        """Check it, repair what can be, and give back the room of free blocks and of what the journal logged.

        Args:
            size_bytes: the room that it has in the file.

        Raises:
            GuestError: it is none, has not enough of that, or is broken beyond repair; says which.
            DeviceError: no loop device can be attached.
            ToolError: debugfs failed.
        """
        found = superblock_at(self.fd, self.start_bytes).size_bytes
        if found > size_bytes:
            raise GuestError(f"it has {found} bytes, of which only {size_bytes} are there")
        # Not by its offset: e2fsck forgets that when it has replayed a journal (e2fsck_run_ext3_journal in 1.47).
        path = Path(name_of(self.fd))
        with loop_device(path, offset_bytes=self.start_bytes, size_bytes=size_bytes) as device:
            for _ in range(2):  # it discards nothing where it had to repair something
                if self._repair("-E", "discard", device, devices=[device]):
                    break
        self._empty_log()

    def metadata(self, most_bytes: int) -> list[tuple[int, int]]:
        """Where its own blocks are; those of zeros left out.

        They are copied to memory meanwhile: on a disk it takes three times as long, since tune2fs waits for its writes.

        Args:
            most_bytes: of memory.

        Returns:
            ranges of the file (offset and length in bytes), in multiples of 4096 bytes, sorted. All that
            :meth:`set_uuid` reads and writes is in them. None where they are no such multiples, or cannot be found in
            that much memory.
        """
        if self.start_bytes % BLOCK:
            return []
        with opened(linux.memory_filesystem(most_bytes)) as memory:
            path = f"{path_of(memory)}/copy"
            try:
                # A sparse file with these alone, without the superblock's backups.
                self._run("e2image", "-r", "-o", str(self.start_bytes), path_of(self.fd), path, pass_fds=[memory])
                with opened(os.open(path, os.O_RDWR | os.O_CLOEXEC)) as fd:
                    ExtInFile(fd, is_ours=self.is_ours).set_uuid(str(uuid4()))  # which it writes, too
                    ranges = list(data_ranges(fd, 0, os.fstat(fd).st_size))
            except (GuestError, ToolError) as error:
                reporter.debug(f"{name_of(self.fd)}: a file system's own blocks are not known: {error}")
                return []
        return [(self.start_bytes + start, length) for start, length in ranges]

    def set_uuid(self, uuid: str) -> None:
        """Give it a new UUID. One that was mounted since its last check is checked now.

        Args:
            uuid: as blkid(8) writes it.

        Raises:
            GuestError: it is broken beyond repair.
            ToolError: tune2fs failed.
        """
        words = ("tune2fs", "-U", uuid, self._place)
        if self._run(*words, check=False).status:  # it wants some of them "freshly checked"
            self._repair(self._place)
            self._run(*words)

    @property
    def _place(self) -> str:
        """How e2fsprogs are told which it is."""
        return f"{path_of(self.fd)}?offset={self.start_bytes}"

    def _run(
        self,
        *words: str | Path,
        check: bool = True,
        pass_fds: Sequence[int] = (),
        devices: Sequence[Path] = (),
    ) -> Completed:
        """Run a program that reads it."""
        argv: Sequence[str | Path] = words
        if not self.is_ours:
            argv = confine(words, devices=devices, memory_bytes=_MOST_MEMORY, cpu_seconds=_MOST_SECONDS)
        return run(argv, check=check, pass_fds=[self.fd, *pass_fds])

    def _repair(self, *words: str | Path, devices: Sequence[Path] = ()) -> bool:
        """Check it; returns whether there was nothing to repair."""
        done = self._run("e2fsck", "-f", "-y", *words, check=False, devices=devices)
        if done.status < 0 or done.status & _BROKEN:
            said = (done.text or done.stderr.decode(errors="replace").strip() or "it said nothing").splitlines()[-1]
            raise GuestError(f"e2fsck could not repair it and ended with {done.status}: {said}")
        return done.status == 0

    def _empty_log(self) -> None:
        """Give back the room of what the journal logged and nobody will read again; its own superblock stays.

        A system that ran while its image was made leaves 64 MiB and more there.
        """
        block = superblock_at(self.fd, self.start_bytes).block_size
        runs = self._runs_of_journal()
        for first in [start for logical, start, _ in runs if logical == 0]:
            superblock = os.pread(self.fd, _JOURNAL_SUPERBLOCK.size, self.start_bytes + first * block)
            magic, blocks, log, begins = _JOURNAL_SUPERBLOCK.unpack(superblock)
            if magic == _JOURNAL_MAGIC and not begins:
                for logical, start, count in runs:
                    logged = range(max(log, logical), min(blocks, logical + count))
                    place = self.start_bytes + (start + logged.start - logical) * block
                    with suppress(OSError):  # the file system of the file cannot, or there is nothing: it stays
                        fallocate(self.fd, Fallocate.PUNCH_HOLE | Fallocate.KEEP_SIZE, place, len(logged) * block)

    def _runs_of_journal(self) -> list[tuple[int, int, int]]:
        """Where the journal is, in blocks: of each run its place in there, that in the file system, and its length.

        None of what has no journal.
        """
        said = self._run("debugfs", "-R", f"filefrag -v {_JOURNAL}", self._place).text
        return [(int(logical), int(start), int(count)) for logical, start, count in _RUN.findall(said)]
