"""``osprovider image``: the images that this node can install, and the templates that it has prepared."""

from __future__ import annotations

import dataclasses
from typing import Any

import click

from osprovider import linux
from osprovider.cli.main import as_json, echo_json, main
from osprovider.config.load import image_names, load, load_image, variant_names
from osprovider.config.model import Image, Variant
from osprovider.errors import ImageError, UsageError
from osprovider.images.store import Store, TemplateInfo
from osprovider.log import human_bytes
from osprovider.paths import Directories

__all__ = ["image"]

_variant_option = click.option(
    "--variant",
    "-v",
    "variant_name",
    metavar="NAME",
    help="Prepare it as this variant needs it: its file system and further packages.",
)


@main.group()
def image() -> None:
    """Prepare images on this node, and show and remove what is prepared."""


@image.command("list")
@as_json
@click.pass_obj
def list_images(directories: Directories, json_wanted: bool) -> None:
    """List the image definitions and their templates on this node."""
    ready: dict[str, list[TemplateInfo]] = {}
    for info in Store(directories).list():
        ready.setdefault(info.manifest.image, []).append(info)
    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "defined": name in image_names(directories),
            "templates": [
                {
                    "key": info.manifest.key,
                    "created": info.manifest.created,
                    "filesystem": info.manifest.filesystem.type,
                    "occupied_bytes": info.occupied_bytes,
                }
                for info in ready.get(name, [])
            ],
        }
        for name in sorted({*image_names(directories), *ready})
    ]
    if json_wanted:
        echo_json(rows)
        return
    for row in rows:
        for template in row["templates"]:
            size = human_bytes(template["occupied_bytes"])
            click.echo(f"{row['name']:<20} ready  {template['created']}  {template['filesystem']:<5} {size}")
        if not row["templates"]:
            click.echo(f"{row['name']:<20} not prepared")


@image.command("show")
@click.argument("name")
@as_json
@click.pass_obj
def show_image(directories: Directories, name: str, json_wanted: bool) -> None:
    """Show image NAME: its definition, and the manifests of its templates on this node."""
    infos = [info for info in Store(directories).list() if info.manifest.image == name]
    definition = dataclasses.asdict(load_image(directories, name)) if name in image_names(directories) else None
    if definition is None and not infos:
        load_image(directories, name)  # says what there is instead
    manifests = [dataclasses.asdict(dataclasses.replace(info.manifest, extents=())) for info in infos]
    for manifest, info in zip(manifests, infos, strict=True):
        manifest.update(extents=len(info.manifest.extents), data_bytes=info.manifest.data_bytes)
    if json_wanted:
        echo_json({"name": name, "definition": definition, "templates": manifests})
        return
    import yaml

    click.echo(
        yaml.safe_dump({"definition": _plain(definition), "templates": _plain(manifests)}, sort_keys=False), nl=False
    )


@image.command("build")
@click.argument("name")
@_variant_option
@click.option("--force", is_flag=True, help="Also where it is there: the packages may be newer.")
@as_json
@click.pass_obj
def build_image(directories: Directories, name: str, variant_name: str | None, force: bool, json_wanted: bool) -> None:
    """Prepare image NAME now, so that the first instance need not wait for it.

    Without --variant it is prepared for every variant that uses it.
    """
    definition = load_image(directories, name)
    variants = _variants_of(directories, name, variant_name)
    linux.private_mount_namespace()
    store = Store(directories)
    built = {info.manifest.key: info for info in (_build(store, name, definition, each, force) for each in variants)}
    if json_wanted:
        echo_json(
            [{"key": key, "directory": info.directory, "created": info.manifest.created} for key, info in built.items()]
        )
        return
    for info in built.values():
        click.echo(
            f"{name} is ready: {human_bytes(info.manifest.data_bytes)} to copy, prepared {info.manifest.created}"
        )


def _build(store: Store, name: str, definition: Image, variant: Variant, force: bool) -> TemplateInfo:
    return store.build(name, definition, variant, force=force)


def _variants_of(directories: Directories, name: str, variant_name: str | None) -> list[Variant]:
    """The variants to prepare an image for, merged."""
    if variant_name is not None:
        settings = load(directories, variant_name, instance=None, parameters={})
        if settings.image_name != name:
            raise UsageError(f"variant {variant_name} has image {settings.image_name}, not {name}")
        return [settings.variant]
    found = []
    for each in variant_names(directories):
        settings = load(directories, each, instance=None, parameters={})
        if settings.image_name == name:
            found.append(settings.variant)
    return found or [Variant(image=name)]


@image.command("remove")
@click.argument("name")
@as_json
@click.pass_obj
def remove_image(directories: Directories, name: str, json_wanted: bool) -> None:
    """Remove the templates of image NAME from this node; the next instance prepares it again.

    Waits until nobody uses them. The definition stays.
    """
    removed = Store(directories).remove(name)
    if json_wanted:
        echo_json([info.manifest.key for info in removed])
        return
    if not removed:
        raise ImageError(f"image {name} has no template here; `osprovider image list` shows what there is")
    freed = sum(info.occupied_bytes for info in removed)
    click.echo(f"{len(removed)} templates of {name} removed, {human_bytes(freed)} freed")


def _plain(value: object) -> object:
    """Tuples and the like as YAML's safe dumper knows them."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value
