"""Databases for the matrix; each test of a route gets new ones, the tables of cases are made once for each module."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from synqx_dagster_tests.fix_mysql import MysqlServer
from synqx_dagster_tests.fix_postgresql import PostgresqlServer
from synqx_dagster_tests.integration.transfer.types.databases import Database, Duckdb, Files, Mysql, Postgresql, Sqlite
from synqx_dagster_tests.integration.transfer.types.postgresql_cases import SETUP

FORMATS: dict[str, Literal["parquet", "csv", "jsonl"]] = {"parquet": "parquet", "csv": "csv", "jsonl": "jsonl"}

MakeDatabase = Callable[[str], Database]


@pytest.fixture(scope="module")
def make_database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> MakeDatabase:
    """Makes an empty database of a kind."""
    numbers = itertools.count(1)

    def make(family: str) -> Database:
        number = next(numbers)
        if family == "postgresql":
            server: PostgresqlServer = request.getfixturevalue("postgresql_server")
            zones = ("America/St_Johns", "Pacific/Apia", "Asia/Kathmandu")
            database = server.create_database()
            request.addfinalizer(database.drop)
            made = Postgresql(database, zones[number % len(zones)])
            made.run(SETUP)
            return made
        if family == "mysql":
            mysql: MysqlServer = request.getfixturevalue("mysql_server")
            other = mysql.create_database()
            request.addfinalizer(other.drop)
            return Mysql(other)
        if family in FORMATS:
            return Files(tmp_path_factory.mktemp(family), FORMATS[family])
        path: Path = tmp_path_factory.mktemp(family) / f"{number}.{family}"
        return Duckdb(path) if family == "duckdb" else Sqlite(path)

    return make
