"""The process around a libguestfs appliance: it boots it, mounts the guest in it, and lends the root directory out.

Started by :mod:`osprovider.guest.appliance` alone, in mount, PID, network and IPC namespaces of its own: as their first
process it takes QEMU and everything else with it when it ends, and nobody else sees what it mounts. It speaks over one
``SOCK_SEQPACKET`` socket, whose number is its first argument; the others are the number of a file for the appliance to
swap to, and that swap's UUID:

1. it gets an :class:`Order` as JSON, and with it a descriptor where the guest's tree is to be packed;
2. it says ``{"stage": "launched"}`` when the appliance runs, and ``{"stage": "mounted"}`` when the guest can be used,
   with a descriptor of the root directory as FUSE shows it;
   (of a guest that is not lent, nothing, and 3. follows without a word);
   and before each thing in between, and after, that may take long, what it is: ``{"step": "check ext4 on /dev/…"}``;
3. it gets ``finish`` when all descriptors below that one are closed, stores everything, trims the file systems and has
   tar in the appliance pack the tree where that is wanted, and says ``{"stage": "done"}``;
4. at any time it says ``{"error": …}`` and ends; and where the socket is closed at the other end, it ends at once.

Not for: the guest protocol; the kernel, through FUSE, asks libguestfs for every file, so that the one implementation on
descriptors serves both backends, and the same rules hold however a path, a name or a link in it is spelt.
"""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from osprovider import linux
from osprovider.descriptors import path_of
from osprovider.guest import volume_id
from osprovider.guest.appliance_order import HELD_MIB, LIBGUESTFS_MIB, Drive, Order
from osprovider.guest.appliance_system import make_system
from osprovider.linux import MountFlag
from osprovider.manifest import EXT

if TYPE_CHECKING:
    import guestfs

__all__ = ["main"]

# libguestfs puts root's sockets into /tmp, always (its lib/tmpdirs.c), so this process has a /tmp of its own, where
# what it is to use has short names that QEMU's options cannot misread.
_TMP = Path("/tmp")  # noqa: S108
_NAMES = [f"/dev/sd{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]  # guestfs(3), "Block device naming"
_CACHE = _TMP / "cache"
_GUEST = _TMP / "guest"
# What the kernel says of a drive; its own name for it may be another one, as libguestfs knows ("Block device naming").
_OF_A_DRIVE = re.compile(r"\((?:device )?sd[a-z]\)")
# libguestfs has a setting for the program that it calls, but none for a machine of less memory than that, and none for
# what QEMU keeps, emulated, of what it translates: hundreds of MiB, unless told (its -accel), which is not slower. The
# type of the machine is named together with the accelerator by libguestfs 1.54. And the processor, named after these,
# says that it moves strings fast, by which Linux moves all memory: emulated, it moves each byte by itself.
_EMULATOR = """\
#!/bin/sh
previous=
slow=
for word do
    shift
    case $previous$word in
    -machine | -cpu | -m) previous=$word; continue ;;
    -machine*accel=tcg) slow=,-erms,-fsrm ;;
    esac
    case $previous$word in
    -machine*,accel=tcg) set -- "$@" -machine "${{word%,accel=tcg}}" -accel tcg,tb-size=32 ;;
    -machineaccel=tcg) set -- "$@" -accel tcg,tb-size=32 ;;
    -cpu*) set -- "$@" -cpu "$word$slow" ;;
    -m[0-9]*) set -- "$@" {memory} ;;
    *) set -- "$@" $previous "$word" ;;
    esac
    previous=
done
exec {qemu} "$@"
"""
# What its daemon reserves and never uses needs no memory; nor do drivers of devices that it does not have, nor views of
# the kernel that nobody looks at: of its trace points, 9 MiB of Linux 6.1's, and of its allocators.
_UNUSED_MODULES = (
    *("ata_piix", "libata", "sg", "virtio_blk", "virtio_mmio", "virtio_input", "virtio_balloon", "virtio_mem"),
    *("virtio_net", "net_failover", "failover", "virtiofs", "fuse", "virtio_crypto", "crypto_engine", "virtio_iommu"),
    *("virtio_pmem", "nd_virtio", "nd_pmem", "nd_btt", "nfit", "libnvdimm", "virtio_vdpa", "vdpa", "virtio_dma_buf"),
    *("virtio_snd", "snd_pcm", "snd_timer", "snd", "soundcore"),
)
_UNUSED_VIEWS = ("tracer_init_tracefs", "slab_sysfs_init")
_KERNEL_ARGUMENTS = (
    f"sysctl.vm.overcommit_memory=1 module_blacklist={','.join(_UNUSED_MODULES)} "
    f"initcall_blacklist={','.join(_UNUSED_VIEWS)}"
)
_OUT_OF_MEMORY = "Out of memory: "  # Linux's mm/oom_kill.c
_BUSY_SECONDS = 3.0
# Nobody else changes the file system, so that names may be kept for ever. Attributes may not: FUSE takes the names of a
# hard link for files of their own. libguestfs' cache of attributes is off, too (its -1 would mean 60 s).
_FUSE_OPTIONS = "big_writes,entry_timeout=86400,attr_timeout=0,nosuid,nodev,noexec"
_NO_CACHE = -2
# What a check of the file system has found, and earlier states of it (snapper(8)).
_NOT_PACKED = ["./lost+found", "./.snapshots/*"]
# A guest that has taken over its QEMU starts no program and gains no privilege; and a write error is the guest's to
# hear of: it would be a stopped machine else, and we would wait for it.
_QEMU_OPTIONS = {
    "-sandbox": "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    "-global": "scsi-hd.werror=report",
}


def main() -> int:
    """Serve one order; returns the exit status."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    channel.set_inheritable(False)
    swap = _Swap(int(sys.argv[2]), sys.argv[3])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # whoever started us decides
    try:
        order, archives, _, _ = socket.recv_fds(channel, 1 << 16, 1, socket.MSG_CMSG_CLOEXEC)
        _serve(channel, Order.from_json(order), swap, *archives)
    except Exception as error:
        channel.send(json.dumps({"error": _one_line(error)}).encode())
        return 1
    channel.send(b'{"stage": "done"}')
    return 0


class _Swap(NamedTuple):
    """What the appliance swaps to.

    Attributes:
        fd: of the file.
        uuid: by which the appliance knows it from what an image's owner would like it to take.
    """

    fd: int
    uuid: str


def _serve(channel: socket.socket, order: Order, swap: _Swap, archive: int | None = None) -> None:
    import guestfs

    def begin(step: str) -> None:
        channel.send(json.dumps({"step": step}).encode())

    _make_private_tmp(order)
    handle = guestfs.GuestFS(python_return_dict=True)
    listener = threading.Thread(target=_obey, args=(channel,), daemon=True)
    listener.start()
    _launch(handle, order, swap)
    handle.set_event_callback(lambda *_: _fail(channel, "QEMU ended unexpectedly"), guestfs.EVENT_SUBPROCESS_QUIT)
    channel.send(b'{"stage": "launched"}')
    if any(drive.filesystem == "xfs" for drive in order.drives) and not handle.feature_available(["xfs"]):
        raise RuntimeError("it has no tools for xfs: install libguestfs-xfs")
    drives = [(_NAMES[index], drive) for index, drive in enumerate(order.drives)]
    try:
        for name, drive in drives:
            _change(handle, name, drive, begin)
    except RuntimeError as error:
        if _OUT_OF_MEMORY in handle.dmesg():  # libguestfs would not say why a program was killed
            raise RuntimeError(f"it ran out of memory ({_one_line(error)})") from error
        raise
    begin("mount its file systems")
    places = _mount_all(handle, drives, read_only=order.read_only)
    if order.lend:
        _lend(channel, handle, order, listener)
    if not order.read_only and not order.overlay:
        begin("store what was written")
        _store(handle, places)
    if order.trim:
        begin("trim its file systems")
        _trim(handle, places)
    if archive is not None:
        begin("pack its tree")
        target = path_of(archive)
        handle.tar_out("/", target, numericowner=True, xattrs=True, acls=True, excludes=_NOT_PACKED)
    begin("unmount its file systems")
    handle.umount_all()
    handle.shutdown()
    handle.close()


def _lend(channel: socket.socket, handle: guestfs.GuestFS, order: Order, listener: threading.Thread) -> None:
    """Lend the guest's root directory out, until the word comes that it is done with."""
    handle.mount_local(str(_GUEST), readonly=order.read_only, options=_FUSE_OPTIONS, cachetimeout=_NO_CACHE)
    root = os.open(_GUEST, os.O_PATH | os.O_DIRECTORY)
    socket.send_fds(channel, [b'{"stage": "mounted"}'], [root])
    os.close(root)
    handle.mount_local_run()  # until it is unmounted
    listener.join()


def _make_private_tmp(order: Order) -> None:
    """Mount a file system of this namespace's own on ``/tmp``, with the drive and the cache in it."""
    devices = [os.open(drive.device, os.O_PATH) for drive in order.drives]
    cache = os.open(order.cache, os.O_PATH | os.O_DIRECTORY)
    linux.mount("tmpfs", str(_TMP), "tmpfs", MountFlag.NOSUID | MountFlag.NODEV, "mode=0700")
    places = [_TMP / f"drive{index}" for index in range(len(devices))]
    for place in places:
        place.touch()
    _CACHE.mkdir()
    _GUEST.mkdir()
    for fd, place in [*zip(devices, places, strict=True), (cache, _CACHE)]:
        linux.mount(path_of(fd), str(place), None, MountFlag.BIND)
        os.close(fd)


def _launch(handle: guestfs.GuestFS, order: Order, swap: _Swap) -> None:
    """Boot the appliance, without a network and with nothing but the drives and its swap."""
    handle.set_backend("direct")
    handle.set_backend_settings([] if order.accelerated else ["force_tcg"])
    handle.set_tmpdir(str(_TMP))
    handle.set_cachedir(str(_CACHE))
    make_system(handle.get_path(), _TMP)
    handle.set_path(str(_TMP))
    handle.set_network(False)
    handle.set_memsize(max(order.memory_mib, LIBGUESTFS_MIB))
    handle.set_hv(str(_emulator(Path(handle.get_hv()), _memory(order.memory_mib))))
    handle.set_append(_KERNEL_ARGUMENTS)
    handle.set_recovery_proc(False)  # the PID namespace ends QEMU more surely
    for option, value in _QEMU_OPTIONS.items():
        handle.config(option, value)
    # libguestfs cannot add a file without a name. After its own drives, so that these keep their names.
    handle.config("-drive", f"file=/proc/{os.getpid()}/fd/{swap.fd},format=raw,cache=unsafe,if=none,id=swap")
    handle.config("-device", "scsi-hd,drive=swap")
    options: dict[str, Any] = {"readonly": order.read_only or order.overlay}  # what is written goes to a file in /tmp
    if order.trim:
        options["discard"] = "besteffort"
    for index in range(len(order.drives)):
        handle.add_drive_opts(str(_TMP / f"drive{index}"), format="raw", **options)
    try:
        handle.launch()
    except RuntimeError as error:
        raise RuntimeError("QEMU does not start it; libguestfs-test-tool may say why") from error
    handle.debug("sh", [f"swapon UUID={swap.uuid}"])


def _memory(mib: int) -> str:
    """QEMU's words for the machine's memory, in shell; a large one is a file without a name in the cache.

    That is page cache, which the node's kernel stores there where it runs short of memory.
    """
    if mib <= HELD_MIB:
        return f"-m {mib}"
    import tempfile

    with tempfile.TemporaryFile(dir=_CACHE) as file:
        try:
            os.posix_fallocate(file.fileno(), 0, mib << 20)  # a full file system would end QEMU later
        except OSError as error:
            raise RuntimeError(f"its cache has no room for {mib} MiB of memory: {error.strerror}") from error
        fd = os.dup(file.fileno())  # for as long as this process lives
    backend = f"memory-backend-file,id=memory,share=on,size={mib}M,mem-path=/proc/{os.getpid()}/fd/{fd}"
    return f"-m {mib} -object {backend} -machine memory-backend=memory"


def _emulator(qemu: Path, memory: str) -> Path:
    """A program that is QEMU, with a machine of this memory, and a limit to what it keeps of translated code."""
    program = _TMP / "qemu"
    program.write_text(_EMULATOR.format(qemu=qemu, memory=memory))
    program.chmod(0o700)
    # libguestfs remembers what QEMU can do until its program has another time.
    os.utime(program, ns=(0, qemu.stat().st_mtime_ns))
    return program


def _change(handle: guestfs.GuestFS, name: str, drive: Drive, begin: Callable[[str], None]) -> None:
    """Give a file system, which is not mounted, its UUID, and have it fill its device where that can be done so."""
    what = f"{drive.filesystem} on {drive.device}"
    is_ext = drive.filesystem in EXT
    if is_ext and drive.uuid:  # else it was checked before it got the one that it has
        begin(f"check {what}")
        handle.e2fsck(name, forceall=True)  # replays the journal; tune2fs and resize2fs want it checked
    if drive.uuid and drive.filesystem in ("xfs", "btrfs"):
        begin(f"replay the log of {what}")
        _mount(handle, name, drive, "/", drive.options)  # replays the log; its tools change none with one
        handle.umount("/")
    if drive.uuid:
        begin(f"give a UUID to {what}")
    if drive.uuid and drive.filesystem == "vfat":
        for place in volume_id.places(handle.pread_device(name, volume_id.BOOT_SECTOR_SIZE, 0)):
            handle.pwrite_device(name, volume_id.packed(drive.uuid), place)
    elif drive.uuid:
        handle.set_uuid(name, drive.uuid)
    if is_ext and drive.grow:
        begin(f"grow {what}")
        handle.resize2fs(name)


def _mount_all(handle: guestfs.GuestFS, drives: list[tuple[str, Drive]], *, read_only: bool) -> list[str]:
    """Mount the file systems where the guest has them, and return where that is; those grow that do so mounted.

    A mount point that is missing is made, as systemd does when the guest boots; but a subvolume may be missing as well.
    """
    wanted = [
        (place, f"{drive.options},subvol={subvolume}" if subvolume else drive.options, name, drive)
        for name, drive in drives
        for place, subvolume in (drive.subvolumes or ((drive.mount, None),))
        if place is not None
    ]
    done = []
    for place, options, name, drive in sorted(wanted, key=lambda each: each[0]):
        may_make = place != "/" and not read_only and not drive.subvolumes
        if may_make and not handle.is_symlink(place) and not handle.exists(place):
            handle.mkdir_p(place)
        if drive.fill:
            _fill(handle, name, drive, place)
        if place == "/" or handle.is_dir(place):
            _mount(handle, name, drive, place, options)
            done.append(place)
            if drive.grow and drive.filesystem == "xfs":
                handle.xfs_growfs(place)
            elif drive.grow and drive.filesystem == "btrfs":
                handle.btrfs_filesystem_resize(place)
    return done


def _fill(handle: guestfs.GuestFS, name: str, drive: Drive, place: str) -> None:
    """Move what the guest has in a directory to an empty file system."""
    if handle.is_symlink(place):
        raise RuntimeError(f"{place} is a link, and no place to mount its own partition at")
    beside = handle.mkdtemp("/.osprovider-XXXXXX")
    _mount(handle, name, drive, beside, drive.options)
    try:
        handle.cp_a(f"{place}/.", beside)
    except RuntimeError as error:
        raise RuntimeError(f"{place} cannot be copied to its own partition: {_one_line(error)}") from error
    handle.umount(beside)
    handle.rmdir(beside)
    for entry in handle.ls(place):
        handle.rm_rf(f"{place}/{entry}")


def _mount(handle: guestfs.GuestFS, name: str, drive: Drive, place: str, options: str) -> None:
    """Mount a file system; mount(8) does not say why it cannot, but the appliance's kernel does."""
    try:
        handle.mount_vfs(options, drive.driver, name, place)
    except RuntimeError as error:
        said = [line for line in handle.dmesg().splitlines() if _OF_A_DRIVE.search(line)]
        why = re.sub(r"^\[[^]]*\] ", "", said[-1]) if said else _one_line(error)
        raise RuntimeError(f"its {drive.filesystem} cannot be mounted at {place}: {why}") from error


def _store(handle: guestfs.GuestFS, places: list[str]) -> None:
    """Store all that was written to the file systems; guestfs_sync would not say whether any of it was lost."""
    try:
        for place in places:
            handle.debug("sh", [f"sync --file-system '/sysroot{place}'"])  # syncfs(2)
    except RuntimeError as error:
        raise RuntimeError(f"it lost what was written to the guest ({_one_line(error)})") from error


def _trim(handle: guestfs.GuestFS, places: list[str]) -> None:
    """Have the devices give back what the file systems do not use, where they can."""
    for place in places:
        try:
            handle.fstrim(place)
        except RuntimeError:
            if handle.last_errno() != errno.EOPNOTSUPP:
                raise


def _obey(channel: socket.socket) -> None:
    """Wait for the word to finish, and unmount FUSE's view; end everything where whoever started us is gone."""
    if channel.recv(16) != b"finish":
        os._exit(1)
    end = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            linux.umount(str(_GUEST))
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > end:
                _fail(channel, f"a file of the guest is still open: {_one_line(error)}")
            time.sleep(0.02)
        else:
            return


def _fail(channel: socket.socket, what: str) -> NoReturn:
    """Say what went wrong, and end at once, in whatever thread and wherever libguestfs is."""
    channel.send(json.dumps({"error": what}).encode())
    os._exit(1)


def _one_line(error: Exception) -> str:
    """What an exception says, its first line: libguestfs goes on with advice for its developers."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'the socket'}: {error.strerror.lower()}"
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


if __name__ == "__main__":
    sys.exit(main())
