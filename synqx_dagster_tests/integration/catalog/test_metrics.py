"""The history of what is measured, on both backends: one looks, each change is stored once, old figures are thinned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from synqx_dagster.catalog import thinning
from synqx_dagster.catalog.figures import rules_of
from synqx_dagster.catalog.metrics import Advance, MetricsHistory, MonitorEvent
from synqx_dagster.catalog.monitor_tables import (
    SERIES,
    connection_health,
    monitor_event,
    system_metrics,
    wal_metrics,
)
from synqx_dagster.catalog.store import Catalog
from synqx_dagster.catalog.thinning import Thinner, ThinningReport
from synqx_dagster.model import Connection
from synqx_dagster.settings import Settings
from synqx_dagster_tests.integration.catalog.processes import run_at_once
from synqx_dagster_tests.integration.catalog.test_following import apply

NOW = datetime(2026, 6, 15, 12, 0, tzinfo=UTC)


@pytest.fixture
def history(any_catalog: Catalog) -> MetricsHistory:
    """The history of a catalog with two connections."""
    apply(any_catalog, *(Connection(name=name, db_type="sqlite", database=f"/tmp/{name}.db") for name in ("a", "b")))
    return MetricsHistory(any_catalog)


def store(history: MetricsHistory, table: sa.Table, *rows: Mapping[str, Any]) -> None:
    """Store rows as looks do."""
    history.advance({"test": lambda before: Advance({}, [(table, row) for row in rows])})


def wal_row(at: datetime, connection: str = "a", **values: Any) -> dict[str, Any]:
    return {"sampled_at": at, "connection": connection, "looks": 1, **values}


def count(catalog: Catalog, table: sa.Table) -> int:
    with catalog.read() as connection:
        return int(connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())


# --- who looks -----------------------------------------------------------------------------------------------------


def test_what_is_due_is_claimed_once(history: MetricsHistory) -> None:
    assert history.claim({"x": 60, "y": 10}, NOW) == ["x", "y"]
    assert history.claim({"x": 60, "y": 10}, NOW + timedelta(seconds=1)) == []
    assert history.claim({"x": 60, "y": 10, "z": 5}, NOW + timedelta(seconds=12)) == ["y", "z"]
    # A tick that comes a little early; and a clock that was set back by an hour.
    assert history.claim({"x": 60}, NOW + timedelta(seconds=55)) == ["x"]
    assert history.claim({"x": 60}, NOW - timedelta(hours=1)) == ["x"]
    assert history.claim({}, NOW) == []


def claim_often(settings: Settings, number: int, meet: Callable[[], object]) -> list[str]:
    with Catalog.open(settings) as catalog:
        history = MetricsHistory(catalog)
        meet()
        found: list[str] = []
        for part in range(20):
            found += history.claim({f"{part}/{index}": 60 for index in range(10)}, NOW)
        return found


def test_of_two_processes_one_looks(any_catalog: Catalog, any_catalog_settings: Settings) -> None:
    first, second = run_at_once(claim_often, any_catalog_settings)
    assert set(first).isdisjoint(second)
    assert {*first, *second} == {f"{part}/{index}" for part in range(20) for index in range(10)}


def advance_often(settings: Settings, number: int, meet: Callable[[], object]) -> int:
    with Catalog.open(settings) as catalog:
        history = MetricsHistory(catalog)
        meet()

        def step(before: Mapping[str, Any] | None) -> Advance:
            counted = (before or {"count": 0})["count"] + 1
            # Every tenth is a change.
            event = MonitorEvent("connection_down", "a", NOW, {"count": counted})
            return Advance({"count": counted}, [(wal_metrics, wal_row(NOW))], [event] if counted % 10 == 0 else [])

        for _ in range(30):
            history.advance({"x": step, "y": step})
        return number


def test_two_processes_store_each_change_once(any_catalog: Catalog, any_catalog_settings: Settings) -> None:
    apply(any_catalog, Connection(name="a", db_type="sqlite", database="/tmp/a.db"))
    run_at_once(advance_often, any_catalog_settings)
    history = MetricsHistory(any_catalog)
    assert {state.subject: state.state for state in history.read_states(["x", "y"])} == {
        "x": {"count": 60},
        "y": {"count": 60},
    }
    events = history.events_after(0, since=NOW - timedelta(days=1))
    assert [event.number for event in events] == list(range(1, 13))
    assert sorted(event.body["count"] for event in events) == [10, 10, 20, 20, 30, 30, 40, 40, 50, 50, 60, 60]
    assert count(any_catalog, wal_metrics) == 120
    assert history.latest_event() == 12
    assert [event.number for event in history.events_after(10, since=NOW - timedelta(days=1))] == [11, 12]
    assert history.events_after(0, since=NOW + timedelta(seconds=1)) == []


def test_a_step_that_fails_stores_nothing(history: MetricsHistory, any_catalog: Catalog) -> None:
    def fail(before: Mapping[str, Any] | None) -> Advance:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        history.advance({"a": lambda before: Advance({"n": 1}, [(wal_metrics, wal_row(NOW))]), "b": fail})
    assert history.read_states(["a"]) == []
    assert count(any_catalog, wal_metrics) == 0


def test_a_connection_that_was_removed_is_passed_over(history: MetricsHistory, any_catalog: Catalog) -> None:
    store(history, wal_metrics, wal_row(NOW, "a"), wal_row(NOW, "never"))
    assert count(any_catalog, wal_metrics) == 1


# --- points --------------------------------------------------------------------------------------------------------


def test_points_have_the_resolution_that_is_asked_for(history: MetricsHistory) -> None:
    rows = [wal_row(NOW + timedelta(seconds=20 * n), wal_bytes=n, wal_ms=1000, lag_bytes_max=n) for n in range(9)]
    store(history, wal_metrics, *rows, wal_row(NOW, "b", wal_bytes=7))
    ids = history.record_ids(["a", "b", "never"])
    assert set(ids) == {"a", "b"}
    end = NOW + timedelta(hours=1)
    raw = history.points(wal_metrics, {"record_id": [ids["a"]]}, NOW, end, 0)
    assert (raw.total, [row["wal_bytes"] for row in raw.rows]) == (9, list(range(9)))
    minutes = history.points(wal_metrics, {"record_id": [ids["a"]]}, NOW, end, 60)
    assert [row["wal_bytes"] for row in minutes.rows] == [3, 12, 21]
    assert [row["wal_ms"] for row in minutes.rows] == [3000, 3000, 3000]
    assert [row["lag_bytes_max"] for row in minutes.rows] == [2, 5, 8]
    assert [row["resolution_seconds"] for row in minutes.rows] == [60, 60, 60]
    page = history.points(wal_metrics, {"record_id": [ids["a"]]}, NOW, end, 60, skip=1, limit=1)
    assert (page.total, [row["wal_bytes"] for row in page.rows]) == (3, [12])
    both = history.points(wal_metrics, {"record_id": list(ids.values())}, NOW, end, 3600)
    assert sorted(row["wal_bytes"] for row in both.rows) == [7, 36]
    # From a moment on, and before another one.
    part = history.points(
        wal_metrics, {"record_id": [ids["a"]]}, NOW + timedelta(seconds=20), NOW + timedelta(seconds=40), 0
    )
    assert [row["wal_bytes"] for row in part.rows] == [1]
    assert history.points(wal_metrics, {"record_id": []}, NOW, end, 0).total == 0


# --- thinning ------------------------------------------------------------------------------------------------------


def thin(history: MetricsHistory, catalog: Catalog, now: datetime = NOW, days: int = 30) -> ThinningReport:
    ids = history.record_ids(["a"])
    return Thinner(catalog, dict.fromkeys(ids.values(), days)).run(now, limit_seconds=60)


def dump(catalog: Catalog, table: sa.Table) -> list[dict[str, Any]]:
    order = [*(table.c[name] for name in SERIES[table]), table.c.sampled_at, table.c.metric_id]
    with catalog.read() as connection:
        return [dict(row) for row in connection.execute(sa.select(table).order_by(*order)).mappings()]


def test_old_figures_are_thinned_and_the_sums_stay(
    history: MetricsHistory, any_catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thinning, "_MOST_ROWS", 100)  # many transactions, as there are many rows in truth
    rows = []
    for minute in range(0, 10 * 24 * 60, 7):
        at = NOW - timedelta(minutes=minute)
        rows += [wal_row(at, name, wal_bytes=minute, wal_ms=1000, lag_bytes_max=minute) for name in ("a", "b")]
    # And a day in which looks were frequent.
    rows += [wal_row(NOW - timedelta(days=2, seconds=5 * n), wal_bytes=1, wal_ms=5000) for n in range(1000)]
    store(history, wal_metrics, *rows)
    before = dump(any_catalog, wal_metrics)
    report = thin(history, any_catalog)
    assert not report.unfinished
    after = dump(any_catalog, wal_metrics)
    assert report.combined == len(before) - len(after) > 1000
    for name in ("looks", "wal_bytes", "wal_ms"):
        assert sum(row[name] or 0 for row in after) == sum(row[name] or 0 for row in before)
    moments = {row["sampled_at"] for row in before}
    assert {row["sampled_at"] for row in after} <= moments
    for row in after:
        age = NOW - row["sampled_at"]
        expected = 0 if age < timedelta(days=1) else 300 if age < timedelta(days=7) else 3600
        # The span that a limit falls into is left until it is over.
        assert row["resolution_seconds"] in {expected, 0 if expected == 300 else 300}
    fine = [row for row in after if row["sampled_at"] > NOW - timedelta(hours=23)]
    assert fine == [row for row in before if row["sampled_at"] > NOW - timedelta(hours=23)]
    again = thin(history, any_catalog)
    assert (again.combined, again.deleted) == (0, 0)
    assert dump(any_catalog, wal_metrics) == after


def test_a_look_that_is_stored_late_joins_the_others(history: MetricsHistory, any_catalog: Catalog) -> None:
    at = datetime(2026, 6, 13, 12, 0, tzinfo=UTC)
    store(history, wal_metrics, *(wal_row(at + timedelta(seconds=60 * n), wal_bytes=1) for n in range(4)))
    thin(history, any_catalog)
    store(history, wal_metrics, wal_row(at + timedelta(seconds=90), wal_bytes=10))
    thin(history, any_catalog)
    [row] = dump(any_catalog, wal_metrics)
    assert (row["wal_bytes"], row["looks"], row["resolution_seconds"]) == (14, 5, 300)
    assert row["sampled_at"] == at + timedelta(seconds=180)


def test_what_is_too_old_goes(history: MetricsHistory, any_catalog: Catalog) -> None:
    for days in (1, 5, 20, 40):
        at = NOW - timedelta(days=days, hours=1)
        store(history, wal_metrics, wal_row(at, "a"), wal_row(at, "b"))
        store(history, connection_health, {"sampled_at": at, "connection": "b", "tests": 1, "failures": 0})
        store(history, system_metrics, {"sampled_at": at, "host_name": "h", "subject": "host", "looks": 1})
        history.advance({"e": lambda before, at=at: Advance({}, [], [MonitorEvent("connection_up", "a", at, {})])})  # type: ignore[misc] # a default
    thin(history, any_catalog, days=10)
    ids = {number: name for name, number in history.record_ids(["a", "b"]).items()}
    kept = [(ids[row["record_id"]], (NOW - row["sampled_at"]).days) for row in dump(any_catalog, wal_metrics)]
    assert sorted(kept) == [("a", 1), ("a", 5), ("b", 1), ("b", 5), ("b", 20)]
    assert count(any_catalog, connection_health) == 3
    assert count(any_catalog, system_metrics) == 3
    # The last one is kept, however old: numbers go on from it.
    assert count(any_catalog, monitor_event) == 4
    history.advance({"e": lambda before: Advance({}, [], [MonitorEvent("connection_up", "a", NOW, {})])})
    thin(history, any_catalog, days=10)
    assert count(any_catalog, monitor_event) == 4
    assert history.latest_event() == 5


def thin_and_write(settings: Settings, number: int, meet: Callable[[], object]) -> int:
    with Catalog.open(settings) as catalog:
        history = MetricsHistory(catalog)
        meet()
        if number == 2:
            for n in range(20):
                store(history, wal_metrics, wal_row(NOW - timedelta(days=3, seconds=n), wal_bytes=1))
            return 0
        return Thinner(catalog, {}).run(NOW, limit_seconds=30).combined


def test_processes_that_thin_and_write_at_once_lose_nothing(
    history: MetricsHistory, any_catalog: Catalog, any_catalog_settings: Settings
) -> None:
    store(history, wal_metrics, *(wal_row(NOW - timedelta(days=3, seconds=5 * n), wal_bytes=1) for n in range(3000)))
    run_at_once(thin_and_write, any_catalog_settings, count=3)
    Thinner(any_catalog, {}).run(NOW)
    rows = dump(any_catalog, wal_metrics)
    assert sum(row["wal_bytes"] for row in rows) == 3020
    assert sum(row["looks"] for row in rows) == 3020
    assert {row["resolution_seconds"] for row in rows} == {300}


def test_every_column_is_stored_and_read(history: MetricsHistory, any_catalog: Catalog) -> None:
    values: dict[str, Any] = {}
    for number, (name, rule) in enumerate(rules_of(wal_metrics).items()):
        values[name] = 2**40 + number
        if rule == "slots" or name in ("missing", "error"):
            values[name] = "[]"
        elif name == "is_standby":
            values[name] = True
    store(history, wal_metrics, {"sampled_at": NOW, "connection": "a", **values})
    [row] = dump(any_catalog, wal_metrics)
    assert {name: row[name] for name in values} == values
