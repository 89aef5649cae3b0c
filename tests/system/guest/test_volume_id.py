"""Where a FAT has its volume ID: blkid(8) finds there what was written."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from osprovider.guest import volume_id
from tests.support.sparse import sparse_file

MIB = 1 << 20
MIB_AND_SECTORS = {"12": (16, "16"), "16": (16, "4"), "32": (40, "1")}  # as large as each may be, and of a cluster
BACKUP = 6  # where mkfs.vfat(8) has FAT32's, in sectors


@pytest.mark.parametrize("kind", ["12", "16", "32"])
@pytest.mark.parametrize("said", [None, b"FAT     ", b"FAT16   ", b"FAT32   "], ids=str)
def test_what_the_boot_sector_calls_the_fat_means_nothing(tmp_path: Path, kind: str, said: bytes | None) -> None:
    size_mib, cluster = MIB_AND_SECTORS[kind]
    image = sparse_file(tmp_path / "esp", size_mib * MIB)
    subprocess.run(["mkfs.vfat", "-F", kind, "-s", cluster, image], check=True)
    with image.open("r+b") as file:
        fd = file.fileno()
        if said is not None:
            os.pwrite(fd, said, 82)  # FAT32's BS_FilSysType, and in the others' boot code
        for place in volume_id.places(os.pread(fd, volume_id.BOOT_SECTOR_SIZE, 0)):
            os.pwrite(fd, volume_id.packed("1234-ABCD"), place)
    found = subprocess.run(
        ["blkid", "-p", "-o", "value", "-s", "UUID", image], check=True, capture_output=True, text=True
    )
    assert found.stdout == "1234-ABCD\n"
    if kind == "32":
        with image.open("rb") as file:
            first = file.read(512)
            file.seek(BACKUP * 512)
            assert first[67:71] == file.read(512)[67:71]


def test_one_without_is_told(tmp_path: Path) -> None:
    image = sparse_file(tmp_path / "esp", 16 * MIB)
    subprocess.run(["mkfs.vfat", "-F", "16", image], check=True)
    sector = bytearray(image.read_bytes()[: volume_id.BOOT_SECTOR_SIZE])
    sector[38] = 0  # BS_BootSig
    with pytest.raises(ValueError, match="its vfat has no volume ID where one was found before"):
        volume_id.places(bytes(sector))
