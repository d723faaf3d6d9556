"""The history of what is measured: appended, read as points of a resolution, and what the next look goes on from.

Guarantee: of two writers that look at the same thing one does; what a look changes is decided under a lock, so that
each change is stored once, whoever looks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from synqx_dagster.catalog import tables
from synqx_dagster.catalog.figures import Row, combine, iter_spans, rules_of
from synqx_dagster.catalog.monitor_tables import (
    SERIES,
    monitor_event,
    monitor_state,
)
from synqx_dagster.catalog.store import Catalog

#: Subjects of one query: SQLite takes no more than some thousand parameters.
_MOST_SUBJECTS = 500
#: A tick comes a little early or late.
_SLACK = 0.1
#: The row under whose lock events are numbered.
_EVENTS = "events"
#: The subject of how old the last loads of tables are: one row, for all of them are looked at together.
FRESHNESS_SUBJECT = "freshness"


@dataclass(frozen=True)
class MonitorEvent:
    """A change that people may want to know of. ``body`` are plain values: names, counts and messages of errors."""

    event_type: str
    connection: str
    occurred_at: datetime
    body: Mapping[str, Any]
    number: int = 0


@dataclass(frozen=True)
class Advance:
    """What a look adds: the state that the next one goes on from, rows of figures by their table, and changes."""

    state: Mapping[str, Any]
    rows: Sequence[tuple[sa.Table, Mapping[str, Any]]] = ()
    events: Sequence[MonitorEvent] = ()


#: From the state before (None: there is none) to what is stored. Pure, and quick: it is called under a lock.
Step = Callable[[Mapping[str, Any] | None], Advance]


@dataclass(frozen=True)
class MonitorState:
    """What is known of a subject."""

    subject: str
    looked_at: datetime | None
    state: Mapping[str, Any] | None


@dataclass(frozen=True)
class Points:
    """A part of the points of a series, in order of time, and how many there are."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    total: int = 0


class MetricsHistory:
    """The history in a catalog. Thread-safe, as the catalog is."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    # --- looking ----------------------------------------------------------------------------------------------

    def claim(self, intervals: Mapping[str, float], now: datetime) -> list[str]:
        """The subjects that are to be looked at now, each so many seconds after its last look.

        They count as looked at from now on: whoever asks next is not given them.
        """
        if not intervals:
            return []
        known = {state.subject: state.looked_at for state in self.read_states(intervals)}
        if not any(_is_due(known.get(subject), now, seconds) for subject, seconds in intervals.items()):
            return []
        due: list[str] = []
        with self._catalog.write() as connection:
            for part in _parts(sorted(intervals)):
                insert = _insert_of(connection)(monitor_state).on_conflict_do_nothing()
                connection.execute(insert, [{"subject": subject} for subject in part])
                looked_at = {row.subject: row.looked_at for row in _lock(connection, part)}
                found = [name for name in part if _is_due(looked_at.get(name), now, intervals[name])]
                if found:
                    update = sa.update(monitor_state).where(monitor_state.c.subject.in_(found))
                    connection.execute(update.values(looked_at=now))
                due += found
        return due

    def advance(self, steps: Mapping[str, Step]) -> list[MonitorEvent]:
        """Store what looks found, in one transaction; gives the changes.

        A row of figures that names a connection (``connection``) which is not in the catalog any more is left out.
        """
        if not steps:
            return []
        events: list[MonitorEvent] = []
        with self._catalog.write() as connection:
            rows: dict[sa.Table, list[Mapping[str, Any]]] = {}
            for part in _parts(sorted(steps)):
                insert = _insert_of(connection)(monitor_state).on_conflict_do_nothing()
                connection.execute(insert, [{"subject": subject} for subject in part])
                before = {row.subject: row.state for row in _lock(connection, part)}
                changed = []
                for subject in part:
                    done = steps[subject](_decode(before.get(subject)))
                    changed.append({"wanted": subject, "state": json.dumps(done.state, sort_keys=True)})
                    events += done.events
                    for table, row in done.rows:
                        rows.setdefault(table, []).append(row)
                update = sa.update(monitor_state).where(monitor_state.c.subject == sa.bindparam("wanted"))
                connection.execute(update.values(state=sa.bindparam("state")), changed)
            _insert_rows(connection, rows)
            return _insert_events(connection, events)

    def read_states(self, subjects: Iterable[str]) -> list[MonitorState]:
        """What is known of subjects; those that were never looked at are left out."""
        found: list[MonitorState] = []
        with self._catalog.read() as connection:
            for part in _parts(sorted(subjects)):
                query = sa.select(monitor_state).where(monitor_state.c.subject.in_(part))
                found += [
                    MonitorState(row.subject, row.looked_at, _decode(row.state)) for row in connection.execute(query)
                ]
        return found

    # --- changes ----------------------------------------------------------------------------------------------

    def latest_event(self) -> int:
        """The number of the last change; 0 before the first."""
        with self._catalog.read() as connection:
            return _latest_event(connection)

    def events_after(self, number: int, *, since: datetime, limit: int = 1000) -> list[MonitorEvent]:
        """Changes after a number that occurred since a moment, in their order."""
        query = (
            sa.select(monitor_event)
            .where(monitor_event.c.number > number, monitor_event.c.occurred_at >= since)
            .order_by(monitor_event.c.number)
            .limit(limit)
        )
        with self._catalog.read() as connection:
            return [
                MonitorEvent(row.event_type, row.connection, row.occurred_at, json.loads(row.body), row.number)
                for row in connection.execute(query)
            ]

    # --- reading ----------------------------------------------------------------------------------------------

    def points(
        self,
        table: sa.Table,
        series: Mapping[str, Sequence[Any]],
        since: datetime,
        until: datetime,
        resolution_seconds: int,
        *,
        skip: int = 0,
        limit: int = 500,
    ) -> Points:
        """Points of one or several series, by series and time, from a moment on and before another one.

        Args:
            table: One of `wal_metrics`, `connection_health` and `system_metrics`.
            series: Columns of the table's series, each with the values that are wanted.
            resolution_seconds: Looks within spans of so many seconds are one point; 0: as they are stored.
        """
        rules = rules_of(table)
        names = SERIES[table]
        conditions = [table.c[name].in_(list(values)) for name, values in series.items()]
        query = (
            sa.select(table)
            .where(*conditions, table.c.sampled_at >= since, table.c.sampled_at < until)
            .order_by(*(table.c[name] for name in names), table.c.sampled_at, table.c.metric_id)
        )
        found = Points()
        total = 0
        with self._catalog.read() as connection:
            stream = connection.execution_options(yield_per=1000).execute(query)
            rows = (dict(row) for row in stream.mappings())
            for span in _spans(rows, names, resolution_seconds):
                if skip <= total < skip + limit:
                    point = combine(span, rules)
                    # What is put together covers the span that was asked for, or what was put together before.
                    point["resolution_seconds"] = max(resolution_seconds, point["resolution_seconds"])
                    found.rows.append(point)
                total += 1
        return Points(found.rows, total)

    def record_ids(self, connections: Iterable[str]) -> dict[str, int]:
        """The ids of connections, by name; those that never were are left out."""
        record, found = tables.record, {}
        with self._catalog.read() as connection:
            for part in _parts(sorted(connections)):
                query = sa.select(record.c.name, record.c.record_id).where(
                    record.c.kind == "connection", record.c.name.in_(part)
                )
                found.update({row.name: int(row.record_id) for row in connection.execute(query)})
        return found


def wal_subject(connection: str) -> str:
    """The subject of a connection's write-ahead log."""
    return f"wal/{connection}"


def health_subject(connection: str) -> str:
    """The subject of a connection's health."""
    return f"health/{connection}"


def replication_subject(replication: str) -> str:
    """The subject of a replication."""
    return f"replication/{replication}"


def system_subject(host_name: str) -> str:
    """The subject of a machine."""
    return f"system/{host_name}"


def _spans(rows: Iterable[Row], names: Sequence[str], seconds: int) -> Iterator[list[Row]]:
    if not seconds:
        yield from ([row] for row in rows)
        return
    last: tuple[Any, ...] | None = None
    part: list[Row] = []
    for row in rows:
        key = tuple(row[name] for name in names)
        if key != last:
            yield from iter_spans(part, seconds)
            last, part = key, []
        part.append(row)
    yield from iter_spans(part, seconds)


def _is_due(looked_at: datetime | None, now: datetime, seconds: float) -> bool:
    if looked_at is None:
        return True
    passed = (now - looked_at).total_seconds()
    # A clock that was set back must not stop the looks until it has caught up.
    return passed >= seconds * (1 - _SLACK) or passed < -seconds


def _parts(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), _MOST_SUBJECTS):
        yield names[start : start + _MOST_SUBJECTS]


def _insert_of(connection: Connection) -> Any:
    return sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert


def _lock(connection: Connection, subjects: Sequence[str]) -> Sequence[Any]:
    # In order, so that two writers never wait for each other. SQLite has one writer, and ignores it.
    query = sa.select(monitor_state).where(monitor_state.c.subject.in_(subjects)).order_by(monitor_state.c.subject)
    return connection.execute(query.with_for_update()).all()


def _decode(text: str | None) -> Mapping[str, Any] | None:
    if not text:
        return None
    decoded = json.loads(text)
    return decoded if isinstance(decoded, dict) else None


def _insert_rows(connection: Connection, rows: Mapping[sa.Table, Sequence[Mapping[str, Any]]]) -> None:
    names = {row["connection"] for found in rows.values() for row in found if "connection" in row}
    record = tables.record
    ids: dict[str, int] = {}
    for part in _parts(sorted(names)):
        query = sa.select(record.c.name, record.c.record_id).where(
            record.c.kind == "connection", record.c.name.in_(part)
        )
        ids.update({row.name: int(row.record_id) for row in connection.execute(query)})
    for table, found in rows.items():
        figures: dict[str, Any] = dict.fromkeys(rules_of(table))
        values = []
        for row in found:
            row_values = {**figures, "resolution_seconds": 0, **row}
            if "connection" in row_values:
                name = row_values.pop("connection")
                if name not in ids:
                    continue
                row_values["record_id"] = ids[name]
            values.append(row_values)
        if values:
            connection.execute(sa.insert(table), values)


def _latest_event(connection: Connection) -> int:
    return int(connection.execute(sa.select(sa.func.max(monitor_event.c.number))).scalar() or 0)


def _insert_events(connection: Connection, events: Sequence[MonitorEvent]) -> list[MonitorEvent]:
    """Number events and store them: under a lock, so that whoever reads on from a number misses none."""
    if not events:
        return []
    insert = _insert_of(connection)(monitor_state).on_conflict_do_nothing()
    connection.execute(insert, {"subject": _EVENTS})
    _lock(connection, [_EVENTS])
    first = _latest_event(connection) + 1
    numbered = [
        MonitorEvent(event.event_type, event.connection, event.occurred_at.astimezone(UTC), event.body, number)
        for number, event in enumerate(events, first)
    ]
    connection.execute(
        sa.insert(monitor_event),
        [
            {
                "number": event.number,
                "occurred_at": event.occurred_at,
                "event_type": event.event_type,
                "connection": event.connection,
                "body": json.dumps(dict(event.body), sort_keys=True),
            }
            for event in numbered
        ],
    )
    return numbered
