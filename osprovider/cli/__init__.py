"""The ``osprovider`` command; importing this gathers its subcommands."""

from osprovider.cli import check, image, plan, variant
from osprovider.cli.main import main

__all__ = ["check", "image", "main", "plan", "variant"]
