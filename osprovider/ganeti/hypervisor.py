"""What a hypervisor gives its guest, as far as a guest's files depend on it: facts of Ganeti's, not policy.

Not for: what the configuration makes of them (``boot.serial``, ``layout.firmware``).
"""

from __future__ import annotations

import re
from typing import NamedTuple

from osprovider.ganeti.request import Request

__all__ = [
    "CONTAINERS",
    "SERIAL_SPEED",
    "SerialConsole",
    "guest_sector_size",
    "has_external_kernel",
    "has_firmware",
    "memory_mib",
    "serial_console",
]

SERIAL_SPEED = 38400
"""Ganeti's default ``serial_speed`` in bits/s (``hvcDefaults`` in ``src/Ganeti/Constants.hs``)."""

CONTAINERS = frozenset({"lxc", "chroot"})
"""Hypervisors whose guests share the node's kernel, and whose root file system the node has mounted for them."""


class SerialConsole(NamedTuple):
    """A console for text.

    Attributes:
        device: the kernel's name of it (``ttyS0``, ``hvc0``).
        speed: in bits/s.
    """

    device: str
    speed: int

    @property
    def port(self) -> int | None:
        """Which of a PC's serial ports it is, for boot loaders, which know no others; None where it is none."""
        found = re.fullmatch(r"ttyS(\d)", self.device)
        return int(found[1]) if found else None


def serial_console(request: Request) -> SerialConsole | None:
    """The serial console that the hypervisor gives; None where it gives none.

    kvm: ``-serial`` and ``console=ttyS0,SPEED`` if ``serial_console`` (``hv_kvm/__init__.py``,
    ``_GenerateKVMRuntime``). xen-hvm: always ``serial = 'pty'`` (``hv_xen.py``, ``XenHvmHypervisor._GetConfig``).
    xen-pvm: always the paravirtual console, which ``xl console`` reads and which has no speed. The others
    have none.
    """
    parameters = _parameters(request)
    match _hypervisor(request):
        case "kvm":
            speed = parameters.get("serial_speed", "")
            wanted = parameters.get("serial_console", "True") == "True"
            return SerialConsole("ttyS0", int(speed) if speed.isdecimal() else SERIAL_SPEED) if wanted else None
        case "xen-hvm":
            return SerialConsole("ttyS0", SERIAL_SPEED)
        case "xen-pvm":
            return SerialConsole("hvc0", SERIAL_SPEED)
    return None


def guest_sector_size(request: Request, device_sector_size: int) -> int:
    """The logical sector size of disks as the guest sees them, in bytes, which is the one that its tables count in.

    kvm: 512, whatever the node's device has, because Ganeti sets no ``logical_block_size`` and QEMU asks the device for
    it on s390 only (``hdev_probe_blocksizes`` in its ``block/file-posix.c``). xen: the device's, which blkback passes
    on (``sector-size`` in Xen's ``io/blkif.h``). The others use the device itself.
    """
    return 512 if _hypervisor(request) == "kvm" else device_sector_size


def memory_mib(request: Request) -> int | None:
    """The instance's memory at most, in MiB; None where Ganeti does not say.

    ``maxmem``, which was ``memory`` before Ganeti 2.6 (``BES_PARAMETERS`` in ``src/Ganeti/Constants.hs``).
    """
    backend = dict(request.instance.backend) if request.instance else {}
    said = backend.get("maxmem") or backend.get("memory") or ""
    return int(said) if said.isdecimal() else None


def has_external_kernel(request: Request) -> bool:
    """Does the instance run a kernel of the node's, so that its disk needs no boot loader?

    kvm: ``-kernel`` where ``kernel_path`` is not empty (``hv_kvm/__init__.py``, ``_GenerateKVMRuntime``). xen-pvm:
    ``kernel_path``, unless ``use_bootloader`` has pygrub or its like read the guest's disk (``hv_xen.py``,
    ``XenPvmHypervisor._GetConfig``), or that "kernel" is itself a GRUB for Xen (Debian's ``grub-x86_64-xen.bin``,
    ``pv-grub-x86_64.gz``), which reads it too. xen-hvm: its ``kernel_path`` is the firmware. lxc and chroot run in the
    node's own kernel.
    """
    parameters = _parameters(request)
    kernel_path = parameters.get("kernel_path", "")
    if kernel_path == "None":  # how OSEnvironment writes Python's None
        kernel_path = ""
    match _hypervisor(request):
        case "kvm":
            return bool(kernel_path)
        case "xen-pvm":
            own_loader = parameters.get("use_bootloader") == "True" or "grub" in kernel_path.rpartition("/")[2]
            return bool(kernel_path) and not own_loader
    return _hypervisor(request) in CONTAINERS


def has_firmware(request: Request) -> bool:
    """Does the instance start as a machine does, from its disk, by a BIOS or by UEFI?

    A xen-pvm does not, even where a GRUB for Xen or pygrub finds the kernel on the disk: it starts in that program,
    which only reads the menu (``boot/grub/grub.cfg``, or ``boot/grub/menu.lst``).
    """
    return not has_external_kernel(request) and _hypervisor(request) != "xen-pvm"


def _hypervisor(request: Request) -> str:
    return request.instance.hypervisor if request.instance else ""


def _parameters(request: Request) -> dict[str, str]:
    return dict(request.instance.hypervisor_parameters) if request.instance else {}
