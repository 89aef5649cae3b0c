"""``osprovider image show``: what an image is, where it came from, how it is laid out, and what it was before."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from typing import Any

import click

from osprovider.cli.image import image
from osprovider.cli.image_common import current_keys, template_data, time_of
from osprovider.cli.main import as_json, echo_json
from osprovider.config.load import image_names, load_image
from osprovider.config.model import Image
from osprovider.images import history
from osprovider.images.packages import Package
from osprovider.images.picture import draw, parts_of
from osprovider.images.sources.addresses import shown
from osprovider.images.store import Store, TemplateInfo
from osprovider.log import human_bytes, plain
from osprovider.manifest import Manifest
from osprovider.paths import Directories

__all__ = ["show_image"]

_WIDEST = 100
_PAST = 20


@image.command("show")
@click.argument("name")
@click.option("--packages", "packages_wanted", is_flag=True, help="List the packages of each template, too.")
@as_json
@click.pass_obj
def show_image(directories: Directories, name: str, packages_wanted: bool, json_wanted: bool) -> None:
    """Show image NAME: its definition, templates and history.

    The templates are those on this node. Their layout is drawn to scale; what holds data is shaded.
    """
    store = Store(directories)
    infos = [info for info in store.list() if info.manifest.image == name]
    definition = load_image(directories, name) if name in image_names(directories) or not infos else None
    past = history.entries(directories, name)
    listed: dict[str, tuple[Package, ...]] = {}
    if packages_wanted:
        found = [each for info in infos if (each := store.listed(info.manifest.key))]
        infos = [info for info, _ in found]
        listed = {info.manifest.key: packages for info, packages in found}
    if json_wanted:
        echo_json(
            {
                "name": name,
                "definition": dataclasses.asdict(definition) if definition else None,
                "templates": [{**_data(info), **_listed(listed.get(info.manifest.key))} for info in infos],
                "history": [dataclasses.asdict(entry) for entry in past],
            }
        )
        return
    current = current_keys(directories, store, [name] if definition and infos else [])
    lines = [*_defined(name, definition)]
    for info in infos:
        lines += _template(info, is_current=info.manifest.key in current, listed=listed.get(info.manifest.key))
    if not infos:
        lines += ["", f"not prepared on this node: osprovider image build {name}"]
    if past:
        left_out = f", the last {_PAST} of {len(past)}" if len(past) > _PAST else ""
        lines += ["", f"history{left_out}", *map(_line, past[-_PAST:])]
    click.echo("\n".join(lines))


def _data(info: TemplateInfo) -> dict[str, Any]:
    """A template as JSON: its manifest, with the numbers of extents in place of the lists, and its place."""
    manifest = info.manifest
    return {
        **dataclasses.asdict(manifest.without_extents()),
        **template_data(info),
        "extents": len(manifest.extents),
        "metadata": len(manifest.metadata),
    }


def _listed(packages: tuple[Package, ...] | None) -> dict[str, Any]:
    """A template's packages as JSON, where they are wanted."""
    return {} if packages is None else {"package_list": [dataclasses.asdict(each) for each in packages]}


def _defined(name: str, definition: Image | None) -> Iterator[str]:
    if definition is None:
        yield f"{name}: no definition any more"
        return
    yield f"{name}: {definition.description}" if definition.description else name
    if definition.build is not None:
        build = definition.build
        yield _entry("built from", f"packages of {build.suite}, by {build.tool}")
        yield _entry("packages", " ".join(build.packages) or "the minimal system's")
    else:
        yield _entry("source", shown(str(definition.source)))
        nothing = "nothing: whoever can change the source decides what instances are"
        yield _entry("verified by", _beside(definition, definition.checksums or nothing))
        if definition.signature is not None:
            yield _entry(
                "signed by", f"{_beside(definition, definition.signature)}, with a key of {definition.keyring}"
            )


def _beside(definition: Image, where: str) -> str:
    """Where a list or a signature is, without a query: one that is beside a URL is the end of another."""
    return shown(where).partition("?")[0] if "://" in str(definition.source) else shown(where)


def _template(info: TemplateInfo, *, is_current: bool, listed: tuple[Package, ...] | None) -> Iterator[str]:
    """A template's description, its picture, and its packages where they are wanted."""
    width = min(shutil.get_terminal_size().columns, _WIDEST)
    yield from ("", *_described(info, is_current=is_current), "", *draw(parts_of(info.manifest), width))
    if listed is not None:
        yield ""
        for each in listed:
            yield f"  {each.name} {each.version} {each.architecture}"


def _described(info: TemplateInfo, *, is_current: bool) -> Iterator[str]:
    manifest = info.manifest
    former = "" if is_current else " (a former one)"
    yield _entry("template", f"{manifest.key}{former}, prepared {manifest.created}, used {time_of(info.used)}")
    yield _entry("in", str(info.directory))
    yield _entry("takes", f"{human_bytes(info.occupied_bytes)} here, {human_bytes(manifest.data_bytes)} to copy")
    if manifest.origin is not None:
        origin = manifest.origin
        yield _entry("made of", f"{origin.location} ({origin.format}, {human_bytes(origin.size_bytes)})")
        yield _entry("", origin.digest)
        yield _entry("verified by", plain(origin.verified))
    if manifest.digest is not None:
        yield _entry("digest", manifest.digest)
    yield _entry("made with", ", ".join(f"{tool} {version}" for tool, version in sorted(manifest.tools.items())))
    yield _entry("opened", "on the node" if manifest.built_here else "in the appliance: others made it")
    yield from _system(manifest)


def _system(manifest: Manifest) -> Iterator[str]:
    count = f"{manifest.packages} packages, " if manifest.packages else ""
    yield _entry("system", f"{plain(manifest.distribution.pretty_name)}, {manifest.architecture}")
    yield _entry("with", f"{count}init {manifest.init}, network by {_or_none(manifest.network_stacks)}")
    yield _entry("kernels", plain(_or_none(tuple(kernel.version for kernel in manifest.kernels))))
    yield _entry("boot loaders", _or_none(manifest.boot_loaders))
    if manifest.table is not None:
        yield _entry("table", f"{manifest.table.type} {manifest.table.id}, {manifest.table.sector_size}-byte sectors")


def _or_none(words: tuple[str, ...]) -> str:
    return ", ".join(words) or "none"


def _entry(name: str, text: str) -> str:
    return f"  {name:<13}{text}".rstrip()


def _line(entry: history.Entry) -> str:
    words = [entry.created, entry.key[:12], plain(entry.system), f"{entry.packages} packages"]
    if entry.digest is not None:
        words.append(entry.digest[:19])
    if entry.verified is not None:
        words.append(f"verified by {plain(entry.verified)}")
    return f"  {'  '.join(words)}"
