"""``osprovider image sbom``: what a template is made of, for programs that look for known weaknesses or licences."""

from __future__ import annotations

import click

from osprovider.cli.image import image
from osprovider.cli.image_common import for_variant, not_prepared, only_variant
from osprovider.config.load import load_image
from osprovider.images.sbom import bill_of_materials
from osprovider.images.store import Store
from osprovider.paths import Directories

__all__ = ["print_sbom"]


@image.command("sbom")
@click.argument("name")
@for_variant
@click.pass_obj
def print_sbom(directories: Directories, name: str, variant_name: str | None) -> None:
    """Print the bill of materials of image NAME as CycloneDX JSON.

    It is of version 1.6, and of the template on this node. It lists every package that the image's package manager says
    is installed, each with its package URL, and where the image came from.
    """
    definition = load_image(directories, name)
    store = Store(directories)
    variant = only_variant(directories, name, definition, variant_name)
    key, _ = store.look_up(name, definition, variant)
    found = store.listed(key) if key is not None else None
    if found is None:
        raise not_prepared(directories, name)
    info, packages = found
    click.echo(bill_of_materials(info.manifest, packages), nl=False)
