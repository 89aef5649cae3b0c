"""The ``osprovider`` command. A subcommand is imported when it is called: a tenth of a second for all of them."""

from osprovider.cli.main import main

__all__ = ["main"]
