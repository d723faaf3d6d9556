"""The `synqx` command: finds commands without importing them, and turns every outcome into an exit code.

Exit codes: 0 done, 1 the work failed or cannot be done as the databases are, 2 the input is wrong, 3 the vault is
sealed, 130 interrupted. Nothing heavier than click is imported before a command is chosen, so that `synqx --help`
answers at once.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import click

from synqx_dagster.cli.failure import EXIT_FAILED, EXIT_INPUT, EXIT_INTERRUPTED, report_failure
from synqx_dagster.cli.options import suggest_command
from synqx_dagster.cli.output import Output, discard_broken_pipe


class LazyCommand(NamedTuple):
    """Where a command is, and the line that help shows for it without importing it."""

    target: str
    help: str


#: Sections of the help text; a test compares each line with the command's own.
SECTIONS: dict[str, dict[str, LazyCommand]] = {
    "Define": {
        "init": LazyCommand("init:init", "Create the catalog, its vault and Dagster's storage."),
        "check": LazyCommand("definitions:check", "Find every mistake in YAML definitions; change nothing."),
        "apply": LazyCommand("definitions:apply", "Make the catalog say what the YAML definitions say."),
        "export": LazyCommand("definitions:export", "Write the catalog as YAML definitions."),
        "diff": LazyCommand("history:diff", "Show what changed between two revisions."),
        "history": LazyCommand("history:history", "List the catalog's revisions, the newest first."),
        "rollback": LazyCommand("history:rollback", "Apply an old revision as a new one."),
    },
    "Move data": {
        "connections": LazyCommand("connections:connections", "List, test and discover connections."),
        "preview": LazyCommand("mappings:preview", "Show the first rows as a mapping would load them."),
        "plan": LazyCommand("mappings:plan", "Explain how a mapping or a pipeline would run; change nothing."),
        "run": LazyCommand("run:run", "Run mappings, pipelines or schedules through Dagster, here and now."),
        "backfill": LazyCommand(
            "backfill:backfill", "Load partitions of a mapping, pipeline or schedule again, here and now."
        ),
        "pipelines": LazyCommand("pipelines:pipelines", "List pipelines; look at their versions, and go back to one."),
        "verify": LazyCommand("verify:verify", "Compare a target with what its mapping says, value by value."),
        "quarantine": LazyCommand("quarantine:quarantine", "Look at rows that were set aside, and try them again."),
    },
    "Look": {
        "search": LazyCommand("search:search", "Find agents, pipelines, mappings, columns and more by their words."),
        "lineage": LazyCommand("lineage:lineage", "Show what an asset is made of and what is made of it."),
        "agents": LazyCommand("agents:agents", "List agents, and show what one is for, runs and reaches."),
        "runs": LazyCommand("runs:runs", "List the latest runs, show one, or delete old ones."),
        "logs": LazyCommand("logs:logs", "Show the log of a run."),
        "metrics": LazyCommand("metrics:metrics", "Print metrics of runs, assets and schedules for Prometheus."),
        "replications": LazyCommand("replications:replications", "Create, start, pause, watch and drop replications."),
        "schedules": LazyCommand("schedules:schedules", "List schedules; enable, disable and pause them."),
        "sensors": LazyCommand("sensors:sensors", "List sensors; enable and disable them."),
        "wal": LazyCommand("wal:wal", "Show the write-ahead log of the PostgreSQL server at a connection."),
        "health": LazyCommand(
            "health:health",
            "Show how connections have been over the last day, and what machines and processes use now.",
        ),
        "alerts": LazyCommand("alerts:alerts", "List alerts, and send a test message."),
        "status": LazyCommand("status:status", "Show where everything is and how it does."),
    },
    "Vault": {
        "unlock": LazyCommand("vault:unlock", "Unseal the vault for every process of this user."),
        "seal": LazyCommand("vault:seal", "Seal the vault for every process until it is unlocked."),
        "vault": LazyCommand("vault:vault", "Manage keyslots and encryption keys."),
    },
    "People": {
        "users": LazyCommand("users:users", "List and change accounts, and bring them from another system."),
        "signing-keys": LazyCommand(
            "signing_keys:signing_keys", "List, rotate and retire the keys that sign access tokens."
        ),
        "audit": LazyCommand("audit:audit", "Look at the audit trail, verify it and write it out."),
    },
    "Serve": {
        "serve": LazyCommand(
            "serve:serve", "Serve the REST API and Dagster's web UI on one port, behind logins and roles."
        ),
        "dev": LazyCommand("dev:dev", "Start Dagster's web UI, daemon and code server; Ctrl-C stops all."),
        "worker": LazyCommand("worker:worker", "Execute steps of runs on this machine, for the executor celery."),
        "demo": LazyCommand("demo:demo", "Set up and run the example project on an embedded PostgreSQL."),
    },
}
_COMMANDS = {name: command for section in SECTIONS.values() for name, command in section.items()}


class SynqxGroup(click.Group):
    """The root group: imports a command's module when the command is used, and handles every failure in one place."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the sections."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of a command."""
        if cmd_name not in _COMMANDS:
            return None
        module_name, _, attribute = _COMMANDS[cmd_name].target.partition(":")
        command = getattr(importlib.import_module(f"synqx_dagster.cli.{module_name}"), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command; an unknown one is answered with the nearest name."""
        suggest_command(self, ctx, args)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands by section from the table above, importing none of them."""
        width = max(len(name) for name in _COMMANDS)
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), command.help) for name, command in commands.items()])

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command line and exit with its code; without `standalone_mode`, as click does it."""
        arguments = list(sys.argv[1:] if args is None else args)
        output = Output.for_arguments(arguments)
        extra.setdefault("obj", output)
        if not standalone_mode:
            return super().main(arguments, prog_name or "synqx", complete_var, standalone_mode=False, **extra)
        with output.guarded_stdout():
            try:
                result = super().main(arguments, prog_name or "synqx", complete_var, standalone_mode=False, **extra)
                code = result if isinstance(result, int) else 0
            except click.Abort:
                output.note("interrupted")
                code = EXIT_INTERRUPTED
            except click.exceptions.NoArgsIsHelpError as exc:
                click.echo(exc.format_message(), err=True)
                code = EXIT_INPUT
            except Exception as exc:  # noqa: BLE001 - the one place where everything ends; it reports all of it
                code = report_failure(exc, output)
            if not discard_broken_pipe():
                code = code or EXIT_FAILED
        sys.exit(code)


def _print_version(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    from importlib.metadata import PackageNotFoundError, version

    try:
        number = version("synqx-dagster")
    except PackageNotFoundError:
        number = "from a source tree"
    click.echo(f"synqx {number}")
    ctx.exit()


@click.group(
    "synqx",
    cls=SynqxGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Settings come from the environment and from a .env file: SYNQX_HOME, SYNQX_CATALOG_URL, "
    "SYNQX_MASTER_PASSWORD, SYNQX_KEY_FILE. Exit codes: 0 done, 1 the work failed, 2 the input is wrong, "
    "3 the vault is sealed.",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
@click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks; works after a command, too.")
def cli() -> None:
    """SynqX moves data between databases as you declare it, through Dagster.

    New here? `synqx demo` shows everything on a database of its own. For your own data: `synqx init`, write YAML
    definitions, `synqx apply`, `synqx run NAME`.
    """


def main() -> None:
    """The entry point of the `synqx` script."""
    cli()


if __name__ == "__main__":
    main()
