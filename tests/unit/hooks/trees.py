"""Guests that are directories, what a hook changed in one, and the golden files that say what it should change."""

from __future__ import annotations

import dataclasses
import difflib
import os
import stat
from pathlib import Path

from osprovider.config.model import Variant
from osprovider.customize.context import Context, ContextPartition
from osprovider.nics import ResolvedNic
from tests.support.boot_context import ROOT_GUID, ROOT_UUID, boot_context

__all__ = ["changes", "check_golden", "context", "snapshot", "write_tree"]

GOLDEN = Path(__file__).parent / "golden"
UPDATE = "OSPROVIDER_UPDATE_GOLDEN"  # set it to take what the hooks write now; then read the diff

PARTITIONS = (
    ContextPartition(2, "esp", 2 << 20, 128 << 20, "3e1c0a52-8d57-5d0c-9b5e-1f2a3b4c5d6e", "vfat", "5D0C-9B5E"),
    ContextPartition(3, "root", 130 << 20, 1 << 30, ROOT_GUID, "ext4", ROOT_UUID),
)


def context(
    *,
    variant: Variant | None = None,
    nics: tuple[ResolvedNic, ...] = (),
    stacks: tuple[str, ...] = ("ifupdown",),
    hostname: str | None = None,
) -> Context:
    """What a hook is told at a create of web1.example.org."""
    made = boot_context(variant=variant, partitions=PARTITIONS)
    assert made.manifest is not None
    manifest = dataclasses.replace(made.manifest, network_stacks=stacks)
    return dataclasses.replace(made, manifest=manifest, nics=nics, hostname=hostname or made.hostname)


def write_tree(root: Path, files: dict[str, str | None]) -> Path:
    """Files by path; a content of None makes a directory, one that begins with ``-> `` a link."""
    for path, content in files.items():
        place = root / path.lstrip("/")
        if content is None:
            place.mkdir(parents=True, exist_ok=True)
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        if content.startswith("-> "):
            place.symlink_to(content[3:])
        else:
            place.write_text(content)
    return root


def snapshot(root: Path) -> dict[str, str]:
    """Everything in the tree: its kind, mode and owner in the first line, then its content."""
    found = {}
    for directory, names, files in os.walk(root):
        for name in (*names, *files):
            path = Path(directory) / name
            status = path.lstat()
            owner = f" {status.st_uid}:{status.st_gid}" if status.st_uid or status.st_gid else ""
            key = f"/{path.relative_to(root)}"
            if path.is_symlink():
                found[key] = f" -> {path.readlink()}\n"
            elif path.is_dir():
                found[key] = f"/ {stat.S_IMODE(status.st_mode):04o}{owner}\n"
            else:
                found[key] = f" {stat.S_IMODE(status.st_mode):04o}{owner}\n{path.read_text(errors='replace')}"
    return found


def changes(before: dict[str, str], after: dict[str, str]) -> str:
    """What is new, different or gone, for people to read."""
    gone = [f"--- {path} is gone\n" for path in before.keys() - after.keys()]
    new = [f"--- {path}{after[path]}" for path in after if after[path] != before.get(path)]
    return "".join(sorted(gone + new))


def check_golden(name: str, said: str) -> None:
    """Compare with the golden file of this name."""
    path = GOLDEN / f"{name}.txt"
    if os.environ.get(UPDATE):
        path.write_text(said)
    expected = path.read_text() if path.exists() else ""
    diff = difflib.unified_diff(expected.splitlines(), said.splitlines(), str(path), "written", lineterm="")
    assert expected == said, "\n".join(diff)
