"""Prune the cache: what nobody uses goes, downloads first, the least recently used first.

A download is only needed to prepare its image once more, so it goes first. What is of another version of osprovider, or
damaged, or noted of a source that no definition has any more, goes before all else.
Not for: the libguestfs appliance, which lies in the cache directory as well; it is built anew when it is missing, and
every node that uses it needs it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Literal

from osprovider import locks
from osprovider.config.load import image_names, load_cache, load_image
from osprovider.config.sizes import parse_size
from osprovider.errors import ConfigurationError
from osprovider.images.place import Unusable, places
from osprovider.images.sources.cache import Download, SourceCache
from osprovider.log import human_bytes, reporter
from osprovider.paths import Directories

__all__ = ["Removed", "make_room", "prune"]

_DAY = 86400.0


@dataclass(frozen=True, slots=True)
class Removed:
    """Something that was removed from the cache.

    Attributes:
        kind: what it was.
        name: the image's where it was a template, or its key where nobody could use it; else the file's.
        freed_bytes: what it took of the cache directory.
    """

    kind: Literal["download", "pin", "template"]
    name: str
    freed_bytes: int


@dataclass(frozen=True, slots=True)
class _Kept:
    """Something in the cache.

    Attributes:
        what: what it will be when it is removed.
        used: when it was used last, in seconds since the epoch.
        remove: removes it; False where somebody uses it.
        key: of a template that is ready.
        usable: anybody can ever use it.
    """

    what: Removed
    used: float
    remove: Callable[[], bool]
    key: str | None = None
    usable: bool = True


def make_room(directories: Directories, *, keep: str) -> tuple[Removed, ...]:
    """Have the cache take no more than the site allows, after something was added to it.

    Args:
        directories: the cache, and the site's ``cache.yaml``.
        keep: the key of the template that was added, which stays: it is going to be used.

    Raises:
        ConfigurationError: ``cache.yaml`` has problems.
    """
    with _alone(directories):
        removed = _shrink(directories, keep)
    for each in removed:
        reporter.info(f"{each.kind} {each.name} removed, {human_bytes(each.freed_bytes)}: the cache was too large")
    return removed


def prune(
    directories: Directories, *, older_than_days: float | None = None, unused: bool = False
) -> tuple[Removed, ...]:
    """Remove what the site does not allow, what nobody can use, and what is asked for; never what is in use.

    Args:
        directories: the cache, and the site's ``cache.yaml``.
        older_than_days: also what was not used for that long.
        unused: also everything else that nobody uses at this moment.

    Raises:
        ConfigurationError: ``cache.yaml`` has problems.
    """
    with _alone(directories):
        limit = time.time() - older_than_days * _DAY if older_than_days is not None else 0.0
        wanted = [kept for kept in _all(directories) if unused or not kept.usable or kept.used < limit]
        removed = [kept.what for kept in wanted if kept.remove()]
        return (*removed, *_shrink(directories, None))


def _alone(directories: Directories) -> AbstractContextManager[None]:
    """One process makes room at a time, so that two do not remove twice what is needed."""
    return locks.exclusive(directories.run / "locks" / "cache.room")


def _shrink(directories: Directories, keep: str | None) -> tuple[Removed, ...]:
    max_size = load_cache(directories).max_size
    if max_size is None:
        return ()
    limit = parse_size(max_size)
    everything = _all(directories)
    taken = sum(kept.what.freed_bytes for kept in everything)
    removed = []
    for kept in everything:
        if taken <= limit:
            break
        if kept.key != keep and kept.remove():
            taken -= kept.what.freed_bytes
            removed.append(kept.what)
    if taken > limit:
        reporter.warning(
            f"the cache takes {human_bytes(taken)}, and max_size in cache.yaml is {max_size}: what is left is in use, "
            "and goes when there is something else to keep"
        )
    return tuple(removed)


def _all(directories: Directories) -> list[_Kept]:
    """What is in the cache, in the order in which it goes."""
    sources = SourceCache(directories)
    downloads = [
        _Kept(Removed("download", each.path.name, each.size_bytes), each.used, partial(sources.discard, each.path))
        for each in sources.downloads()
    ]
    unusable = [
        _Kept(Removed("pin", each.path.name, each.size_bytes), 0.0, partial(sources.discard, each.path), usable=False)
        for each in _stray_pins(directories, sources)
    ]
    templates = []
    for place in places(directories):
        info = place.info()
        if isinstance(info, Unusable):
            what = Removed("template", place.key, info.occupied_bytes)
            unusable.append(_Kept(what, 0.0, place.evict, usable=False))
        elif info is not None:
            what = Removed("template", info.manifest.image, info.occupied_bytes)
            templates.append(_Kept(what, info.used, place.evict, place.key))
    return [*unusable, *sorted(downloads, key=_used), *sorted(templates, key=_used)]


def _stray_pins(directories: Directories, sources: SourceCache) -> tuple[Download, ...]:
    """The pins of sources that no definition has; none while one cannot be read, which may have any of them."""
    try:
        return sources.stray_pins([load_image(directories, name) for name in image_names(directories)])
    except ConfigurationError:
        return ()


def _used(kept: _Kept) -> float:
    return kept.used
