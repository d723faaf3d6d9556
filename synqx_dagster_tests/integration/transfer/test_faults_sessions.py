"""Other sessions in the way of a load: locks, deadlocks, other loads, and columns that come and go meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import pytest

from synqx_dagster.connectors.protocol import Connector
from synqx_dagster.errors import RetryableError, SynqxError
from synqx_dagster.transfer.load import LoadResult, run_load
from synqx_dagster.transfer.result import LoadRequest, Progress, ProgressMeter
from synqx_dagster_tests.fix_mysql import MysqlDatabase
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.integration.transfer.faults import (
    End,
    assert_books,
    assert_exact,
    connected,
    end_of,
    fill,
    orders,
)
from synqx_dagster_tests.integration.transfer.loading import ChildLoad, load

ROWS = 3_000
MYSQL = pytest.param("mysql", marks=pytest.mark.mysql)


@pytest.fixture(autouse=True)
def progress_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ProgressMeter, "INTERVAL_SECONDS", 0.0)


@pytest.fixture
def source(postgresql: PostgresqlDatabase) -> End:
    end = end_of(postgresql, "source")
    fill(end, ROWS)
    return end


@pytest.fixture
def target(postgresql: PostgresqlDatabase, source: End) -> PostgresqlDatabase:
    """A database with the table in it, and a load of it."""
    database = postgresql.create_database()
    with connected(source.config, database.config("target")) as ends:
        load(*ends, orders(), load_id="load-0")
    return database


def load_and(
    source: Connector, target: Connector, phase: str, act: Callable[[], object], **fields: object
) -> LoadResult:
    """A load, at the beginning of a phase of which something happens."""
    seen: list[str] = []

    def listen(progress: Progress) -> None:
        if progress.phase == phase and phase not in seen:
            seen.append(phase)
            act()

    return run_load(LoadRequest(orders(**fields), None, source, target, "run-1", "load-1", progress=listen))


@contextmanager
def transaction(database: PostgresqlDatabase | MysqlDatabase) -> Iterator[Any]:
    """A cursor of another session; what it holds is let go at the end."""
    with closing(database.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("begin")
        yield cursor


@pytest.mark.parametrize("mode", ["replace", "append", "merge"])
def test_a_lock_that_somebody_holds_ends_the_load_in_time(mode: str, source: End, target: PostgresqlDatabase) -> None:
    end = end_of(target, "target")
    fields = {"mode": mode, "key": ["id"]} if mode == "merge" else {"mode": mode}
    if mode == "append":
        target.execute("truncate orders")
    quick = end.through(target.port, lock_timeout_seconds=1)
    with connected(source.config, quick) as ends, transaction(target) as other:
        other.execute("lock table orders in row exclusive mode")
        other.execute("lock table orders in share mode")
        start = time.monotonic()
        with pytest.raises(RetryableError, match="lock"):
            load(*ends, orders(**fields))
        assert time.monotonic() - start < 60
    with connected(source.config, end.config) as ends:
        load(*ends, orders(**fields), run_id="run-2")
    assert_exact(source, end, entries=2)


def test_a_deadlock_ends_the_load_and_a_retry_is_exact(source: End, target: PostgresqlDatabase) -> None:
    """Another session has the fence's row, and waits for the table that the load has."""
    end = end_of(target, "target")
    with connected(source.config, end.config) as ends, transaction(target) as other:
        # The one that looks first is the one that is ended.
        other.execute("set local deadlock_timeout = '10min'")
        waiter = threading.Thread(target=lambda: other.execute("lock table orders in access exclusive mode"))

        def wait_for_the_load() -> None:
            waiter.start()
            deadline = time.monotonic() + 60
            while not target.execute("select 1 from pg_locks where not granted and relation = 'orders'::regclass"):
                assert time.monotonic() < deadline
                time.sleep(0.02)

        def act() -> None:
            other.execute("select * from _synqx_fence for update")

        phases: list[str] = []

        def listen(progress: Progress) -> None:
            if progress.phase not in phases:
                phases.append(progress.phase)
                {"copy": act, "commit": wait_for_the_load}.get(progress.phase, lambda: None)()

        mapping = orders(mode="merge", key=["id"])
        with pytest.raises(RetryableError, match="waited for each other"):
            run_load(LoadRequest(mapping, None, *ends, "run-1", "load-1", progress=listen))
        waiter.join(60)
        assert not waiter.is_alive()
    with connected(source.config, end.config) as ends:
        load(*ends, mapping, run_id="run-2")
    assert_exact(source, end, entries=2)


@pytest.mark.mysql
def test_a_lock_that_somebody_holds_at_mysql_ends_the_load_in_time(source: End, mysql: MysqlDatabase) -> None:
    end = end_of(mysql, "target")
    (before,) = mysql.execute("select @@global.innodb_lock_wait_timeout")[0]
    mysql.execute("set global innodb_lock_wait_timeout = 1")
    try:
        with connected(source.config, end.config) as ends, transaction(mysql) as other:
            with pytest.raises(RetryableError, match="lock"):
                load_and(*ends, "copy", lambda: other.execute("select * from _synqx_fence for update"), mode="append")
            other.execute("rollback")
            load(*ends, orders(mode="append"), run_id="run-2")
    finally:
        mysql.execute(f"set global innodb_lock_wait_timeout = {before}")
    assert_exact(source, end)


@pytest.mark.parametrize("kind", ["postgresql", MYSQL])
def test_one_tick_that_fires_three_times_brings_each_row_once(
    kind: str, source: End, postgresql: PostgresqlDatabase, request: pytest.FixtureRequest
) -> None:
    """Three loads at once of what is new since the last one: whoever is second finds it done, or is refused."""
    database = request.getfixturevalue("mysql") if kind == "mysql" else postgresql.create_database()
    end = end_of(database, "target")
    mapping = orders(mode="append", cursor={"column": "id"})
    with connected(source.config, end.config) as ends:
        load(*ends, mapping, load_id="load-0")
    fill(source, ROWS, first=ROWS + 1)
    children = [
        ChildLoad(source.config, end.config, mapping, load_id=f"load-{n}", run_id=f"run-{n}") for n in range(1, 4)
    ]
    with ExitStack() as stack:
        for child in children:
            stack.enter_context(child)
        reports = [child.wait() for child in children]
    done = [report["rows_out"] for report in reports if report and "rows_out" in report]
    refused = [report["error"] for report in reports if report and "error" in report]
    assert sorted(done) == [0] * (len(done) - 1) + [ROWS], reports
    assert set(refused) <= {"FencedError", "RetryableError"}, reports
    assert_exact(source, end, entries=1 + len(done))


class Alteration:
    """Alters a table in a session of its own, which may have to wait for the load."""

    def __init__(self, database: PostgresqlDatabase, change: str) -> None:
        self._database = database
        self._thread = threading.Thread(target=lambda: database.execute(f"alter table orders {change}"))

    def start(self) -> None:
        """Returns when the table is altered, or the alteration waits for a lock."""
        self._thread.start()
        waiting = "select 1 from pg_stat_activity where wait_event_type = 'Lock' and query like 'alter table orders%'"
        while self._thread.is_alive() and not self._database.execute(waiting):
            time.sleep(0.02)

    def finish(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive()


@pytest.mark.parametrize("change", ["add column note text default 'n'", "drop column checksum"])
@pytest.mark.parametrize("fields", [{}, {"range_rows": 1_000, "parallelism": 2}])
def test_a_source_that_is_altered_in_mid_run_is_read_as_it_was_planned(
    change: str, fields: dict[str, object], source: End, postgresql: PostgresqlDatabase
) -> None:
    """Or it is given up in a way that another attempt mends: for a column that is gone, or a lock that has to wait."""
    end = end_of(postgresql.create_database(), "target")
    source.fetch("analyze")
    expected = source.fetch("select * from orders order by id")
    alteration = Alteration(postgresql, change)
    quick = source.through(postgresql.port, lock_timeout_seconds=1)
    with connected(quick, end.config) as ends:
        try:
            load_and(*ends, "copy", alteration.start, **fields)
        except RetryableError:
            alteration.finish()
            # Nothing was there yet: the table is made as the source is now.
            load(*ends, orders(**fields), run_id="run-2")
            expected = source.fetch("select * from orders order by id")
        alteration.finish()
    assert end.fetch("select * from orders order by id") == expected
    assert_books(end, entries=1)


@pytest.mark.parametrize("change", ["add column note text default 'n'", "drop column checksum"])
def test_ranges_of_before_an_alteration_are_read_again(
    change: str, source: End, postgresql: PostgresqlDatabase
) -> None:
    end = end_of(postgresql.create_database(), "target")
    source.fetch("analyze")
    mapping = orders(range_rows=1_000)
    assert ChildLoad(source.config, end.config, mapping, failpoints="after_range=kill").wait() is None
    postgresql.execute(f"alter table orders {change}")
    with connected(source.config, end.config) as ends:
        assert load(*ends, mapping, run_id="run-2").rows_out == ROWS
    assert end.fetch("select * from orders order by id") == source.fetch("select * from orders order by id")
    assert_books(end, entries=1)


@pytest.mark.parametrize("mode", ["replace", "append", "merge"])
def test_a_target_that_gets_a_column_in_mid_run_keeps_it(mode: str, source: End, target: PostgresqlDatabase) -> None:
    end = end_of(target, "target")
    fields = {"mode": mode, "key": ["id"]} if mode == "merge" else {"mode": mode}
    if mode == "append":
        target.execute("truncate orders")
    alteration = Alteration(target, "add column note text default 'n'")
    with connected(source.config, end.config) as ends:
        load_and(*ends, "copy", alteration.start, **fields)
    alteration.finish()
    assert target.execute("select distinct note from orders") == [("n",)]
    assert_exact(source, end, entries=2)


@pytest.mark.parametrize("mode", ["replace", "append", "merge"])
def test_a_target_that_loses_a_column_in_mid_run_has_all_rows_or_those_of_before(
    mode: str, source: End, target: PostgresqlDatabase
) -> None:
    end = end_of(target, "target")
    fields = {"mode": mode, "key": ["id"]} if mode == "merge" else {"mode": mode}
    if mode == "append":
        target.execute("truncate orders")
    before = target.execute("select id, body from orders order by id")
    alteration = Alteration(target, "drop checksum")
    entries = 2
    with connected(source.config, end.config) as ends:
        try:
            load_and(*ends, "copy", alteration.start, **fields)
        except SynqxError as error:
            entries, message = 1, str(error)
            alteration.finish()
            assert "checksum" in message or "changed" in message, message
    alteration.finish()
    expected = before if entries == 1 else source.fetch("select id, body from orders order by id")
    assert target.execute("select id, body from orders order by id") == expected
    assert_books(end, entries=entries)
