"""Texts bound to the model's classes, and judged by the JSON Schema of these."""

from __future__ import annotations

from functools import cache

import jsonschema

from osprovider.config.document import Node, parse
from osprovider.config.model import Cache, Image, InstanceFile, Subnet, Variant
from osprovider.config.schema import bind, json_schema
from osprovider.errors import Problem

__all__ = ["CLASSES", "ED25519", "YESCRYPT", "bound", "plain", "validator"]

CLASSES = (Variant, Image, Subnet, InstanceFile, Cache)
ED25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJL+jXQD5j1m+rJrMItbsnP/UKz9kzfaHoA9E9Umewmg"
YESCRYPT = "$y$j9T$F5Jx5fExrKuPp53xLKQ..1$GmcwIgvdUC9qLWcKCi6gklUa1dM3ziD43YxYNURLKy0"


def bound(cls: type, text: str) -> tuple[Node, object, list[str]]:
    problems: list[Problem] = []
    node = parse(text.encode(), "f.yaml", problems)
    assert node is not None
    value = bind(cls, node, problems)
    return node, value, [str(problem) for problem in sorted(problems)]


def plain(node: Node) -> object:
    """What a reader of YAML 1.2 hands to a validator."""
    if isinstance(node.value, dict):
        return {key: plain(item) for key, item in node.value.items()}
    if isinstance(node.value, tuple):
        return [plain(item) for item in node.value]
    return (
        (int(node.text) if node.text.isdigit() else float(node.text)) if isinstance(node.value, float) else node.value
    )


@cache
def validator(cls: type) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json_schema(cls))
