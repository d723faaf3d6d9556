"""`synqx runs`: what Dagster's storage says of runs, and which of them it no longer needs to keep."""

from __future__ import annotations

import datetime
import sys
from typing import TYPE_CHECKING, Any

import click

from synqx_dagster.cli.figures import format_count, format_seconds, format_time, plural
from synqx_dagster.cli.options import Duration, SynqxSubgroup, confirm, json_option, pass_output
from synqx_dagster.cli.output import Output, printable
from synqx_dagster.cli.session import open_catalog

if TYPE_CHECKING:
    from rich.text import Text

    from synqx_dagster.settings import Settings

_STATUS_STYLES = {
    "SUCCESS": "green",
    "FAILURE": "bold red",
    "CANCELED": "yellow",
    "CANCELING": "yellow",
    "STARTED": "cyan",
    "STARTING": "cyan",
    "QUEUED": "dim",
}


@click.group(cls=SynqxSubgroup, invoke_without_command=True)
@click.option("--limit", "-n", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many at most.")
@click.option("--debug", is_flag=True, expose_value=False, hidden=True, help="Show tracebacks.")
@json_option
@click.pass_context
def runs(context: click.Context, limit: int) -> None:
    """List the latest runs, show one, or delete old ones.

    Without a command: list the latest runs.
    """
    if context.invoked_subcommand is not None:
        return
    output = context.ensure_object(Output)
    found = latest_runs(open_catalog().settings, limit)

    def draw() -> None:
        if found:
            draw_runs(output, found)
        else:
            output.print("No runs yet: `synqx run NAME` runs a mapping, a pipeline or a schedule.")

    output.result(found, draw)


@runs.command()
@click.argument("run", required=False)
@json_option
@pass_output
def show(output: Output, run: str | None) -> None:
    """Show one run: who asked for it, and what its steps did.

    RUN is a run's id or a beginning of it that no other run has; left out: the latest run. Exits 0 whatever became of
    the run.
    """
    from synqx_dagster.defs.instance import open_instance
    from synqx_dagster.defs.run_detail import read_detail
    from synqx_dagster.defs.runs import get_latest_run

    with open_instance(open_catalog().settings) as instance:
        detail = read_detail(instance, run or get_latest_run(instance).run_id)
    document = detail.to_dict()
    output.result(document, lambda: draw_detail(output, document, str(detail.trigger)))


@runs.command()
@click.option("--older-than", type=Duration(), help="Delete runs that ended so long ago, such as 90d, 36h or 12w.")
@click.option("--keep-last", type=click.IntRange(0), help="How many of the last runs of each job stay.")
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@json_option
@pass_output
def purge(
    output: Output, *, older_than: datetime.timedelta | None, keep_last: int | None, dry_run: bool, yes: bool
) -> None:
    """Delete old runs with their events, captured output and stored rows.

    Left out, --older-than and --keep-last are what SYNQX_RUN_RETENTION_DAYS and SYNQX_RUN_KEEP_LAST say. Runs that have
    not ended, that a retry or a backfill needs, and that made the last load of an asset are kept.
    """
    from synqx_dagster.defs.instance import open_instance
    from synqx_dagster.defs.retention import Retention, purge_runs

    settings = open_catalog().settings
    if older_than is None:
        if settings.run_retention_days is None:
            raise click.UsageError("say with --older-than how old runs have to be, such as 90d")
        older_than = datetime.timedelta(days=settings.run_retention_days)
    retention = Retention(older_than, settings.run_keep_last if keep_last is None else keep_last)
    with open_instance(settings) as instance:
        if not dry_run and not yes and sys.stdin.isatty():
            found = len(purge_runs(instance, retention, dry_run=True).deleted)
            if found:
                confirm(output, f"Delete {plural(found, 'run')} with all that is logged of them?")
        report = purge_runs(instance, retention, exchange=settings.exchange, dry_run=dry_run)

    def draw() -> None:
        verb = "Would delete" if dry_run else "Deleted"
        output.print(f"{verb} {plural(len(report.deleted), 'run')}.")
        for reason, count in report.kept.most_common():
            output.print(f"Kept {plural(count, 'run')}: {reason}.")

    output.result({**report.to_dict(), "dry_run": dry_run}, draw)


def latest_runs(settings: Settings, limit: int) -> list[dict[str, Any]]:
    """The latest runs as plain values, the newest first."""
    from synqx_dagster.defs.instance import open_instance
    from synqx_dagster.defs.runs import list_runs

    with open_instance(settings) as instance:
        return [info.to_dict() for info in list_runs(instance, limit)]


def draw_runs(output: Output, found: list[dict[str, Any]]) -> None:
    """Draw runs as a table."""
    from rich.text import Text

    output.table(
        ["run", "job or assets", "status", "revision", "started", "time"],
        [
            [
                info["run_id"][:8],
                printable(_describe_work(info)),
                Text(info["status"], style=_STATUS_STYLES.get(info["status"], "")),
                str(info["revision"] or "-"),
                format_time(datetime.datetime.fromisoformat(info["started_at"] or info["created_at"])),
                format_seconds(info["seconds"]),
            ]
            for info in found
        ],
        right=["revision", "time"],
        fold=["job or assets"],
    )


def _describe_work(info: dict[str, Any]) -> str:
    """The job, or the assets where they were run by name."""
    assets: list[str] = info["assets"]
    if not assets:
        return str(info["job_name"])
    return assets[0] + (f" +{len(assets) - 1}" if len(assets) > 1 else "")


# --- one run ---------------------------------------------------------------------------------------------------

_STEP_STYLES = {
    "SUCCESS": "green",
    "FAILURE": "bold red",
    "INTERRUPTED": "bold red",
    "RETRYING": "yellow",
    "SKIPPED": "yellow",
    "RUNNING": "cyan",
}


def draw_detail(output: Output, document: dict[str, Any], trigger: str) -> None:
    """Draw the head of a run, a table of its steps, and below it what went wrong."""
    from rich.text import Text

    head: list[tuple[str, Any]] = [
        ("run", document["run_id"]),
        ("job", printable(document["job_name"])),
        ("status", Text(document["status"], style=_STATUS_STYLES.get(document["status"], ""))),
        ("revision", str(document["revision"] or "-")),
        ("asked by", printable(trigger + _describe_tick(document["trigger"]["scheduled_for"]))),
        ("started", _describe_time(document["started_at"])),
        ("ended", _describe_time(document["ended_at"])),
        ("time", format_seconds(document["seconds"])),
    ]
    output.facts(head)
    steps = document["steps"]
    if steps:
        output.print()
        output.table(
            ["step", "status", "attempts", "rows in", "rows out", "quarantined", "time"],
            [row for step in steps for row in _step_rows(step)],
            right=["attempts", "rows in", "rows out", "quarantined", "time"],
            fold=["step"],
        )
    errors = [(step["step_key"], step["error"]) for step in steps if step["error"]]
    errors += [
        (f"{step['step_key']}, node {node['node_id']}", node["error"])
        for step in steps
        for node in step["nodes"]
        if node["error"] and node["error"] != step["error"]
    ]
    if document["error"]:
        errors.append((document["job_name"], document["error"]))
    if errors:
        output.print()
    for name, message in errors:
        text = printable(message, keep_lines=True).replace("\n", "\n  ")
        output.print_exactly(Text(f"{printable(name)}: {text}", style="red"))


def _step_rows(step: dict[str, Any]) -> list[list[Any]]:
    """A row for a step, and below it one for each of its assets if there are several, and one for each node."""
    from rich.text import Text

    assets = step["assets"]
    single = assets[0]["asset_key"] if len(assets) == 1 else None
    rows: list[list[Any]] = [
        [
            printable(single or step["step_key"]),
            Text(step["status"].replace("_", " "), style=_STEP_STYLES.get(step["status"], "dim")),
            str(step["attempts"]),
            format_count(step["rows_in"]),
            format_count(step["rows_out"]),
            _set_aside(step["rows_quarantined"]),
            format_seconds(step["seconds"]),
        ]
    ]
    for node in step["nodes"]:
        operator = f" ({node['operator']})" if node["operator"] else ""
        rows.append(
            [
                f"  {printable(node['node_id'] + operator)}",
                Text("FAILURE", style="bold red") if node["error"] else "",
                "",
                format_count(node["rows_in"]),
                format_count(node["rows_out"]),
                _set_aside(node["rows_quarantined"]),
                format_seconds(node["seconds"]),
            ]
        )
    if single is None:
        rows += [
            [
                f"  {printable(asset['asset_key'])}",
                "",
                "",
                format_count(asset["rows_in"]),
                format_count(asset["rows_out"]),
                _set_aside(asset["rows_quarantined"]),
                "",
            ]
            for asset in assets
        ]
    return rows


def _set_aside(rows: int | None) -> Text:
    from rich.text import Text

    return Text(format_count(rows), style="yellow" if rows else "")


def _describe_tick(scheduled_for: str | None) -> str:
    return f", for {_describe_time(scheduled_for)}" if scheduled_for else ""


def _describe_time(text: str | None) -> str:
    return "-" if text is None else format_time(datetime.datetime.fromisoformat(text))
