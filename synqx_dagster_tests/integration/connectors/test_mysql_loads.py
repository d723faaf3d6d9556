"""Whole loads from and to MySQL, SQLite and DuckDB: what is in doubt is quarantined, what is loaded is exact."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import duckdb
import pytest

from synqx_dagster.connectors.protocol import ConnectionConfig
from synqx_dagster.errors import BadRowsError, PlanError
from synqx_dagster_tests.fix_mysql import MysqlDatabase
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.integration.transfer.loading import connect, load, make_mapping


@pytest.mark.mysql
def test_zero_dates_and_long_times_are_quarantined_never_null(
    mysql: MysqlDatabase, postgresql: PostgresqlDatabase
) -> None:
    with closing(mysql.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("SET sql_mode = ''")
        cursor.execute("CREATE TABLE t (id int PRIMARY KEY, d date, n time, s datetime(3))")
        cursor.execute(
            "INSERT INTO t VALUES (1, '2024-02-29', '24:00:00', '2024-02-29 12:00:00.5'),"
            " (2, '0000-00-00', NULL, NULL), (3, '2024-00-00', NULL, NULL),"
            " (4, NULL, '838:59:59', NULL), (5, NULL, '-00:00:01', NULL),"
            " (6, NULL, NULL, '0000-00-00 00:00:00'), (7, NULL, NULL, NULL)"
        )
    source, target = connect(mysql.config()), connect(postgresql.config())
    with pytest.raises(BadRowsError):
        load(source, target, make_mapping(source_table="t", target_table="public.t"))
    mapping = make_mapping(source_table="t", target_table="public.t", on_bad_row="quarantine")
    result = load(source, target, mapping, load_id="again")
    source.close()
    target.close()
    assert (result.rows_in, result.rows_out, result.rows_quarantined) == (7, 2, 5)
    assert postgresql.execute("select id, d::text, n::text, s::text from t order by id") == [
        (1, "2024-02-29", "24:00:00", "2024-02-29 12:00:00.5"),
        (7, None, None, None),
    ]


@pytest.mark.mysql
def test_postgresql_to_mysql_and_again(mysql: MysqlDatabase, postgresql: PostgresqlDatabase) -> None:
    postgresql.execute(
        "create table t (id int primary key, amount numeric(20,5), t timestamp, tz timestamptz, b boolean, u uuid,"
        " j json, x bytea, v varchar(20), r real, f double precision, d date, n time)"
    )
    postgresql.execute(
        "insert into t values (1, -12345.67890, '2024-02-29 12:00:00.5', '2024-03-31 02:30:00+02', true,"
        " '9f1c7d3e-0000-4000-8000-0123456789ab', '{\"a\":1,  \"a\":1e999}', '\\x00ff', 'tr ', 0.1, 0.1, '0001-01-01',"
        " '24:00:00'), (2, null, null, null, null, null, 'null', '', '', null, null, null, null)"
    )
    source, target = connect(postgresql.config()), connect(mysql.config())
    mapping = make_mapping(source_table="public.t", target_table="t")
    for attempt in ("one", "two"):
        assert load(source, target, mapping, load_id=attempt).target_row_count == 2
    assert load(source, target, mapping, load_id="two").already_committed
    texts = "amount, t, tz, b, u, j, HEX(x), v, f, d, n"
    with closing(mysql.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("SET time_zone = '+00:00'")
        cursor.execute(f"SELECT {', '.join(f'CAST({item} AS CHAR)' for item in texts.split(', '))} FROM t ORDER BY id")
        found = list(cursor.fetchall())
    assert found == [
        (
            "-12345.67890",
            "2024-02-29 12:00:00.500000",
            "2024-03-31 00:30:00.000000",
            "1",
            "9f1c7d3e-0000-4000-8000-0123456789ab",
            '{"a":1,  "a":1e999}',
            "00FF",
            "tr ",
            "0.1",
            "0001-01-01",
            "24:00:00.000000",
        ),
        (None, None, None, None, None, "null", "", "", None, None, None),
    ]
    assert mysql.execute("SELECT COUNT(*) FROM _synqx_ledger") == [(2,)]
    assert mysql.execute("SHOW TABLES LIKE '\\_synqx\\_staging%'") == []
    source.close()
    target.close()


@pytest.mark.mysql
def test_what_mysql_cannot_hold_is_quarantined_or_refused(mysql: MysqlDatabase, postgresql: PostgresqlDatabase) -> None:
    postgresql.execute("create table t (id int primary key, d date, f float8, tz timestamptz, n numeric(5,2))")
    postgresql.execute(
        "insert into t values (1, '2024-01-01', 1, '2024-01-01', 1), (2, 'infinity', 1, null, 1), (3, '0044-03-15 BC',"
        " 1, null, 1), (4, null, 'NaN', null, 1), (5, null, null, '2038-01-20', 1), (6, null, null, null, 'NaN')"
    )
    postgresql.execute("create table wide (id int, n numeric)")
    source, target = connect(postgresql.config()), connect(mysql.config())
    mapping = make_mapping(source_table="public.t", target_table="t", on_bad_row="quarantine")
    result = load(source, target, mapping)
    assert (result.rows_out, result.rows_quarantined) == (1, 5)
    with pytest.raises(PlanError, match="'n'"):
        load(source, target, make_mapping(source_table="public.wide", target_table="wide"))
    assert mysql.execute("SHOW TABLES LIKE 'wide'") == []
    source.close()
    target.close()


def test_what_sqlite_holds_against_its_declarations_is_quarantined(
    tmp_path: Path, postgresql: PostgresqlDatabase
) -> None:
    with closing(sqlite3.connect(tmp_path / "s.db", isolation_level=None)) as file:
        file.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, i INT, d DATE, n NUMERIC(6,2), b BOOLEAN, r REAL)")
        file.executemany(
            "INSERT INTO t VALUES (?, ?, ?, ?, ?, ?)",
            [
                (1, 2**63 - 1, "2024-02-29", 19.99, 1, 0.1),
                (2, "12 apples", None, None, None, None),
                (3, 1.5, None, None, None, None),
                (4, None, "2024-02-30", None, None, None),
                (5, None, 20240229, None, None, None),
                (6, None, None, 0.1 + 0.2, None, None),
                (7, None, None, None, 2, None),
                (8, None, None, 1e3, None, float("inf")),
            ],
        )
    source = connect(ConnectionConfig("s", "sqlite", database=str(tmp_path / "s.db")))
    target = connect(postgresql.config())
    mapping = make_mapping(source_table="t", target_table="public.t", on_bad_row="quarantine")
    result = load(source, target, mapping)
    target.close()
    assert (result.rows_out, result.rows_quarantined) == (2, 6)
    assert postgresql.execute("select id, i::text, d::text, n::text, b::text, r::text from t order by id") == [
        (1, str(2**63 - 1), "2024-02-29", "19.99", "true", "0.1"),
        (8, None, None, "1000.00", None, "Infinity"),
    ]


def test_from_one_table_of_a_duckdb_file_to_another(tmp_path: Path) -> None:
    path = tmp_path / "w.duckdb"
    with closing(duckdb.connect(str(path))) as connection:
        connection.execute("CREATE TABLE raw AS SELECT range::INTEGER AS id, 'v' || range AS v FROM range(50000)")
    config = ConnectionConfig("w", "duckdb", database=str(path))
    mapping = make_mapping(source_table="raw", target_table="mart.copy")
    for attempt in ("one", "two"):
        result = load(connect(config), connect(config), mapping, load_id=attempt)
        assert (result.rows_out, result.target_row_count) == (50_000, 50_000)
    with closing(duckdb.connect(str(path), read_only=True)) as connection:
        assert connection.execute("SELECT count(*) FROM mart.copy ANTI JOIN raw USING (id, v)").fetchall() == [(0,)]
        tables = connection.execute("SELECT table_name FROM duckdb_tables() ORDER BY 1").fetchall()
        assert tables == [("_synqx_fence",), ("_synqx_ledger",), ("copy",), ("raw",)]


def test_from_one_table_of_a_sqlite_file_to_another(tmp_path: Path) -> None:
    path = tmp_path / "w.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.execute("PRAGMA journal_mode = WAL")
        file.execute("CREATE TABLE raw (id INTEGER PRIMARY KEY, v TEXT)")
        file.execute("INSERT INTO raw VALUES (1, 'a'), (2, NULL)")
    config = ConnectionConfig("w", "sqlite", database=str(path))
    mapping = make_mapping(source_table="raw", target_table="copy")
    assert load(connect(config), connect(config), mapping).target_row_count == 2
    assert load(connect(config), connect(config), mapping, load_id="two").target_row_count == 2
