"""One connector of each kind, over an empty database of the test's own.

A new connector gets a fixture ``<db_type>_connector`` and a line in `CONNECTORS`; every contract test then covers it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from synqx_dagster.connectors.protocol import ConnectionConfig, Connector
from synqx_dagster.connectors.registry import connector_class
from synqx_dagster_tests.fix_mysql import MysqlDatabase
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.fix_s3 import S3Prefix

CONNECTORS = [
    "postgresql",
    "mysql",
    "sqlite",
    "duckdb",
    "sqlalchemy_postgresql",
    "sqlalchemy_mysql",
    "files_parquet",
    "files_csv",
    "files_jsonl",
    # The same files by another way: what is its own has its own tests.
    pytest.param("files_s3", marks=pytest.mark.slow),
]


def open_connector(config: ConnectionConfig) -> Iterator[Connector]:
    """A connector of the config's kind, closed at the test's end."""
    connector: Connector = connector_class(config.db_type)(config)  # type: ignore[call-arg]  # a protocol has no init
    try:
        yield connector
    finally:
        connector.close()


@pytest.fixture
def postgresql_connector(postgresql: PostgresqlDatabase) -> Iterator[Connector]:
    upset(postgresql)
    yield from open_connector(postgresql.config())


def upset(postgresql: PostgresqlDatabase) -> None:
    """Set what a server may be set to, and what must not change a value."""
    for setting in (
        "TimeZone = 'America/St_Johns'",
        "DateStyle = 'SQL, DMY'",
        "IntervalStyle = sql_standard",
        "bytea_output = escape",
        "extra_float_digits = 0",
        "standard_conforming_strings = off",
        "client_encoding = LATIN1",
    ):
        postgresql.execute(f'alter database "{postgresql.name}" set {setting}')


def through_sqlalchemy(config: ConnectionConfig, drivername: str) -> ConnectionConfig:
    """The same database by way of a dialect of SQLAlchemy."""
    return replace(config, db_type="sqlalchemy", options={"drivername": drivername})


@pytest.fixture
def mysql_connector(mysql: MysqlDatabase) -> Iterator[Connector]:
    yield from open_connector(mysql.config())


@pytest.fixture
def sqlite_connector(tmp_path: Path) -> Iterator[Connector]:
    yield from open_connector(ConnectionConfig("warehouse", "sqlite", database=str(tmp_path / "warehouse.db")))


@pytest.fixture
def duckdb_connector(tmp_path: Path) -> Iterator[Connector]:
    yield from open_connector(ConnectionConfig("warehouse", "duckdb", database=str(tmp_path / "warehouse.duckdb")))


def open_files(directory: Path, file_format: str) -> Iterator[Connector]:
    """Files of one format in a local directory."""
    yield from open_connector(
        ConnectionConfig("exports", "files", database=str(directory), options={"format": file_format, "threads": 1})
    )


@pytest.fixture
def files_parquet_connector(tmp_path: Path) -> Iterator[Connector]:
    yield from open_files(tmp_path, "parquet")


@pytest.fixture
def files_csv_connector(tmp_path: Path) -> Iterator[Connector]:
    yield from open_files(tmp_path, "csv")


@pytest.fixture
def files_jsonl_connector(tmp_path: Path) -> Iterator[Connector]:
    yield from open_files(tmp_path, "jsonl")


@pytest.fixture
def files_s3_connector(s3: S3Prefix) -> Iterator[Connector]:
    yield from open_connector(s3.config(threads=1))


@pytest.fixture
def sqlalchemy_postgresql_connector(postgresql: PostgresqlDatabase) -> Iterator[Connector]:
    upset(postgresql)
    yield from open_connector(through_sqlalchemy(postgresql.config(), "postgresql+psycopg2"))


@pytest.fixture
def sqlalchemy_mysql_connector(mysql: MysqlDatabase) -> Iterator[Connector]:
    yield from open_connector(through_sqlalchemy(mysql.config(), "mysql+pymysql"))


@pytest.fixture(params=CONNECTORS)
def connector(request: pytest.FixtureRequest) -> Connector:
    """Every kind of connector in turn."""
    found: Connector = request.getfixturevalue(f"{request.param}_connector")
    return found
