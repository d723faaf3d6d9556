"""The PostgreSQL connector, for versions 12 to 18: COPY both ways, snapshots, and replacement in one transaction.

Guarantee: a value arrives as the server would print it, or the load fails; see docs/connectors.md.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from synqx_dagster.connectors import postgresql_names, postgresql_types
from synqx_dagster.connectors.postgresql_columns import DEFAULT_SCHEMA, fetch_tables
from synqx_dagster.connectors.postgresql_connect import check_options, check_security, make_pool
from synqx_dagster.connectors.postgresql_errors import wrap_errors
from synqx_dagster.connectors.postgresql_monitor import PostgresqlMonitorSession, open_monitor
from synqx_dagster.connectors.postgresql_probe import probe
from synqx_dagster.connectors.postgresql_read import PostgresqlReadSession
from synqx_dagster.connectors.postgresql_replication import PostgresqlReplicationSession, name_types
from synqx_dagster.connectors.postgresql_write import PostgresqlWriteSession
from synqx_dagster.connectors.protocol import (
    Capabilities,
    ConnectionConfig,
    ConnectionReport,
    NativeType,
    ReadLimits,
    TableDescription,
)
from synqx_dagster.connectors.ssh_tunnel import close_tunnel
from synqx_dagster.errors import RetryableError
from synqx_dagster.model.table import Column, TableName
from synqx_dagster.model.types import DataType


class PostgresqlConnector:
    """A PostgreSQL database; see `synqx_dagster.connectors.protocol.Connector`. Thread-safe; sessions are not."""

    db_type: ClassVar[str] = "postgresql"
    dialect: ClassVar[str] = postgresql_types.DIALECT
    capabilities: ClassVar[Capabilities] = Capabilities(
        copy_binary=True,
        default_schema=DEFAULT_SCHEMA,
        max_identifier_bytes=postgresql_names.MAX_IDENTIFIER_BYTES,
        secures_network=True,
        shares_staging=True,
        pools_sessions=True,
        alters=frozenset({"add", "retype", "allow_null"}),
    )

    def __init__(self, config: ConnectionConfig) -> None:
        self.config = config
        self._pool: Any = None
        self._lock = threading.Lock()

    @classmethod
    def check_config(cls, config: ConnectionConfig) -> list[str]:
        """What is wrong with a configuration."""
        problems = []
        if not config.database:
            problems.append("database: give the database's name")
        for name in ("host", "database", "username", "password"):
            value = getattr(config, name)
            if value is not None and "\x00" in value:
                problems.append(f"{name}: must not hold a NUL character")
        if config.host is not None and "," in config.host:
            problems.append("host: give one host")
        return problems + check_options(config.options) + check_security(config)

    def test(self, *, timeout_seconds: float = 5.0) -> ConnectionReport:
        """Connect outside the pool, look and disconnect within the limit."""
        return probe(self.config, timeout_seconds)

    def discover(self, schema: str | None = None) -> list[TableDescription]:
        """Tables and views that the user may read, by schema and name; partitions are left out."""
        action = f"discovering {self.config.name!r}"
        with self._checkout() as connection, wrap_errors(action), connection.cursor() as cursor:
            return fetch_tables(cursor, schema, None)

    def read_change_counter(self, table: TableName, *, timeout_seconds: float) -> str | None:
        """What the server counted in a table: rows written, and the file that holds them; None without such a table.

        The statistics lag by up to a second, count what was rolled back, and begin anew after a crash.
        """
        with self.read(ReadLimits(timeout_seconds=timeout_seconds)) as session:
            return session.read_change_counter(table)

    @contextmanager
    def monitor(self, *, timeout_seconds: float) -> Iterator[PostgresqlMonitorSession]:
        """Open a session that watches the server."""
        with open_monitor(self.config, timeout_seconds) as session:
            yield session

    def quote(self, identifier: str) -> str:
        """An identifier in double quotes."""
        return postgresql_names.quote(identifier)

    def qualify(self, table: TableName) -> str:
        """A table's quoted name with its schema."""
        return postgresql_names.qualify(table)

    def native_type(self, column: Column) -> str:
        """How PostgreSQL spells a column's type."""
        return postgresql_types.native_type(column)

    def holds(self, data_type: DataType) -> str | None:
        """What of a type PostgreSQL can store."""
        return postgresql_types.holds(data_type)

    @contextmanager
    def read(self, limits: ReadLimits | None = None) -> Iterator[PostgresqlReadSession]:
        """Open a read session."""
        with self._checkout() as connection:
            session = PostgresqlReadSession(connection, self.config, limits or ReadLimits())
            try:
                yield session
            finally:
                session.close()

    @contextmanager
    def read_at(self, snapshot: str) -> Iterator[PostgresqlReadSession]:
        """Open a read session on the snapshot that another one exported."""
        with self._checkout() as connection:
            session = PostgresqlReadSession(connection, self.config, ReadLimits(), snapshot)
            try:
                yield session
            finally:
                session.close()

    @contextmanager
    def write(self) -> Iterator[PostgresqlWriteSession]:
        """Open a write session."""
        with self._checkout() as connection:
            session = PostgresqlWriteSession(connection, self.config)
            try:
                yield session
            finally:
                session.close()

    @contextmanager
    def replicate(self) -> Iterator[PostgresqlReplicationSession]:
        """Open a replication connection, outside of the pool."""
        session = PostgresqlReplicationSession(self.config)
        try:
            yield session
        finally:
            session.close()

    def name_types(self, types: Sequence[tuple[int, int]]) -> list[NativeType]:
        """What pairs of a type's OID and modifier stand for."""
        with self._checkout() as connection:
            return name_types(connection, types, f"reading from {self.config.name!r}")

    def close(self) -> None:
        """Close pooled connections; those in use close when their session ends."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.dispose()
        close_tunnel(self.config)

    @contextmanager
    def _checkout(self) -> Iterator[Any]:
        """A pooled psycopg2 connection; goes back clean, or not at all."""
        from sqlalchemy.exc import TimeoutError as PoolTimeoutError

        with self._lock:
            if self._pool is None:
                self._pool = make_pool(self.config)
            pool = self._pool
        try:
            pooled = pool.connect()
        except PoolTimeoutError:
            settings = self.config.pool
            raise RetryableError(
                f"connection {self.config.name!r}: no session became free in {settings.timeout_seconds:g} s",
                hint=f"raise pool.size ({settings.size}) or pool.max_overflow ({settings.max_overflow})",
            ) from None
        try:
            yield pooled.dbapi_connection
        finally:
            if not _clean(pooled.dbapi_connection):
                pooled.invalidate()
            pooled.close()


def _clean(connection: Any) -> bool:
    """End what is open on a connection; False when it cannot be used again."""
    import psycopg2
    from psycopg2.extensions import TRANSACTION_STATUS_IDLE, TRANSACTION_STATUS_INERROR, TRANSACTION_STATUS_INTRANS

    if connection.closed:
        return False
    status = connection.info.transaction_status
    if status in (TRANSACTION_STATUS_INTRANS, TRANSACTION_STATUS_INERROR):
        try:
            with connection.cursor() as cursor:
                cursor.execute("ROLLBACK")
        except psycopg2.Error:
            return False
        status = connection.info.transaction_status
    # A COPY that is still running cannot be ended in an orderly way.
    return bool(status == TRANSACTION_STATUS_IDLE)
