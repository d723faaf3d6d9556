"""Transactions that tests make, and targets of each kind to apply them to."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from synqx_dagster.connectors.duckdb import DuckdbConnector
from synqx_dagster.connectors.mysql import MysqlConnector
from synqx_dagster.connectors.postgresql import PostgresqlConnector
from synqx_dagster.connectors.protocol import ConnectionConfig, Connector
from synqx_dagster.model.replication import ReplicatedTable, Replication
from synqx_dagster.model.table import Column, TableName
from synqx_dagster.model.types import DataType
from synqx_dagster.replication.apply import Applier
from synqx_dagster.replication.changes import Change, Delete, Insert, Relation, ReplicaIdentity, Row, Update
from synqx_dagster.replication.tables import FollowedTable, follow_table

COMMITTED_AT = datetime(2024, 2, 29, 12, 0, 0, 250_000, tzinfo=UTC)


@dataclass
class MadeTransaction:
    """A transaction whose changes a test has made."""

    commit_lsn: int
    changes: Iterable[Change] = ()
    change_count: int = 0
    committed_at: datetime = COMMITTED_AT
    is_closed: bool = False

    @property
    def end_lsn(self) -> int:
        return self.commit_lsn + 8

    def iter_changes(self) -> Iterator[Change]:
        return iter(self.changes)

    def close(self) -> None:
        self.is_closed = True


def column(name: str, native_type: str, kind: str = "string") -> Column:
    """A column of the source."""
    return Column(name, DataType.parse(kind), True, native_type, "postgres")


ITEM = (column("id", "bigint", "bigint"), column("name", "text"), column("big", "text"))


def relation(
    name: str = "item",
    columns: Sequence[Column] = ITEM,
    *,
    key: Sequence[str] = ("id",),
    identity: ReplicaIdentity = "default",
    oid: int = 100,
) -> Relation:
    """A table as the log describes it."""
    return Relation(oid, TableName(name, "public"), identity, tuple(columns), tuple(key))


def insert(of: Relation, *row: str | None) -> Insert:
    return Insert(of, row)


def update(of: Relation, *row: Any, old: Row | None = None) -> Update:
    return Update(of, old, old is not None and of.replica_identity != "full", row)


def delete(of: Relation, *old: str | None) -> Delete:
    padded = (*old, *(None,) * (len(of.columns) - len(old)))
    return Delete(of, padded, of.replica_identity != "full")


def make_replication(**fields: Any) -> Replication:
    """A replication with one table."""
    values: dict[str, Any] = {
        "name": "shop",
        "source_connection": "source",
        "target_connection": "target",
        "tables": ({"name": "item"},),
    }
    return Replication(**(values | fields))


def followed(replication: Replication, *names: str, **fields: Any) -> list[FollowedTable]:
    """Followed tables under the names of the source's."""
    return [
        follow_table(replication, TableName(name, "public"), ReplicatedTable(name=name, **fields), ("id",))
        for name in names or ("item",)
    ]


def start(applier: Applier, *, at: int = 0, run_id: str = "run") -> Applier:
    """Begin an attempt; tables that are not followed yet are from `at` on."""
    if applier.begin(run_id) is None:
        applier.set_position(at, slot="slot", status="following")
    for source, state in applier.table_states.items():
        if state.status == "pending":
            applier.follow(source, at)
    return applier


@dataclass
class Target:
    """A database to apply to, and a way to look at it that is not the connector's."""

    connector: Connector
    kind: str
    place: Any = field(repr=False)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Run a query by the database's own driver."""
        if self.kind == "duckdb":
            import duckdb

            with closing(duckdb.connect(str(self.place))) as connection:
                return [tuple(row) for row in connection.execute(sql).fetchall()]
        return [tuple(row) for row in self.place.execute(sql)]

    def run(self, sql: str) -> None:
        """Run a statement by the database's own driver."""
        self.rows(sql)


def make_target(kind: str, place: Any) -> Target:
    """A target of a kind; `place` is a test's database, or a directory."""
    connector: Connector
    if kind == "postgresql":
        connector = PostgresqlConnector(place.config("target"))
    elif kind == "mysql":
        connector = MysqlConnector(place.config("target"))
    else:
        place = Path(place) / "target.duckdb"
        connector = DuckdbConnector(ConnectionConfig(name="target", db_type="duckdb", database=str(place)))
    return Target(connector, kind, place)


def printed_rows(database: Any, query: str) -> list[Row]:
    """A query's rows as PostgreSQL's own output functions print them, as the log does."""
    with closing(database.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("SET datestyle = 'ISO'; SET timezone = 'UTC'; SET bytea_output = 'hex'")
        sink = io.StringIO()
        cursor.copy_expert(f"COPY ({query}) TO STDOUT", sink)
    return [
        tuple(None if value == "\\N" else _unescape(value) for value in line.split("\t"))
        for line in sink.getvalue().split("\n")[:-1]
    ]


_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def _unescape(text: str) -> str:
    pieces = []
    characters = iter(text)
    for character in characters:
        if character == "\\":
            following = next(characters)
            pieces.append(_ESCAPES.get(following, following))
        else:
            pieces.append(character)
    return "".join(pieces)
