r"""The OS parameters (``gnt-instance -O``): what each is called, means, and sets in the variant.

How a value gets here: Ganeti splits ``-O a=1,b=2`` at commas that no backslash precedes, takes every backslash that
precedes another character away (``UnescapeAndSplit`` in ``lib/utils/text.py``), and hands a value on as ``OSP_NAME``.
So a comma in a value is written ``\,`` (or ``-O dns_servers='198.51.100.1 198.51.100.2'``), an ``\n`` never arrives,
and a real line break does. A list is therefore one of words between commas or white space; kernel arguments, which may
hold commas, between white space; and authorised keys, which may hold both, are lines, so that a whole file will do:
``-O "ssh_authorized_keys=$(cat ~/.ssh/authorized_keys)"``.
Not for: where the variables come from (:mod:`osprovider.ganeti`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from osprovider.config.document import Mark, Node, merge
from osprovider.config.wording import quote, suggest
from osprovider.errors import Problem

__all__ = ["OS_IMAGE", "PARAMETERS", "Parameter", "parameter_tree", "parameters_list", "variable"]

OS_IMAGE = "os-image"
"""Ganeti's own parameter: it has written an image to disk 0 itself, so the disk is left alone."""


def _text(value: str, mark: Mark) -> Node:
    return Node(value.strip(), mark, text=value)


def _list_of(split: Callable[[str], list[str]]) -> Callable[[str, Mark], Node]:
    return lambda value, mark: Node(tuple(_text(word, mark) for word in split(value)), mark)


def _split_words(value: str) -> list[str]:
    return [word for word in re.split(r"[,\s]+", value) if word]


def _split_lines(value: str) -> list[str]:
    """Lines as in authorized_keys: empty ones and comments do not count."""
    lines = (line.strip() for line in value.split("\n"))
    return [line for line in lines if line and not line.startswith("#")]


_words = _list_of(_split_words)
_arguments = _list_of(str.split)
_lines = _list_of(_split_lines)


class Parameter(NamedTuple):
    """An OS parameter.

    Attributes:
        name: as in ``parameters.list``.
        description: one line for ``gnt-os info``.
        path: the key of the variant that it sets; empty for Ganeti's own.
        parse: makes a node of its text.
    """

    name: str
    description: str
    path: tuple[str, ...]
    parse: Callable[[str, Mark], Node] = _text


PARAMETERS: Mapping[str, Parameter] = {
    parameter.name: parameter
    for parameter in (
        Parameter("image", "image to install, a name in images/; none leaves the disk alone", ("image",)),
        Parameter("filesystem", "file system of the root: ext4, ext3, ext2, xfs or btrfs", ("layout", "filesystem")),
        Parameter("layout", "partition table of disk 0: gpt, msdos or none", ("layout", "table")),
        Parameter("swap", "swap of the instance: none, memory, or a partition's size such as 2GiB", ("layout", "swap")),
        Parameter(
            "kernel_args", "arguments of the kernel, separated by white space", ("boot", "kernel_args"), _arguments
        ),
        Parameter("hostname", "fqdn, short or the guest's host name", ("system", "hostname")),
        Parameter("timezone", "time zone, a name of the tz database", ("system", "timezone")),
        Parameter(
            "ssh_authorized_keys",
            "public keys that log in as root, one a line",
            ("users", "root", "ssh_authorized_keys"),
            _lines,
        ),
        Parameter("root_password_hash", "root's password as crypt(5) writes it", ("users", "root", "password_hash")),
        Parameter(
            "dns_servers",
            "addresses of name servers, separated by commas or white space",
            ("network", "dns", "servers"),
            _words,
        ),
        Parameter(
            "dns_search", "domains to search, separated by commas or white space", ("network", "dns", "search"), _words
        ),
        Parameter(
            "hooks_disable", "hooks that do not run, separated by commas or white space", ("hooks", "disable"), _words
        ),
        Parameter("isolation", "where the guest is mounted: auto, host or appliance", ("isolation",)),
        Parameter("wipe", "what happens to the disk's old contents: auto, zero, discard or none", ("wipe",)),
        Parameter(
            "data_disks",
            "what a reinstall does with swap and data disks: keep what they hold, or renew",
            ("data_disks",),
        ),
        Parameter(OS_IMAGE, "image that Ganeti itself writes to disk 0, which is then left alone", ()),
    )
}


def variable(name: str) -> str:
    """The environment variable of a parameter: ``OSP_OS_IMAGE`` of ``os-image`` (Ganeti's ``OSCoreEnv``)."""
    return f"OSP_{name.upper().replace('-', '_')}"


def parameters_list() -> str:
    """The content of the OS definition's ``parameters.list``: ``NAME DESCRIPTION``, nothing else, a line each.

    Ganeti takes a comment for a parameter and fails on an empty line (``_TryOSFromDisk`` in ``lib/backend.py``).
    """
    return "".join(f"{parameter.name} {parameter.description}\n" for parameter in PARAMETERS.values())


def parameter_tree(parameters: Mapping[str, str], problems: list[Problem]) -> Node:
    """What the parameters set, in the form of a variant, each value marked with its variable.

    Args:
        parameters: by name as in ``parameters.list``.
        problems: parameters that do not exist are added here.
    """
    tree = Node({}, Mark("OSP_*"))
    for name, value in parameters.items():
        mark = Mark(variable(name))
        if name not in PARAMETERS:
            problems.append(mark.problem(f"there is no OS parameter {quote(name)}{suggest(name, PARAMETERS)}"))
            continue
        parameter = PARAMETERS[name]
        if not parameter.path:
            continue
        node = parameter.parse(value, mark)
        for key in reversed(parameter.path):
            node = Node({key: node}, mark, {key: mark})
        tree = merge(tree, node)
    return tree
