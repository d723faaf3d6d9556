"""`synqx demo`: the example project on a PostgreSQL of its own."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from synqx_dagster.cli.figures import format_count, format_rate, format_seconds, plural
from synqx_dagster.cli.options import DIRECTORY, SynqxCommand, json_option, pass_output
from synqx_dagster.cli.output import Output, printable
from synqx_dagster.cli.progress import make_progress_display
from synqx_dagster.cli.run import draw_run, exit_as

if TYPE_CHECKING:
    from synqx_dagster.defs.runs import RunReport
    from synqx_dagster.demo.server import DemoServer


@click.command(cls=SynqxCommand)
@click.option("--dev", "serve", is_flag=True, help="Start the web UI and the daemon on the demo; Ctrl-C stops all.")
@click.option(
    "--port", "-p", type=click.IntRange(1, 65535), default=3000, show_default=True, help="Of the web UI, with --dev."
)
@click.option("--stop", is_flag=True, help="Stop the demo's PostgreSQL if a killed process left it running.")
@click.option("--home", type=DIRECTORY, help="Where the demo lives.  [default: .synqx/demo in the working directory]")
@json_option
@pass_output
@click.pass_context
def demo(ctx: click.Context, output: Output, serve: bool, port: int, stop: bool, home: Path | None) -> None:
    """Set up and run the example project on an embedded PostgreSQL.

    A web shop of about 500,000 rows is loaded into a warehouse and a DuckDB file through Dagster. Nothing outside
    the demo's home is touched, and it may be run again and again. Needs the extra `embedded`.
    """
    from synqx_dagster.demo.project import DEMO_HOME, database_url, enter_demo
    from synqx_dagster.demo.server import running_server, stop_server

    home = (home or DEMO_HOME).absolute()
    if stop:
        if not stop_server(home):
            output.note("The demo's PostgreSQL is in use and was left running.", style="yellow")
        return
    from synqx_dagster.cli.dev import dev
    from synqx_dagster.cli.signals import stop_on_signals

    enter_demo(home)
    started = time.monotonic()
    output.note("Starting PostgreSQL ...")
    with stop_on_signals(), running_server(home) as server:
        if serve:
            _prepare(output, server)
            os.environ["DATABASE_URL"] = database_url(server)
            output.note(f"Other commands reach it meanwhile: SYNQX_HOME={_shown(home)} {_program()} status")
            ctx.invoke(dev, host="127.0.0.1", port=port, verbose=False)
            return
        document, report = _run(output, server, started)
    output.result(document, lambda: _draw(output, document))
    exit_as(report)


def _prepare(output: Output, server: DemoServer) -> Any:
    """Fill the shop and apply the project, saying so."""
    from synqx_dagster.demo.generator import ensure_users, fill_shop
    from synqx_dagster.demo.project import apply_project

    output.note("Filling the database shop ...")
    if not fill_shop(server):
        output.note("It is there already.")
    ensure_users(server)
    output.note("Applying the project ...")
    return apply_project(server)


def _run(output: Output, server: DemoServer, started: float) -> tuple[dict[str, Any], RunReport]:
    from synqx_dagster.demo.generator import count_shop_rows
    from synqx_dagster.demo.project import MAIN_PIPELINE
    from synqx_dagster.demo.samples import read_samples

    project = _prepare(output, server)
    changed = plural(project.changes, "record") + " changed" if project.changes else "nothing to change"
    output.note(f"Revision {project.revision} of {_shown(project.directory)} ({changed}).")
    output.note(f"Running the pipeline {MAIN_PIPELINE} through Dagster ...")
    job_started = time.monotonic()
    with make_progress_display(output) as progress:
        from synqx_dagster.defs.execution import run_targets

        report = run_targets(project.catalog, [f"pipeline:{MAIN_PIPELINE}"], progress=progress)
    job_seconds = time.monotonic() - job_started
    run = report.to_dict()
    samples = read_samples(server) if run["status"] == "SUCCESS" else []
    document = {
        "home": str(server.home),
        "project": str(project.directory),
        "revision": project.revision,
        "source_rows": count_shop_rows(server),
        "run": run,
        "samples": [{"title": item.title, "columns": item.columns, "rows": item.rows} for item in samples],
        "job_seconds": round(job_seconds, 3),
        "seconds": round(time.monotonic() - started, 3),
    }
    return document, report


def _draw(output: Output, document: dict[str, Any]) -> None:
    run = document["run"]
    output.print()
    draw_run(output, run)
    for sample in document["samples"]:
        output.print()
        output.print(sample["title"], style="bold")
        output.wide_table(sample["columns"], [[printable(cell) for cell in row] for row in sample["rows"]])
    rows = sum(asset["rows_in"] or 0 for asset in run["assets"])
    output.print()
    output.print(
        f"{format_count(rows)} rows in {format_seconds(document['job_seconds'])}"
        f" ({format_rate(rows, document['job_seconds'])} rows/s, Dagster included);"
        f" {format_seconds(document['seconds'])} in all."
    )
    output.print(f"The project's files are in {_shown(Path(document['project']))}.")
    output.print("`make dev` (or `synqx demo --dev`) opens it in Dagster's web UI at http://127.0.0.1:3000.")


def _program() -> str:
    """How this command is called: by its name where the PATH has it, else by its path."""
    beside = Path(sys.executable).parent / "synqx"
    found = shutil.which("synqx")
    return "synqx" if found is not None or not beside.exists() else _shown(beside)


def _shown(path: Path) -> str:
    """A path as short as it can be written from here."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
