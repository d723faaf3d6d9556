"""`synqx runs` and `logs`: what Dagster's storage says of runs."""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from synqx_dagster.cli.figures import format_seconds, format_time
from synqx_dagster.cli.options import SynqxCommand, json_option, pass_output
from synqx_dagster.cli.output import Output, printable
from synqx_dagster.cli.session import open_catalog
from synqx_dagster.errors import NotFoundError

if TYPE_CHECKING:
    from synqx_dagster.defs.runs import LogLine
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


@click.command(cls=SynqxCommand)
@click.option("--limit", "-n", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many at most.")
@json_option
@pass_output
def runs(output: Output, limit: int) -> None:
    """List the latest runs."""
    found = latest_runs(open_catalog().settings, limit)

    def draw() -> None:
        if found:
            draw_runs(output, found)
        else:
            output.print("No runs yet: `synqx run NAME` runs a mapping, a pipeline or a schedule.")

    output.result(found, draw)


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
                format_time(datetime.fromisoformat(info["started_at"] or info["created_at"])),
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


# --- logs ------------------------------------------------------------------------------------------------------

_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_LEVEL_STYLES = {"DEBUG": "dim", "WARNING": "yellow", "ERROR": "red", "CRITICAL": "bold red"}
_FOLLOW_SECONDS = 1.0


@click.command(cls=SynqxCommand)
@click.argument("run", required=False)
@click.option("--follow", "-f", is_flag=True, help="Go on until the run has ended.")
@click.option(
    "--level",
    type=click.Choice(_LEVELS, case_sensitive=False),
    default="INFO",
    show_default=True,
    help="The least important lines to show.",
)
@json_option
@pass_output
def logs(output: Output, run: str | None, follow: bool, level: str) -> None:
    """Show the log of a run.

    RUN is a run's id or its first eight characters; left out: the latest run. Exits 0 whatever became of the run.
    """
    from synqx_dagster.defs.instance import open_instance
    from synqx_dagster.defs.runs import get_run, iter_logs, list_runs

    shown = set(_LEVELS[_LEVELS.index(level.upper()) :])
    with open_instance(open_catalog().settings) as instance:
        if run is None:
            latest = list_runs(instance, 1)
            if not latest:
                raise NotFoundError("There are no runs yet", hint="`synqx run NAME` starts one")
            run = latest[0].run_id
        info = get_run(instance, run)
        lines: list[dict[str, Any]] = []
        seen = 0
        while True:
            ended = info.status in _ENDED  # before reading: what ends a run is written before it has ended
            entries = list(iter_logs(instance, info.run_id))
            for entry in entries[seen:]:
                if entry.level in shown:
                    lines.append(entry.to_dict())
                    if not output.as_json:
                        _draw_line(output, entry)
            seen = len(entries)
            if ended or not follow:
                break
            time.sleep(_FOLLOW_SECONDS)
            info = get_run(instance, info.run_id)

    def draw() -> None:
        if not lines:
            output.print(f"Run {info.run_id} has no lines of level {level.upper()} or above.")
        if info.status not in _ENDED:
            output.note(f"Run {info.run_id} is {info.status}; --follow goes on until it has ended.")

    output.result({"run": info.to_dict(), "lines": lines}, draw)


_ENDED = frozenset({"SUCCESS", "FAILURE", "CANCELED"})


def _draw_line(output: Output, line: LogLine) -> None:
    from rich.text import Text

    style = _LEVEL_STYLES.get(line.level, "")
    text = Text(line.time.astimezone().strftime("%H:%M:%S "), style="dim")
    text.append(f"{line.level:<8} ", style=style)
    if line.step:
        text.append(f"{printable(line.step)}: ", style="cyan")
    text.append(printable(line.message, keep_lines=True).replace("\n", "\n" + " " * 18), style=style)
    output.print_exactly(text)
