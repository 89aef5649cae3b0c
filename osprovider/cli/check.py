"""``osprovider check`` and ``osprovider schema``: is the configuration right, and what may it say."""

from __future__ import annotations

import dataclasses
from contextlib import suppress

import click

from osprovider.cli.main import as_json, echo_json, main
from osprovider.config.load import check_all, load, variant_names
from osprovider.config.model import Cache, Hooks, Image, InstanceFile, Subnet, Variant
from osprovider.config.schema import json_schema
from osprovider.customize import templates
from osprovider.customize.hooks import arrange, discover, mistakes
from osprovider.errors import ConfigurationError, Problem
from osprovider.log import reporter
from osprovider.paths import Directories

__all__ = ["check", "schema"]

_KINDS = {"variant": Variant, "image": Image, "subnet": Subnet, "instance": InstanceFile, "cache": Cache}


@main.command()
@as_json
@click.pass_obj
def check(directories: Directories, json_wanted: bool) -> None:
    """Check the whole configuration, hooks included.

    Defaults, variants and the list of those that Ganeti offers, images, subnets, instance files and cache.yaml are
    read, and hooks and templates are looked over without being run. Exit status 2 when there is a problem; each is said
    with its file, line and column.
    """
    if not directories.config.is_dir():
        reporter.warning(f"there is no {directories.config}: nothing of the site's is checked, but what is shipped")
    problems, files = check_all(directories)
    problems = [*problems, *_hook_problems(directories), *templates.syntax_problems(directories.config / "templates")]
    if json_wanted:
        echo_json({"files": [str(file) for file in files], "problems": [dataclasses.asdict(each) for each in problems]})
    if problems:
        raise ConfigurationError(problems)
    if not json_wanted:
        click.echo(f"{len(files)} files checked, no problem found")


def _hook_problems(directories: Directories) -> set[Problem]:
    """What is wrong with the hooks themselves, and with the order that each variant gives them."""
    problems: set[Problem] = set()
    try:
        hooks = discover(directories)
    except ConfigurationError as error:
        return {*error.problems}
    problems.update(mistakes(hooks.values()))
    orders = [Hooks()]
    for name in variant_names(directories):
        with suppress(ConfigurationError):  # check_all has said it
            orders.append(load(directories, name, instance=None, parameters={}).variant.hooks)
    for order in orders:
        for event in ("create", "rename"):
            try:
                arrange(hooks, order, event)
            except ConfigurationError as error:
                problems.update(error.problems)
    return problems


@main.command()
@click.argument("kind", metavar="KIND", type=click.Choice(sorted(_KINDS)))
def schema(kind: str) -> None:
    """Print the JSON Schema of a KIND of file.

    KIND is cache, image, instance, subnet or variant. Editors complete and check files by it. defaults.yaml is a
    variant in form. With the YAML language server, for example, the first line of a variant may be:

    \b
    # yaml-language-server: $schema=/usr/share/osprovider/schema/variant.json
    """  # noqa: D301 - click knows the backspace
    echo_json(json_schema(_KINDS[kind]))
