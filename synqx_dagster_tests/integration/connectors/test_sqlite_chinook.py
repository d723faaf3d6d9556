"""Chinook's eleven tables from SQLite to PostgreSQL to DuckDB, and from MySQL to PostgreSQL, judged by the servers.

Equal means: the text that each database itself makes of every value, sorted and hashed.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import duckdb
import pytest

from synqx_dagster.connectors.protocol import ConnectionConfig
from synqx_dagster_tests.fix_mysql import MysqlDatabase
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.integration.transfer.loading import connect, load, make_mapping

CHINOOK = Path(__file__).parents[4] / "shared" / "data" / "chinook"

ROWS = {
    "Album": 347,
    "Artist": 275,
    "Customer": 59,
    "Employee": 8,
    "Genre": 25,
    "Invoice": 412,
    "InvoiceLine": 2240,
    "MediaType": 5,
    "Playlist": 18,
    "PlaylistTrack": 8715,
    "Track": 3503,
}

pytestmark = pytest.mark.skipif(not CHINOOK.is_dir(), reason=f"the Chinook sample database is not at {CHINOOK}")


def checksum(rows: Iterable[tuple[object, ...]]) -> str:
    """Of rows whose values are texts or NULL, in whatever order."""
    lines = sorted("\x1f".join("\x00" if value is None else str(value) for value in row) for row in rows)
    return hashlib.sha256("\x1e".join(lines).encode()).hexdigest()


def columns_of(database: PostgresqlDatabase, table: str) -> list[tuple[str, str]]:
    rows = database.execute(
        "select column_name, data_type from information_schema.columns"
        " where table_schema = 'public' and table_name = %s order by ordinal_position",
        (table,),
    )
    return [(row[0], row[1]) for row in rows]


def postgresql_checksum(database: PostgresqlDatabase, table: str) -> str:
    texts = ", ".join(f'"{name}"::text' for name, _ in columns_of(database, table))
    return checksum(database.execute(f'select {texts} from "{table}"'))


def test_sqlite_to_postgresql_to_duckdb(postgresql: PostgresqlDatabase, tmp_path: Path) -> None:
    path = CHINOOK / "Chinook_Sqlite.sqlite"
    source = connect(ConnectionConfig("chinook", "sqlite", database=str(path)))
    middle = connect(postgresql.config())
    target = connect(ConnectionConfig("files", "duckdb", database=str(tmp_path / "chinook.duckdb")))
    for table, rows in ROWS.items():
        mapping = make_mapping(source_table=table, target_table=f"public.{table}")
        assert load(source, middle, mapping, load_id=f"1-{table}").target_row_count == rows
        mapping = make_mapping(source_table=f"public.{table}", target_table=f"main.{table}")
        assert load(middle, target, mapping, load_id=f"2-{table}").target_row_count == rows
    middle.close()

    types = {data_type for table in ROWS for _, data_type in columns_of(postgresql, table)}
    assert types == {"bigint", "numeric", "text", "timestamp without time zone"}
    with (
        closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as file,
        closing(duckdb.connect(str(tmp_path / "chinook.duckdb"), read_only=True)) as warehouse,
    ):
        for table in ROWS:
            columns = columns_of(postgresql, table)
            # SQLite's text of a number has no trailing zeros; its own printf gives a decimal's two digits.
            texts = ", ".join(
                f"printf('%.2f', \"{name}\")" if kind == "numeric" else f'CAST("{name}" AS TEXT)'
                for name, kind in columns
            )
            was = checksum(file.execute(f'SELECT {texts} FROM "{table}"'))
            texts = ", ".join(f'CAST("{name}" AS VARCHAR)' for name, _ in columns)
            now = checksum(warehouse.execute(f'SELECT {texts} FROM "{table}"').fetchall())
            assert (was, now) == (postgresql_checksum(postgresql, table),) * 2, table


@pytest.mark.mysql
def test_mysql_to_postgresql(mysql: MysqlDatabase, postgresql: PostgresqlDatabase) -> None:
    load_script(mysql)
    source, target = connect(mysql.config()), connect(postgresql.config())
    for table, rows in ROWS.items():
        mapping = make_mapping(source_table=table, target_table=f"public.{table}")
        assert load(source, target, mapping, load_id=table).target_row_count == rows
    source.close()
    target.close()
    for table in ROWS:
        texts = ", ".join(f"CAST(`{name}` AS CHAR)" for name, _ in columns_of(postgresql, table))
        assert checksum(mysql.execute(f"SELECT {texts} FROM `{table}`")) == postgresql_checksum(postgresql, table), (
            table
        )


def load_script(database: MysqlDatabase) -> None:
    """Run Chinook's script in a test's database instead of the one that it names."""
    script = (CHINOOK / "Chinook_MySql.sql").read_text(encoding="utf-8-sig")
    with closing(database.connect()) as connection, connection.cursor() as cursor:
        for statement in re.sub(r"/\*.*?\*/", "", script, flags=re.DOTALL).split(";\n"):
            text = statement.strip().rstrip(";")
            if text and not text.upper().startswith(("DROP DATABASE", "CREATE DATABASE", "USE ")):
                cursor.execute(text)
