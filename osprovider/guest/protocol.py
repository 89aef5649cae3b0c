"""What a hook may do to a guest, whatever backend serves it.

Paths are the guest's own, absolute, as ``str``. They cannot leave the guest: a symbolic link in it that points to
``/etc/passwd`` reaches the guest's ``/etc/passwd``, and one that climbs with ``..`` stops at the guest's root.
Every method raises :class:`osprovider.errors.GuestError`, which names the path, when the guest's file system refuses.
Both backends leave byte-identical trees.
Not for: running programs of the guest's, which nobody does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

__all__ = ["Guest"]


class Guest(Protocol):
    """A guest's root file system, writable, while nothing of the guest runs."""

    def read(self, path: str) -> bytes:
        """The content of the regular file at ``path``, symbolic links followed. At most 16 MiB.

        A FIFO, device or socket is refused, and not opened.
        """

    def read_text(self, path: str) -> str:
        """Likewise, as UTF-8; bytes that are not UTF-8 survive a ``write`` of the same text (surrogateescape)."""

    def write(
        self, path: str, content: str | bytes, *, mode: int | None = None, owner: tuple[int, int] | None = None
    ) -> None:
        """Put ``content`` in the place of the file at ``path``, at once: a reader sees the old file or the new.

        Missing parents are made (root's, 0755). A symbolic link at ``path`` itself is followed, so that a link that the
        distribution laid stays a link; where it dangles, what it points to is made. An existing file keeps its mode and
        owner unless told otherwise, and its extended attributes: SELinux's label, and its ACL unless ``mode`` is given;
        not its capabilities. A new one is root's with mode 0644. Further names of a hard link keep the old content.
        What is there and no regular file is refused.
        """

    def allocate(self, path: str, size_bytes: int, *, head: bytes = b"", written: bool = False) -> None:
        """Put a file of this size, as swap wants it, in the place of a file or link that was there.

        All its blocks have their place on the disk, where a btrfs leaves them when they are written. It begins with
        ``head``, and the rest reads as zeros; with ``written``, or where the file system cannot reserve blocks, these
        are written, which takes as long. It is root's, and nobody else reads it. Missing parents are made (root's,
        0755). Without room for all of it nothing changes.
        """

    def exists(self, path: str) -> bool:
        """Is there a file of any kind at ``path``, symbolic links followed; a dangling link does not exist."""

    def is_directory(self, path: str) -> bool:
        """Is there a directory at ``path``, symbolic links followed."""

    def is_file(self, path: str) -> bool:
        """Is ``path`` itself a regular file."""

    def is_symlink(self, path: str) -> bool:
        """Is ``path`` itself a symbolic link, dangling or not."""

    def glob(self, pattern: str) -> list[str]:
        """The paths that match, sorted, absolute, dangling links among them.

        ``*``, ``?`` and ``[...]`` (``[!...]``) in every component; no ``**``. As in a shell, a leading dot is matched
        only by a dot.
        """

    def remove(self, path: str) -> None:
        """Remove the file, the link itself, or the directory with all in it. What is not there is no error."""

    def mkdir(self, path: str, *, mode: int = 0o755, owner: tuple[int, int] = (0, 0)) -> None:
        """Make a directory and its missing parents (these root's, 0755). An existing one is left as it is."""

    def symlink(self, target: str, path: str) -> None:
        """Make ``path`` a symbolic link to ``target``, in the place of a file or link that was there.

        Missing parents are made (root's, 0755).
        """

    def chmod(self, path: str, mode: int) -> None:
        """Set the permission bits of the file at ``path``, links followed."""

    def chown(self, path: str, uid: int, gid: int) -> None:
        """Set the owner and group by number of the file at ``path``, links followed.

        The kernel takes set-user-ID away then, so ``chmod`` comes afterwards.
        """

    def copy_in(self, source: Path, path: str) -> None:
        """Copy the node's directory ``source``, all that is in it (dot files too), over the guest's directory ``path``.

        Modes are kept, owners become root, symbolic links stay links. Directories that the guest has stay as they are,
        also where they are links to directories; files and links take the place of the guest's files and links.
        """
