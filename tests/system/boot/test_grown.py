"""A disk image with its EFI system partition behind the root boots once that has moved, and the root is grown."""

from __future__ import annotations

import subprocess
from pathlib import Path

from osprovider.disk.device import claim
from osprovider.disk.esp import REMOVABLE_PATH
from osprovider.disk.grub_images import make_boot_code
from osprovider.disk.table import make_table, write_table
from osprovider.layout import TYPES, PartitionPlan, TablePlan
from tests.support.leftovers import no_leftovers
from tests.support.sparse import sparse_file
from tests.support.template import with_appliance
from tests.system.boot.matrix import Cell, Installed, boot_and_look, install, partitions_of, prepare, write_variant
from tests.system.create.site import Site, sfdisk
from tests.system.disk.support import put_esp

_MIB = 1 << 20
_DISK_MIB = 2048
_ESP_MIB = 64


def _publish(path: Path, installed: Installed, run: Path) -> None:
    """Make an image of an instance: the root, and behind it the ESP."""
    size = installed.root["size_bytes"]
    guid = "3f2a1c5e-0d4b-4c6a-9e8f-1a2b3c4d5e6"
    root = PartitionPlan(1, "root", _MIB, size, f"{guid}1", "root", TYPES["root"], 0, "ext4")
    esp = PartitionPlan(2, "esp", _MIB + size, _ESP_MIB * _MIB, f"{guid}2", "ESP", TYPES["esp"], 0, "vfat")
    table = TablePlan(f"{guid}0", 512, (root, esp))
    sparse_file(path, size + (_ESP_MIB + 2) * _MIB)
    words = ["dd", f"if={installed.disks[0]}", f"of={path}", "bs=1M", "conv=notrunc,sparse", "status=none"]
    words += ["iflag=skip_bytes,count_bytes", f"skip={installed.root['start_bytes']}", f"count={size}", "seek=1"]
    subprocess.run(words, check=True)
    code = make_boot_code(table, ("uefi",))
    assert code.efi_image is not None
    volume_id = installed.partitions["esp"]["filesystem_uuid"].replace("-", "").lower()
    with claim(path, run) as device:
        put_esp(path, esp, 512, {REMOVABLE_PATH: code.efi_image}, volume_id)
        write_table(device, make_table(device, table))


def test_a_disk_whose_esp_has_moved_boots_with_its_root_grown(scratch: Path, run_directory: Path) -> None:
    prepared = prepare(run_directory)
    (publisher := scratch / "publisher").mkdir()
    with no_leftovers([scratch]):
        cell = Cell("gpt", "ext4", "uefi", "moved")
        _publish(scratch / "published.raw", install(cell, publisher, prepared), scratch / "run")
        site = Site(scratch, with_appliance(scratch / "cache", run_directory))
        site.write("images/published.yaml", f"source: {scratch / 'published.raw'}\n")
        write_variant(site, {}, image="published")
        disk = site.disk(_DISK_MIB * _MIB)
        environment = site.environment(disk, variant="cell", nics=[])
        outcome = site.call("create", environment)
        assert outcome.status == 0, outcome.said
        installed = Installed(cell, scratch, [disk], partitions_of(site.plan(environment)))
    root, esp = sfdisk(disk)["partitions"]
    assert esp["start"] * 512 == (_DISK_MIB - _ESP_MIB - 1) * _MIB
    assert (root["start"] + root["size"]) * 512 == esp["start"] * 512
    mounted = ("findmnt --noheadings --raw --output FSTYPE /boot/efi", "vfat")
    boot_and_look(installed, prepared, [mounted])
