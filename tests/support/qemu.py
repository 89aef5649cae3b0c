"""A disk image booted in QEMU, emulated, with a network that leads nowhere but to a loopback port of this machine's.

The machine is the one that Ganeti's KVM hypervisor gives its instances by default: virtio disk and network, a serial
console. The emulator (``-accel tcg``) is slow and works everywhere.

Not for: Ganeti's own instances; these it starts itself.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from itertools import count
from pathlib import Path

from tests.support.console import ConsoleLog
from tests.support.ssh import SshTarget

__all__ = ["EMULATED_ARGS", "KERNEL_ARGS", "ExternalKernel", "Firmware", "Guest", "UserNetwork", "boot"]

_ports = count(2200)

EMULATED_ARGS = (
    *("no_timer_check", "tsc=reliable", "mitigations=off", "nokaslr", "norandmaps", "apparmor=0", "audit=0"),
    *("cryptomgr.notests", "8250.nr_uarts=1", "module_blacklist=kvm"),
)
"""What an emulated kernel is started with.

Without the first it would panic now and then, where the machine is busy, over a timer that "doesn't work"
(``check_timer`` in its arch/x86/kernel/apic/io_apic.c). The others spare a quarter of what a boot costs: no processor
is there to be defended from, code has to be translated again for each program's addresses, and QEMU's processor has
AMD's virtualisation, for which udev would load a large module.
"""

KERNEL_ARGS = (*EMULATED_ARGS, "panic=-1")
"""Likewise here, where QEMU ends when a kernel does panic."""


class Firmware(StrEnum):
    """What the machine starts with."""

    BIOS = "bios"  # SeaBIOS, QEMU's own
    UEFI = "uefi"  # OVMF, without Secure Boot
    SECURE = "secure"  # OVMF, with Secure Boot


# Debian's package ovmf: code, and variables, which are written to and therefore copied.
_OVMF = Path("/usr/share/OVMF")
_FLASH = {
    Firmware.UEFI: ("OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"),
    Firmware.SECURE: (
        "OVMF_CODE_4M.secboot.fd",
        "OVMF_VARS_4M.ms.fd",
    ),  # with Microsoft's keys, which shim is signed by
}
# Variables that are only written in System Management Mode.
_SECURE_MACHINE = ["-machine", "q35,smm=on", "-global", "driver=cfi.pflash01,property=secure,value=on"]


@dataclass(frozen=True, slots=True)
class ExternalKernel:
    """A kernel of the node's, which Ganeti's ``kernel_path`` and the like name.

    Attributes:
        kernel: its file.
        initrd: the initial RAM disk's.
        arguments: its command line.
    """

    kernel: Path
    initrd: Path
    arguments: str


@dataclass(frozen=True, slots=True)
class UserNetwork:
    """The network that QEMU itself plays to the guest's only NIC.

    Attributes:
        mac: the NIC's.
        address: the guest's; where `subnet`'s DHCP server of QEMU's is asked, it gives this one.
        subnet: in CIDR form.
        gateway: QEMU's own address in it.
    """

    mac: str = "52:54:00:12:34:56"
    address: str = "198.51.100.21"
    subnet: str = "198.51.100.0/24"
    gateway: str = "198.51.100.254"


class Guest:
    """A machine that runs.

    Attributes:
        console: the serial console's log.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], console: ConsoleLog, ssh: SshTarget | None, errors: Path
    ) -> None:
        self.console = console
        self._ssh = ssh
        self._process = process
        self._errors = errors

    @property
    def shell(self) -> SshTarget:
        """How ssh gets in, where it does."""
        assert self._ssh is not None
        return self._ssh

    def is_alive(self) -> bool:
        """Tell whether QEMU runs still."""
        return self._process.poll() is None

    def type(self, line: str) -> None:
        """Type a line at the console."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()

    def wait_for_console(self, pattern: str, timeout: float, *, after: int = 0) -> str:
        """Wait until the console shows the regular expression `pattern`, and return what matched.

        Args:
            pattern: as `ConsoleLog.wait_for` takes it.
            timeout: seconds.
            after: how many characters of the console's text to leave aside.

        Raises:
            TimeoutError: after `timeout` seconds, or when QEMU has ended.
        """
        try:
            return self.console.wait_for(pattern, timeout, after=after, is_alive=self.is_alive).group()
        except TimeoutError as error:
            error.add_note(self._state())
            raise

    def wait_for_ssh(self, timeout: float = 1800) -> None:
        """Wait until root can log in.

        Raises:
            TimeoutError: after `timeout` seconds, or when QEMU has ended.
        """
        try:
            self.shell.wait(timeout, is_alive=self.is_alive)
        except TimeoutError as error:
            error.add_note(f"{self._state()}; the console ends with:\n{self.console.tail()}")
            raise

    def ssh(self, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run `argv` in the guest; see `SshTarget.run`."""
        return self.shell.run(argv)

    def wait_for_end(self, timeout: float) -> None:
        """Wait until the guest has switched itself off.

        Raises:
            subprocess.TimeoutExpired: after `timeout` seconds.
        """
        self._process.wait(timeout)

    def _state(self) -> str:
        """Say how QEMU is."""
        state = "runs" if self.is_alive() else f"has ended with {self._process.returncode}"
        return f"QEMU {state}: {self._errors.read_text().strip() or 'no message'}"


@contextmanager
def boot(
    disk: Path,
    directory: Path,
    key: Path | None = None,
    *,
    further_disks: Sequence[Path] = (),
    firmware: Firmware = Firmware.BIOS,
    kernel: ExternalKernel | None = None,
    network: UserNetwork | None = None,
    sector_size: int = 512,
    keep_disk: bool = True,
) -> Iterator[Guest]:
    """Boot `disk` and give the guest; on leaving, QEMU is ended.

    Must be called from a thread that lives as long as the guest, for QEMU dies with the thread that started it.

    Args:
        disk: the image file.
        directory: an existing directory for the console's log (``console.log``), QEMU's messages and its variables.
        key: the private key to log in with by ssh, which takes a network.
        further_disks: disks beside the first, of the same kind.
        firmware: BIOS or UEFI.
        kernel: in place of what the disk has.
        network: addresses of the network; without them and a key, the guest has none.
        sector_size: logical and physical sectors of the virtual disk, in bytes.
        keep_disk: leave the file as it is; what the guest writes is forgotten. The image may be booted twice at once.
    """
    console = directory / "console.log"
    errors = directory / "qemu.log"
    snapshot = "on" if keep_disk else "off"
    network = network or (UserNetwork() if key else None)
    address, port = _own_place() if key else ("", 0)
    command = [
        # Nothing of a run that is killed goes on.
        *["setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64"],
        *["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"],
        *_firmware_options(firmware, directory),
        *["-accel", "tcg", "-m", "512M", "-smp", "1"],
        # What is typed comes from standard input, and what the guest says goes to standard output.
        *["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"],
        *_disk_options([disk, *further_disks], f"format=raw,snapshot={snapshot},cache=unsafe", sector_size),
        *(_network_options(network, address, port) if network else []),
        *(_kernel_options(kernel) if kernel else []),
    ]
    with console.open("wb") as said, errors.open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=said, stderr=log)
    try:
        yield Guest(process, ConsoleLog(console), SshTarget(address, key, port=port) if key else None, errors)
    finally:
        process.kill()
        process.communicate()  # closes what was typed to


def _disk_options(disks: Sequence[Path], how: str, sector_size: int) -> list[str]:
    """Return the options that attach virtio disks, in order; `how` is of their files."""
    sectors = f"logical_block_size={sector_size},physical_block_size={sector_size}"
    words = []
    for number, path in enumerate(disks):
        words += ["-drive", f"if=none,id=disk{number},{how},file={_escaped(path)}"]
        words += ["-device", f"virtio-blk-pci,drive=disk{number},{sectors}"]
    return words


def _network_options(network: UserNetwork, address: str, port: int) -> list[str]:
    """Return the options that attach a NIC, with a loopback `address` and `port`, if any, that lead to its ssh."""
    way_in = f",hostfwd=tcp:{address}:{port}-{network.address}:22" if port else ""
    nic = f"user,id=nic0,restrict=on,net={network.subnet},host={network.gateway},dhcpstart={network.address}{way_in}"
    return ["-netdev", nic, "-device", f"virtio-net-pci,netdev=nic0,mac={network.mac}"]


def _kernel_options(kernel: ExternalKernel) -> list[str]:
    """Return the options that Ganeti's KVM hypervisor gives with ``kernel_path``, ``initrd_path`` and more."""
    return ["-kernel", str(kernel.kernel), "-initrd", str(kernel.initrd), "-append", kernel.arguments]


def _firmware_options(firmware: Firmware, directory: Path) -> list[str]:
    """Return the options of a machine with this firmware; OVMF's variables become a copy in `directory`."""
    machine = _SECURE_MACHINE if firmware is Firmware.SECURE else ["-machine", "q35,smm=off"]
    if firmware not in _FLASH:
        return machine
    code, variables = (_OVMF / name for name in _FLASH[firmware])
    own = shutil.copyfile(variables, directory / "efi-variables.fd")
    return [
        *machine,
        *["-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={code}"],
        *["-drive", f"if=pflash,format=raw,unit=1,file={_escaped(own)}"],
    ]


def _escaped(path: Path) -> str:
    """Return `path` as a value in one of QEMU's comma separated options."""
    return str(path).replace(",", ",,")


def _own_place() -> tuple[str, int]:
    """Return an address of the loopback interface's, which has all of 127.0.0.0/8, and a TCP port.

    Both are for this process alone, whose number has 22 bits at most: a port of 127.0.0.1 that is free now may be
    another's in a moment.
    """
    pid = os.getpid()
    return f"127.{pid >> 14}.{(pid >> 7) % 128 + 1}.{pid % 128 + 1}", next(_ports)
