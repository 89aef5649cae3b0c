"""``osprovider image export``: a prepared template for other tools."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from osprovider import linux
from osprovider.cli.image import image
from osprovider.cli.image_common import for_variant, only_variant
from osprovider.cli.main import as_json, echo_json, require_root
from osprovider.config.load import load_image
from osprovider.disk.copy import DamagedTemplate
from osprovider.errors import ImageError, UsageError
from osprovider.images.export import EXPORT_FORMATS, ExportFormat, export
from osprovider.images.newfile import refuse_output
from osprovider.images.store import Store
from osprovider.log import human_bytes
from osprovider.paths import Directories

__all__ = ["export_image"]


@image.command("export")
@click.argument("name")
@click.argument("output", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--format", "kind", type=click.Choice(EXPORT_FORMATS), required=True, help="What to write.")
@for_variant
@click.option("--force", is_flag=True, help="Take the place of a file that is there.")
@as_json
@click.pass_obj
def export_image(
    directories: Directories,
    name: str,
    output: Path,
    kind: ExportFormat,
    variant_name: str | None,
    force: bool,
    json_wanted: bool,
) -> None:
    """Write the template of image NAME to OUTPUT, for other tools.

    Where there is none yet, it is prepared first. raw is the template as it is, a file system or a whole disk; qcow2
    the same, compressed; tar its tree, with owners by number, ACLs, capabilities and other extended attributes. OUTPUT
    may be - for standard output, but not for qcow2.
    """
    require_root()
    definition = load_image(directories, name)
    store = Store(directories)
    variant = only_variant(directories, name, definition, variant_name)
    to_stdout = str(output) == "-"
    if to_stdout and json_wanted:
        raise UsageError("standard output cannot have both the image and JSON; name a file")
    if to_stdout and kind == "qcow2":
        raise UsageError("qcow2 is not written from its beginning to its end: name a file")
    if to_stdout and sys.stdout.isatty():
        raise UsageError("standard output is a terminal: name a file, or lead it into a pipe")
    if not to_stdout:
        refuse_output(output.absolute(), force=force)  # before it is prepared, which takes long
    linux.private_mount_namespace()
    try:
        with store.opened(name, definition, variant) as template:
            export(template, kind, None if to_stdout else output.absolute(), directories, force=force)
    except DamagedTemplate as damage:
        raise ImageError(f"{damage}; osprovider image verify {name} removes it, to be prepared again") from damage
    if to_stdout:
        return
    size = output.stat().st_size
    if json_wanted:
        echo_json({"name": name, "format": kind, "file": output.absolute(), "size_bytes": size})
        return
    click.echo(f"{output.absolute()} written, {human_bytes(size)}")
