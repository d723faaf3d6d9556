"""Counts over all runs, made by the database that stores them: a statement each, however many runs there are.

Dagster's own interface gives whole runs, of which ten thousand take seconds to read. This is the only module that
knows the columns of its table of runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg
import sqlalchemy as sa
from dagster._core.storage.runs.schema import RunsTable
from dagster._core.storage.runs.sql_run_storage import SqlRunStorage

from synqx_dagster.errors import ConfigurationError


@dataclass(frozen=True)
class LastRun:
    """The run of a job that was asked for last. Times are seconds since 1970; None for what has not happened."""

    job_name: str
    run_id: str
    status: str
    start_time: float | None
    end_time: float | None


def count_runs(instance: dg.DagsterInstance) -> dict[tuple[str, str], int]:
    """How many runs are stored, by job and status.

    Raises:
        ConfigurationError: The runs are stored in no SQL database.
    """
    query = sa.select(RunsTable.c.pipeline_name, RunsTable.c.status, sa.func.count().label("runs")).group_by(
        RunsTable.c.pipeline_name, RunsTable.c.status
    )
    return {(row["pipeline_name"], row["status"]): row["runs"] for row in _fetch(instance, query)}


def find_last_runs(instance: dg.DagsterInstance) -> list[LastRun]:
    """The last run of each job.

    Raises:
        ConfigurationError: As `count_runs`.
    """
    latest = sa.select(sa.func.max(RunsTable.c.id)).group_by(RunsTable.c.pipeline_name)
    columns = (RunsTable.c.run_id, RunsTable.c.status, RunsTable.c.start_time, RunsTable.c.end_time)
    query = sa.select(RunsTable.c.pipeline_name, *columns).where(RunsTable.c.id.in_(latest))
    return [
        LastRun(row["pipeline_name"], row["run_id"], row["status"], row["start_time"], row["end_time"])
        for row in _fetch(instance, query.order_by(RunsTable.c.pipeline_name))
    ]


def find_last_successes(instance: dg.DagsterInstance) -> dict[str, float]:
    """When each job last ended well, in seconds since 1970.

    Raises:
        ConfigurationError: As `count_runs`.
    """
    succeeded = RunsTable.c.status == dg.DagsterRunStatus.SUCCESS.value
    query = sa.select(RunsTable.c.pipeline_name, sa.func.max(RunsTable.c.end_time).label("ended")).where(succeeded)
    rows = _fetch(instance, query.group_by(RunsTable.c.pipeline_name))
    return {row["pipeline_name"]: row["ended"] for row in rows if row["ended"] is not None}


def _fetch(instance: dg.DagsterInstance, query: Any) -> Sequence[Any]:
    storage = instance.run_storage
    if not isinstance(storage, SqlRunStorage):
        raise ConfigurationError(
            f"runs that {type(storage).__name__} stores cannot be counted",
            hint="Dagster's SQLite and PostgreSQL storage can",
        )
    return storage.fetchall(query)
