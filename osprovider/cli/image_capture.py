"""``osprovider image capture``: an image of a disk with an installed system, and its definition."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from osprovider.cli.image import image
from osprovider.cli.main import as_json, echo_json, require_root
from osprovider.config import checks
from osprovider.errors import UsageError
from osprovider.images.definition import check_definition, refuse_taken, write_definition
from osprovider.log import human_bytes, plain
from osprovider.paths import Directories

if TYPE_CHECKING:
    from osprovider.images.capture.order import CaptureFormat
    from osprovider.images.capture.take import Captured

__all__ = ["capture_image"]

_LONGEST_TEXT = 256  # of a description


@image.command("capture")
@click.argument("source", required=False, type=click.Path(path_type=Path))
@click.option("--instance", metavar="FQDN", help="The disk of this instance, which is shut down, in place of SOURCE.")
@click.option("--disk", "index", metavar="N", type=click.IntRange(min=0), help="Which disk of the instance (0).")
@click.option("--name", required=True, metavar="NAME", help="What variants call the image.")
@click.option("--description", metavar="WORDS", help="One line for people.")
@click.option(
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Where to write it; beside its definition without this.",
)
@click.option("--format", "kind", type=click.Choice(["tar", "qcow2"]), default="tar", help="What to write (tar).")
@click.option(
    "--keep", metavar="PATTERN", multiple=True, help="Paths to keep that captures leave out. Repeat for more."
)
@click.option("--remove", metavar="PATTERN", multiple=True, help="Further paths to leave out. Repeat for more.")
@click.option("--force", is_flag=True, help="Take the place of an image of this name.")
@as_json
@click.pass_obj
def capture_image(
    directories: Directories,
    source: Path | None,
    instance: str | None,
    index: int | None,
    name: str,
    *,
    description: str | None,
    output: Path | None,
    kind: CaptureFormat,
    keep: tuple[str, ...],
    remove: tuple[str, ...],
    force: bool,
    json_wanted: bool,
) -> None:
    """Make an image of a disk with a system on it, and define it.

    What makes the system this one is not in the image: its name, keys, logs and the like. SOURCE is a block device or a
    file, raw: a whole disk with a GPT or msdos table, or a file system. Nothing is written to it, and nobody else may
    use it: the instance is shut down. With --instance Ganeti activates the disks of one, on its primary node, and
    deactivates them afterwards unless they were active before.

    tar is the tree, compressed: the variant decides about partitions and file system. qcow2 is the disk with its own.
    """
    from osprovider.images.capture.order import SUFFIXES, CaptureOrder
    from osprovider.images.capture.take import capture

    _refuse(source, instance, index, (*keep, *remove), description or "")
    require_root()
    definition = refuse_taken(directories, name, force=force)
    place = (output or definition.with_name(f"{name}{SUFFIXES[kind]}")).absolute()
    check_definition(name, {"description": description or "", "source": str(place)})  # before a disk is read
    if output is None:
        definition.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    with _disk(directories, source, instance, index or 0) as (called, disk):
        captured = capture(CaptureOrder(name, disk, place, kind, keep, remove, force), directories)
    said = _definition(captured, place, description or f"{captured.system}, captured from {called} on {_today()}")
    write_definition(directories, name, said, force=force)
    if json_wanted:
        echo_json({"name": name, "file": definition, "definition": said, "size_bytes": captured.size_bytes})
        return
    click.echo(
        f"{place} written, {human_bytes(captured.size_bytes)}, and {definition}; "
        f"osprovider image build {name} prepares it, and a variant with image: {name} uses it"
    )


def _definition(captured: Captured, place: Path, description: str) -> dict[str, str]:
    """What the image's definition says."""
    values = {
        "description": description[:_LONGEST_TEXT],
        "source": str(place),
        "checksums": captured.checksum,
        "max_size": captured.max_size,
    }
    return {key: value for key, value in values.items() if value is not None}


def _today() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d")


def _refuse(
    source: Path | None, instance: str | None, index: int | None, patterns: Sequence[str], description: str
) -> None:
    """Refuse what makes no sense, before anything is looked at."""
    if (source is None) == (instance is None):
        raise UsageError("name either the disk, SOURCE, or an instance, --instance FQDN")
    if index is not None and instance is None:
        raise UsageError("--disk is for --instance: SOURCE is a disk by itself")
    for pattern in patterns:
        if not pattern.startswith("/"):
            raise UsageError(f"{pattern!a}: patterns are of paths in the system, so they begin with /")
    try:
        checks.text(description)
    except ValueError as error:
        raise UsageError(f"--description: {error}") from error


@contextmanager
def _disk(
    directories: Directories, source: Path | None, instance: str | None, index: int
) -> Iterator[tuple[str, Path]]:
    """What to call the disk, and its path."""
    if instance is None:
        path = (source or Path()).absolute()
        if "/" not in str(source) and not path.exists():
            raise UsageError(f"there is no file {plain(path.name)}; for an instance: --instance {plain(path.name)}")
        yield plain(str(path)), path
        return
    from osprovider.ganeti.activation import active_disk

    with active_disk(instance, directories.run, index) as found:
        yield found.instance, found.path
