"""Finding a guest's files by path without ever leaving its root, whatever links its owner laid.

Every resolution is one openat2(2) with ``RESOLVE_IN_ROOT``, so that the kernel itself keeps it inside, even while
somebody swaps a directory for a link. Whatever makes, renames or removes gets the parent as a descriptor and a name in
it, and works with the ``*at`` system calls, none of which follows that name.
Not for: what is done with the file found (:mod:`osprovider.guest.files`).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from osprovider import linux
from osprovider.descriptors import opened
from osprovider.linux import Resolve

__all__ = [
    "ABSENT",
    "entry",
    "joined",
    "make_directory_at",
    "open_inside",
]

ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})
"""Errors that say that nothing is, or can be, at a path."""

# What is mounted inside a guest, and is not its own, is somebody else's.
_CROSSING = Resolve.IN_ROOT | Resolve.NO_MAGICLINKS
_INSIDE = _CROSSING | Resolve.NO_XDEV
_JOINED: dict[int, set[str]] = {}  # by a guest's root: what the kernel calls the mounts inside that are its own
_TRIES = 1000
_MAX_LINKS = 40  # as the kernel's MAXSYMLINKS


def open_inside(root_fd: int, path: str, flags: int) -> int:
    """Open ``path`` as a process would whose root directory is ``root_fd``.

    Args:
        root_fd: the guest's root directory.
        path: absolute, the guest's.
        flags: of open(2), without ``O_CREAT``.

    Raises:
        OSError: as openat2(2) says.
    """
    for _ in range(_TRIES):
        try:
            fd = linux.openat2(root_fd, path, flags, resolve=_CROSSING if root_fd in _JOINED else _INSIDE)
        except BlockingIOError:
            # EAGAIN: a rename or mount, anywhere on the node, crossed a ``..`` of ours; see openat2(2).
            continue
        if root_fd in _JOINED and _mount_id(fd) not in _JOINED[root_fd]:
            os.close(fd)
            break
        return fd
    else:
        raise OSError(errno.EAGAIN, "the node renames files faster than a path can be followed", path)
    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)


@contextmanager
def joined(root_fd: int, mounted_fd: int) -> Iterator[None]:
    """Have a mount inside a guest belong to it, as long as the body runs.

    Args:
        root_fd: the guest's root directory, by which its files are found.
        mounted_fd: the root directory of what is mounted there.
    """
    mounts = {_mount_id(root_fd), _mount_id(mounted_fd)}
    before = _JOINED.get(root_fd, set())
    _JOINED[root_fd] = before | mounts
    try:
        yield
    finally:
        del _JOINED[root_fd]
        if before:
            _JOINED[root_fd] = before


def _mount_id(fd: int) -> str:
    """What the kernel calls the mount that a file was opened on; see proc(5), ``/proc/pid/fdinfo``."""
    with open(f"/proc/self/fdinfo/{fd}") as file:  # noqa: PTH123
        return next(line.split()[1] for line in file if line.startswith("mnt_id:"))


def _make_directories(root_fd: int, path: str) -> None:
    """Make the directory ``path`` and its missing parents, root's and 0755, also those that dangling links point to.

    Raises:
        OSError: as mkdir(2) and openat2(2) say; ``ENOTDIR`` where a file is in the way.
    """
    pending = _components(path)
    done = ""
    links = 0
    while pending:
        name = pending.pop()
        if _is_directory(root_fd, f"{done}/{name}"):
            done = f"{done}/{name}"
            continue
        with opened(open_inside(root_fd, done or "/", os.O_PATH | os.O_DIRECTORY)) as parent:
            target = _link_target(parent, name)
            if target is None:
                make_directory_at(parent, name)
                done = f"{done}/{name}"
                continue
        links += 1
        if links > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        done = "" if target.startswith("/") else done
        pending += _components(target)


def make_directory_at(parent_fd: int, name: str, mode: int = 0o755, owner: tuple[int, int] = (0, 0)) -> None:
    """Make one directory with exactly this mode and owner, whatever the umask and its parent say."""
    os.mkdir(name, 0o700, dir_fd=parent_fd)
    with opened(os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent_fd)) as made:
        os.fchown(made, *owner)
        os.fchmod(made, mode)


@contextmanager
def entry(root_fd: int, path: str, *, follow: bool, make_parents: bool) -> Iterator[tuple[int, str]]:
    """Where to make, replace or remove the file at ``path``: its directory, and its name there.

    Args:
        root_fd: the guest's root directory.
        path: absolute, the guest's.
        follow: a symbolic link at ``path`` is followed, to its target's place where that is missing, too.
        make_parents: make missing parents.

    Raises:
        OSError: a parent is missing or no directory, or ``path`` ends where no file can be made.
    """
    for _ in range(_MAX_LINKS):
        directory, _, name = path.rpartition("/")
        if name in {"", ".", ".."}:
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        with opened(_open_parent(root_fd, directory or "/", make=make_parents)) as parent:
            target = _link_target(parent, name) if follow else None
            if target is None:
                yield parent, name
                return
        path = target if target.startswith("/") else f"{directory}/{target}"
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)


def _components(path: str) -> list[str]:
    """The names in ``path``, the last one first, as a stack of what is still to be walked."""
    return [name for name in path.split("/") if name][::-1]


def _open_parent(root_fd: int, path: str, *, make: bool) -> int:
    flags = os.O_PATH | os.O_DIRECTORY
    try:
        return open_inside(root_fd, path, flags)
    except FileNotFoundError:
        if not make:
            raise
    _make_directories(root_fd, path)
    return open_inside(root_fd, path, flags)


def _is_directory(root_fd: int, path: str) -> bool:
    """Is there one; an error where there is something else."""
    try:
        os.close(open_inside(root_fd, path, os.O_PATH | os.O_DIRECTORY))
    except FileNotFoundError:
        return False
    return True


def _link_target(parent_fd: int, name: str) -> str | None:
    """What the symbolic link ``name`` points to; None where there is no such link."""
    try:
        return os.readlink(name, dir_fd=parent_fd)
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.EINVAL}:
            return None
        raise
