"""What both commands do before and after a subcommand: find it lazily, and turn every ending into an exit code.

Why: `--help` must be quick, so a subcommand's module is imported only when it is run; and scripts rely on exit codes,
so no ending may leave through a traceback.
Invariants: messages go to stderr as "error: ...", data to stdout; no arguments print the usage and exit 1; exit codes
are those of nokv.exitcodes.
Not here: any subcommand.
"""

import importlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from nokv.exitcodes import EXIT_FINE, EXIT_INTERRUPTED, EXIT_UNEXPECTED, EXIT_USAGE


class CommandError(click.ClickException):
    """An ending with a message and an exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.ending = exit_code


class LazyGroup(click.Group):
    """A group whose subcommands live in modules of their own.

    `lazy` maps a name to ("module:attribute", one line of help). The line is repeated here so that listing the
    commands imports none of them; a test holds it against the command's own.
    """

    def __init__(self, *args: Any, lazy: Mapping[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = dict(lazy)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the table: the way a newcomer meets them."""
        return [*self.lazy, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The subcommand, imported now."""
        if cmd_name not in self.lazy:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = self.lazy[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands from the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self.lazy.items()])


def run(group: click.Group, name: str, arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return the exit code. `arguments` None: those of the process."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if not given:
            click.echo(group.get_help(click.Context(group, info_name=name, **group.context_settings)), err=True)
            return EXIT_UNEXPECTED
        result = group.main(args=given, prog_name=name, standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return EXIT_USAGE
    except click.UsageError as error:
        click.echo(f"error: {error.format_message()}", err=True)
        if error.ctx is not None:
            click.echo(f"try: {error.ctx.command_path} --help", err=True)
        return EXIT_USAGE
    except click.ClickException as error:
        click.echo(f"error: {error.format_message()}", err=True)
        return error.ending if isinstance(error, CommandError) else EXIT_UNEXPECTED
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # the reader has gone; nothing more can be said, also not by the interpreter's exit
        return EXIT_FINE
    return result if isinstance(result, int) else EXIT_FINE
