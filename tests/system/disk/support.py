"""What the tests of disks need: used disks, loop devices that are not ours, and children in namespaces of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from osprovider.disk.esp import make_esp, write_esp
from osprovider.layout import PartitionPlan
from tests.support import loops

__all__ = [
    "DISK_SIZE",
    "MIB",
    "attached",
    "checkout",
    "copied",
    "in_mount_namespace",
    "put_esp",
    "python",
    "run_child",
    "used_disk",
]

MIB = 1 << 20
DISK_SIZE = 64 * MIB

checkout = Path(__file__).resolve().parents[3]


def used_disk(path: Path, size: int = DISK_SIZE) -> Path:
    """Make a file full of 0xA5, as a volume that another instance has had, and return its path."""
    with path.open("wb") as file:
        for _ in range(size // MIB):
            file.write(b"\xa5" * MIB)
    return path


def copied(original: Path, target: Path) -> Path:
    """Copy a file with its holes, and return the copy's path."""
    subprocess.run(["cp", "--sparse=always", original, target], check=True)
    return target


def put_esp(path: Path, partition: PartitionPlan, sector_size: int, files: Mapping[str, bytes], volume_id: str) -> None:
    """Make an EFI system partition, and put it in its place on a disk."""
    with path.open("r+b", buffering=0) as disk:
        write_esp(disk.fileno(), make_esp(partition, sector_size, files, volume_id))
        os.fsync(disk.fileno())  # a loop device's cache is not its file's until it is synced


@contextmanager
def attached(path: Path, *options: str, sector_size: int = 512) -> Iterator[Path]:
    """A loop device that losetup(8) makes, as an operator would."""
    with loops.attached(path, "--sector-size", str(sector_size), *options) as device:
        yield device


def python(code: str, *arguments: str | Path) -> list[str]:
    """The command line of a child that runs ``code`` with the project importable."""
    return [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(checkout)!r})\n{code}", *map(str, arguments)]


def in_mount_namespace(shell: str, code: str, *arguments: str | Path) -> str:
    """Run ``shell`` (for mounting) and then Python ``code`` where mounts end with the child, and return what it prints.

    Args:
        shell: sees the arguments as ``$1`` and so on.
        code: sees them in ``sys.argv``.
        arguments: given to both.
    """
    script = f'set -e\n{shell}\nexec "$PYTHON" -c "$CODE" "$@"\n'
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", *map(str, arguments)]
    executable, _, wrapped = python(code)[:3]
    environment = {**os.environ, "PYTHON": executable, "CODE": wrapped}
    return run_child(argv, environment)


def run_child(argv: list[str], environment: dict[str, str] | None = None) -> str:
    """Run a program that must not fail, and return what it prints."""
    result = subprocess.run(argv, check=False, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    return result.stdout
