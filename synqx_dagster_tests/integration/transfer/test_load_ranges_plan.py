"""What a plan says of ranges is what the load does, and asking for it costs no reading of the table."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from synqx_dagster.connectors.protocol import ConnectionConfig, Connector
from synqx_dagster.errors import PlanError
from synqx_dagster.model import Mapping, PoolSettings
from synqx_dagster.transfer.prepare import plan_load
from synqx_dagster_tests.fix_mysql import MysqlDatabase
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.integration.transfer.loading import Connectors, connect, load, make_mapping

ROWS = 20_000
SOURCE = f"""
create table items (id bigint primary key, code text not null);
insert into items select i * 7, md5(i::text) from generate_series(1, {ROWS}) as i;
create table coded as select * from items;
alter table coded add primary key (code);
create table bare as select * from items;
analyze items; analyze coded; analyze bare;
"""


@pytest.fixture
def source(postgresql: PostgresqlDatabase) -> Iterator[Connector]:
    postgresql.execute(SOURCE)
    connector = connect(postgresql.config("source"))
    yield connector
    connector.close()


@pytest.fixture
def connectors(source: Connector, postgresql: PostgresqlDatabase) -> Iterator[Connectors]:
    target = connect(postgresql.create_database().config("target"))
    yield source, target
    target.close()


def reading(table: str = "items", **fields: object) -> Mapping:
    read = {} if "source_query" in fields else {"source_table": table}
    return make_mapping(target_table="loaded", **read, **fields)


def describe(connectors: Connectors, mapping: Mapping) -> str:
    ranges = plan_load(mapping, None, *connectors).to_dict()["ranges"]
    assert isinstance(ranges, dict)
    assert (ranges["by"] is None) == (ranges["count"] == 1)
    return str(ranges["description"])


@pytest.mark.parametrize(
    ("table", "fields", "expected"),
    [
        ("items", {"range_rows": 5_000}, "4 ranges by key, one after another"),
        ("items", {"range_rows": 5_000, "parallelism": 2}, "4 ranges by key, 2 at a time"),
        ("items", {"parallelism": 3}, "3 ranges by position, 3 at a time"),
        ("coded", {"range_rows": 5_000}, "4 ranges by key, one after another"),
        ("bare", {"parallelism": 3, "range_rows": 5_000}, "4 ranges by position, 3 at a time"),
        ("items", {}, f"in one piece: it has about {ROWS:,} rows, and range_rows is 10,000,000"),
        ("items", {"range_rows": 50_000}, f"in one piece: it has about {ROWS:,} rows, and range_rows is 50,000"),
        ("bare", {"range_rows": 5_000}, "in one piece: only a key could cut it so that a load that died goes on"),
        (
            "",
            {"source_query": "select * from items", "parallelism": 3},
            "in one piece: a source query is read as a whole",
        ),
    ],
)
def test_the_load_does_as_the_plan_says(
    connectors: Connectors, table: str, fields: dict[str, object], expected: str
) -> None:
    mapping = reading(table, **fields)
    assert describe(connectors, mapping) == expected
    result = load(*connectors, mapping)
    assert result.rows_out == ROWS
    with connectors[1].write() as session:
        ((batches,),) = session.fetch_all("select count(*) from _synqx_ledger where batch > 0")
    plan = plan_load(mapping, None, *connectors).ranges
    assert plan is not None
    assert (batches or 1, result.parallelism) == (plan.to_dict()["count"], plan.parallelism)


def test_a_pool_that_is_too_small_is_refused_by_the_plan(connectors: Connectors) -> None:
    small = connect(replace(connectors[1].config, pool=PoolSettings(size=1, max_overflow=2)))
    with pytest.raises(PlanError, match="parallelism 3 takes 4 sessions of 'target', and its pool allows 3"):
        plan_load(reading(parallelism=3), None, connectors[0], small)
    small.close()


@pytest.mark.mysql
def test_why_ranges_of_mysql_are_not_read_at_a_time(connectors: Connectors, mysql: MysqlDatabase) -> None:
    mysql.execute("create table items (id bigint primary key, code varchar(10))")
    mysql.execute("insert into items select seq, 'x' from seq_1_to_4000")
    mysql.execute("create table coded (code varchar(10) primary key)")
    mysql.execute("insert into coded select seq from seq_1_to_4000")
    mysql.execute("analyze table items, coded")
    source = connect(mysql.config("source"))
    fields = {"range_rows": 1_000, "parallelism": 2}
    found = describe((source, connectors[1]), reading(**fields))
    assert found.endswith("ranges by key, one after another; sessions of mysql cannot share a snapshot")
    found = describe((source, connectors[1]), reading("coded", **fields))
    assert found == "in one piece: its key begins with 'code', and a string of mysql is no bound"
    source.close()


def test_a_source_without_statistics_is_not_counted_for_a_plan(connectors: Connectors, tmp_path: Path) -> None:
    path = tmp_path / "source.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("create table items (id integer primary key)")
        connection.executemany("insert into items values (?)", [(number,) for number in range(3_000)])
        connection.commit()
    source = connect(ConnectionConfig(name="source", db_type="sqlite", database=str(path)))
    assert describe((source, connectors[1]), reading(range_rows=1_000)) == (
        "in one piece: the source keeps no count of its rows; the load counts them, and reads more than 1,000 in ranges"
    )
    assert describe((source, connectors[1]), reading()).startswith("in one piece: nobody knows how many rows it has")
    assert load(source, connectors[1], reading(range_rows=1_000)).rows_out == 3_000


def test_ranges_go_into_a_file_one_after_another(source: Connector, tmp_path: Path) -> None:
    target = connect(ConnectionConfig(name="target", db_type="duckdb", database=str(tmp_path / "target.duckdb")))
    expected = "4 ranges by key, one after another"
    assert describe((source, target), reading(range_rows=5_000)) == expected
    found = describe((source, target), reading(range_rows=5_000, parallelism=2))
    assert found == f"{expected}; duckdb has one writer at a time"
    assert describe((source, target), reading(parallelism=2)) == "in one piece: duckdb has one writer at a time"
    assert not (tmp_path / "target.duckdb").exists()


def test_what_kind_of_target_is_loaded_as_a_whole(source: Connector, tmp_path: Path) -> None:
    target = connect(ConnectionConfig(name="target", db_type="sqlite", database=str(tmp_path / "target.sqlite")))
    assert describe((source, target), reading(range_rows=5_000)) == (
        "in one piece: a sqlite target is loaded as a whole, and a load that dies begins anew"
    )
