"""The configuration that holds for one instance: built-in, defaults, variant, instance file and OS parameters, merged.

Every file is checked on its own, so that a problem names the file that has it even where another file overrides it.
Not for: what a NIC of Ganeti's gets of it (:mod:`osprovider.addressing`), or what is done with it
(:mod:`osprovider.plan`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from osprovider.config import consistency
from osprovider.config.document import Mark, Node, merge
from osprovider.config.files import NO_IMAGE, ConfigurationFiles
from osprovider.config.model import Cache, Dns, Image, InstanceNic, Subnet, Variant
from osprovider.config.parameters import OS_IMAGE, parameter_tree
from osprovider.config.schema import bind
from osprovider.errors import ConfigurationError, Problem
from osprovider.paths import Directories

__all__ = ["Settings", "check_all", "image_names", "load", "load_cache", "load_defaults", "load_image", "variant_names"]


@dataclass(frozen=True, slots=True)
class Settings:
    """What holds for one instance.

    Attributes:
        variant_name: as asked for.
        variant: built-in ← defaults ← variant ← instance file ← OS parameters.
        image_name: in ``images/``; None, as is ``image``, where the disk is left alone.
        dns: name servers and search domains that OS parameters give, before all others; else empty.
        nics: what the instance file says of its NICs, by index; an entry equal to ``InstanceNic()`` says nothing.
        subnets: all there are, by name.
        files: what was read.
    """

    variant_name: str
    variant: Variant
    image_name: str | None
    image: Image | None
    dns: Dns
    nics: tuple[InstanceNic, ...]
    subnets: Mapping[str, Subnet]
    files: tuple[Path, ...]

    @property
    def leave_disk_alone(self) -> bool:
        """There is no image to install, or Ganeti has written one itself (``os-image``)."""
        return self.image is None


def variant_names(directories: Directories) -> tuple[str, ...]:
    """The variants there are, sorted."""
    return tuple(ConfigurationFiles(directories).names("variants"))


def image_names(directories: Directories) -> tuple[str, ...]:
    """The image definitions there are, sorted."""
    return tuple(ConfigurationFiles(directories).names("images"))


def load_image(directories: Directories, name: str) -> Image:
    """An image definition.

    Raises:
        ConfigurationError: there is none of this name, or it has problems.
    """
    files = ConfigurationFiles(directories)
    image = files.image(name, Mark("NAME"))
    if files.problems or image is None:
        raise ConfigurationError(files.problems)
    return image


def load_cache(directories: Directories) -> Cache:
    """What the site says of this node's cache of images: ``cache.yaml``.

    Raises:
        ConfigurationError: it has problems.
    """
    files = ConfigurationFiles(directories)
    cache = files.cache()
    if files.problems:
        raise ConfigurationError(files.problems)
    return cache


def load_defaults(directories: Directories, image: str) -> Variant:
    """What holds for a variant that says nothing but its image: built-in ← defaults.

    Args:
        directories: where files lie.
        image: its image's name.

    Raises:
        ConfigurationError: ``defaults.yaml`` has problems.
    """
    files = ConfigurationFiles(directories)
    defaults = bind(Variant, files.defaults(), files.problems)
    if files.problems or defaults is None:
        raise ConfigurationError(files.problems)
    return dataclasses.replace(defaults, image=image)


def load(
    directories: Directories,
    variant: str,
    *,
    instance: str | None,
    parameters: Mapping[str, str],
    asked_by: str = "OS_VARIANT",
) -> Settings:
    """What holds for one instance.

    Args:
        directories: where files lie.
        variant: its name; empty where the OS interface has no variants: ``defaults.yaml`` alone, if it names an image.
        instance: the FQDN; None for a variant's settings alone.
        parameters: OS parameters by their name in ``parameters.list``.
        asked_by: where the variant's name was given, for messages.

    Raises:
        ConfigurationError: all that is wrong, with the places.
    """
    files = ConfigurationFiles(directories)
    tree, node = _variant_tree(files, variant, asked_by)
    nics: tuple[InstanceNic, ...] = ()
    if instance is not None and (loaded := files.instance(instance)):
        tree = merge(tree, _without_nics(loaded[0]))
        nics = loaded[1].nics
    given = parameter_tree(parameters, files.problems)
    files.check_hooks(given)
    tree = merge(tree, given)
    merged = bind(Variant, tree, files.problems)
    image_name = files.image_name(tree, node.mark) if node and OS_IMAGE not in parameters else None
    image = files.image(image_name, tree.at("image").mark) if image_name else None
    subnets = files.subnets
    if files.problems or merged is None:
        raise ConfigurationError(files.problems)
    return Settings(
        variant_name=variant,
        variant=merged,
        image_name=image_name,
        image=image,
        dns=_given_dns(merged.network.dns, parameters),
        nics=nics,
        subnets=subnets,
        files=tuple(files.read),
    )


def _variant_tree(files: ConfigurationFiles, variant: str, asked_by: str) -> tuple[Node, Node | None]:
    """The defaults with the variant laid over them; and the variant's own tree, None where there is none to be had.

    Version 10 of the OS interface has no variants: then the defaults, in form a variant, are the one there is.
    """
    defaults = files.defaults()
    if not variant and defaults.at("image") is not defaults:
        return defaults, defaults
    node = files.variant(variant, Mark(asked_by))
    return merge(defaults, node) if node else defaults, node


def _given_dns(merged: Dns, parameters: Mapping[str, str]) -> Dns:
    """What of it OS parameters have given, which comes before what subnets say."""
    return Dns(
        servers=merged.servers if "dns_servers" in parameters else (),
        search=merged.search if "dns_search" in parameters else (),
    )


def check_all(directories: Directories) -> tuple[list[Problem], list[Path]]:
    """Check all configuration there is.

    Returns:
        What is wrong, sorted, and the files that were read.
    """
    files = ConfigurationFiles(directories)
    files.check_names()
    files.check_offered()
    defaults = files.defaults()
    files.cache()
    _ = files.subnets
    for name in files.names("images"):
        files.image(name, Mark(name))
    for name in files.names("variants"):
        if node := files.variant(name, Mark(name)):
            tree = merge(defaults, node)
            if image := files.image_name(tree, node.mark):
                files.check_image(image, tree.at("image").mark)
    owners: dict[tuple[str | None, str], Mark] = {}
    for name in files.names("instances"):
        if not (loaded := files.instance(name)):
            continue
        node, instance = loaded
        named = node.at("image").value
        if isinstance(named, str) and named != NO_IMAGE:
            files.check_image(named, node.at("image").mark)
        for subnet, address, mark in consistency.nic_addresses(instance.nics, node):
            owner = owners.setdefault((subnet, address), mark)
            if owner.file != mark.file:
                message = f"{address} is also in {owner.file}, line {owner.line}; only one instance can have it"
                files.problems.append(mark.problem(message))
    return sorted(set(files.problems)), files.read


def _without_nics(node: Node) -> Node:
    """An instance file's tree as a variant's."""
    values = node.value if isinstance(node.value, dict) else {}
    return Node({key: value for key, value in values.items() if key != "nics"}, node.mark, node.keys)
