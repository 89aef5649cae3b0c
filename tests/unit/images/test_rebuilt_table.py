"""Partition tables of exported disks, as sfdisk(8) and sgdisk(8) read and write them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from osprovider.images.diskimage.rebuilt_table import pieces
from osprovider.images.diskimage.table import read_image_table, strip_table
from osprovider.manifest import ImagePartition, ImageTable
from tests.support.sparse import sparse_file

SIZE = 64 << 20
ROOT = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"
BIOS_BOOT = "21686148-6449-6e6f-744e-656564454649"


def _part(number: int, start: int, size: int, kind: str, name: str = "", attributes: int = 0) -> ImagePartition:
    guid = f"00000000-0000-4000-8000-{number:012}" if len(kind) > 2 else ""
    return ImagePartition(number, "other", start, size, kind, guid, name, attributes, None, None)


def _written(path: Path, table: ImageTable) -> Path:
    with path.open("wb") as file:
        file.truncate(SIZE)
        for offset, data in pieces(table, SIZE):
            os.pwrite(file.fileno(), data, offset)
    return path


GPT = ImageTable(
    "gpt",
    "11111111-2222-4333-8444-555555555555",
    512,
    (
        _part(14, 34 * 512, 1 << 20, BIOS_BOOT, "bios é", 1 << 2 | 1 << 60),
        _part(1, 4 << 20, SIZE - (4 << 20) - 33 * 512, ROOT, "a\nname\t\\of thirty-six characters at m"),
    ),
)


def test_a_gpt_is_sound_and_says_what_it_said(tmp_path: Path) -> None:
    disk = _written(tmp_path / "disk", GPT)
    checked = subprocess.run(["sgdisk", "--verify", disk], capture_output=True, text=True, check=True).stdout
    assert "No problems found" in checked
    done = subprocess.run(["sfdisk", "--json", disk], capture_output=True, text=True, check=True)
    assert not done.stderr
    table = json.loads(done.stdout)["partitiontable"]
    assert (table["label"], table["id"].lower()) == ("gpt", GPT.id)
    assert (table["firstlba"], table["lastlba"]) == (34, SIZE // 512 - 34)
    assert [
        (part["node"].removeprefix(str(disk)), part["start"] * 512, part["size"] * 512, part["type"].lower())
        for part in table["partitions"]
    ] == [(str(part.number), part.start_bytes, part.size_bytes, part.type) for part in reversed(GPT.partitions)]
    assert table["partitions"][1]["uuid"].lower() == GPT.partitions[0].guid
    assert table["partitions"][1]["name"] == "bios é"
    assert table["partitions"][1]["attrs"] == "LegacyBIOSBootable GUID:60"


def test_a_gpt_of_large_sectors_lies_where_it_belongs() -> None:
    table = ImageTable("gpt", GPT.id, 4096, (_part(1, 1 << 20, 1 << 20, ROOT),))
    assert [(offset, len(data)) for offset, data in pieces(table, SIZE)] == [
        (440, 72),
        (4096, 4096 + 16384),
        (SIZE - 5 * 4096, 16384 + 4096),
    ]


def test_an_msdos_table_says_what_it_said(tmp_path: Path) -> None:
    parts = (_part(1, 1 << 20, 8 << 20, "83", attributes=1 << 7), _part(3, 16 << 20, 1 << 20, "82"))
    disk = _written(tmp_path / "disk", ImageTable("msdos", "deadbeef", 512, parts))
    done = subprocess.run(["sfdisk", "--json", disk], capture_output=True, text=True, check=True)
    table = json.loads(done.stdout)["partitiontable"]
    assert (table["label"], table["id"]) == ("dos", "0xdeadbeef")
    node = str(disk)
    assert table["partitions"] == [
        {"node": f"{node}1", "start": 2048, "size": 16384, "type": "83", "bootable": True},
        {"node": f"{node}3", "start": 32768, "size": 2048, "type": "82"},
    ]


LOGICAL = """\
label: dos
label-id: 0xdeadbeef
start=2048, size=2048, type=83, bootable
start=4096, size=65536, type=f
start=6144, size=4096, type=83
start=12288, size=4096, type=82
"""


def test_a_table_that_was_taken_out_comes_back_with_its_logical_partitions(tmp_path: Path) -> None:
    disk = sparse_file(tmp_path / "disk", SIZE)
    subprocess.run(["sfdisk", "--quiet", disk], input=LOGICAL, text=True, check=True)
    before = subprocess.run(["sfdisk", "--dump", disk], capture_output=True, check=True).stdout
    table = read_image_table(disk, "test")
    assert table is not None
    strip_table(disk, table)
    assert read_image_table(disk, "test") is None
    with disk.open("r+b") as file:
        for offset, data in pieces(table, SIZE):
            os.pwrite(file.fileno(), data, offset)
    assert subprocess.run(["sfdisk", "--dump", disk], capture_output=True, check=True).stdout == before


def test_boot_code_is_left_alone() -> None:
    assert min(offset for offset, _ in pieces(GPT, SIZE)) == 440
