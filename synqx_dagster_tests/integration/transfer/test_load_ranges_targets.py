"""Loads in ranges into targets other than PostgreSQL: exact however many ranges, threads and deaths there are."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from synqx_dagster.connectors.protocol import SharedWriteSession
from synqx_dagster.errors import BadRowsError, PlanError, RetryableError
from synqx_dagster.model import Mapping, PoolSettings
from synqx_dagster.model.table import TableName
from synqx_dagster_tests.fix_mysql import MysqlDatabase
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.integration.transfer.loading import (
    ChildLoad,
    Connectors,
    connect,
    load,
    make_mapping,
    make_schema,
)
from synqx_dagster_tests.integration.transfer.modes import Target, make_target

ROWS = 8_000
SOURCE = f"""
create table items (id bigint primary key, code text, body text);
insert into items select i * 7, md5(i::text), repeat('x', i % 50) from generate_series(1, {ROWS}) as i;
analyze items;
"""
SCHEMA = make_schema(id="bigint", code={"data_type": "string", "nullable": False}, body="string")

MYSQL = pytest.param("mysql", marks=pytest.mark.mysql)

#: Of these several processes may write, so that attempts can meet.
on_a_server = pytest.mark.parametrize("target", [MYSQL], indirect=True)


@pytest.fixture
def source(postgresql: PostgresqlDatabase) -> PostgresqlDatabase:
    postgresql.execute(SOURCE)
    return postgresql


@pytest.fixture(params=["duckdb", MYSQL])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Target:
    """An empty database of each kind."""
    return make_target(request.param, request, tmp_path)


@pytest.fixture
def connectors(source: PostgresqlDatabase, target: Target) -> Iterator[Connectors]:
    pair = connect(source.config("source")), connect(target.config)
    yield pair
    for connector in pair:
        connector.close()


def items(**fields: object) -> Mapping:
    return make_mapping(**{"source_table": "items", "target_table": "items", "range_rows": 2_000, **fields})


def assert_exact(source: PostgresqlDatabase, target: Target) -> None:
    """The target has the source's rows, each once, and nothing of what was tried is left."""
    sql = "select id, code, body from items"
    assert sorted(target.fetch(sql)) == sorted(tuple(row) for row in source.execute(sql))
    assert_clean(target)


def assert_clean(target: Target) -> None:
    assert {name for name in target.tables() if name.startswith("_synqx")} == {"_synqx_ranges"}
    assert target.fetch("select count(*) from _synqx_ranges") == [(0,)]


def batches(target: Target, load_id: str = "load-1") -> list[int]:
    rows = target.fetch(f"select batch from _synqx_ledger where load_id = '{load_id}' order by batch")
    return [int(str(batch)) for (batch,) in rows]


@pytest.mark.parametrize("mode", ["replace", "append", "merge", "scd2"])
@pytest.mark.parametrize("parallelism", [1, 3])
def test_ranges_make_the_whole_table(
    source: PostgresqlDatabase, target: Target, connectors: Connectors, mode: str, parallelism: int
) -> None:
    """However many ranges are read at a time, the rows are those of one after another."""
    result = load(*connectors, items(mode=mode, parallelism=parallelism))
    at_a_time = parallelism if connectors[1].capabilities.concurrent_writers else 1
    assert (result.rows_out, result.rows_inserted, result.parallelism) == (ROWS, ROWS, at_a_time)
    assert_exact(source, target)
    assert batches(target) == [0, 1, 2, 3, 4]
    if mode == "append":
        return
    source.execute("delete from items where id % 5 = 0; update items set body = 'new' where id % 5 = 1")
    source.execute("insert into items values (0, 'least', null), (1000000, 'most', null); analyze items")
    mapping = items(mode=mode, parallelism=parallelism, **({} if mode == "replace" else {"delete_missing": True}))
    again = load(*connectors, mapping, load_id="load-2", run_id="run-2")
    assert all(check.passed for check in again.checks), again.checks
    if mode == "scd2":
        assert target.fetch("select count(*) from items where is_current") == [(again.rows_out,)]
        assert_clean(target)
    else:
        assert_exact(source, target)


@pytest.mark.mysql
def test_a_table_of_mysql_is_read_range_by_range(mysql: MysqlDatabase) -> None:
    other = mysql.create_database()
    mysql.execute("create table items (id bigint primary key, code varchar(10))")
    mysql.execute("insert into items select seq, left(md5(seq), 10) from seq_1_to_5000")
    mysql.execute("analyze table items")
    connectors = connect(mysql.config("source")), connect(other.config("target"))
    result = load(*connectors, items(parallelism=2))
    assert (result.rows_out, result.parallelism) == (5000, 1)
    assert sorted(other.execute("select * from items")) == sorted(mysql.execute("select * from items"))
    assert other.execute("select count(*) from _synqx_ledger where batch > 0") == [(3,)]
    for connector in connectors:
        connector.close()


# Dying after each range takes a process for each of them; `test_load_ranges` does it on PostgreSQL every time.
@pytest.mark.parametrize(
    "place",
    [
        "mid_copy",
        "before_range",
        pytest.param("after_range", marks=pytest.mark.slow),
        "after_publish",
        "after_commit",
    ],
)
def test_a_load_that_dies_again_and_again_ends_exact(source: PostgresqlDatabase, target: Target, place: str) -> None:
    for number in range(20):
        child = ChildLoad(
            source.config("source"),
            target.config,
            items(),
            failpoints=f"{place}=kill" if number < 1 or place == "after_range" else "",
            run_id=f"run-{number}",
        )
        if (report := child.wait()) is not None:
            break
    assert report is not None
    assert report.get("rows_out") == ROWS, report
    assert report["already_committed"] is (place == "after_commit")
    assert_exact(source, target)
    assert batches(target) == [0, 1, 2, 3, 4]
    runs = target.fetch("select run_id from _synqx_ledger where batch > 0 order by batch")
    if place == "after_range":
        # Each attempt brought one range home before it died.
        assert runs == [("run-0",), ("run-1",), ("run-2",), ("run-3",)]
    elif place in ("mid_copy", "before_range"):
        assert runs == [("run-1",)] * 4
    else:
        assert runs == [("run-0",)] * 4


def test_only_the_missing_ranges_are_read_again(
    source: PostgresqlDatabase, target: Target, connectors: Connectors
) -> None:
    assert ChildLoad(source.config("source"), target.config, items(), failpoints="after_range=kill").wait() is None
    # A row of a range that is committed changes; one of a range that is not is new.
    source.execute("update items set body = 'changed' where id = 7")
    source.execute("insert into items values (1000000, 'new', 'new')")
    assert load(*connectors, items(), run_id="run-2").rows_out == ROWS + 1
    assert target.fetch("select body from items where id = 7") == [("x",)]
    assert target.fetch("select body from items where id = 1000000") == [("new",)]
    assert_clean(target)


def test_a_death_leaves_bad_rows_where_they_are_found(source: PostgresqlDatabase, target: Target) -> None:
    source.execute("update items set code = null where id % 700 = 0; analyze items")
    bad = ROWS * 7 // 700
    mapping = items(on_bad_row="quarantine")
    for number in range(20):
        failpoints = "after_range=kill" if number < 2 else "after_publish=kill" if number < 3 else ""
        child = ChildLoad(
            source.config("source"), target.config, mapping, SCHEMA, failpoints=failpoints, run_id=f"run-{number}"
        )
        if (report := child.wait()) is not None:
            break
    assert number == 3
    assert report is not None
    assert report.get("rows_out") == ROWS - bad, report
    found = target.fetch("select count(*), count(distinct source_key) from _synqx_quarantine")
    assert found == [(bad, bad)]
    assert target.fetch("select count(*), count(distinct id) from items") == [(ROWS - bad, ROWS - bad)]
    assert_clean(target)


@pytest.mark.parametrize("parallelism", [1, 3])
def test_bad_rows_of_all_ranges_are_quarantined_or_end_the_load(
    source: PostgresqlDatabase, target: Target, connectors: Connectors, parallelism: int
) -> None:
    source.execute("update items set code = null where id % 700 = 0; analyze items")
    bad = ROWS * 7 // 700
    fields = {"parallelism": parallelism, "on_bad_row": "quarantine"}
    with pytest.raises(BadRowsError, match="code: is null"):
        load(*connectors, items(parallelism=parallelism), SCHEMA)
    assert_clean(target)
    with pytest.raises(BadRowsError, match="max_bad_rows allows 5"):
        load(*connectors, items(**fields, max_bad_rows=5), SCHEMA, load_id="load-2")
    assert_clean(target)
    result = load(*connectors, items(**fields), SCHEMA, load_id="load-3")
    assert (result.rows_out, result.rows_quarantined) == (ROWS - bad, bad)
    assert target.fetch("select count(*), count(distinct source_key) from _synqx_quarantine") == [(bad, bad)]
    assert_clean(target)


@pytest.mark.parametrize("on_bad_row", ["fail", "quarantine"])
def test_rows_of_two_ranges_that_share_a_key_are_found(
    source: PostgresqlDatabase, target: Target, connectors: Connectors, on_bad_row: str
) -> None:
    source.execute(f"update items set code = 'same' where id in (7, {ROWS * 7})")
    schema = make_schema(id="bigint", code={"data_type": "string", "nullable": False}, primary_key="code")
    mapping = items(mode="merge", on_bad_row=on_bad_row)
    if on_bad_row == "fail":
        with pytest.raises(BadRowsError, match="the key occurs more than once, for 1 key of"):
            load(*connectors, mapping, schema)
        assert_clean(target)
        # Another attempt at the load must not find the rows of before.
        source.execute("update items set code = 'x' || id where code = 'same'")
        assert load(*connectors, mapping, schema, run_id="run-2").rows_out == ROWS
    else:
        result = load(*connectors, mapping, schema)
        assert (result.rows_out, result.rows_quarantined) == (ROWS - 2, 2)
        assert target.fetch("select count(*) from items where code = 'same'") == [(0,)]
    assert_clean(target)


def test_a_new_load_clears_away_what_a_dead_one_left(
    source: PostgresqlDatabase, target: Target, connectors: Connectors
) -> None:
    mapping = items(on_bad_row="quarantine")
    for number, fields in enumerate(({}, {"range_rows": None})):
        child = ChildLoad(
            source.config("source"), target.config, mapping, failpoints="after_range=kill", load_id=f"dead-{number}"
        )
        assert child.wait() is None
        assert len([name for name in target.tables() if name.startswith("_synqx_staging")]) == 2
        load(*connectors, items(**fields), load_id=f"load-{number}", run_id="run-2")
        assert_exact(source, target)
        assert batches(target, f"dead-{number}") == []


def test_a_retry_of_what_is_committed_leaves_the_ranges_of_another_load_alone(
    source: PostgresqlDatabase, target: Target, connectors: Connectors
) -> None:
    load(*connectors, items())
    source.execute("update items set body = 'new'")
    ends = source.config("source"), target.config
    assert ChildLoad(*ends, items(), failpoints="after_range=kill", load_id="load-2").wait() is None
    assert load(*connectors, items(), run_id="run-2").already_committed
    load(*connectors, items(), load_id="load-2", run_id="run-3")
    assert_exact(source, target)
    runs = target.fetch("select run_id from _synqx_ledger where load_id = 'load-2' order by batch")
    assert runs == [("run-3",), ("run-1",), ("run-3",), ("run-3",), ("run-3",)]


# --- several sessions and several attempts -------------------------------------------------------------------------


_ORPHANS_EACH_TIME = {("before_range", "load-2", 2), ("after_publish", "load-1", 1)}


# Each of them stops one process and starts two more; `make test` does the two that differ most.
@on_a_server
@pytest.mark.parametrize(
    ("place", "load_id", "parallelism"),
    [
        pytest.param(*case, marks=() if case in _ORPHANS_EACH_TIME else pytest.mark.slow)
        for case in itertools.product(["before_range", "after_publish"], ["load-1", "load-2"], [1, 2])
    ],
)
def test_an_orphan_cannot_add_a_range_and_is_told_why(
    source: PostgresqlDatabase, target: Target, parallelism: int, load_id: str, place: str
) -> None:
    """The newer attempt ends the sessions of the older one, which hold locks on the staged rows and the target's."""
    ends = source.config("source"), target.config
    mapping = items(parallelism=parallelism)
    orphan = ChildLoad(*ends, mapping, failpoints=f"{place}=stop")
    with orphan:
        orphan.wait_until_stopped()
        report = ChildLoad(*ends, mapping, load_id=load_id, run_id="run-2").wait()
        assert report is not None
        assert report.get("rows_out") == ROWS, report
        refused = orphan.resume_to_the_end()
    assert refused is not None
    assert refused["error"] == "FencedError", refused
    assert "this one has epoch 1, the newest 2" in refused["message"]
    assert_exact(source, target)


@pytest.mark.slow
@on_a_server
def test_two_attempts_at_once_leave_one_whole(source: PostgresqlDatabase, target: Target) -> None:
    """Whichever is the newer one commits; of one load, or of two."""
    ends = source.config("source"), target.config
    for number, load_ids in enumerate([("a", "a"), ("b", "c"), ("d", "d")]):
        children = [
            ChildLoad(*ends, items(parallelism=2), load_id=load_id, run_id=f"run-{number}-{at}")
            for at, load_id in enumerate(load_ids)
        ]
        reports = [child.wait() for child in children]
        assert any(report is not None and report.get("rows_out") == ROWS for report in reports), reports
        for report in reports:
            assert report is not None
            assert "error" not in report or report["error"] in ("FencedError", "RetryableError"), report
        assert_exact(source, target)


@on_a_server
@pytest.mark.parametrize("parallelism", [1, 2])
def test_a_lost_connection_is_a_passing_fault_for_the_newest_attempt(
    source: PostgresqlDatabase, target: Target, mysql: MysqlDatabase, parallelism: int
) -> None:
    ends = source.config("source"), target.config
    child = ChildLoad(*ends, items(parallelism=parallelism), failpoints="before_range=stop")
    with child:
        child.wait_until_stopped()
        with closing(mysql.server.connect(as_root=True)) as connection, connection.cursor() as cursor:
            cursor.execute("select id from information_schema.processlist where db = %s", (mysql.name,))
            for (thread,) in cursor.fetchall():
                cursor.execute(f"kill {thread}")
        report = child.resume_to_the_end()
    assert report is not None
    assert report["error"] in ("RetryableError", "ConnectionFailedError"), report
    again = ChildLoad(*ends, items(parallelism=parallelism), run_id="run-2").wait()
    assert again is not None
    assert again.get("rows_out") == ROWS, again
    assert_exact(source, target)


@pytest.mark.mysql
def test_sessions_that_fill_a_table_are_ended_and_no_others(mysql: MysqlDatabase) -> None:
    connector, staging = connect(mysql.config("target")), TableName("staging")
    mysql.execute("create table staging (id int)")
    with connector.write() as pooled, connector.write() as evicting:
        assert isinstance(pooled, SharedWriteSession)
        assert isinstance(evicting, SharedWriteSession)
        pooled.join_writers(staging)
        evicting.join_writers(staging)
        evicting.evict_writers(TableName("other"))
        pooled.begin()
        pooled.execute("insert into staging values (1)")
        evicting.evict_writers(staging)
        # Whoever evicts may count on it that the locks are gone.
        evicting.execute("drop table staging")
        with pytest.raises(RetryableError):
            pooled.execute("select 1")
    with connector.write() as pooled:
        assert isinstance(pooled, SharedWriteSession)
        pooled.join_writers(staging)
        thread = pooled.fetch_all("select connection_id()")
    with connector.write() as first, connector.write() as second:
        assert thread in (first.fetch_all("select connection_id()"), second.fetch_all("select connection_id()"))
        for evicting, other in ((first, second), (second, first)):
            assert isinstance(evicting, SharedWriteSession)
            evicting.evict_writers(staging)
            # The connection came back to its pool, and whoever has it now does not fill the table.
            assert other.fetch_all("select 1") == [(1,)]
    connector.close()


def test_all_threads_see_one_snapshot(source: PostgresqlDatabase, target: Target, connectors: Connectors) -> None:
    """Money that moves between ranges all the time is neither lost nor doubled."""
    source.execute("alter table items add money integer not null default 100; analyze items")
    stop = threading.Event()

    def move() -> None:
        with closing(source.connect()) as connection, connection.cursor() as cursor:
            connection.autocommit = True
            while not stop.is_set():
                cursor.execute(
                    f"update items set money = money + case id when 7 then -1 else 1 end where id in (7, {ROWS * 7})"
                )

    mover = threading.Thread(target=move)
    mover.start()
    try:
        for number in range(2):
            load(*connectors, items(parallelism=3), load_id=f"load-{number}")
            assert target.fetch("select sum(money) from items") == [(ROWS * 100,)]
    finally:
        stop.set()
        mover.join()


@on_a_server
def test_more_threads_than_the_pool_has_are_refused(source: PostgresqlDatabase, target: Target) -> None:
    small = replace(target.config, pool=PoolSettings(size=2, max_overflow=1))
    connectors = connect(source.config("source")), connect(small)
    with pytest.raises(PlanError, match="parallelism 3 takes 4 sessions of 'target', and its pool allows 3"):
        load(*connectors, items(parallelism=3))
    assert target.tables() == set()
    for connector in connectors:
        connector.close()
