"""What the commands for images have in common: whose template is meant, and how one is shown.

Not for: the commands themselves (``image`` and the modules that begin with its name).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import click

from osprovider.cli.variant import load_variants
from osprovider.config.load import Settings, image_names, load, load_defaults, load_image
from osprovider.config.model import Image, Variant
from osprovider.errors import ConfigurationError, ImageError, UsageError
from osprovider.images.recipe import Recipe
from osprovider.images.store import Store, TemplateInfo
from osprovider.log import reporter
from osprovider.paths import Directories

__all__ = [
    "current_keys",
    "for_variant",
    "name_width",
    "not_prepared",
    "only_variant",
    "template_data",
    "time_of",
    "variants_of",
]

_NAME_WIDTH = 20

for_variant = click.option(
    "--variant",
    "-v",
    "variant_name",
    metavar="NAME",
    help="As this variant needs it: its file system and further packages.",
)
"""The option of the commands that prepare an image."""


def variants_of(directories: Directories, name: str, variant_name: str | None) -> list[Variant]:
    """The variants to prepare an image for, merged: one by its name, or all that use the image."""
    if variant_name is not None:
        settings = load(directories, variant_name, instance=None, parameters={}, asked_by="--variant")
        if settings.image_name is None:
            raise UsageError(f"variant {variant_name} has no image, so not {name} either")
        if settings.image_name != name:
            raise UsageError(f"variant {variant_name} has image {settings.image_name}, and not {name}")
        return [settings.variant]
    loaded, broken = load_variants(directories)
    for each in broken:
        reporter.warning(f"variant {each} is left out: its configuration has problems (osprovider check)")
    return _uses(directories, loaded, name)


def only_variant(directories: Directories, name: str, definition: Image, variant_name: str | None) -> Variant:
    """The variant whose template of an image is meant.

    Raises:
        UsageError: the image's variants have different templates, and none was named.
    """
    variants = variants_of(directories, name, variant_name)
    if len({Recipe.of(name, definition, variant, site=directories.config).key() for variant in variants}) > 1:
        raise UsageError(f"the variants of image {name} have different templates: say which by --variant")
    return variants[0]


def current_keys(directories: Directories, store: Store, names: Iterable[str]) -> set[str | None]:
    """The keys of the templates that instances of these images would be made of now."""
    names = list(names)
    variants: list[Settings] = []
    with suppress(ConfigurationError):  # of all: the images are as good as before
        variants = load_variants(directories)[0] if names else []
    current = set()
    for name in names:
        with suppress(ConfigurationError):  # nothing is made of it until that is mended
            definition = load_image(directories, name)
            uses = _uses(directories, variants, name)
            current |= {store.look_up(name, definition, variant)[0] for variant in uses}
    return current


def _uses(directories: Directories, variants: Iterable[Settings], name: str) -> list[Variant]:
    """The variants that use an image; where none does, one that would say nothing else."""
    return [each.variant for each in variants if each.image_name == name] or [load_defaults(directories, name)]


def not_prepared(directories: Directories, name: str) -> ImageError:
    """What is said where an image's template is asked for and there is none.

    Raises:
        ConfigurationError: there is no image of this name.
    """
    if name not in image_names(directories):
        load_image(directories, name)
    return ImageError(f"image {name} is not prepared on this node; `osprovider image list` shows what is")


def name_width(names: Iterable[str]) -> int:
    """How wide a column of images' names is."""
    return max(_NAME_WIDTH, *map(len, names), 0)


def template_data(info: TemplateInfo) -> dict[str, Any]:
    """A template as JSON, short: the same in every command."""
    return {
        "key": info.manifest.key,
        "directory": info.directory,
        "created": info.manifest.created,
        "used": time_of(info.used),
        "filesystem": dataclasses.asdict(info.manifest.filesystem),
        "occupied_bytes": info.occupied_bytes,
        "data_bytes": info.manifest.data_bytes,
    }


def time_of(seconds: float) -> str:
    """A time as manifests have it, from seconds since the epoch."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
