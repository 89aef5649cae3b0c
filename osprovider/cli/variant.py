"""``osprovider variant``: which variants there are, and what each comes to."""

from __future__ import annotations

import click

from osprovider.cli.main import as_json, echo_json, main
from osprovider.config.load import load, variant_names
from osprovider.config.schema import written
from osprovider.paths import Directories

__all__ = ["variant"]


@main.group()
def variant() -> None:
    """Show the variants, the NAME in osprovider+NAME."""


@variant.command("list")
@as_json
@click.pass_obj
def list_variants(directories: Directories, json_wanted: bool) -> None:
    """List the variants with their images."""
    rows = []
    for name in variant_names(directories):
        settings = load(directories, name, instance=None, parameters={})
        rows.append({"name": name, "image": settings.image_name, "description": settings.variant.description})
    if json_wanted:
        echo_json(rows)
        return
    for row in rows:
        click.echo(f"{row['name']:<20} {row['image'] or 'none':<20} {row['description']}")


@variant.command("show")
@click.argument("name")
@as_json
@click.pass_obj
def show_variant(directories: Directories, name: str, json_wanted: bool) -> None:
    """Show variant NAME with everything that it comes to.

    It is merged from the built-in defaults, defaults.yaml and its own file. Password hashes are hidden.
    """
    settings = load(directories, name, instance=None, parameters={})
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
