"""All that there is of the ``osprovider`` command; importing this gathers its subcommands."""

from osprovider.cli import (
    check,
    image,
    image_add,
    image_capture,
    image_export,
    image_sbom,
    image_show,
    image_upkeep,
    plan,
    variant,
)
from osprovider.cli.main import main

__all__ = [
    "check",
    "image",
    "image_add",
    "image_capture",
    "image_export",
    "image_sbom",
    "image_show",
    "image_upkeep",
    "main",
    "plan",
    "variant",
]
