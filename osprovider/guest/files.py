"""Putting, copying and removing files in a guest's directories that are open, without ever following a link.

Not for: finding that directory (:mod:`osprovider.guest.resolve`).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from osprovider import linux
from osprovider.descriptors import opened, path_of
from osprovider.guest.resolve import open_inside
from osprovider.linux import Resolve
from osprovider.run import run

__all__ = ["allocate", "copy_tree", "put", "refuse_special", "remove", "renamed_into_place"]

_ZEROS = memoryview(bytes(1 << 20))
_NO_SUCH_CALL = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY, errno.EINVAL})
_ACCESS_LIST = "system.posix_acl_access"
# They vouch for a content (capabilities(7), IMA and EVM), so they go with it, as they would at a write(2).
_VOUCHING = frozenset({"security.capability", "security.evm", "security.ima"})
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFSOCK: "a socket",
}


def refuse_special(mode: int) -> None:
    """Only a regular file is read or written over."""
    if stat.S_ISDIR(mode):
        raise OSError(errno.EISDIR, "it is a directory")
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, f"it is {_KINDS.get(stat.S_IFMT(mode), 'something')}, not a regular file")


@contextmanager
def renamed_into_place(parent_fd: int, name: str) -> Iterator[str]:
    """Yield a new name in the same directory; what the body makes there takes the place of ``name``, or is removed."""
    temporary = _new_name()
    try:
        yield temporary
        os.rename(temporary, name, src_dir_fd=parent_fd, dst_dir_fd=parent_fd)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=parent_fd)
        raise


def put(parent_fd: int, name: str, chunks: Iterable[bytes], *, mode: int | None, owner: tuple[int, int] | None) -> None:
    """Put a regular file in the place of a regular file, a link or nothing.

    An existing regular file's mode and owner stay where none is given, its extended attributes (SELinux's label, ACLs)
    stay where the mode does; the label stays always. A hard link's other names keep the old content.
    """
    old_mode, old_owner, attributes = _to_keep(parent_fd, name)
    with renamed_into_place(parent_fd, name) as temporary:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with open(os.open(temporary, flags, 0o600, dir_fd=parent_fd), "wb", buffering=0) as file:  # noqa: PTH123
            for chunk in chunks:
                rest = memoryview(chunk)
                while rest:
                    rest = rest[file.write(rest) :]
            os.fchown(file.fileno(), *(owner or old_owner))
            if mode is not None:
                attributes.pop(_ACCESS_LIST, None)
            _set_attributes(file.fileno(), attributes)
            os.fchmod(file.fileno(), old_mode if mode is None else mode)


def allocate(parent_fd: int, name: str, size_bytes: int, head: bytes, *, written: bool) -> None:
    """Put a file of root's alone, with a place on the disk for each of its blocks, where no directory is.

    Args:
        parent_fd: the directory.
        name: the file's.
        size_bytes: its size.
        head: what it begins with; the rest is zeros.
        written: write these, in place of having them noted as unwritten. Done also where the file system can't do that.
    """
    with renamed_into_place(parent_fd, name) as temporary:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with opened(os.open(temporary, flags, 0o600, dir_fd=parent_fd)) as fd:
            with suppress(OSError):  # only btrfs has to be told
                linux.overwrite_in_place(fd)
            if written or not _reserved(fd, size_bytes):
                for offset in range(0, size_bytes, len(_ZEROS)):
                    _write_all(fd, _ZEROS[: size_bytes - offset], offset)
            _write_all(fd, memoryview(head), 0)
            os.fchown(fd, 0, 0)
            os.fchmod(fd, 0o600)


def _reserved(fd: int, size_bytes: int) -> bool:
    """Have the file system give a file its blocks; False where it doesn't know how."""
    try:
        linux.fallocate(fd, linux.Fallocate.NONE, 0, size_bytes)
    except OSError as error:
        if error.errno in _NO_SUCH_CALL:
            return False
        raise
    return True


def _write_all(fd: int, data: memoryview, offset: int) -> None:
    while data:
        count = os.pwrite(fd, data, offset)
        data, offset = data[count:], offset + count


def _to_keep(parent_fd: int, name: str) -> tuple[int, tuple[int, int], dict[str, bytes]]:
    """Mode, owner and extended attributes that a file put in the place of ``name`` inherits from it."""
    fresh: tuple[int, tuple[int, int], dict[str, bytes]] = (0o644, (0, 0), {})
    try:
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=parent_fd)
    except FileNotFoundError:
        return fresh
    with opened(fd):
        found = os.fstat(fd)
        if stat.S_ISLNK(found.st_mode):
            return fresh
        refuse_special(found.st_mode)
        attributes = {
            attribute: os.getxattr(path_of(fd), attribute)
            for attribute in _attribute_names(path_of(fd))
            if attribute not in _VOUCHING
        }
        return stat.S_IMODE(found.st_mode), (found.st_uid, found.st_gid), attributes


def _set_attributes(fd: int, attributes: dict[str, bytes]) -> None:
    """Give a new file these extended attributes, in place of the ACL that its directory may have given it."""
    if _ACCESS_LIST not in attributes and _ACCESS_LIST in _attribute_names(fd):
        os.removexattr(fd, _ACCESS_LIST)
    for attribute, value in attributes.items():
        try:
            os.setxattr(fd, attribute, value)
            is_set = os.getxattr(fd, attribute) == value
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            is_set = False
        if not is_set:
            # guestfs_lsetxattr takes the value as a C string, and reads on behind its first null byte but the last.
            raise OSError(errno.EOPNOTSUPP, f"its extended attribute {attribute} cannot be kept in the appliance")


def _attribute_names(file: int | str) -> list[str]:
    """The names of a file's extended attributes; none where its file system knows none."""
    try:
        return os.listxattr(file)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return []
        raise


def copy_tree(source_fd: int, target_fd: int) -> None:
    """Copy what is in a directory into another, on the same file system or not, with all attributes that cp(1) knows.

    Args:
        source_fd: the one directory; what is mounted below it is left out.
        target_fd: the other, empty.

    Raises:
        ToolError: something could not be copied, or an attribute not kept.
    """
    run(
        [
            *("cp", "--recursive", "--no-dereference", "--one-file-system", "--no-target-directory"),
            # Unlike --archive, this fails where one of them cannot be kept.
            *("--preserve=mode,ownership,timestamps,links,xattr", "--sparse=auto"),
            *(f"{path_of(source_fd)}/.", f"{path_of(target_fd)}/."),
        ],
        pass_fds=(source_fd, target_fd),
    )


def remove(parent_fd: int, name: str) -> None:
    """Remove a file, a link, or a directory with all in it, without ever following a link.

    Directories within directories are moved up before they are emptied, so that a tree may be nested as deep as it
    likes, beyond the length of paths and the number of descriptors.
    """
    if _unlinked(parent_fd, name):
        return
    with opened(_open_directory(parent_fd, name)) as top:
        while names := os.listdir(top):  # noqa: PTH208
            for each in names:
                if not _unlinked(top, each):
                    _empty_into(top, each)
                    os.rmdir(each, dir_fd=top)
    os.rmdir(name, dir_fd=parent_fd)


def _empty_into(top_fd: int, name: str) -> None:
    """Remove the files in a directory of ``top_fd``, and move its directories beside it."""
    with opened(_open_directory(top_fd, name)) as directory:
        for each in os.listdir(directory):  # noqa: PTH208
            if not _unlinked(directory, each):
                try:
                    os.rename(each, _new_name(), src_dir_fd=directory, dst_dir_fd=top_fd)
                except OSError as error:
                    if error.errno != errno.EXDEV:
                        raise
                    # An overlay does not move a directory whose path has more than 256 signs (its "redirect_max").
                    _remove_in_place(directory, each)


def _remove_in_place(parent_fd: int, name: str) -> None:
    """Remove a directory with all in it, however deep it is nested, where names of any depth can be reached."""
    current = os.dup(parent_fd)
    left = [[name]]  # by level, from the top to where we are: directories to remove
    try:
        while left != [[]]:
            if left[-1]:
                current = _instead(current, _open_directory(current, left[-1][-1]))
                left.append([each for each in os.listdir(current) if not _unlinked(current, each)])  # noqa: PTH208
            else:
                left.pop()
                current = _instead(current, linux.openat2(current, "..", _DIRECTORY, resolve=Resolve.NO_XDEV))
                os.rmdir(left[-1].pop(), dir_fd=current)
    finally:
        os.close(current)


def _instead(old_fd: int, new_fd: int) -> int:
    os.close(old_fd)
    return new_fd


def _open_directory(parent_fd: int, name: str) -> int:
    return open_inside(parent_fd, name, _DIRECTORY)


def _unlinked(parent_fd: int, name: str) -> bool:
    """Remove a file or link; False where it is a directory."""
    try:
        os.unlink(name, dir_fd=parent_fd)
    except IsADirectoryError:
        return False
    return True


def _new_name() -> str:
    """A name that nothing has; not made of another, which may be as long as names get."""
    return f".osprovider-{os.urandom(8).hex()}"
