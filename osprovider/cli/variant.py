"""``osprovider variant``: which variants there are, and what each comes to."""

from __future__ import annotations

import click

from osprovider.cli.main import as_json, echo_json, main
from osprovider.config.load import Settings, load, variant_names
from osprovider.config.schema import written
from osprovider.errors import ConfigurationError
from osprovider.paths import Directories

__all__ = ["load_variants", "variant"]


@main.group()
def variant() -> None:
    """Show the variants, the NAME in osprovider+NAME."""


@variant.command("list")
@as_json
@click.pass_obj
def list_variants(directories: Directories, json_wanted: bool) -> None:
    """List the variants with their images.

    Where the configuration of some has problems, these are said after the others. The exit status is 2 then.
    """
    loaded, broken = load_variants(directories)
    rows = [
        {"name": each.variant_name, "image": each.image_name, "description": each.variant.description}
        for each in loaded
    ]
    if json_wanted:
        echo_json(rows)
    else:
        names, images = ([row[key] or "none" for row in rows] for key in ("name", "image"))
        width, image_width = (max(20, *map(len, words), 0) for words in (names, images))
        for row, name, image in zip(rows, names, images, strict=True):
            click.echo(f"{name:<{width}} {image:<{image_width}} {row['description']}".rstrip())
    if broken:
        raise ConfigurationError([problem for error in broken.values() for problem in error.problems])


def load_variants(directories: Directories) -> tuple[list[Settings], dict[str, ConfigurationError]]:
    """All variants, and the names of those that have problems.

    Raises:
        ConfigurationError: all have.
    """
    loaded, broken = [], {}
    for name in variant_names(directories):
        try:
            loaded.append(load(directories, name, instance=None, parameters={}))
        except ConfigurationError as error:
            broken[name] = error
    if broken and not loaded:
        raise ConfigurationError([problem for error in broken.values() for problem in error.problems])
    return loaded, broken


@variant.command("show")
@click.argument("name")
@as_json
@click.pass_obj
def show_variant(directories: Directories, name: str, json_wanted: bool) -> None:
    """Show variant NAME with everything that it comes to.

    It is merged from the built-in defaults, defaults.yaml and its own file. Password hashes are hidden.
    """
    settings = load(directories, name, instance=None, parameters={}, asked_by="NAME")
    data = _hidden(written(settings.variant))
    files = [str(file) for file in settings.files if file.parent.name == "variants" or file.name == "defaults.yaml"]
    if json_wanted:
        echo_json({"name": name, "files": files, "variant": data})
        return
    import yaml

    click.echo(f"# variant {name}, from {', '.join(['the built-in defaults', *files])}")
    click.echo(yaml.safe_dump(data, sort_keys=False, allow_unicode=True), nl=False)


def _hidden(value: object) -> object:
    """The same without password hashes."""
    if isinstance(value, dict):
        hidden = {"password_hash": "(hidden)"} if value.get("password_hash") else {}
        return {key: _hidden(item) for key, item in {**value, **hidden}.items()}
    return value
