"""What runs in the appliance: libguestfs's own system, with an init of ours, and without programs that no order needs.

libguestfs has supermin build that system, once, of what is installed on the node. Its init would start udev, and look
on the guest's disks for arrays, volume groups and Windows' dynamic disks, and put them together: more than half of the
time that an appliance takes to start, and a dozen programs that read what a hostile disk holds. Ours mounts what the
daemon needs, and starts it.
Not for: the machine around it, or its kernel's arguments (:mod:`osprovider.guest.appliance_process`).
"""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

__all__ = ["make_system"]

# In place of udev it makes the few names that the daemon goes by: its channel's, and one for each disk, which sorts in
# the order in which libguestfs adds them, as the kernel's own names need not (guestfsd's device-name-translation.c).
_INIT = """\
#!/bin/sh
PATH=/usr/sbin:/usr/bin:/sbin:/bin
export PATH
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs -o nosuid,size=20%,mode=0755 tmpfs /run
mkdir -p /sysroot /dev/virtio-ports /dev/disk/by-path
ln -s /proc/self/fd /dev/fd
ln -sf /proc/mounts /etc/mtab
for port in /sys/class/virtio-ports/*; do
    read -r name < "$port/name" && ln -s "../${port##*/}" "/dev/virtio-ports/$name"
done
for address in /sys/block/sd*/device/scsi_disk/*; do
    disk=${address#/sys/block/}
    disk=${disk%%/*}
    ln -s "../../$disk" "/dev/disk/by-path/scsi-${address##*/}"
    echo 300 > "/sys/block/$disk/device/timeout"
done
read -r arguments < /proc/cmdline
case $arguments in
*guestfs_verbose=1*) guestfsd --verbose ;;
*) guestfsd ;;
esac
sync
echo b > /proc/sysrq-trigger
"""
_CHANGED_NS = Path(__file__).stat().st_mtime_ns  # looked at now, since the process will have a /tmp of its own
_REPLACED = ("init.tar.gz", "udev-rules.tar.gz")
# Of libguestfs's list of Debian packages, whatever its release calls the libraries of its daemon.
_UNUSED_PACKAGES = frozenset(
    {
        *("binutils", "bsdextrautils", "bzip2", "cpio", "cryptsetup-bin", "curl", "debootstrap", "diffutils"),
        *("exfatprogs", "extlinux", "f2fs-tools", "fdisk", "file", "findutils", "gawk", "gdisk", "grub2-common"),
        *("iproute2", "isc-dhcp-client", "dhcpcd-base", "kpartx", "ldmtool", "less", "lsscsi", "lvm2", "lzop", "mdadm"),
        *("mtools", "ntfs-3g", "openssh-client", "parted", "pciutils", "procps", "psmisc", "qemu-utils", "scrub"),
        *("sleuthkit", "squashfs-tools", "syslinux", "systemd-sysv", "udev", "uuid-runtime", "xz-utils", "zerofree"),
    }
)


def make_system(path: str, place: Path) -> None:
    """Tell supermin what to build the appliance of.

    It builds anew when packages were installed on the node since, or what it is told is newer (supermin(1),
    ``--if-newer``, which goes by the time of the directory).

    Args:
        path: directories in which libguestfs would look, colon-separated (guestfs(3), ``guestfs_get_path``).
        place: a directory in which ``supermin.d`` is made.

    Raises:
        RuntimeError: libguestfs has no such appliance.
    """
    found = [each for each in (Path(directory, "supermin.d") for directory in path.split(":")) if each.is_dir()]
    if not found:
        raise RuntimeError(f"libguestfs has no supermin.d in {path}: reinstall libguestfs0 (Debian 13: libguestfs0t64)")
    theirs, ours = found[0], place / "supermin.d"
    ours.mkdir()
    for file in theirs.iterdir():
        if file.name.startswith("packages"):
            wanted = [name for name in file.read_text().splitlines() if name not in _UNUSED_PACKAGES]
            ours.joinpath(file.name).write_text("".join(f"{name}\n" for name in wanted))
        elif file.name not in _REPLACED:
            ours.joinpath(file.name).symlink_to(file)
    init = tarfile.TarInfo("init")
    init.mode, init.size = 0o755, len(_INIT)
    with tarfile.open(ours / "osprovider.tar", "w") as archive:
        archive.addfile(init, io.BytesIO(_INIT.encode()))
    newest = max(_CHANGED_NS, *(path.stat().st_mtime_ns for path in (theirs, *theirs.iterdir())))
    os.utime(ours, ns=(newest, newest))
