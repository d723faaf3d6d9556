"""What commands share: their class, their options, and the types of their arguments."""

from __future__ import annotations

import datetime
import difflib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import click

from synqx_dagster.cli.failure import EXIT_FAILED
from synqx_dagster.cli.output import Output

F = TypeVar("F", bound=Callable[..., Any])

#: Passes the command's `Output` as its first argument.
pass_output = click.make_pass_decorator(Output)


class SynqxCommand(click.Command):
    """A command that also takes ``--debug``, so that it can be appended to the line that failed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(
            click.Option(["--debug"], is_flag=True, expose_value=False, hidden=True, help="Show tracebacks.")
        )


class SynqxSubgroup(click.Group):
    """A group of commands below the root."""

    command_class = SynqxCommand

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command; an unknown one is answered with the nearest name."""
        suggest_command(self, ctx, args)
        return super().resolve_command(ctx, args)


def suggest_command(group: click.Group, ctx: click.Context, args: list[str]) -> None:
    """Refuse an unknown command, naming the nearest one.

    Raises:
        UsageError: There is no such command.
    """
    name = args[0] if args else ""
    if ctx.resilient_parsing or name.startswith("-") or name in group.list_commands(ctx):
        return
    near = difflib.get_close_matches(name, group.list_commands(ctx), n=1)
    raise click.UsageError(f"there is no command {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""), ctx=ctx)


def confirm(output: Output, question: str) -> None:
    """Ask on the terminal before something is removed; any answer but yes ends the command, and is no interruption."""
    if not click.confirm(question, err=True):
        output.note("nothing was changed")
        raise click.exceptions.Exit(EXIT_FAILED)


def json_option(command: F) -> F:
    """Add ``--json``."""
    return click.option(
        "--json",
        "as_json",
        is_flag=True,
        expose_value=False,
        help="Print one JSON document on standard output, everything else on standard error.",
    )(command)


def revision_options(command: F) -> F:
    """Add ``--author`` and ``--reason``: what a new revision says of itself."""
    command = click.option("--reason", metavar="TEXT", help="Why, for the history.")(command)
    return click.option(
        "--author",
        metavar="NAME",
        default=os_user,
        help="Who, for the history.  [default: the operating system's user]",
    )(command)


def os_user() -> str:
    """The user who runs this process, as the history names them."""
    import getpass
    import os

    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container may run under a user id that has no name
        return f"uid {os.getuid()}"


class Duration(click.ParamType[datetime.timedelta]):
    """A time such as ``90d``: a number and m, h, d or w."""

    name = "duration"
    _UNITS: ClassVar = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime.timedelta:
        """Read the text of an option."""
        if isinstance(value, datetime.timedelta):
            return value
        # Not more digits: so many weeks lead from today to a year that there is, before and after.
        match = re.fullmatch(r"([0-9]{1,5})([mhdw])", str(value).strip())
        if match is None:
            self.fail(f"{value!r} is no time; write a number and m, h, d or w, such as 90d", param, ctx)
        return datetime.timedelta(**{self._UNITS[match[2]]: int(match[1])})


#: A path that need not exist.
PATH: click.ParamType[Path] = click.Path(path_type=Path)
#: A directory to write into; it may be missing, but must not be a file.
DIRECTORY: click.ParamType[Path] = click.Path(file_okay=False, path_type=Path)
