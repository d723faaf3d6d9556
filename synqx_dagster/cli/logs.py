"""`synqx logs`: the log of a run, and what is added to it until the run has ended."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from synqx_dagster.cli.options import SynqxCommand, json_option, pass_output
from synqx_dagster.cli.output import Output, printable
from synqx_dagster.cli.session import open_catalog

if TYPE_CHECKING:
    from synqx_dagster.defs.run_logs import LogLine

_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_LEVEL_STYLES = {"DEBUG": "dim", "WARNING": "yellow", "ERROR": "red", "CRITICAL": "bold red"}
_FOLLOW_SECONDS = 1.0
_ENDED = frozenset({"SUCCESS", "FAILURE", "CANCELED"})


@click.command(cls=SynqxCommand)
@click.argument("run", required=False)
@click.option("--step", metavar="KEY", help="Show the lines of one step only; `synqx runs show` lists them.")
@click.option("--follow", "-f", is_flag=True, help="Go on until the run has ended; with --json a line for each event.")
@click.option(
    "--level",
    type=click.Choice(_LEVELS, case_sensitive=False),
    default="INFO",
    show_default=True,
    help="The least important lines to show.",
)
@json_option
@pass_output
def logs(output: Output, run: str | None, *, step: str | None, follow: bool, level: str) -> None:
    """Show the log of a run.

    RUN is a run's id or a beginning of it that no other run has; left out: the latest run. Exits 0 whatever became of
    the run.
    """
    from synqx_dagster.defs.instance import open_instance
    from synqx_dagster.defs.run_logs import LogReader, check_step
    from synqx_dagster.defs.runs import get_latest_run, get_run

    shown = set(_LEVELS[_LEVELS.index(level.upper()) :])
    with open_instance(open_catalog().settings) as instance:
        info = get_latest_run(instance) if run is None else get_run(instance, run)
        if step is not None:
            check_step(instance, info.run_id, step)
        reader = LogReader(instance, info.run_id)
        lines: list[dict[str, Any]] = []
        printed = 0
        while True:
            ended = info.status in _ENDED  # before reading: what ends a run is written before it has ended
            for entry in reader.read_new():
                if entry.level not in shown or step not in (None, entry.step):
                    continue
                printed += 1
                if not output.as_json:
                    _draw_line(output, entry)
                elif follow:
                    output.json_line({"run_id": info.run_id, **entry.to_dict()})
                else:
                    lines.append(entry.to_dict())
            if ended or not follow:
                break
            time.sleep(_FOLLOW_SECONDS)
            info = get_run(instance, info.run_id)

    def draw() -> None:
        if not printed:
            of_step = f" of step {step}" if step else ""
            output.print(f"Run {info.run_id} has no lines{of_step} of level {level.upper()} or above.")
        if info.status not in _ENDED:
            output.note(f"Run {info.run_id} is {info.status}; --follow goes on until it has ended.")

    if not (output.as_json and follow):
        output.result({"run": info.to_dict(), "lines": lines}, draw)


def _draw_line(output: Output, line: LogLine) -> None:
    from rich.text import Text

    style = _LEVEL_STYLES.get(line.level, "")
    text = Text(line.time.astimezone().strftime("%H:%M:%S "), style="dim")
    text.append(f"{line.level:<8} ", style=style)
    if line.step:
        text.append(f"{printable(line.step)}: ", style="cyan")
    text.append(printable(line.message, keep_lines=True).replace("\n", "\n" + " " * 18), style=style)
    output.print_exactly(text)
