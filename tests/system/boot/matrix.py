"""The boot matrix: a cell is a way to divide and boot a disk, and is shown by ``create`` onto a used disk and a boot.

A cell costs a core a quarter of a minute: a kernel is emulated. So each of table, file system and start has one, and
what does not concern them is shown beside them: a boot partition, swap, data disks, large sectors. The test files
divide the cells among themselves, so that they boot side by side.
Not for: what can be seen of a disk without booting it (tests/system/create).
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from osprovider.manifest import Manifest
from tests.support.leftovers import no_leftovers
from tests.support.login import Shell, log_in
from tests.support.old_contents import assert_files_show_nothing_old, assert_holes_are_zero, fill
from tests.support.qemu import KERNEL_ARGS, ExternalKernel, Firmware, Guest, UserNetwork, boot
from tests.support.runs import locked
from tests.support.template import shared_cache
from tests.system.create.site import Site, attached

__all__ = [
    "CONSOLES",
    "Cell",
    "Installed",
    "Prepared",
    "System",
    "boot_and_look",
    "install",
    "log_in_as_root",
    "make_site",
    "partitions_of",
    "prepare",
    "show",
    "write_variant",
]

MIB = 1 << 20

CONSOLES = "BOOT_CONSOLES"
"""The environment variable that names a directory for the consoles' logs to stay in."""

# The least that boots with systemd under everything, and makes its own menu.
_DEFINITION = f"""\
build:
  tool: mmdebstrap
  suite: bookworm
  components: [main]
  arch: amd64
  packages: [linux-image-cloud-amd64, initramfs-tools, zstd, grub2-common, grub-pc-bin, grub-efi-amd64-bin, e2fsprogs,
    systemd-sysv, udev]
  scripts: [{Path(__file__).with_name("lean.sh")}]
"""
_PASSWORD = "matrix"
_HYPERVISOR_ARGS = " ".join(["ro", "quiet", *KERNEL_ARGS])
_USERS = {"root": {"password_hash": "$5$matrixmatrix$a6tyVe/AVz.hp0camuaC9v5teo1hdSmQLsOmksX3kG7"}}
_DISK_MIB = 1280
_BOOT_SECONDS = 1800


@dataclass(frozen=True, slots=True)
class System:
    """What is installed.

    Attributes:
        image: its name.
        definition: in YAML; None where it is shipped.
    """

    image: str = "bootable"
    definition: str | None = _DEFINITION


_BOOTABLE = System()


@dataclass(frozen=True, slots=True)
class Cell:
    """One way to divide a disk and to boot it.

    Attributes:
        table: ``layout.table``.
        filesystem: the root's.
        start: what starts the guest: a firmware, or a kernel of the node's.
        more: what is special in it, for its name.
        layout: further keys of ``layout``.
        variant: further keys of the variant.
        root_path: the hypervisor parameter, with a kernel of the node's; ``UUID``, ``PARTUUID``: the plan's.
        sector_size: of the disk as the guest sees it, in bytes.
        updates: the guest's own update-grub is run, and it boots again.
        disks: sizes of further disks, in MiB.
        network: what its NIC is connected to; without one it has none.
        answers: commands of the guest's, and what their answers match.
    """

    table: Literal["gpt", "msdos", "none"]
    filesystem: str
    start: Literal["bios", "uefi", "kernel"]
    more: str = ""
    _: dataclasses.KW_ONLY
    layout: dict[str, object] = field(default_factory=dict)
    variant: dict[str, object] = field(default_factory=dict)
    root_path: str = "/dev/vda1"
    sector_size: int = 512
    updates: bool = False
    disks: tuple[int, ...] = ()
    network: UserNetwork | None = None
    answers: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return "-".join(word for word in (self.table, self.filesystem, self.start, self.more) if word)


@dataclass(frozen=True, slots=True)
class Prepared:
    """What all cells of a system share.

    Attributes:
        cache: of osprovider's, with the template.
        kernel: the template's, as files of the node's.
        system: what the template is of.
    """

    cache: Path
    kernel: ExternalKernel
    system: System

    @property
    def manifest(self) -> Manifest:
        """The template's."""
        (path,) = self.cache.glob("templates/*/manifest.json")
        return Manifest.from_json(path.read_bytes())


@dataclass(frozen=True, slots=True)
class Installed:
    """An instance that ``create`` has installed.

    Attributes:
        cell: how.
        directory: its own.
        disks: their files.
        partitions: the plan's, by role.
    """

    cell: Cell
    directory: Path
    disks: list[Path]
    partitions: dict[str, dict[str, Any]]

    @property
    def root(self) -> dict[str, Any]:
        """The root partition as planned."""
        return self.partitions["root"]

    def arguments(self) -> str:
        """A kernel's command line as Ganeti writes it (``hv_kvm/__init__.py``, ``_GenerateKVMRuntime``)."""
        values = {"UUID": self.root["filesystem_uuid"], "PARTUUID": self.root["guid"]}
        path = self.cell.root_path
        path = f"{path}={values[path]}" if path in values else path
        return f"root={path} {_HYPERVISOR_ARGS} console=ttyS0,38400"


def prepare(run_directory: Path, system: System = _BOOTABLE) -> Prepared:
    """The template that all cells are made of, built by the first process of the run to ask, and its kernel."""
    place = run_directory / f"boot-{system.image}"
    place.mkdir(exist_ok=True)
    cache = shared_cache(place, image=system.image, definition=system.definition)
    prepared = Prepared(cache, ExternalKernel(place / "vmlinuz", place / "initrd", ""), system)
    with locked(place / "kernel.lock"):
        if not prepared.kernel.kernel.exists():
            (template,) = cache.glob("templates/*/template.img")
            (kernel,) = prepared.manifest.kernels
            for source, target in ((kernel.initrd, prepared.kernel.initrd), (kernel.image, prepared.kernel.kernel)):
                new = target.with_suffix(".new")
                subprocess.run(["debugfs", "-R", f"dump {source} {new}", template], check=True, capture_output=True)
                new.rename(target)
    return prepared


def make_site(directory: Path, prepared: Prepared) -> Site:
    """A site that knows the template's image."""
    site, system = Site(directory, prepared.cache), prepared.system
    if system.definition is not None:
        site.write(f"images/{system.image}.yaml", system.definition)
    return site


def write_variant(site: Site, keys: Mapping[str, Any], image: str = _BOOTABLE.image) -> None:
    """Write the variant ``cell``, whose guests can be emulated and looked into, with further keys."""
    boot = {"kernel_args": ["quiet", *KERNEL_ARGS], "timeout": 0, **keys.get("boot", {})}
    variant = {"image": image, "users": _USERS, **keys, "boot": boot}
    site.write("variants/cell.yaml", json.dumps(variant))  # which is YAML


def log_in_as_root(guest: Guest) -> Shell:
    """Wait for the login prompt of a guest of the variant, and log in."""
    return log_in(guest, r"^web1 login: ", _PASSWORD, _BOOT_SECONDS)


def install(cell: Cell, scratch: Path, prepared: Prepared) -> Installed:
    """Run ``create`` for a cell, onto a disk that was full of something else."""
    site = make_site(scratch, prepared)
    firmware = [] if cell.start == "kernel" else [cell.start]
    layout = {"table": cell.table, "filesystem": cell.filesystem, "firmware": firmware, **cell.layout}
    network = {} if cell.network else {"network": {"renderer": "none"}}
    # Nothing is made zero but what has to be.
    write_variant(site, {"layout": layout, "wipe": "none", **network, **cell.variant}, prepared.system.image)
    files = [site.disk(_DISK_MIB * MIB)]
    files += [site.disk(size * MIB, name=f"disk{number}.raw") for number, size in enumerate(cell.disks, 1)]
    for file in files:
        fill(file)
    with ExitStack() as stack:
        # Only Xen's guests see the sectors of the node's device; what they run on here is the same otherwise.
        is_xen = cell.sector_size != 512
        xen = "xen-pvm" if cell.start == "kernel" else "xen-hvm"
        disks = [stack.enter_context(attached(file, cell.sector_size)) for file in files] if is_xen else files
        environment = site.environment(
            None,
            variant="cell",
            disks=[{"path": str(disk)} for disk in disks],
            nics=_nics(cell.network),
            hypervisor=xen if is_xen else "kvm",
            hypervisor_parameters=_hypervisor_parameters(cell, prepared),
        )
        partitions = partitions_of(site.plan(environment))
        outcome = site.call("create", environment)
        assert outcome.status == 0, outcome.said
    return Installed(cell, scratch, files, partitions)


def partitions_of(plan: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """A plan's partitions of disk 0, by role."""
    return {part["role"]: part for part in plan["table"]["partitions"]}


def _nics(network: UserNetwork | None) -> list[dict[str, str]]:
    """The instance's NICs, in the subnet that the site knows."""
    return [{"mac": network.mac, "ip": network.address, "mode": "bridged", "link": "lab0"}] if network else []


def _hypervisor_parameters(cell: Cell, prepared: Prepared) -> dict[str, str]:
    if cell.start != "kernel":
        return {}
    # A plan cannot wait for itself: UUIDs stand for any.
    root_path = cell.root_path if cell.root_path.startswith("/") else f"{cell.root_path}=0"
    kernel = prepared.kernel
    paths = {"kernel_path": str(kernel.kernel), "initrd_path": str(kernel.initrd), "root_path": root_path}
    return {**paths, "kernel_args": _HYPERVISOR_ARGS, "use_bootloader": "False"}


@contextmanager
def _booted(installed: Installed, prepared: Prepared) -> Iterator[tuple[Guest, Shell]]:
    """Boot it to the login prompt, and log in."""
    cell = installed.cell
    number = len(list(installed.directory.glob("machine-*"))) + 1
    (directory := installed.directory / f"machine-{number}").mkdir()
    if consoles := os.environ.get(CONSOLES):
        (log := Path(consoles, f"{cell}-{number}.log").absolute()).parent.mkdir(parents=True, exist_ok=True)
        (directory / "console.log").symlink_to(log)
    kernel = dataclasses.replace(prepared.kernel, arguments=installed.arguments()) if cell.start == "kernel" else None
    disk, *further_disks = installed.disks
    with boot(
        disk,
        directory,
        further_disks=further_disks,
        firmware=Firmware.UEFI if cell.start == "uefi" else Firmware.BIOS,
        kernel=kernel,
        network=cell.network,
        sector_size=cell.sector_size,
        keep_disk=False,
    ) as guest:
        yield guest, log_in_as_root(guest)


def show(cell: Cell, scratch: Path, run_directory: Path, system: System = _BOOTABLE) -> None:
    """Install a cell, boot it, and see that everything is as it should be."""
    prepared = prepare(run_directory, system)
    with no_leftovers([scratch]):
        installed = install(cell, scratch, prepared)
        _assert_nothing_old(installed, prepared.manifest)
    boot_and_look(installed, prepared)


def boot_and_look(installed: Installed, prepared: Prepared, answers: Sequence[tuple[str, str]] = ()) -> None:
    """Boot an instance, once more after its own update-grub where its cell says so, and see that all is well.

    Args:
        installed: it.
        prepared: what all share.
        answers: as the cell's, which they come after.
    """
    with _booted(installed, prepared) as (guest, shell):
        first = _look(installed, guest, shell, answers)
        if installed.cell.updates:
            assert shell.ask("head -n 1 /boot/grub/grub.cfg").startswith("# Made by osprovider")
            shell.ask("update-grub 2>&1")
            assert "BEGIN /etc/grub.d/10_linux" in shell.ask("grep BEGIN /boot/grub/grub.cfg")
            _power_off(guest)
    if installed.cell.updates:
        with _booted(installed, prepared) as (guest, shell):
            assert _look(installed, guest, shell, answers) == first


def _assert_nothing_old(installed: Installed, manifest: Manifest) -> None:
    disk, root = installed.disks[0], installed.root
    if root["filesystem"] == manifest.filesystem.type:
        assert_holes_are_zero(disk, root["start_bytes"], manifest)
    place = root["start_bytes"], root["size_bytes"]
    assert_files_show_nothing_old(disk, *place, root["filesystem"], installed.directory / "mounted")


def _look(installed: Installed, guest: Guest, shell: Shell, answers: Sequence[tuple[str, str]]) -> list[str]:
    """See that all is well in the guest; what it was booted with."""
    cell, root = installed.cell, installed.root
    assert _complaints(guest.console.text()) == []
    state = shell.ask("systemctl is-system-running --wait || systemctl --failed --no-legend")
    assert state == "running", state
    source, filesystem, uuid, options = shell.ask(
        "findmnt --noheadings --raw --output SOURCE,FSTYPE,UUID,OPTIONS /"
    ).split()
    assert source.partition("[")[0] == f"/dev/vda{root['number'] or ''}"
    assert (filesystem, uuid) == (cell.filesystem, root["filesystem_uuid"])
    assert "rw" in options.split(",")
    label = shell.ask("lsblk --nodeps --noheadings --output PTTYPE /dev/vda")
    assert label == {"gpt": "gpt", "msdos": "dos", "none": ""}[cell.table]
    # It has grown: to the disk's end, or to what lies there.
    end = max(part["start_bytes"] + part["size_bytes"] for part in installed.partitions.values())
    assert end > installed.disks[0].stat().st_size - 3 * MIB
    size = shell.ask("findmnt --noheadings --raw --bytes --output SIZE /")
    assert int(size) > 0.85 * root["size_bytes"]
    for role, mount in (("boot", "/boot"), ("esp", "/boot/efi")):
        if part := installed.partitions.get(role):
            assert shell.ask(f"findmnt --noheadings --raw --output UUID {mount}") == part["filesystem_uuid"]
    if part := installed.partitions.get("swap"):
        assert part["filesystem_uuid"] in shell.ask("swapon --noheadings --raw --show=UUID").split()
    is_uefi = shell.ask("test -d /sys/firmware/efi && echo yes || echo no")
    assert is_uefi == ("yes" if cell.start == "uefi" else "no")
    assert shell.ask("stty speed </dev/ttyS0") == "38400"
    for command, pattern in (*cell.answers, *answers):
        answer = shell.ask(command)
        assert re.fullmatch(pattern, answer), f"{command}: {answer}"
    return _command_line(installed, shell.ask("cat /proc/cmdline"))


def _command_line(installed: Installed, line: str) -> list[str]:
    words = line.split()
    if installed.cell.start == "kernel":
        assert words == installed.arguments().split()
    else:
        assert {f"root=UUID={installed.root['filesystem_uuid']}", "ro", "quiet", *KERNEL_ARGS} <= set(words)
        assert [word for word in words if word.startswith("console=")] == ["console=tty0", "console=ttyS0,38400n8"]
    return words


def _power_off(guest: Guest) -> None:
    guest.type("sync; poweroff --force")
    guest.wait_for_end(600)


def _complaints(console: str) -> list[str]:
    """What GRUB complains of, a missing module say; not that this machine has no graphics, which UEFI's GRUB tries."""
    return re.findall(r"^\s*(error: (?!no suitable video mode found).*)", console, re.MULTILINE)
