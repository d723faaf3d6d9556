"""Targets of every kind for the tests of the load modes, and how each is asked without its connector."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from synqx_dagster.connectors.protocol import ConnectionConfig
from synqx_dagster_tests.fix_mysql import MysqlDatabase
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase

KINDS = ["postgresql", "sqlite", "duckdb", pytest.param("mysql", marks=pytest.mark.mysql)]
BOOKS = ("_synqx_ledger", "_synqx_fence", "_synqx_quarantine")

_TABLES = {
    "postgresql": "select table_name::text from information_schema.tables where table_schema = 'public'",
    "mysql": "select table_name from information_schema.tables where table_schema = database()",
    "sqlite": "select name from sqlite_master where type = 'table'",
    "duckdb": "select table_name from information_schema.tables",
}


@dataclass
class Target:
    """A database that is loaded into. ``fetch`` runs one statement over a connection of its own."""

    kind: str
    config: ConnectionConfig
    fetch: Callable[[str], list[tuple[object, ...]]]

    def text(self, expression: str) -> str:
        """An expression as text."""
        return f"cast({expression} as {'char' if self.kind == 'mysql' else 'text'})"

    def tables(self) -> set[str]:
        """Tables that are not SynqX's own books."""
        return {str(name) for (name,) in self.fetch(_TABLES[self.kind])} - set(BOOKS)


def make_target(kind: str, request: pytest.FixtureRequest, directory: Path) -> Target:
    """An empty database of a kind."""
    if kind == "postgresql":
        postgresql: PostgresqlDatabase = request.getfixturevalue("postgresql")
        database = postgresql.create_database()
        return Target(kind, database.config("target"), lambda sql: [tuple(row) for row in database.execute(sql)])
    if kind == "mysql":
        mysql: MysqlDatabase = request.getfixturevalue("mysql")
        return Target(kind, mysql.config("target"), lambda sql: [tuple(row) for row in mysql.execute(sql)])
    path = directory / f"target.{kind}"
    config = ConnectionConfig(name="target", db_type=kind, database=str(path))
    return Target(kind, config, _fetch_sqlite(path) if kind == "sqlite" else _fetch_duckdb(path))


def _fetch_sqlite(path: Path) -> Callable[[str], list[tuple[object, ...]]]:
    def fetch(sql: str) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            return connection.execute(sql).fetchall()

    return fetch


def _fetch_duckdb(path: Path) -> Callable[[str], list[tuple[object, ...]]]:
    def fetch(sql: str) -> list[tuple[object, ...]]:
        import duckdb

        with duckdb.connect(str(path)) as connection:
            rows: list[tuple[object, ...]] = connection.execute(sql).fetchall()
            return rows

    return fetch
