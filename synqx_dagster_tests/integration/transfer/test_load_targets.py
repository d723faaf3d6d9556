"""Loads from PostgreSQL into the other engines: exact rows, quarantine, and a retry after each kind of death."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from synqx_dagster.connectors.protocol import ConnectionConfig, Connector
from synqx_dagster.errors import BadRowsError
from synqx_dagster.model import Mapping
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

ROWS = 3000
SOURCE = f"""
create table people (id integer primary key, name text, age text, joined date);
insert into people
select i, 'Zoë ' || i, case when i % 100 = 0 then 'old' else (i % 90)::text end, date '2020-01-01' + i
from generate_series(1, {ROWS}) as i;
"""
BAD_ROWS = ROWS // 100
SCHEMA = make_schema(id="integer", name="string", age="integer", joined="date")


@dataclass
class Target:
    """A database that is loaded into, and how it is asked without the connector."""

    config: ConnectionConfig
    fetch: Callable[[str], list[tuple[object, ...]]]
    tables: str

    def leftovers(self) -> list[str]:
        """Tables that are neither the target nor SynqX's own books."""
        books = ("people", "_synqx_ledger", "_synqx_fence", "_synqx_quarantine")
        return [str(name) for (name,) in self.fetch(self.tables) if name not in books]


def _fetch_sqlite(path: Path) -> Callable[[str], list[tuple[object, ...]]]:
    def fetch(sql: str) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(path)) as connection:
            return connection.execute(sql).fetchall()

    return fetch


def _fetch_duckdb(path: Path) -> Callable[[str], list[tuple[object, ...]]]:
    def fetch(sql: str) -> list[tuple[object, ...]]:
        import duckdb

        with duckdb.connect(str(path), read_only=True) as connection:
            rows: list[tuple[object, ...]] = connection.execute(sql).fetchall()
            return rows

    return fetch


@pytest.fixture(params=["sqlite", "duckdb", pytest.param("mysql", marks=pytest.mark.mysql)])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Target:
    """An empty database of each kind."""
    if request.param == "mysql":
        mysql: MysqlDatabase = request.getfixturevalue("mysql")
        tables = "select table_name from information_schema.tables where table_schema = database()"
        return Target(mysql.config("target"), mysql.execute, tables)
    path = tmp_path / f"target.{request.param}"
    config = ConnectionConfig(name="target", db_type=request.param, database=str(path))
    if request.param == "sqlite":
        return Target(config, _fetch_sqlite(path), "select name from sqlite_master where type = 'table'")
    return Target(config, _fetch_duckdb(path), "select table_name from information_schema.tables")


@pytest.fixture
def source(postgresql: PostgresqlDatabase) -> PostgresqlDatabase:
    postgresql.execute(SOURCE)
    return postgresql


@pytest.fixture
def connectors(source: PostgresqlDatabase, target: Target) -> Iterator[Connectors]:
    pair = connect(source.config("source")), connect(target.config)
    yield pair
    for connector in pair:
        connector.close()


def people(**fields: object) -> Mapping:
    return make_mapping(source_table="people", target_table="people", **fields)


def expected(source: PostgresqlDatabase, condition: str) -> list[tuple[object, ...]]:
    return sorted(source.execute(f"select id::text, name, age, joined::text from people where {condition}"))


def loaded(target: Target, connector: Connector) -> list[tuple[object, ...]]:
    as_text = "cast({} as char)" if connector.dialect == "mysql" else "cast({} as text)"
    columns = ", ".join(as_text.format(name) for name in ("id", "name", "age", "joined"))
    connector.close()
    return sorted(tuple(row) for row in target.fetch(f"select {columns} from people"))


def test_bad_rows_are_quarantined_and_the_rest_is_exact(
    source: PostgresqlDatabase, target: Target, connectors: Connectors
) -> None:
    result = load(*connectors, people(on_bad_row="quarantine"), SCHEMA)
    assert (result.lane, result.rows_out, result.rows_quarantined) == ("arrow", ROWS - BAD_ROWS, BAD_ROWS)
    assert loaded(target, connectors[1]) == expected(source, "age <> 'old'")
    rows = target.fetch("select column_name, source_key, source_row from _synqx_quarantine")
    assert len(rows) == BAD_ROWS
    assert {row[0] for row in rows} == {"age"}
    assert {json.loads(str(row[1]))["id"] for row in rows} == set(range(100, ROWS + 1, 100))
    assert {json.loads(str(row[2]))["age"] for row in rows} == {"old"}


@pytest.mark.parametrize(("limit", "passes"), [(BAD_ROWS, True), (BAD_ROWS - 1, False), ("1%", True), ("0.9%", False)])
def test_more_bad_rows_than_allowed_end_the_load(
    target: Target, connectors: tuple[Connector, Connector], limit: int | str, passes: bool
) -> None:
    mapping = people(on_bad_row="quarantine", max_bad_rows=limit)
    if passes:
        assert load(*connectors, mapping, SCHEMA).rows_quarantined == BAD_ROWS
        return
    with pytest.raises(BadRowsError, match=f"30 of 3,000 rows.*max_bad_rows allows {limit}.*age"):
        load(*connectors, mapping, SCHEMA)
    connectors[1].close()
    assert target.leftovers() == []
    assert [tuple(row) for row in target.fetch("select count(*) from _synqx_quarantine")] == [(0,)]
    assert [tuple(row) for row in target.fetch("select count(*) from _synqx_ledger")] == [(0,)]


def test_failing_leaves_no_trace_of_the_rows(
    source: PostgresqlDatabase, target: Target, connectors: Connectors
) -> None:
    with pytest.raises(BadRowsError, match="age"):
        load(*connectors, people(), SCHEMA)
    connectors[1].close()
    assert target.leftovers() == []
    assert [tuple(row) for row in target.fetch("select count(*) from _synqx_ledger")] == [(0,)]


@pytest.mark.parametrize(
    ("place", "mode"), [("mid_copy", "replace"), ("before_commit", "append"), ("after_commit", "append")]
)
def test_killed_anywhere_a_retry_is_exact(source: PostgresqlDatabase, target: Target, place: str, mode: str) -> None:
    mapping = people(mode=mode, on_bad_row="quarantine")
    configs = (source.config("source"), target.config)
    assert ChildLoad(*configs, mapping, SCHEMA, failpoints=f"{place}=kill").wait() is None
    retried = ChildLoad(*configs, mapping, SCHEMA, run_id="run-2").wait()
    assert retried == {"rows_out": ROWS - BAD_ROWS, "already_committed": place == "after_commit"}
    assert loaded(target, connect(target.config)) == expected(source, "age <> 'old'")
    assert [tuple(row) for row in target.fetch("select count(*) from _synqx_ledger")] == [(1,)]
    assert [tuple(row) for row in target.fetch("select count(*) from _synqx_quarantine")] == [(BAD_ROWS,)]
    assert target.leftovers() == []


def test_replacing_twice_leaves_the_second_rows(
    source: PostgresqlDatabase, target: Target, connectors: Connectors
) -> None:
    mapping = people(on_bad_row="quarantine")
    load(*connectors, mapping, SCHEMA, load_id="a")
    source.execute("delete from people where id > 250; update people set name = 'Søren' where id = 3")
    result = load(*connectors, mapping, SCHEMA, load_id="b")
    assert (result.target_row_count, result.rows_quarantined) == (248, 2)
    assert loaded(target, connectors[1]) == expected(source, "age <> 'old'")
    assert [tuple(row) for row in target.fetch("select count(*) from _synqx_quarantine")] == [(2,)]


def test_columns_may_have_the_names_that_the_engine_uses_itself(
    source: PostgresqlDatabase, target: Target, connectors: Connectors
) -> None:
    source.execute(
        'create table named (id integer, "_synqx_errors" text, "_synqx_row" text, "{value}" text, "100%s" text);'
        " insert into named values (1, 'a', 'b', 'c', 'd'), (null, 'e', 'f', 'g', 'h')"
    )
    names = ("id", "_synqx_errors", "_synqx_row", "{value}", "100%s")
    schema = make_schema(**{name: "integer" if name == "id" else "string" for name in names})
    mapping = make_mapping(source_table="named", target_table="named", on_bad_row="quarantine")
    result = load(*connectors, mapping, schema)
    assert (result.rows_out, result.rows_quarantined) == (1, 1)
    quote = connectors[1].quote
    connectors[1].close()
    found = target.fetch(f"select {', '.join(map(quote, names))} from named")
    assert [tuple(row) for row in found] == [(1, "a", "b", "c", "d")]


@pytest.mark.parametrize("place", ["mid_copy", "after_publish", "before_commit"])
def test_killed_while_a_new_table_is_filled_in_place_nothing_of_it_is_there(
    source: PostgresqlDatabase, target: Target, place: str
) -> None:
    """A mirror with a key and no quarantine: where the engine allows it, the rows go straight into the new table."""
    configs = (source.config("source"), target.config)
    assert ChildLoad(*configs, people(), failpoints=f"{place}=kill").wait() is None
    retried = ChildLoad(*configs, people(), run_id="run-2").wait()
    assert retried == {"rows_out": ROWS, "already_committed": False}
    assert loaded(target, connect(target.config)) == expected(source, "true")
    assert [tuple(row) for row in target.fetch("select count(*) from _synqx_ledger")] == [(1,)]
    assert target.leftovers() == []


def test_a_new_table_without_a_key_is_filled_with_the_good_rows(
    source: PostgresqlDatabase, target: Target, connectors: Connectors
) -> None:
    keyless = SCHEMA.model_copy(update={"primary_key": ()})
    result = load(*connectors, people(on_bad_row="quarantine"), keyless)
    assert (result.rows_out, result.rows_quarantined, result.rows_inserted) == (
        ROWS - BAD_ROWS,
        BAD_ROWS,
        ROWS - BAD_ROWS,
    )
    assert loaded(target, connectors[1]) == expected(source, "age <> 'old'")


def test_rows_that_share_the_key_of_a_new_table_are_refused(
    source: PostgresqlDatabase, target: Target, connectors: Connectors
) -> None:
    """Where the key is added to the filled table, as where it stands from the beginning."""
    source.execute("alter table people drop constraint people_pkey; update people set id = 7 where id = 8")
    source.execute("delete from people where age = 'old'")
    with pytest.raises(BadRowsError, match=r"key|twice|(?i:unique|duplicate)"):
        load(*connectors, people(), SCHEMA)
    connectors[1].close()
    assert target.leftovers() == []
    assert [tuple(row) for row in target.fetch("select count(*) from _synqx_ledger")] == [(0,)]


def test_a_new_table_is_not_filled_in_place_where_creating_it_commits(
    postgresql: PostgresqlDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The staging table is dropped at the end there, and must not be the target itself."""
    postgresql.execute(SOURCE)
    path = tmp_path / "new.duckdb"
    target = connect(ConnectionConfig(name="target", db_type="duckdb", database=str(path)))
    monkeypatch.setattr(target, "capabilities", replace(target.capabilities, transactional_ddl=False), raising=False)
    assert load(connect(postgresql.config("source")), target, people()).rows_out == ROWS
    assert _fetch_duckdb(path)("select count(*) from people") == [(ROWS,)]
