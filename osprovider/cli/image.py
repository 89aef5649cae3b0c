"""``osprovider image``: the images that this node can install, and the templates that it has prepared.

The commands that need more than a screen are in modules of their own beside this one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from osprovider import linux
from osprovider.cli.image_common import (
    current_keys,
    for_variant,
    name_width,
    not_prepared,
    template_data,
    time_of,
    variants_of,
)
from osprovider.cli.main import as_json, echo_json, main, require_root
from osprovider.config.load import image_names, load_image
from osprovider.config.model import Image, Variant
from osprovider.errors import UsageError
from osprovider.images.recipe import Recipe
from osprovider.images.store import Store, TemplateInfo
from osprovider.log import human_bytes, reporter
from osprovider.paths import Directories

if TYPE_CHECKING:
    from osprovider.images.sources.cache import Pin

__all__ = ["image"]


@main.group()
def image() -> None:
    """Prepare images on this node, and look after them."""


@image.command("list")
@as_json
@click.pass_obj
def list_images(directories: Directories, json_wanted: bool) -> None:
    """List the image definitions and their templates on this node.

    A template that is ready is what the next instance is made of. One that no variant has any use for, since a
    definition or a variant has changed, is a former one.
    """
    store = Store(directories)
    defined = image_names(directories)
    ready: dict[str, list[TemplateInfo]] = {name: [] for name in defined}
    for info in store.list():
        ready.setdefault(info.manifest.image, []).append(info)
    for left in store.unusable():
        reporter.warning(f"{left.directory} cannot be used: {left.reason}; osprovider image prune removes it")
    current = current_keys(directories, store, [name for name in defined if ready[name]])
    if json_wanted:
        echo_json(
            [
                {
                    "name": name,
                    "defined": name in defined,
                    "templates": [template_data(info) for info in infos],
                    "current": sorted({info.manifest.key for info in infos} & current),
                }
                for name, infos in sorted(ready.items())
            ]
        )
        return
    width = name_width(ready)
    for name, infos in sorted(ready.items()):
        for info in infos:
            manifest, size = info.manifest, human_bytes(info.occupied_bytes)
            click.echo(
                f"{name:<{width}} {'ready' if manifest.key in current else 'former':<6} {manifest.created}  "
                f"{manifest.filesystem.type:<5}  {size:>8}  used {time_of(info.used)}"
            )
        if not infos:
            click.echo(f"{name:<{width}} not prepared")


@image.command("build")
@click.argument("name")
@for_variant
@click.option("--force", is_flag=True, help="Prepare it again where it is ready: packages may be newer.")
@as_json
@click.pass_obj
def build_image(directories: Directories, name: str, variant_name: str | None, force: bool, json_wanted: bool) -> None:
    """Prepare image NAME now, before the first instance needs it.

    Without --variant it is prepared for every variant that uses it; where none does, as defaults.yaml says.
    """
    require_root()
    definition = load_image(directories, name)
    variants = variants_of(directories, name, variant_name)
    _tell(name, _prepare(directories, name, definition, variants, force=force), json_wanted)


@image.command("pull")
@click.argument("name")
@for_variant
@as_json
@click.pass_obj
def pull_image(directories: Directories, name: str, variant_name: str | None, json_wanted: bool) -> None:
    """Ask the source of image NAME for a newer one, and prepare that.

    Until then instances are made of what was there before. Where nothing has changed, nothing is fetched.
    """
    require_root()
    definition = load_image(directories, name)
    if definition.source is None:
        raise UsageError(f"image {name} is built from packages; for newer ones: osprovider image build --force {name}")
    variants = variants_of(directories, name, variant_name)
    from osprovider.config.load import load_cache
    from osprovider.images.sources.obtain import Sources

    sources = Sources(directories, proxy=load_cache(directories).proxy)
    if sources.pinned(name, definition) is None:  # whoever prepares it obtains it, and reads it once
        built = _prepare(directories, name, definition, variants)
    else:
        with sources.pulled(name, definition) as pin:
            built = _prepare(directories, name, definition, variants, pin=pin)
    _tell(name, built, json_wanted)


def _prepare(
    directories: Directories,
    name: str,
    definition: Image,
    variants: Sequence[Variant],
    *,
    force: bool = False,
    pin: Pin | None = None,
) -> list[TemplateInfo]:
    linux.private_mount_namespace()
    store = Store(directories)
    different = {Recipe.of(name, definition, each, site=directories.config).key(): each for each in variants}
    return [store.build(name, definition, variant, force=force, pin=pin) for variant in different.values()]


def _tell(name: str, built: Sequence[TemplateInfo], json_wanted: bool) -> None:
    if json_wanted:
        echo_json([template_data(info) for info in built])
        return
    for info in built:
        click.echo(
            f"{name} is ready: {human_bytes(info.manifest.data_bytes)} to copy, prepared {info.manifest.created}"
        )


@image.command("remove")
@click.argument("name")
@as_json
@click.pass_obj
def remove_image(directories: Directories, name: str, json_wanted: bool) -> None:
    """Remove the templates of image NAME from this node.

    Waits until nobody uses them. The definition stays, and the next instance has the image prepared again.
    """
    require_root()
    removed = Store(directories).remove(name)
    if not removed:
        raise not_prepared(directories, name)
    if json_wanted:
        echo_json([template_data(info) for info in removed])
        return
    freed = sum(info.occupied_bytes for info in removed)
    count = f"{len(removed)} templates" if len(removed) > 1 else "1 template"
    click.echo(f"{count} of {name} removed, {human_bytes(freed)} freed")
