"""The documented variants divide disks as instance-image does, in each of its four layouts."""

from __future__ import annotations

from pathlib import Path

import pytest

from osprovider.config.load import load
from osprovider.ganeti.environment import parse
from osprovider.ganeti.request import Request, Script
from osprovider.ganeti.synthesis import synthesize
from osprovider.layout import DiskFacts
from osprovider.paths import Directories
from osprovider.plan import make_plan
from tests.support.documents import CHECKOUT, blocks, table

GIB = 1 << 30
MIB = 1 << 20
DOCUMENT = CHECKOUT / "docs" / "configuration.md"
# As instance-image's sfdisk script has them by kernel_path and SWAP: type, and the flag "*".
LAYOUTS = {
    ("empty", "legacy-swap"): [("83", True), ("82", False), ("83", False)],
    ("empty", "legacy"): [("83", True), ("83", False)],
    ("set", "legacy-swap"): [("82", False), ("83", True)],
    ("set", "legacy"): [("83", True)],
}


@pytest.fixture
def directories(tmp_path: Path) -> Directories:
    """A site that has the document's variants."""
    for block in blocks(DOCUMENT):
        if block.file and block.file.startswith("variants/legacy"):
            path = tmp_path / "etc" / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
    return Directories(tmp_path / "etc", tmp_path / "cache", tmp_path / "run", CHECKOUT)


def request(variant: str, kernel_path: str) -> Request:
    """Of an instance whose root_path names the last partition."""
    number = len(LAYOUTS[kernel_path, variant])
    environ = synthesize(
        "web1.example.org",
        variant,
        disks=[{"path": "/dev/x"}],
        backend={"maxmem": "768"},
        hypervisor_parameters={
            "kernel_path": "/boot/vmlinuz" if kernel_path == "set" else "",
            "root_path": f"/dev/vda{number}",
        },
    )
    return parse(Script.CREATE, environ)


@pytest.mark.parametrize(("kernel_path", "variant"), LAYOUTS)
def test_the_table_is_instance_images(kernel_path: str, variant: str, directories: Directories) -> None:
    asked = request(variant, kernel_path)
    settings = load(directories, variant, instance=asked.instance.name if asked.instance else None, parameters={})
    made = make_plan(asked, settings, [], DiskFacts(20 * GIB)).table
    assert made is not None
    assert made.type == "msdos"
    assert [part.number for part in made.partitions] == list(range(1, len(made.partitions) + 1))
    assert [(part.type, bool(part.attributes)) for part in made.partitions] == LAYOUTS[kernel_path, variant]
    assert made.partitions[-1].role == "root"
    sizes = {part.role: part.size_bytes // MIB for part in made.partitions}
    assert sizes.get("swap", 768) == 768
    assert sum(sizes.values()) == 20 * 1024 - 2  # what is in front of the first, and behind the last


def test_the_document_says_the_same() -> None:
    rows = {(row[0], row[1].strip("`")): row[2:] for row in table(DOCUMENT, "The layouts of instance-image")}
    words = {"/boot": "83", "swap": "82", "root": "83"}
    for layout, columns in rows.items():
        said = [cell.replace("`", "").split(", ") for cell in columns if cell]
        assert [(words[cell[0]], "active" in cell) for cell in said] == LAYOUTS[layout]
    assert rows.keys() == LAYOUTS.keys()
