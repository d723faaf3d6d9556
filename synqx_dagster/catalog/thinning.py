"""Old figures are put together and, when they are older than anybody wants, deleted; in small transactions.

Guarantee: what is kept is what was looked at, or what `synqx_dagster.catalog.figures` makes of it; to thin again
changes nothing; one process does it at a time, and whoever writes meanwhile waits for a small part of it at most.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from synqx_dagster.catalog.figures import Row, combine, floor_moment, iter_spans, rules_of
from synqx_dagster.catalog.monitor_tables import SERIES, monitor_event, system_metrics
from synqx_dagster.catalog.store import Catalog

#: From an age on, rows of one span of so many seconds are one row.
LEVELS: tuple[tuple[timedelta, int], ...] = ((timedelta(days=1), 300), (timedelta(days=7), 3600))
#: For what has no setting of its own: connections that are not watched, machines, and changes.
DEFAULT_RETENTION_DAYS = 30

#: Rows that one transaction reads, or deletes.
_MOST_ROWS = 2000
_MOST_SERIES = 100
#: "synqxm" in ASCII.
_ADVISORY_LOCK = 0x73796E71786D


@dataclass
class ThinningReport:
    """What was done. ``unfinished``: there was more to do than there was time."""

    combined: int = 0
    deleted: int = 0
    unfinished: bool = False


class Thinner:
    """Thins the history of a catalog.

    Args:
        retention_days: By the record's id of a connection; others have `DEFAULT_RETENTION_DAYS`.
    """

    def __init__(self, catalog: Catalog, retention_days: Mapping[int, int]) -> None:
        self._catalog = catalog
        self._retention_days = retention_days
        self._report = ThinningReport()

    def run(self, now: datetime, *, limit_seconds: float = 10.0) -> ThinningReport:
        """Thin as much as the time allows; what is left over goes with the next call.

        Does nothing while another process is at it.
        """
        deadline = time.monotonic() + limit_seconds
        for table in SERIES:
            for age, seconds in LEVELS:
                self._put_together(table, floor_moment(now - age, seconds), seconds, deadline)
            self._forget(table, now, deadline)
        self._forget_events(now, deadline)
        return self._report

    # --- putting together -------------------------------------------------------------------------------------

    def _put_together(self, table: sa.Table, before: datetime, seconds: int, deadline: float) -> None:
        names = SERIES[table]
        fine = sa.and_(table.c.resolution_seconds < seconds, table.c.sampled_at < before)
        query = (
            sa.select(*(table.c[name] for name in names), sa.func.min(table.c.sampled_at).label("first"))
            .where(fine)
            .group_by(*(table.c[name] for name in names))
            .limit(_MOST_SERIES)
        )
        while True:
            with self._catalog.read() as connection:
                series = connection.execute(query).all()
            if not series:
                return
            for row in series:
                condition = sa.and_(*(table.c[name] == getattr(row, name) for name in names))
                if time.monotonic() > deadline or not self._put_series_together(
                    table, condition, floor_moment(row.first, seconds), before, seconds
                ):
                    self._report.unfinished = True
                    return

    def _put_series_together(
        self, table: sa.Table, series: sa.ColumnElement[bool], since: datetime, before: datetime, seconds: int
    ) -> bool:
        """Put a part of one series together; False where somebody else is at it."""
        # With what was put together before: a look may be stored late.
        query = (
            sa.select(table)
            .where(
                series,
                table.c.sampled_at >= since,
                table.c.sampled_at < before,
                table.c.resolution_seconds <= seconds,
            )
            .order_by(table.c.sampled_at, table.c.metric_id)
            .limit(_MOST_ROWS)
        )
        rules = rules_of(table)
        with self._catalog.write() as connection:
            if not _is_alone(connection):
                return False
            rows = [dict(row) for row in connection.execute(query).mappings()]
            spans = list(iter_spans(rows, seconds))
            if len(rows) == _MOST_ROWS and len(spans) > 1:
                spans.pop()  # The rest of it was not read.
            single: list[int] = []
            gone: list[int] = []
            for span in spans:
                if len(span) == 1:
                    if span[0]["resolution_seconds"] < seconds:
                        single.append(span[0]["metric_id"])
                    continue
                gone += [row["metric_id"] for row in span[:-1]]
                _replace(connection, table, span, rules, seconds)
            _each_part(
                connection,
                single,
                lambda ids: sa.update(table).where(table.c.metric_id.in_(ids)).values(resolution_seconds=seconds),
            )
            _each_part(connection, gone, lambda ids: sa.delete(table).where(table.c.metric_id.in_(ids)))
        self._report.combined += len(gone)
        return True

    # --- forgetting -------------------------------------------------------------------------------------------

    def _forget(self, table: sa.Table, now: datetime, deadline: float) -> None:
        default = now - timedelta(days=DEFAULT_RETENTION_DAYS)
        if table is system_metrics:
            self._delete(table, table.c.sampled_at < default, deadline)
            return
        by_days: dict[int, list[int]] = {}
        for record_id, days in self._retention_days.items():
            by_days.setdefault(days, []).append(record_id)
        for days, record_ids in by_days.items():
            old = table.c.sampled_at < now - timedelta(days=days)
            self._delete(table, sa.and_(table.c.record_id.in_(record_ids), old), deadline)
        named = sorted(self._retention_days)
        others = table.c.record_id.not_in(named) if named else sa.true()
        self._delete(table, sa.and_(others, table.c.sampled_at < default), deadline)

    def _forget_events(self, now: datetime, deadline: float) -> None:
        # The last one stays: numbers go on from it.
        last = sa.select(sa.func.max(monitor_event.c.number)).scalar_subquery()
        old = monitor_event.c.occurred_at < now - timedelta(days=DEFAULT_RETENTION_DAYS)
        self._delete(monitor_event, sa.and_(old, monitor_event.c.number < last), deadline)

    def _delete(self, table: sa.Table, condition: sa.ColumnElement[bool], deadline: float) -> None:
        [key] = table.primary_key.columns
        while time.monotonic() <= deadline:
            with self._catalog.read() as connection:
                ids = list(connection.execute(sa.select(key).where(condition).limit(_MOST_ROWS)).scalars())
            if not ids:
                return
            with self._catalog.write() as connection:
                _each_part(connection, ids, lambda part: sa.delete(table).where(key.in_(part)))
            self._report.deleted += len(ids)
        self._report.unfinished = True


def _is_alone(connection: Connection) -> bool:
    """Whether no other process thins; SQLite has one writer anyway."""
    if connection.dialect.name == "sqlite":
        return True
    return bool(connection.execute(sa.select(sa.func.pg_try_advisory_xact_lock(_ADVISORY_LOCK))).scalar())


def _replace(connection: Connection, table: sa.Table, span: list[Row], rules: Mapping[str, str], seconds: int) -> None:
    """Let the last row of a span stand for all of them."""
    combined = combine(span, rules)
    values = {name: combined[name] for name in rules}
    update = sa.update(table).where(table.c.metric_id == combined["metric_id"])
    connection.execute(update.values(resolution_seconds=seconds, **values))


def _each_part(connection: Connection, ids: list[int], make: Any) -> None:
    for start in range(0, len(ids), 500):
        connection.execute(make(ids[start : start + 500]))
