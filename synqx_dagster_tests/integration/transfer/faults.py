"""The oracle of the tests about faults: rows with a number and a checksum, and what must be there in the end."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from synqx_dagster.connectors.protocol import ConnectionConfig, Connector
from synqx_dagster.errors import RetryableError
from synqx_dagster.model import Mapping
from synqx_dagster.transfer.result import LoadResult
from synqx_dagster_tests.fix_mysql import MysqlDatabase
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.integration.transfer.loading import Connectors, connect, load, make_mapping

Fetch = Callable[[str], list[tuple[object, ...]]]

#: About half a kilobyte each.
BODY_REPEATS = 16


@dataclass(frozen=True)
class End:
    """A database at one end of a load, and how it is asked without the connector."""

    kind: str
    config: ConnectionConfig
    fetch: Fetch

    def through(self, port: int, **options: str | int | float | bool) -> ConnectionConfig:
        """How a connector reaches it through a proxy on a port of this machine."""
        plain = {"sslmode": "disable"} if self.kind == "postgresql" else {"ssl_mode": "disabled"}
        return replace(self.config, host="127.0.0.1", port=port, options={**plain, **options})


def end_of(database: PostgresqlDatabase | MysqlDatabase, name: str) -> End:
    """An end over a test's database."""
    kind = "mysql" if isinstance(database, MysqlDatabase) else "postgresql"
    return End(kind, database.config(name), lambda sql: [tuple(row) for row in database.execute(sql)])


def fill(end: End, rows: int, *, first: int = 1, table: str = "orders") -> None:
    """Create the table if it is missing, and add rows from a number on; their bodies cannot be compressed."""
    if end.kind == "mysql":
        end.fetch(f"create table if not exists {table} (id bigint primary key, body text not null, checksum char(32))")
        numbers, text = f"select seq as i from seq_{first}_to_{first + rows - 1}", "i"
    else:
        end.fetch(f"create table if not exists {table} (id bigint primary key, body text not null, checksum char(32))")
        numbers, text = f"select i from generate_series({first}, {first + rows - 1}) as i", "i::text"
    body = f"repeat(md5({text}), {BODY_REPEATS})"
    joined = f"concat({text}, '|', {body})"
    end.fetch(f"insert into {table} select i, {body}, md5({joined}) from ({numbers}) as numbers")


def orders(**fields: object) -> Mapping:
    """The mapping of the table to one of the same name."""
    return make_mapping(**{"source_table": "orders", "target_table": "orders", **fields})


def assert_exact(source: End, target: End, *, entries: int = 1, table: str = "orders") -> None:
    """Every row of the source is in the target once, the ledger has each load once, and nothing else is left."""
    found = sorted(_rows(target, table))
    for number, body, checksum in found:
        assert hashlib.md5(f"{number}|{body}".encode()).hexdigest() == checksum, number
    assert found == sorted(_rows(source, "orders"))
    assert_books(target, entries=entries, table=table)


def assert_books(target: End, *, entries: int, table: str = "orders") -> None:
    """The ledger has so many loads of the table, with all of their batches, and no staging table is left."""
    batches: dict[str, list[int]] = {}
    for load_id, batch in target.fetch(f"select load_id, batch from _synqx_ledger where target_table = '{table}'"):
        batches.setdefault(str(load_id), []).append(int(str(batch)))
    assert len(batches) == entries, batches
    assert all(sorted(numbers) == list(range(len(numbers))) for numbers in batches.values()), batches
    assert_no_staging(target)


def assert_no_staging(target: End) -> None:
    """Neither a staging table nor a range of an unfinished load is left."""
    if target.kind == "sqlite":
        listing = "select name from sqlite_master where type = 'table'"
    else:
        here = {"mysql": "database()", "duckdb": "'main'"}.get(target.kind, "'public'")
        listing = f"select table_name from information_schema.tables where table_schema = {here}"
    tables = {str(name) for (name,) in target.fetch(listing)}
    assert not {name for name in tables if name.startswith("_synqx_staging")}, tables
    if "_synqx_ranges" in tables:
        assert [int(str(count)) for (count,) in target.fetch("select count(*) from _synqx_ranges")] == [0]


def _rows(end: End, table: str) -> list[tuple[int, str, str]]:
    return [
        (int(str(number)), str(body), str(checksum))
        for number, body, checksum in end.fetch(f"select id, body, checksum from {table}")
    ]


@contextmanager
def connected(source: ConnectionConfig, target: ConnectionConfig) -> Iterator[Connectors]:
    """Connectors, closed at the end."""
    connectors = connect(source), connect(target)
    try:
        yield connectors
    finally:
        for connector in connectors:
            connector.close()


def load_until_done(
    source: Connector, target: Connector, mapping: Mapping, *, attempts: int, load_id: str = "load-1"
) -> tuple[LoadResult, list[RetryableError]]:
    """Attempt a load as Dagster does, again as long as an error may pass; gives the errors, too."""
    errors: list[RetryableError] = []
    for number in range(attempts):
        try:
            return load(source, target, mapping, load_id=load_id, run_id=f"run-{number}"), errors
        except RetryableError as error:
            errors.append(error)
    raise AssertionError([str(error) for error in errors])
