"""The ``osprovider`` command: what operators and image builders call by hand.

Not for: what Ganeti calls; see ``scripts/``.
"""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from typing import Any

import click

from osprovider import __version__
from osprovider.config.wording import quote, suggest
from osprovider.errors import UsageError
from osprovider.paths import Directories
from osprovider.process import leave
from osprovider.scripts import guarded

__all__ = ["as_json", "echo_json", "main", "require_root"]

_ALL = "gathered"
_HOMES = {
    **{name: name for name in ("check", "image", "plan", "variant")},
    "schema": "check",
    **{name: f"image_{name}" for name in ("add", "capture", "export", "sbom", "show")},
    **dict.fromkeys(("verify", "prune"), "image_upkeep"),
}
"""Which module has which command, whatever its group; for any other one all of them are imported."""


class _Group(click.Group):
    """A group whose usage errors are one line with exit status 2, like every other error of ours.

    Its commands are imported when they are needed.
    """

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name; see click's."""
        if cmd_name not in self.commands:
            import_module(f"osprovider.cli.{_HOMES.get(cmd_name, _ALL)}")
        return super().get_command(ctx, cmd_name)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all; see click's."""
        import_module(f"osprovider.cli.{_ALL}")
        return super().list_commands(ctx)

    def main(self, *_: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as click declares it
        """Run the command that the process was called with; see click's ``BaseCommand.main``.

        ``--debug`` may stand anywhere: messages tell to add it.
        """
        words = sys.argv[1:]
        last = words.index("--") if "--" in words else len(words)
        debug = "--debug" in words[:last]
        words[:last] = [word for word in words[:last] if word != "--debug"]

        def work() -> None:
            try:
                super(_Group, self).main(**{**kwargs, "args": words, "standalone_mode": False})
            except click.ClickException as error:
                context = getattr(error, "ctx", None)
                command = context.command_path if context else "osprovider"
                said = " ".join(error.format_message().split()).rstrip(".")  # a list of choices has lines of its own
                said = said.replace(" Did you mean", "; did you mean").replace(". Choose from: ", ", one of ")
                raise UsageError(f"{said[:1].lower()}{said[1:]}; see {command} --help") from error

        leave(guarded(work, debug=debug))

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:  # noqa: ANN401 - as click declares it
        """The command that the first word names, or what it may be a mistake for; see click's."""
        if self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            ctx.fail(f"there is no command {quote(args[0])}{suggest(args[0], self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)


_Group.group_class = _Group


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="osprovider")
@click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    help="Show every program that is run, and tracebacks; with any command.",
)
@click.pass_context
def main(context: click.Context) -> None:
    """Prepare images, and look at what Ganeti instances are made of.

    Ganeti itself calls the scripts of the OS definition; this command is for people.
    """
    context.obj = Directories.from_environment(os.environ)


def require_root() -> None:
    """See that who calls may lock, mount and read what belongs to root.

    Raises:
        UsageError: it is somebody else.
    """
    if os.geteuid() != 0:
        raise UsageError("only root can do this: call it with sudo, or from a shell of root's")


as_json = click.option("--json", "json_wanted", is_flag=True, help="Print JSON for programs.")
"""The option that every command which prints something has."""


def echo_json(data: object) -> None:
    """Print JSON for programs: standard output, indented, sorted keys."""
    click.echo(json.dumps(data, indent=2, sort_keys=True, default=str))
