"""`synqx worker`: a Celery worker that executes steps of runs, started when all that it needs is there."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import Any

import click

from synqx_dagster.cli.options import SynqxCommand, json_option, pass_output
from synqx_dagster.cli.output import Output, printable
from synqx_dagster.cli.session import load_process_settings
from synqx_dagster.errors import InvalidInputError, Problem

_LEVELS = ("debug", "info", "warning", "error")


@click.command(cls=SynqxCommand)
@click.option("--without-catalog", is_flag=True, help="The steps are those of a Dagster project with components.")
@click.option("--check", "only_check", is_flag=True, help="Only look whether all that a worker needs is there.")
@click.option(
    "--concurrency",
    "-c",
    type=click.IntRange(1, 1024),
    default=2,
    show_default=True,
    help="Steps at a time, each in a process of its own.",
)
@click.option("--name", default="synqx", show_default=True, help="Tells workers of one machine apart.")
@click.option(
    "--steps-per-process",
    type=click.IntRange(1),
    help="Start a new process after so many steps; left out: never. Bounds what functions of yours leak.",
)
@click.option("--log-level", type=click.Choice(_LEVELS), default="info", show_default=True)
@json_option
@pass_output
def worker(
    output: Output,
    without_catalog: bool,
    only_check: bool,
    concurrency: int,
    name: str,
    steps_per_process: int | None,
    log_level: str,
) -> None:
    """Execute steps of runs on this machine, for the executor celery.

    It first tries everything that a step may need: the broker, the catalog and its vault, Dagster's storage, the
    place of rows between steps, drivers, and the modules of functions. SIGTERM ends it when its steps have ended.
    """
    settings = load_process_settings()
    if without_catalog:
        settings = replace(settings, catalog_url="")
    from synqx_dagster.defs.worker_checks import check_worker

    checks = check_worker(settings)
    problems = [Problem(f"{item.name}: {item.problem}", hint=item.hint) for item in checks if item.problem is not None]
    if problems:
        raise InvalidInputError(problems, "this machine cannot be a worker yet")
    if only_check:
        document: dict[str, Any] = {"checks": [item.to_dict() for item in checks]}
        output.result(document, lambda: output.facts([(printable(item.name), "ready") for item in checks]))
        return
    command = [
        *(sys.executable, "-m", "celery", "--app", "synqx_dagster.defs.celery_worker", "--quiet", "worker"),
        # Another pool would not answer while it executes a step, and be taken for dead.
        *("--pool", "prefork", "--concurrency", str(concurrency)),
        *("--hostname", f"{name}@%h", "--loglevel", log_level),
        *("--without-gossip", "--without-mingle"),
        *(("--max-tasks-per-child", str(steps_per_process)) if steps_per_process is not None else ()),
    ]
    sys.stdout.flush()
    sys.stderr.flush()
    # A process of its own without what the checks have opened: it is going to fork.
    os.execv(sys.executable, command)  # noqa: S606 - Celery's own command, without a shell
