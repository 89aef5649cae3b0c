"""``osprovider image verify`` and ``image prune``: is the cache sound, and no larger than it should be."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import click

from osprovider.cli.image import image
from osprovider.cli.image_common import name_width, not_prepared
from osprovider.cli.main import as_json, echo_json, require_root
from osprovider.errors import ImageError
from osprovider.images.pruning import prune
from osprovider.images.store import Store, Verdict
from osprovider.log import human_bytes
from osprovider.paths import Directories

__all__ = ["prune_cache", "verify_images"]


@image.command("verify")
@click.argument("name", required=False)
@as_json
@click.pass_obj
def verify_images(directories: Directories, name: str | None, json_wanted: bool) -> None:
    """Read templates whole, and compare them with their checksums.

    Those of image NAME, or all on this node. What is damaged is removed, and prepared again when an instance needs it.
    The exit status is 1 then. What another version of osprovider made is said; it is prepared anew likewise.
    """
    require_root()
    verdicts = Store(directories).verify(name)
    if name is not None and not verdicts:
        raise not_prepared(directories, name)
    if json_wanted:
        echo_json(
            [
                {
                    "name": verdict.image,
                    "key": verdict.directory.name,
                    "directory": verdict.directory,
                    "damage": verdict.damage,
                    "outdated": verdict.outdated,
                    "removed": verdict.removed,
                }
                for verdict in verdicts
            ]
        )
    else:
        if not verdicts:
            click.echo("no image is prepared on this node")
        width = name_width(verdict.image or "" for verdict in verdicts)
        for verdict in verdicts:
            click.echo(f"{verdict.image or 'unknown':<{width}} {verdict.directory.name[:12]}  {_in_words(verdict)}")
    damaged = sum(verdict.damage is not None for verdict in verdicts)
    if damaged:
        raise ImageError(
            f"{damaged} of {len(verdicts)} templates in {directories.cache} were damaged: check the disk that it is on"
        )


def _in_words(verdict: Verdict) -> str:
    if verdict.outdated is not None:
        return f"{verdict.outdated}; prepared anew when it is needed"
    if verdict.damage is None:
        return "whole"
    return f"{'damaged and removed' if verdict.removed else 'damaged, and cannot be removed'}: {verdict.damage}"


class _Days(click.FloatRange):
    """A number of days."""

    name = "number"  # as messages call it

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401
        """As the base class, which takes "nan" for a number in any range."""
        days = super().convert(value, param, ctx)
        if math.isnan(days):
            self.fail(f"{value!r} is not a valid number.", param, ctx)
        return days


@image.command("prune")
@click.option("--older-than", "days", type=_Days(min=0), metavar="DAYS", help="Also what was not used for that long.")
@click.option("--all-unused", is_flag=True, help="Also everything else that nobody uses at this moment.")
@as_json
@click.pass_obj
def prune_cache(directories: Directories, days: float | None, all_unused: bool, json_wanted: bool) -> None:
    """Remove templates and downloads from the cache of this node.

    What cache.yaml has no room for goes, the least recently used first, and what the options say. What is in use stays.
    What is removed is fetched and prepared again when an instance needs it.
    """
    require_root()
    removed = prune(directories, older_than_days=days, unused=all_unused)
    if json_wanted:
        echo_json([dataclasses.asdict(each) for each in removed])
        return
    for each in removed:
        click.echo(f"{each.kind} {each.name} removed, {human_bytes(each.freed_bytes)} freed")
    if not removed:
        click.echo("nothing to remove")
