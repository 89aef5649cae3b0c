"""The site's and the shipped configuration files: which there are, and each one read and checked on its own.

A site's file takes the place of a shipped one of the same name. No name that Ganeti or an operator gives becomes part
of a path unchecked: variants, images and subnets are looked up in what a directory holds.
Not for: merging (:mod:`osprovider.config.load`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Final, Literal, TypeAlias, TypeVar

from osprovider.config import checks, consistency, document
from osprovider.config.document import Mark, Node, Value
from osprovider.config.model import Cache, Image, InstanceFile, InstanceNic, Subnet, Variant
from osprovider.config.schema import bind
from osprovider.config.wording import enumerate_words, quote, suggest
from osprovider.errors import Problem, reason_of
from osprovider.paths import Directories

__all__ = ["HOOK_NAME", "NO_IMAGE", "ConfigurationFiles", "Kind"]

T = TypeVar("T")

Kind: TypeAlias = Literal["variants", "images", "subnets", "instances"]

NO_IMAGE: Final = "none"
"""The image of a variant that leaves the disk alone."""

_KINDS: Final[tuple[Kind, ...]] = ("variants", "images", "subnets", "instances")
_SUFFIX: Final = ".yaml"
_DEFAULTS: Final = f"defaults{_SUFFIX}"
_CACHE: Final = f"cache{_SUFFIX}"
_OFFERED: Final = "variants.list"

# What Ganeti takes for an instance's name (Hostname.GetNormalizedName in lib/netutils.py): no slash, no empty label.
_INSTANCE = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")

HOOK_NAME = re.compile(r"[A-Za-z0-9_-]+")
"""What a file in ``hooks/`` is called that is a hook: as run-parts(8), without editors' and dpkg's backups."""


class ConfigurationFiles:
    """The configuration files of one run.

    Attributes:
        problems: what is wrong, collected by every method.
        read: the files that were read.
    """

    def __init__(self, directories: Directories) -> None:
        self._directories = directories
        self.problems: list[Problem] = []
        self.read: list[Path] = []

    def names(self, kind: Kind) -> dict[str, Path]:
        """The files of a kind by name, sorted."""
        found: dict[str, Path] = {}
        for directory in reversed(self._searched(kind)):
            entries = [entry for entry in self._listing(directory) if _is_named(kind, entry)]
            found |= {entry.removesuffix(_SUFFIX): directory / entry for entry in entries}
        return dict(sorted(found.items()))

    def check_names(self) -> None:
        """Say which files are never read because of their names."""
        for kind in _KINDS:
            form = (
                "FQDN.yaml, in lower case" if kind == "instances" else "NAME.yaml, of letters, digits, '.', '_' and '-'"
            )
            for directory in self._searched(kind):
                for entry in self._listing(directory):
                    if not entry.startswith(".") and entry.endswith((_SUFFIX, ".yml")) and not _is_named(kind, entry):
                        self._problem(directory / entry, f"is never read; call it {form}")
        for entry in self._listing(self._directories.config):
            if entry.endswith((_SUFFIX, ".yml")) and entry not in (_DEFAULTS, _CACHE):
                message = f"is never read; the site's defaults are {_DEFAULTS}, and {_CACHE} is for the cache"
                self._problem(self._directories.config / entry, message)
        if NO_IMAGE in (images := self.names("images")):
            self._problem(images[NO_IMAGE], f'is never read: "{NO_IMAGE}" means no image; give it another name')

    def check_offered(self) -> None:
        """Say which variants Ganeti offers that are not there; it has them from a list, one a line."""
        path = self._directories.config / _OFFERED
        try:
            lines = path.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return
        except OSError as error:
            self._problem(path, f"cannot be read: {reason_of(error)}; make it a file that root can read")
            return
        self.read.append(path)
        for number, line in enumerate(lines, 1):
            name = line.strip()
            if name and not name.startswith("#"):
                self._find("variants", name, Mark(str(path), number))

    def defaults(self) -> Node:
        """The tree of the site's defaults, empty where there are none."""
        path = self._directories.config / _DEFAULTS
        loaded = self._load(Variant, path) if os.path.lexists(path) else None
        return loaded[0] if loaded else Node({}, Mark(str(path)))

    def variant(self, name: str, referrer: Mark) -> Node | None:
        """The tree of a variant. ``referrer`` is who asks for it."""
        if not name:
            listed = enumerate_words(self.names("variants"), "and")
            message = f"no variant was asked for; write osprovider+VARIANT (there is {listed})"
            self.problems.append(referrer.problem(message))
            return None
        path = self._find("variants", name, referrer)
        loaded = self._load(Variant, path) if path else None
        return loaded[0] if loaded else None

    def image(self, name: str, referrer: Mark) -> Image | None:
        """An image definition. ``referrer`` is who asks for it."""
        path = self._find("images", name, referrer)
        loaded = self._load(Image, path) if path else None
        if loaded:
            consistency.check_image(loaded[1], loaded[0], self.problems)
        return loaded[1] if loaded else None

    def cache(self) -> Cache:
        """What the site says of the cache; what is built in where it says nothing."""
        path = self._directories.config / _CACHE
        loaded = self._load(Cache, path) if os.path.lexists(path) else None
        return loaded[1] if loaded else Cache()

    def image_name(self, tree: Node, variant: Mark) -> str | None:
        """The image that a merged tree names, None where the disk is to be left alone.

        One that names none is a problem, the variant's: a forgotten key must not leave an instance without a system.
        """
        node = tree.at("image")
        if node is tree:
            message = f"no image is named; write image: NAME, or image: {NO_IMAGE} to leave the disk alone"
            self.problems.append(variant.problem(message))
        return node.value if isinstance(node.value, str) and node.value != NO_IMAGE else None

    def check_image(self, name: str, referrer: Mark) -> None:
        """Check that there is a definition of this name."""
        self._find("images", name, referrer)

    def instance(self, name: str) -> tuple[Node, InstanceFile] | None:
        """An instance's file, None where it has none."""
        if not _INSTANCE.fullmatch(name):
            message = f"{quote(name)} is not an instance's name; write its FQDN in lower case"
            self.problems.append(Mark("INSTANCE_NAME").problem(message))
            return None
        path = self._directories.config / "instances" / f"{name}{_SUFFIX}"
        loaded = self._load(InstanceFile, path) if os.path.lexists(path) else None
        if loaded:
            self.check_nics(loaded[1].nics, loaded[0])
        return loaded

    def check_nics(self, nics: tuple[InstanceNic, ...], node: Node) -> None:
        """Check an instance file's NICs against the subnets."""
        broken = frozenset(self.names("subnets")) - frozenset(self.subnets)
        consistency.check_nics(nics, node, self.subnets, broken, self.problems)

    def check_hooks(self, tree: Node) -> None:
        """Check that the hooks which a variant's tree disables or orders exist."""
        hooks = tree.at("hooks")
        disable, order = hooks.at("disable"), hooks.at("order")
        named: list[tuple[Value, Mark]] = []
        if hooks is not tree and isinstance(disable.value, tuple):
            named = [(item.value, item.mark) for item in disable.value]
        for name, node in order.value.items() if order is not hooks and isinstance(order.value, dict) else ():
            words = node.value.split()[1:] if isinstance(node.value, str) else []
            named += [(name, order.keys[name]), *((word, node.mark) for word in words)]
        for hook, mark in named:
            if isinstance(hook, str) and hook not in self._hooks:
                self.problems.append(mark.problem(f"there is no hook {quote(hook)}{suggest(hook, self._hooks)}"))

    @cached_property
    def _hooks(self) -> frozenset[str]:
        """The names of the hooks there are."""
        roots = (self._directories.config, self._directories.shipped)
        found = [root / "hooks" / entry for root in roots for entry in self._listing(root / "hooks")]
        return frozenset(path.name for path in found if HOOK_NAME.fullmatch(path.name) and not path.is_dir())

    @cached_property
    def subnets(self) -> Mapping[str, Subnet]:
        """All subnets by name, without those that have problems."""
        loaded = {name: self._load(Subnet, path) for name, path in self.names("subnets").items()}
        nodes = {name: pair[0] for name, pair in loaded.items() if pair}
        subnets = {name: pair[1] for name, pair in loaded.items() if pair}
        for name, subnet in subnets.items():
            consistency.check_subnet(subnet, nodes[name], self.problems)
        consistency.check_subnets(subnets, nodes, self.problems)
        return subnets

    def _searched(self, kind: Kind) -> tuple[Path, ...]:
        """The directories of a kind, the one that wins first."""
        roots = [self._directories.config]
        if kind in ("variants", "images"):
            roots.append(self._directories.shipped)
        return tuple(root / kind for root in roots)

    def _find(self, kind: Kind, name: str, referrer: Mark) -> Path | None:
        found = self.names(kind)
        if name in found:
            return found[name]
        where = enumerate_words(map(str, self._searched(kind)))
        self.problems.append(
            referrer.problem(f"there is no {kind[:-1]} {quote(name)} in {where}{suggest(name, found)}")
        )
        return None

    def _listing(self, directory: Path) -> list[str]:
        """The names in a directory, which need not be there.

        One that cannot be read is a problem: without what a site wrote, an instance would be made as nobody wants it.
        """
        try:
            return sorted(os.listdir(directory))  # noqa: PTH208 - names are all that is wanted; a Path each costs
        except FileNotFoundError:
            for place in (directory.parent, directory):
                if os.path.lexists(place) and not place.exists():
                    self._problem(place, "is a link to nothing; remove it, or put the directory there")
                    break
        except OSError as error:
            self._problem(directory, f"cannot be read: {reason_of(error)}; make it a directory that root can read")
        return []

    def _load(self, cls: type[T], path: Path) -> tuple[Node, T] | None:
        self.read.append(path)
        try:
            node = document.read(path, self.problems)
        except FileNotFoundError:
            self._problem(path, "is a link to nothing; remove it, or put the file there")
            return None
        value = bind(cls, node, self.problems) if node else None
        if node and issubclass(cls, Variant):
            self.check_hooks(node)
        return (node, value) if node and value is not None else None

    def _problem(self, path: Path, message: str) -> None:
        self.problems.append(Problem.of_file(path, message))


def _is_named(kind: Kind, entry: str) -> bool:
    """Is this the file name of a configuration file of this kind."""
    stem = entry.removesuffix(_SUFFIX)
    if stem == entry:
        return False
    if kind == "instances":
        return _INSTANCE.fullmatch(stem) is not None
    try:
        checks.name(stem)
    except ValueError:
        return False
    return True
