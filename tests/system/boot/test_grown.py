"""A disk image with its EFI system partition behind the root boots once that has moved, and the root is grown.

It takes a minute: a kernel is emulated.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from osprovider.disk.bootloader import make_boot_code
from osprovider.disk.device import claim
from osprovider.disk.esp import REMOVABLE_PATH, make_esp
from osprovider.disk.table import write_table
from osprovider.layout import TYPES, PartitionPlan, TablePlan
from tests.support.boot_context import ROOT_UUID
from tests.support.leftovers import no_leftovers
from tests.support.qemu import Firmware, UserNetwork, boot
from tests.system.boot.conftest import System
from tests.system.create.site import Site, sfdisk

_MIB = 1 << 20
_ROOT_MIB = 1400
_DISK_MIB = 2048
_ROOT = PartitionPlan(
    1, "root", _MIB, _ROOT_MIB * _MIB, "3f2a1c5e-0d4b-4c6a-9e8f-1a2b3c4d5e6f", "root", TYPES["root"], 0, "ext4"
)
_ESP = PartitionPlan(
    2, "esp", (_ROOT_MIB + 1) * _MIB, 64 * _MIB, "3f2a1c5e-0d4b-4c6a-9e8f-1a2b3c4d5e60", "ESP", TYPES["esp"], 0, "vfat"
)
_TABLE = TablePlan("3f2a1c5e-0d4b-4c6a-9e8f-1a2b3c4d5e61", 512, (_ROOT, _ESP))


def _publish(path: Path, system: System, run: Path) -> None:
    """Make an image of the system: the root, and behind it the ESP."""
    path.touch()
    os.truncate(path, (_ROOT_MIB + 66) * _MIB)
    place = ["-E", f"offset={_ROOT.start_bytes}", str(path), f"{_ROOT.size_bytes // 1024}k"]
    subprocess.run(["mkfs.ext4", "-q", "-F", "-U", ROOT_UUID, "-d", str(system.tree), *place], check=True)
    code = make_boot_code(_TABLE, ("uefi",))
    assert code.efi_image is not None
    with claim(path, run) as device:
        make_esp(path, _ESP, 512, {REMOVABLE_PATH: code.efi_image}, "12ab34cd")
        write_table(device, _TABLE)


def test_a_disk_whose_esp_has_moved_boots_with_its_root_grown(
    scratch: Path, system: System, run_directory: Path
) -> None:
    appliance = run_directory / "appliance"  # takes long to build, so the run has one
    appliance.mkdir(exist_ok=True)
    (cache := scratch / "cache").mkdir()
    (cache / "appliance").symlink_to(appliance)
    (machine := scratch / "machine").mkdir()
    with no_leftovers([scratch]):
        site = Site(scratch, cache)
        _publish(scratch / "published.raw", system, scratch / "run")
        site.write("images/published.yaml", f"source: {scratch / 'published.raw'}\n")
        site.write("variants/published.yaml", "image: published\n")
        disk, network = site.disk(_DISK_MIB * _MIB), UserNetwork()
        nic = {"mac": network.mac, "ip": network.address, "mode": "bridged", "link": "lab0"}
        site.created(disk, variant="published", nics=[nic])
    root, esp = sfdisk(disk)["partitions"]
    assert esp["start"] * 512 == (_DISK_MIB - 65) * _MIB
    assert (root["start"] + root["size"]) * 512 == esp["start"] * 512
    with boot(disk, machine, system.key, firmware=Firmware.UEFI) as guest:
        guest.wait_for_console(r"^web1 login:", 300)
        guest.wait_for_ssh()
        said = guest.ssh(["sh", "-c", "df --output=size --block-size=1M /; findmnt --noheadings /boot/efi"]).stdout
        assert int(said.splitlines()[1]) > 0.9 * (_DISK_MIB - 66)
        assert "vfat" in said
