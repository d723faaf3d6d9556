"""Counts over all runs and pages of them, made by the database that stores them: a statement each, however many
there are.

Dagster's own interface gives whole runs, of which ten thousand take seconds to read. This is the only module that
knows the columns of its table of runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

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


RunSort = Literal["created_at", "started_at", "ended_at"]

_SORT_COLUMNS: dict[RunSort, Any] = {
    # In the order in which runs were asked for.
    "created_at": RunsTable.c.id,
    "started_at": RunsTable.c.start_time,
    "ended_at": RunsTable.c.end_time,
}


@dataclass(frozen=True)
class RunQuery:
    """Which runs, and in which order; what is empty or None is not looked at.

    Attributes:
        job_names: Jobs by the names that Dagster knows them by.
        run_ids: Among these runs alone; an empty list finds none.
        created_from, created_to: When they were asked for: from a moment on, and before one.
    """

    statuses: tuple[str, ...] = ()
    job_names: tuple[str, ...] = ()
    run_ids: tuple[str, ...] | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None
    sort: RunSort = "created_at"
    descending: bool = True
    skip: int = 0
    limit: int = 50


def find_run_ids(instance: dg.DagsterInstance, query: RunQuery) -> tuple[list[str], int]:
    """A page of runs' ids in their order, and how many there are in all.

    Raises:
        ConfigurationError: As `count_runs`.
    """
    conditions: list[Any] = []
    if query.statuses:
        conditions.append(RunsTable.c.status.in_(query.statuses))
    if query.job_names:
        conditions.append(RunsTable.c.pipeline_name.in_(query.job_names))
    if query.run_ids is not None:
        conditions.append(RunsTable.c.run_id.in_(query.run_ids))
    if query.created_from is not None:
        conditions.append(RunsTable.c.create_timestamp >= _as_stored(query.created_from))
    if query.created_to is not None:
        conditions.append(RunsTable.c.create_timestamp < _as_stored(query.created_to))
    (counted,) = _fetch(instance, sa.select(sa.func.count().label("runs")).select_from(RunsTable).where(*conditions))
    column = _SORT_COLUMNS[query.sort]
    order = [column.desc() if query.descending else column.asc()]
    if query.sort != "created_at":
        # Those that have not come so far stand last; the table's id tells equal ones apart.
        order = [column.is_(None), *order, RunsTable.c.id.desc() if query.descending else RunsTable.c.id.asc()]
    page = sa.select(RunsTable.c.run_id).where(*conditions).order_by(*order).offset(query.skip).limit(query.limit)
    return [row["run_id"] for row in _fetch(instance, page)], int(counted["runs"])


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended. Times are seconds since 1970; a run that failed before its start has none."""

    run_id: str
    status: str
    start_time: float | None
    end_time: float


#: Ids that one statement names; SQLite takes 32,766 values at most.
_CHUNK = 10_000


def read_outcomes(
    instance: dg.DagsterInstance, *, job_names: Sequence[str], run_ids: Sequence[str], ended_from: float
) -> list[RunOutcome]:
    """Runs of some jobs, and those of some ids, that have ended since a moment (seconds since 1970); each once.

    Raises:
        ConfigurationError: As `count_runs`.
    """
    columns = (RunsTable.c.run_id, RunsTable.c.status, RunsTable.c.start_time, RunsTable.c.end_time)
    ended = sa.select(*columns).where(RunsTable.c.end_time >= ended_from)
    queries = [ended.where(RunsTable.c.pipeline_name.in_(job_names))] if job_names else []
    queries += [
        ended.where(RunsTable.c.run_id.in_(run_ids[start : start + _CHUNK])) for start in range(0, len(run_ids), _CHUNK)
    ]
    found = {row["run_id"]: row for query in queries for row in _fetch(instance, query)}
    return [RunOutcome(run_id, row["status"], row["start_time"], row["end_time"]) for run_id, row in found.items()]


def _as_stored(moment: datetime) -> datetime:
    """Dagster stores moments in UTC without saying so."""
    return moment.astimezone(UTC).replace(tzinfo=None)


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
