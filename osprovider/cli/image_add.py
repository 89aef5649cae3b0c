"""``osprovider image add``: a definition of an image that is a file, or at a URL."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args, get_type_hints

import click

from osprovider.cli.image import image
from osprovider.cli.main import as_json, echo_json
from osprovider.config.model import Image
from osprovider.images import formats
from osprovider.images.definition import check_definition, checksum_of, refuse_taken, write_definition
from osprovider.images.sources.addresses import shown
from osprovider.images.sources.localfiles import local_files
from osprovider.log import reporter
from osprovider.paths import Directories

__all__ = ["add_image"]

_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_FORMATS = get_args(get_type_hints(Image)["format"])


@image.command("add")
@click.argument("source", metavar="FILE|URL")
@click.option("--name", required=True, metavar="NAME", help="What variants call it.")
@click.option("--description", metavar="WORDS", help="One line for people.")
@click.option(
    "--checksums",
    metavar="SUM",
    help="What it has to be: sha256:DIGITS, sha512:DIGITS, or the list beside it that says so (SHA512SUMS).",
)
@click.option("--signature", metavar="FILE", help="The OpenPGP signature of the list, beside it.")
@click.option("--keyring", metavar="FILE", help="Whose signature counts: a file in keys/, or an absolute path.")
@click.option("--format", "kind", type=click.Choice(_FORMATS), help="What it is; told by its content without this.")
@click.option("--max-size", metavar="SIZE", help="The most that it may unpack to (64GiB).")
@click.option("--force", is_flag=True, help="Take the place of an image of this name.")
@as_json
@click.pass_obj
def add_image(
    directories: Directories, source: str, name: str, *, force: bool, json_wanted: bool, **given: str | None
) -> None:
    """Write the definition of an image that is FILE, or at URL.

    FILE may lack what instance-image added to its name (-root.dump, .tar.gz and so on). Without --checksums it is held
    to what it is now. Nothing is fetched: `osprovider image build NAME` does that.
    """
    is_file = not _URL.match(source)
    values = {
        "description": given["description"],
        "source": str(Path(source).absolute()) if is_file else source,
        "checksums": given["checksums"],
        "signature": given["signature"],
        "keyring": given["keyring"],
        "max_size": given["max_size"],
        "format": given["kind"],
    }
    said = {key: value for key, value in values.items() if value is not None}
    refuse_taken(directories, name, force=force)  # before a large file is read
    check_definition(name, said)
    if is_file:
        source = said["source"]
        files = local_files(name, Path(source))
        for file in files.values():
            formats.detect(file, given["kind"] or "auto")
        if "checksums" not in said and "image" in files:
            said["checksums"] = checksum_of(files["image"])
    path = write_definition(directories, name, said, force=force)
    if "checksums" not in said:
        where = shown(source)
        reporter.warning(f"image {name} will not be verified: whoever can change {where} decides what instances are")
    if json_wanted:
        echo_json({"name": name, "file": path, "definition": said})
        return
    click.echo(f"{path} written; osprovider image build {name} prepares it, and a variant with image: {name} uses it")
