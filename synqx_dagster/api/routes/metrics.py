"""Figures over time: write-ahead logs, the health of connections, machines and processes. See docs/monitoring.md."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import AwareDatetime

from synqx_dagster.api.access import Requires
from synqx_dagster.api.context import Context
from synqx_dagster.api.metric_views import (
    HealthPage,
    HealthPoint,
    HealthView,
    SystemPage,
    SystemPoint,
    WalPage,
    WalPoint,
)
from synqx_dagster.api.paging import Page, PagingOf
from synqx_dagster.api.problems import ApiError, problems_of
from synqx_dagster.catalog.metrics import MetricsHistory, health_subject
from synqx_dagster.catalog.monitor_tables import connection_health, system_metrics, wal_metrics
from synqx_dagster.defs.monitor_looks import read_health
from synqx_dagster.people.identity import Identity
from synqx_dagster.people.roles import Permission

router = APIRouter(prefix="/metrics", tags=["metrics"])

Reader = Annotated[Identity, Depends(Requires(Permission.RUNS_READ))]
Reference = Annotated[str, Query(alias="connection", max_length=128, description="Id or name of the connection.")]

_LONGEST = timedelta(days=3660)
_DEFAULT = timedelta(days=1)
#: Spans that are chosen from where none is asked for, so that there are not more points than one page holds.
_SPANS = (0, 60, 300, 900, 3600, 6 * 3600, 86_400)
_POINTS = 500


@dataclass(frozen=True)
class Range:
    """Of which time, and in which spans."""

    since: datetime
    until: datetime
    resolution_seconds: int


def range_of(
    since: Annotated[
        AwareDatetime | None, Query(alias="from", description="The first moment; left out: a day before `to`.")
    ] = None,
    until: Annotated[
        AwareDatetime | None, Query(alias="to", description="The moment after the last; left out: now.")
    ] = None,
    resolution: Annotated[
        int | None,
        Query(
            ge=0,
            le=31 * 86_400,
            description="Looks within spans of so many seconds are one point; 0: as they are kept. Left out: so that "
            "there are no more than 500.",
        ),
    ] = None,
) -> Range:
    """The range that a request asks for.

    Raises:
        ApiError: 422 where there is no such time.
    """
    try:
        end = (until or datetime.now(UTC)).astimezone(UTC)
        begin = end - _DEFAULT if since is None else since.astimezone(UTC)
    except OverflowError:
        raise ApiError(422, "from and to must be in the years 1 to 9999") from None
    if begin >= end:
        raise ApiError(422, "from must be before to", hint="both are moments such as 2026-01-31T12:00:00Z")
    if end - begin > _LONGEST:
        raise ApiError(422, f"from and to are more than {_LONGEST.days} days apart")
    if resolution is None:
        length = (end - begin).total_seconds()
        resolution = next((span for span in _SPANS if length <= (span or 5) * _POINTS), _SPANS[-1])
    return Range(begin, end, resolution)


RangeOf = Annotated[Range, Depends(range_of)]


@router.get("/wal", responses=problems_of(404), operation_id="read_wal_metrics", summary="A write-ahead log over time")
def read_wal(context: Context, identity: Reader, reference: Reference, wanted: RangeOf, paging: PagingOf) -> WalPage:
    """The log of a connection's server, where `monitor.wal` is set. Empty where nothing was looked at."""
    name = context.records.get("connection", reference).record.name
    history = MetricsHistory(context.catalog)
    points = history.points(
        wal_metrics,
        {"record_id": list(history.record_ids([name]).values())},
        wanted.since,
        wanted.until,
        wanted.resolution_seconds,
        skip=paging.skip,
        limit=paging.limit,
    )
    return WalPage(
        connection=name,
        resolution_seconds=wanted.resolution_seconds,
        items=[WalPoint.of(row) for row in points.rows],
        total=points.total,
        skip=paging.skip,
        limit=paging.limit,
    )


@router.get(
    "/health",
    responses=problems_of(404),
    operation_id="read_health_metrics",
    summary="Tests of connections over time",
)
def read_tests(
    context: Context,
    identity: Reader,
    wanted: RangeOf,
    paging: PagingOf,
    connection: Annotated[
        list[str], Query(min_length=1, max_length=20, description="Ids or names of connections, up to 20.")
    ],
) -> HealthPage:
    """Whether connections could be used, and how fast they answered."""
    names = [context.records.get("connection", reference).record.name for reference in connection]
    history = MetricsHistory(context.catalog)
    ids = history.record_ids(names)
    points = history.points(
        connection_health,
        {"record_id": list(ids.values())},
        wanted.since,
        wanted.until,
        wanted.resolution_seconds,
        skip=paging.skip,
        limit=paging.limit,
    )
    by_id = {record_id: name for name, record_id in ids.items()}
    return HealthPage(
        resolution_seconds=wanted.resolution_seconds,
        items=[HealthPoint.of(row, by_id[row["record_id"]]) for row in points.rows],
        total=points.total,
        skip=paging.skip,
        limit=paging.limit,
    )


@router.get("/health/current", operation_id="read_health", summary="How connections are now")
def read_current(context: Context, identity: Reader, paging: PagingOf) -> Page[HealthView]:
    """Every connection by name: whether it can be used, and since when that is so."""
    names = sorted(context.catalog.latest_snapshot().connections)
    part = names[paging.skip : paging.skip + paging.limit]
    found = MetricsHistory(context.catalog).read_states([health_subject(name) for name in part])
    states = {state.subject: state for state in found}
    items = []
    for name in part:
        known = states.get(health_subject(name))
        state = read_health(known.state) if known is not None else None
        items.append(
            HealthView(
                connection=name,
                status=None if state is None else state.status,
                since=None if state is None else datetime.fromisoformat(state.since),
                tested_at=None if known is None else known.looked_at,
                reason=None if state is None else state.reason,
                message=None if state is None else state.message,
                hint=None if state is None else state.hint,
            )
        )
    return Page(items=items, total=len(names), skip=paging.skip, limit=paging.limit)


@router.get("/system", operation_id="read_system_metrics", summary="Machines and processes over time")
def read_system(
    context: Context,
    identity: Reader,
    wanted: RangeOf,
    paging: PagingOf,
    host: Annotated[str | None, Query(max_length=256, description="The name of one machine.")] = None,
    subject: Annotated[
        str | None, Query(max_length=64, description="`host`, or what processes are, such as `daemon`.")
    ] = None,
) -> SystemPage:
    """CPU, memory, disk and open files of the machines that look, and of the processes of SynqX and Dagster there."""
    series = {name: [value] for name, value in (("host_name", host), ("subject", subject)) if value is not None}
    points = MetricsHistory(context.catalog).points(
        system_metrics,
        series,
        wanted.since,
        wanted.until,
        wanted.resolution_seconds,
        skip=paging.skip,
        limit=paging.limit,
    )
    return SystemPage(
        resolution_seconds=wanted.resolution_seconds,
        items=[SystemPoint.of(row) for row in points.rows],
        total=points.total,
        skip=paging.skip,
        limit=paging.limit,
    )
