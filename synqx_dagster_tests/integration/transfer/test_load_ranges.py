"""Loads in ranges: the rows are exact however many ranges, threads and deaths there are."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest

from synqx_dagster.connectors.protocol import Connector
from synqx_dagster.errors import BadRowsError, PlanError
from synqx_dagster.model import Mapping, PoolSettings, Schema
from synqx_dagster_tests.fix_mysql import MysqlDatabase
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.integration.transfer.loading import ChildLoad, Databases, connect, load, make_mapping

ROWS = 20_000
SOURCE = f"""
create table items (id bigint primary key, code text not null, body text);
insert into items select i * 7, md5(i::text), repeat('x', i % 50) from generate_series(1, {ROWS}) as i;
analyze items;
"""
CHECKSUM = "select count(*), md5(string_agg((id, code, body)::text, '|' order by id)) from items"


@pytest.fixture
def pair(postgresql: PostgresqlDatabase) -> Databases:
    postgresql.execute(SOURCE)
    return postgresql, postgresql.create_database()


@pytest.fixture
def connectors(pair: Databases) -> Iterator[tuple[Connector, Connector]]:
    opened = connect(pair[0].config("source")), connect(pair[1].config("target"))
    yield opened
    for connector in opened:
        connector.close()


def items(**fields: object) -> Mapping:
    return make_mapping(**{"source_table": "items", "target_table": "items", **fields})


def leftovers(database: PostgresqlDatabase) -> list[str]:
    tables = database.execute("select tablename from pg_tables where tablename like '\\_synqx\\_staging%'")
    return [str(name) for (name,) in tables]


def batches(database: PostgresqlDatabase) -> list[int]:
    rows = database.execute("select batch from _synqx_ledger where target_table = 'items' order by batch")
    return [int(str(batch)) for (batch,) in rows]


@pytest.mark.parametrize("mode", ["replace", "append", "merge", "scd2"])
@pytest.mark.parametrize("fields", [{"parallelism": 3}, {"range_rows": 3_000}, {"parallelism": 2, "range_rows": 3_000}])
def test_ranges_make_the_whole_table(
    pair: Databases,
    connectors: tuple[Connector, Connector],
    mode: str,
    fields: dict[str, int],
) -> None:
    source, target = pair
    result = load(*connectors, items(mode=mode, **fields))
    assert (result.rows_out, result.parallelism) == (ROWS, fields.get("parallelism", 1))
    assert target.execute(CHECKSUM) == source.execute(CHECKSUM)
    assert leftovers(target) == []
    assert target.execute("select count(*) from _synqx_ranges") == [(0,)]
    assert batches(target) == list(range(len(batches(target))))
    if mode == "replace":
        again = load(*connectors, items(**fields), load_id="load-2")
        assert again.rows_out == ROWS
        assert target.execute(CHECKSUM) == source.execute(CHECKSUM)


@pytest.mark.parametrize("place", ["mid_copy", "before_range", "after_range", "before_commit", "after_commit"])
def test_a_load_that_dies_again_and_again_ends_exact(pair: Databases, place: str) -> None:
    source, target = pair
    mapping = items(range_rows=5_000)
    for attempt in range(20):
        child = ChildLoad(
            source.config("source"),
            target.config("target"),
            mapping,
            failpoints=f"{place}=kill" if attempt < 1 or place == "after_range" else "",
            run_id=f"run-{attempt}",
        )
        if (report := child.wait()) is not None:
            break
    assert report is not None
    assert report.get("rows_out") == ROWS, report
    assert report["already_committed"] is (place == "after_commit")
    assert target.execute(CHECKSUM) == source.execute(CHECKSUM)
    assert leftovers(target) == []
    assert batches(target) == [0, 1, 2, 3, 4]
    if place == "after_range":
        # Each attempt brought one range home before it died.
        runs = target.execute("select count(distinct run_id) from _synqx_ledger where batch > 0")
        assert runs == [(4,)]


def test_only_the_missing_ranges_are_read_again(pair: Databases, connectors: tuple[Connector, Connector]) -> None:
    source, target = pair
    mapping = items(range_rows=5_000)
    config = source.config("source"), target.config("target")
    assert ChildLoad(*config, mapping, failpoints="after_range=kill").wait() is None
    # A row of a range that is committed moves in the table; one of a range that is not is new.
    source.execute("update items set body = 'changed' where id = 7")
    source.execute("insert into items values (1000000, 'new', 'new')")
    result = load(*connectors, mapping, run_id="run-2")
    assert result.rows_out == ROWS + 1
    assert target.execute("select body from items where id = 7") == [("x",)]
    assert target.execute("select body from items where id = 1000000") == [("new",)]


@pytest.mark.parametrize("parallelism", [1, 2])
@pytest.mark.parametrize("load_id", ["load-1", "load-2"])
def test_an_orphan_cannot_add_a_range_and_is_told_why(pair: Databases, parallelism: int, load_id: str) -> None:
    """The newer attempt ends the sessions of the older one; what that notices is not taken for a passing fault."""
    source, target = pair
    mapping = items(range_rows=5_000, parallelism=parallelism)
    config = source.config("source"), target.config("target")
    orphan = ChildLoad(*config, mapping, failpoints="before_range=stop")
    with orphan:
        orphan.wait_until_stopped()
        report = ChildLoad(*config, mapping, load_id=load_id, run_id="run-2").wait()
        assert report is not None
        assert report.get("rows_out") == ROWS, report
        refused = orphan.resume_to_the_end()
    assert refused is not None
    assert refused["error"] == "FencedError", refused
    assert "this one has epoch 1, the newest 2" in refused["message"]
    assert target.execute(CHECKSUM) == source.execute(CHECKSUM)
    assert leftovers(target) == []


@pytest.mark.parametrize("parallelism", [1, 2])
def test_a_lost_connection_is_a_passing_fault_for_the_newest_attempt(pair: Databases, parallelism: int) -> None:
    source, target = pair
    mapping = items(range_rows=5_000, parallelism=parallelism)
    config = source.config("source"), target.config("target")
    child = ChildLoad(*config, mapping, failpoints="before_range=stop")
    with child:
        child.wait_until_stopped()
        target.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database()"
            " and pid <> pg_backend_pid() and backend_type = 'client backend'"
        )
        report = child.resume_to_the_end()
    assert report is not None
    assert report["error"] in ("RetryableError", "ConnectionFailedError"), report
    again = ChildLoad(*config, mapping, run_id="run-2").wait()
    assert again is not None
    assert again.get("rows_out") == ROWS, again
    assert target.execute(CHECKSUM) == source.execute(CHECKSUM)


def test_an_orphan_that_meets_a_bad_row_leaves_the_newer_attempt_alone(pair: Databases) -> None:
    """Bad rows make an attempt drop its ranges, which are the newer one's by now."""
    source, target = pair
    source.execute(f"alter table items alter code drop not null; update items set code = null where id = {ROWS * 7}")
    columns = [{"name": "id", "data_type": "bigint"}, {"name": "code", "data_type": "string", "nullable": False}]
    schema = Schema.model_validate({"name": "s", "columns": columns, "primary_key": ["id"]})
    mapping = items(range_rows=ROWS // 2)
    config = source.config("source"), target.config("target")
    orphan = ChildLoad(*config, mapping, schema, failpoints="after_range=stop")
    with orphan:
        orphan.wait_until_stopped()
        source.execute(f"update items set code = 'good' where id = {ROWS * 7}")
        newer = ChildLoad(*config, mapping, schema, run_id="run-2", failpoints="before_range=stop")
        with newer:
            newer.wait_until_stopped()
            orphan.resume()
            refused = orphan.wait()
            newer.resume()
            report = newer.wait()
    assert refused is not None
    assert refused["error"] == "FencedError", refused
    assert report is not None
    assert report.get("rows_out") == ROWS, report
    assert leftovers(target) == []


def test_a_new_load_clears_away_what_a_dead_one_left(pair: Databases, connectors: tuple[Connector, Connector]) -> None:
    source, target = pair
    mapping = items(range_rows=5_000)
    child = ChildLoad(source.config("source"), target.config("target"), mapping, failpoints="after_range=kill")
    assert child.wait() is None
    assert len(leftovers(target)) == 1
    for fields in ({"range_rows": 5_000}, {}):
        load(*connectors, items(**fields), load_id=f"load-of-{fields}", run_id="run-2")
        assert leftovers(target) == []
        assert target.execute(CHECKSUM) == source.execute(CHECKSUM)


@pytest.mark.parametrize("parallelism", [1, 3])
def test_bad_rows_of_all_ranges_are_quarantined_or_end_the_load(
    pair: Databases, connectors: tuple[Connector, Connector], parallelism: int
) -> None:
    source, target = pair
    source.execute(
        "alter table items alter code drop not null; update items set code = null where id % 700 = 0; analyze items"
    )
    columns = [{"name": "id", "data_type": "bigint"}, {"name": "code", "data_type": "string", "nullable": False}]
    schema = Schema.model_validate({"name": "s", "columns": columns, "primary_key": ["id"]})
    fields = {"range_rows": 4_000, "parallelism": parallelism}
    with pytest.raises(BadRowsError, match="code: is null"):
        load(*connectors, items(**fields), schema)
    assert leftovers(target) == []
    result = load(*connectors, items(**fields, on_bad_row="quarantine"), schema, load_id="load-2")
    bad = ROWS * 7 // 700
    assert (result.rows_out, result.rows_quarantined) == (ROWS - bad, bad)
    assert target.execute("select count(*), count(distinct source_key) from _synqx_quarantine") == [(bad, bad)]
    assert leftovers(target) == []
    contract = next(check for check in result.checks if check.name == "contract")
    assert f"code: is null ({bad} rows)" in contract.description
    with pytest.raises(BadRowsError, match="max_bad_rows allows 5"):
        load(*connectors, items(**fields, on_bad_row="quarantine", max_bad_rows=5), schema, load_id="load-3")


def test_all_threads_see_one_snapshot(pair: Databases, connectors: tuple[Connector, Connector]) -> None:
    """Money that moves between ranges all the time is neither lost nor doubled."""
    source, target = pair
    source.execute("alter table items add money integer not null default 100")
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
        for number in range(3):
            load(*connectors, items(parallelism=3), load_id=f"load-{number}")
            assert target.execute("select sum(money) from items") == [(ROWS * 100,)]
    finally:
        stop.set()
        mover.join()


def test_more_threads_than_the_pool_has_are_refused(pair: Databases) -> None:
    source, target = pair
    small = replace(source.config("source"), pool=PoolSettings(size=2, max_overflow=1))
    connectors = connect(small), connect(target.config("target"))
    with pytest.raises(PlanError, match="parallelism 3 takes 4 sessions of 'source', and its pool allows 3"):
        load(*connectors, items(parallelism=3))
    assert target.execute("select tablename from pg_tables where tablename = 'items'") == []
    for connector in connectors:
        connector.close()


def test_a_failing_range_ends_the_others_soon(pair: Databases, connectors: tuple[Connector, Connector]) -> None:
    source, target = pair
    source.execute(
        "create function slow(bigint) returns bigint language plpgsql stable as"
        " 'begin if $1 > 7 then perform pg_sleep(0.01); end if; return $1; end'"
    )
    target.execute("create table items (id bigint primary key, code varchar(3), body text)")
    started = time.monotonic()
    with pytest.raises(BadRowsError):
        load(*connectors, items(parallelism=3))
    assert time.monotonic() - started < 30
    assert leftovers(target) == []


def test_a_reader_with_an_old_snapshot_never_sees_an_empty_table(
    pair: Databases, connectors: tuple[Connector, Connector]
) -> None:
    _, target = pair
    load(*connectors, items())
    with closing(target.connect()) as reader:
        reader.autocommit = False
        with reader.cursor() as cursor:
            cursor.execute("set transaction isolation level repeatable read; select 1")
            load(*connectors, items(parallelism=2), load_id="load-2")
            cursor.execute("select count(*) from items")
            assert cursor.fetchone() == (ROWS,)
        reader.rollback()


@pytest.mark.mysql
@pytest.mark.parametrize(("range_rows", "expected"), [(None, [0]), (1_000, [0, 1, 2])])
def test_keys_far_apart_do_not_make_a_table_large(
    mysql: MysqlDatabase, pair: Databases, range_rows: int | None, expected: list[int]
) -> None:
    """Numbers that are handed out by time and machine span 10^18, however few there are."""
    _, target = pair
    mysql.execute("create table items (id bigint primary key, code varchar(10))")
    mysql.execute(f"insert into items select seq * {10**15}, 'x' from seq_1_to_{2_000 if range_rows else 3}")
    mysql.execute("analyze table items")
    connectors = connect(mysql.config("source")), connect(target.config("target"))
    load(*connectors, items(range_rows=range_rows))
    assert batches(target) == expected
    assert target.execute("select count(*), count(distinct id) from items") == [
        (2_000, 2_000) if range_rows else (3, 3)
    ]
    for connector in connectors:
        connector.close()
