"""Image files as others make them, by the tools that they use: archives, dumps and disks with the system of a template.

The disk is what a publisher of cloud images would make: a GPT with the root in the first partition and last on the
disk, a BIOS boot partition 14 and an EFI system partition 15, GRUB installed for both firmwares, a menu of its own, and
an identity (machine ID, host key, UUIDs) that no instance may have.

Not for: broken or hostile files; the tests of the formats make these.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path

from tests.support.loops import attached
from tests.support.sparse import sparse_file

__all__ = ["Published", "make_cloud_disk", "make_dump", "make_qcow2", "make_system", "make_tar", "template_image"]

_MIB = 1 << 20
_SECTOR = 512
_DISK_BYTES = 2048 * _MIB
_BIOS_BOOT = (2048, 8191)  # partition 14: first and last sector, as Debian's cloud images have them
_ESP = (8192, 262143)  # partition 15
_ROOT = (262144, _DISK_BYTES // _SECTOR - 2049)  # partition 1
_ESP_ID = "5A5A-1234"

_GRUB = Path("/usr/lib/grub")
_MODULES = ("part_gpt", "ext2", "fat", "normal", "search", "search_fs_uuid", "configfile", "linux", "echo")
# include/grub/i386/pc/boot.h and diskboot.h: where boot.img keeps the sector of core.img, and core.img its own rest.
_CORE_SECTOR_OFFSET = 0x5C
_REST_SECTOR_OFFSET = 0x1F4


def template_image(cache: Path) -> Path:
    """Return the prepared file system of the image debian-12 in a cache, the newest of them."""
    manifests = {path: json.loads(path.read_text()) for path in cache.glob("templates/*/manifest.json")}
    found = [(manifest["created"], path) for path, manifest in manifests.items() if manifest["image"] == "debian-12"]
    return max(found)[1].with_name("template.img")


def make_tar(system: Path, path: Path, *compressor: str) -> None:
    """Pack what is in the file system `system` into `path`, through `compressor` (``zstd -3``) if there is one."""
    words = ["tar", "--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner", "--create", "--directory", "root"]
    pack = f"{' '.join(words)} . {'| ' + ' '.join(compressor) if compressor else ''} >{path}"
    _mounted(system, pack, options="loop,ro,noload")


def make_dump(system: Path, path: Path, *options: str) -> None:
    """Dump the file system `system` at level 0 into `path`; `options` as dump(8) has them, such as ``-z1``."""
    with attached(system, "--read-only") as device:
        subprocess.run(["dump", "-0", "-q", *options, "-f", path, device], check=True, capture_output=True)


def make_qcow2(raw: Path, path: Path, *, compressed: bool) -> None:
    """Convert a raw image."""
    options = ["-c"] if compressed else []
    subprocess.run(["qemu-img", "convert", *options, "-f", "raw", "-O", "qcow2", raw, path], check=True)


@dataclass(frozen=True, slots=True)
class Published:
    """What a system was published with, and no instance may go on using.

    Attributes:
        root_uuid: of the root's file system.
        root_guid: of the root's partition.
        disk_guid: of the table.
        machine_id: in ``/etc/machine-id``.
        host_key: the public half of its ssh host key.
    """

    root_uuid: str
    root_guid: str
    disk_guid: str
    machine_id: str
    host_key: str

    @property
    def identity(self) -> frozenset[str]:
        """All of it."""
        return frozenset({self.root_uuid, self.root_guid, self.disk_guid, self.machine_id, self.host_key})


def make_system(template: Path, path: Path) -> Published:
    """Make the file system of an installed system of a template's: `path`, of the size of the disk's root partition."""
    with tempfile.TemporaryDirectory(dir=path.parent) as name:
        scratch = Path(name)
        made = Published(str(uuid.uuid4()), str(uuid.uuid4()), str(uuid.uuid4()), uuid.uuid4().hex, _host_key(scratch))
        subprocess.run(["cp", "--sparse=always", template, path], check=True)
        os.truncate(path, (_ROOT[1] + 1 - _ROOT[0]) * _SECTOR)
        for words in (["e2fsck", "-fp"], ["resize2fs"], ["tune2fs", "-U", made.root_uuid]):
            subprocess.run([*words, path], check=True, capture_output=True)
        _install(path, scratch, made)
    return made


def _host_key(scratch: Path) -> str:
    key = scratch / "ssh_host_ed25519_key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "publisher", "-f", key], check=True)
    return key.with_name(f"{key.name}.pub").read_text().split()[1]


def _install(root: Path, scratch: Path, made: Published) -> None:
    """Do as an installer does: fstab, GRUB and its menu, what makes the machine unique."""
    (scratch / "fstab").write_text(
        f"PARTUUID={made.root_guid} / ext4 rw,discard,errors=remount-ro 0 1\n"
        f"UUID={_ESP_ID} /boot/efi vfat defaults,umask=077 0 2\n"
    )
    (scratch / "machine-id").write_text(f"{made.machine_id}\n")
    (scratch / "grub.cfg").write_text(
        "set timeout=1\nset default=0\n"
        f"search --no-floppy --fs-uuid --set=root {made.root_uuid}\n"
        "menuentry 'Published' {\n"
        f"  linux /boot/VMLINUZ root=UUID={made.root_uuid} ro console=tty0 console=ttyS0,115200\n"
        "  initrd /boot/INITRD\n}\n"
    )
    _mounted(
        root,
        f"cp {scratch}/fstab {scratch}/machine-id root/etc; cp {scratch}/ssh_host_* root/etc/ssh; "
        f"mkdir -p root/boot/efi root/boot/grub/i386-pc; cp {_GRUB}/i386-pc/*.mod {_GRUB}/i386-pc/*.lst "
        f"root/boot/grub/i386-pc; cp {scratch}/grub.cfg root/boot/grub; cd root/boot; "
        "sed -i s/VMLINUZ/$(ls vmlinuz-* | head -n 1)/\\;s/INITRD/$(ls initrd.img-* | head -n 1)/ grub/grub.cfg",
        options="loop",
    )


def make_cloud_disk(system: Path, published: Published, path: Path) -> None:
    """Make a raw disk with what `make_system` made, which boots under BIOS and UEFI by itself."""
    with tempfile.TemporaryDirectory(dir=path.parent) as name:
        scratch = Path(name)
        esp = scratch / "esp.img"
        _make_esp(esp, scratch, published)
        sparse_file(path, _DISK_BYTES)
        _make_table(path, published)
        for part, (first, _) in ((esp, _ESP), (system, _ROOT)):
            place = [f"of={path}", "oflag=seek_bytes", f"seek={first * _SECTOR}"]
            subprocess.run(["dd", f"if={part}", *place, "bs=1M", "conv=notrunc,sparse", "status=none"], check=True)
        _write_boot_code(path, scratch)


def _make_esp(esp: Path, scratch: Path, published: Published) -> None:
    sparse_file(esp, (_ESP[1] + 1 - _ESP[0]) * _SECTOR)
    subprocess.run(["mkfs.vfat", "-i", _ESP_ID.replace("-", ""), esp], check=True, capture_output=True)
    loader, menu = scratch / "BOOTX64.EFI", scratch / "grub-esp.cfg"
    _mkimage("x86_64-efi", "/EFI/debian", loader)
    menu.write_text(
        f"search.fs_uuid {published.root_uuid} root\nset prefix=($root)'/boot/grub'\nconfigfile $prefix/grub.cfg\n"
    )
    subprocess.run(["mmd", "-i", esp, "::/EFI", "::/EFI/BOOT", "::/EFI/debian"], check=True)
    subprocess.run(["mcopy", "-i", esp, loader, "::/EFI/BOOT/BOOTX64.EFI"], check=True)
    subprocess.run(["mcopy", "-i", esp, menu, "::/EFI/debian/grub.cfg"], check=True)


def _make_table(path: Path, published: Published) -> None:
    words = ["sgdisk", f"--disk-guid={published.disk_guid}", "--set-alignment=1"]
    for number, (first, last), kind in ((14, _BIOS_BOOT, "ef02"), (15, _ESP, "ef00"), (1, _ROOT, "8304")):
        words += [f"--new={number}:{first}:{last}", f"--typecode={number}:{kind}"]
    words.append(f"--partition-guid=1:{published.root_guid}")
    subprocess.run([*words, path], check=True, capture_output=True)


def _write_boot_code(path: Path, scratch: Path) -> None:
    """Do as grub-bios-setup does, which needs a device for each partition."""
    core_path = scratch / "core.img"
    _mkimage("i386-pc", "(,gpt1)/boot/grub", core_path, "biosdisk")
    core, boot = bytearray(core_path.read_bytes()), bytearray((_GRUB / "i386-pc/boot.img").read_bytes())
    assert len(core) <= (_BIOS_BOOT[1] + 1 - _BIOS_BOOT[0]) * _SECTOR
    struct.pack_into("<Q", boot, _CORE_SECTOR_OFFSET, _BIOS_BOOT[0])
    struct.pack_into("<Q", core, _REST_SECTOR_OFFSET, _BIOS_BOOT[0] + 1)
    with path.open("r+b") as file:
        file.write(boot[:440])
        file.seek(_BIOS_BOOT[0] * _SECTOR)
        file.write(core)


def _mkimage(platform: str, prefix: str, path: Path, *modules: str) -> None:
    words = ["grub-mkimage", f"--format={platform}", f"--prefix={prefix}", f"--output={path}"]
    subprocess.run([*words, *_MODULES, *modules], check=True)


def _mounted(image: Path, commands: str, *, options: str) -> None:
    """Run shell `commands` where `image` is mounted at ``root``, in namespaces of their own: nothing is left behind."""
    script = (
        f'set -o errexit -o pipefail; mount -t tmpfs none /mnt; cd /mnt; mkdir root; mount -o {options} "$0" root; '
    )
    words = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "bash", "-c", script + commands, str(image)]
    subprocess.run(words, check=True, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"})
