"""The MySQL connector, for MySQL 8 and MariaDB 10.5 or newer.

Rows are read by the text protocol, whose text of a value is exact, from one snapshot; they are published by DELETE and
INSERT in one InnoDB transaction. See docs/connectors-mysql.md.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from synqx_dagster.connectors.mysql_connect import (
    METADATA_TIMEOUT_SECONDS,
    Server,
    check_options,
    connect,
    describe_server,
    place_of,
)
from synqx_dagster.connectors.mysql_errors import wrap_error
from synqx_dagster.connectors.mysql_names import qualify, quote
from synqx_dagster.connectors.mysql_session import MysqlReadSession, MysqlWriteSession
from synqx_dagster.connectors.mysql_tls import choose
from synqx_dagster.connectors.mysql_types import DIALECT, holds, native_type
from synqx_dagster.connectors.probing import look_within
from synqx_dagster.connectors.protocol import (
    Capabilities,
    ConnectionConfig,
    ConnectionReport,
    ReadLimits,
    TableDescription,
)
from synqx_dagster.connectors.ssh_tunnel import close_tunnel
from synqx_dagster.connectors.tls import describe_tls
from synqx_dagster.errors import ConnectionFailedError, HostRefusedError, RetryableError, SynqxError
from synqx_dagster.model.table import Column, TableName
from synqx_dagster.model.types import DataType

if TYPE_CHECKING:
    import pymysql

_TABLES_SQL = """
SELECT table_name, table_type, table_rows FROM information_schema.tables
WHERE table_schema = ? AND table_type IN ('BASE TABLE', 'VIEW', 'SYSTEM VERSIONED') ORDER BY table_name
"""

_GRANT = re.compile(r"GRANT (?P<rights>.+?) ON (?P<place>\S+) TO ", re.IGNORECASE)


class MysqlConnector:
    """A MySQL or MariaDB database; see `synqx_dagster.connectors.protocol.Connector`."""

    db_type: ClassVar[str] = "mysql"
    dialect: ClassVar[str] = DIALECT
    capabilities: ClassVar[Capabilities] = Capabilities(
        transactional_ddl=False,
        schema_is_database=True,
        max_identifier_bytes=64,
        secures_network=True,
        shares_staging=True,
        pools_sessions=True,
        moment_kind="timestamp",
        # MODIFY would forget what else is said of the column: its default, its comment.
        alters=frozenset({"add"}),
    )

    def __init__(self, config: ConnectionConfig) -> None:
        self.config = config
        self._lock = threading.Lock()
        self._pool: Any = None
        self._server: Server | None = None

    @classmethod
    def check_config(cls, config: ConnectionConfig) -> list[str]:
        """What is wrong with a configuration."""
        problems = []
        if not config.database:
            problems.append("database: give the database to use")
        if not config.username:
            problems.append("username: give the user to connect as")
        return problems + check_options(config)

    # --- connections -----------------------------------------------------------------------------------------

    def _get_pool(self) -> Any:
        with self._lock:
            if self._pool is None:
                from sqlalchemy.pool import QueuePool

                def open_connection() -> Any:
                    return connect(self.config)

                settings = self.config.pool
                self._pool = QueuePool(
                    open_connection,
                    pool_size=settings.size,
                    max_overflow=settings.max_overflow,
                    timeout=settings.timeout_seconds,
                    recycle=settings.recycle_seconds,
                    # Sessions roll back by themselves, and give up a connection that cannot.
                    reset_on_return=None,
                )
            return self._pool

    def _check_out(self) -> Any:
        """A pooled connection that answers."""
        import pymysql
        import sqlalchemy.exc

        for _ in range(self.config.pool.size + self.config.pool.max_overflow + 1):
            try:
                pooled = self._get_pool().connect()
            except sqlalchemy.exc.TimeoutError as exc:
                raise RetryableError(
                    f"connection {self.config.name!r}: all of its sessions are in use",
                    hint="raise pool.size or pool.max_overflow, or run fewer loads at once",
                ) from exc
            try:
                pooled.dbapi_connection.ping(reconnect=False)
            except pymysql.err.Error:
                # The server closed it while it lay in the pool.
                pooled.invalidate()
                continue
            return pooled
        raise RetryableError(f"{place_of(self.config)}: connections break as soon as they are made")

    @contextmanager
    def _connection(self) -> Iterator[tuple[Any, pymysql.Connection[Any], Server]]:
        """A pooled connection with what its server is; given back at the end, or given up if it is unfit."""
        import pymysql

        pooled = self._check_out()
        connection = pooled.dbapi_connection
        try:
            if self._server is None:
                try:
                    self._server = describe_server(connection)
                except pymysql.err.Error as exc:
                    raise wrap_error(exc, f"connecting to {place_of(self.config)}") from exc
            yield pooled, connection, self._server
        finally:
            pooled.close()

    @contextmanager
    def read(self, limits: ReadLimits | None = None) -> Iterator[MysqlReadSession]:
        """Open a read session."""
        with self._connection() as (pooled, connection, server):
            try:
                session = MysqlReadSession(
                    connection, server, self.config.database or "", place_of(self.config), limits or ReadLimits()
                )
            except SynqxError:
                pooled.invalidate()
                raise
            try:
                yield session
            finally:
                if session.is_streaming or not _roll_back(connection):
                    pooled.invalidate()

    @contextmanager
    def write(self) -> Iterator[MysqlWriteSession]:
        """Open a write session."""
        with self._connection() as (pooled, connection, server):
            session = MysqlWriteSession(connection, server, self.config.database or "", place_of(self.config))
            try:
                yield session
            finally:
                session.close()
                if session.is_broken or not _roll_back(connection):
                    pooled.invalidate()

    def close(self) -> None:
        """Close pooled connections."""
        with self._lock:
            if self._pool is not None:
                self._pool.dispose()
                self._pool = None
        close_tunnel(self.config)

    # --- looking --------------------------------------------------------------------------------------------

    def test(self, *, timeout_seconds: float = 5.0) -> ConnectionReport:
        """Connect, look and disconnect, all within the limit."""
        return look_within(timeout_seconds, place_of(self.config), self._look)

    def _look(self, timeout_seconds: float) -> ConnectionReport:
        import pymysql

        try:
            connection = connect(self.config, timeout_seconds=timeout_seconds)
        except ConnectionFailedError as exc:
            return ConnectionReport(False, exc.message, reason=exc.reason, hint=exc.hint)
        except HostRefusedError as exc:
            return ConnectionReport(False, exc.message, reason="host_refused", hint=exc.hint)
        except SynqxError as exc:
            return ConnectionReport(False, exc.message, reason="unknown", hint=exc.hint)
        try:
            return self._look_around(connection)
        except pymysql.err.Error as exc:
            wrapped = wrap_error(exc, f"looking at {place_of(self.config)}")
            return ConnectionReport(False, wrapped.message, reason="unknown", hint=wrapped.hint)
        except SynqxError as exc:
            return ConnectionReport(False, exc.message, reason="unknown", hint=exc.hint)
        finally:
            _close(connection)

    def _look_around(self, connection: pymysql.Connection[Any]) -> ConnectionReport:
        server = describe_server(connection)
        start = time.monotonic()
        with connection.cursor() as cursor:
            cursor.execute("SELECT @@global.read_only")
            latency_seconds = time.monotonic() - start
            (read_only,) = cursor.fetchone() or ("0",)
            cursor.execute("SHOW SESSION STATUS LIKE 'Ssl_version'")
            row = cursor.fetchone()
            cursor.execute("SHOW GRANTS")
            rights = _rights([str(grant[0]) for grant in cursor.fetchall()], self.config.database or "")
        tunnel_host = self.config.ssh_tunnel.host if self.config.ssh_tunnel is not None else None
        can_write = str(read_only) in ("0", "OFF") and {"INSERT", "DELETE", "CREATE", "DROP"} <= rights
        return ConnectionReport(
            True,
            f"{server.display_version} at {place_of(self.config)}",
            server_version=server.display_version,
            latency_seconds=latency_seconds,
            can_read="SELECT" in rights,
            can_write=can_write,
            tls=describe_tls(str(row[1]) if row and row[1] else "off", choose(self.config), tunnel_host=tunnel_host),
        )

    def discover(self, schema: str | None = None) -> list[TableDescription]:
        """Tables and views of the connection's database, or of another one, by name."""
        database = schema or self.config.database or ""
        with self.read(ReadLimits(timeout_seconds=METADATA_TIMEOUT_SECONDS)) as session:
            tables = session.fetch_all(_TABLES_SQL, (database,))
            columns = session.read_tables(database)
        return [
            TableDescription(
                TableName(str(name), schema),
                columns.get(str(name), ()),
                is_view=kind == "VIEW",
                estimated_rows=int(str(rows)) if rows is not None else None,
            )
            for name, kind, rows in tables
        ]

    # --- spelling -------------------------------------------------------------------------------------------

    def quote(self, identifier: str) -> str:
        """An identifier in backticks."""
        return quote(identifier)

    def qualify(self, table: TableName) -> str:
        """A table's quoted name, with its database if it is not the connection's."""
        return qualify(table)

    def native_type(self, column: Column) -> str:
        """How a column's type is spelt here."""
        return native_type(column)

    def holds(self, data_type: DataType) -> str | None:
        """What of a type MySQL can store."""
        return holds(data_type)


def _roll_back(connection: pymysql.Connection[Any]) -> bool:
    """End what is open; False if the connection cannot."""
    import pymysql

    try:
        connection.rollback()
    except pymysql.err.Error:
        return False
    return True


def _close(connection: pymysql.Connection[Any]) -> None:
    import pymysql

    with contextlib.suppress(pymysql.err.Error):
        connection.close()


def _rights(grants: list[str], database: str) -> set[str]:
    """What SHOW GRANTS gives on a whole database; rights on single tables do not count."""
    found: set[str] = set()
    for grant in grants:
        match = _GRANT.match(grant)
        if match is None:
            continue
        place = match["place"].replace("`", "").replace("\\_", "_").replace("\\%", "%")
        if place in ("*.*", f"{database}.*"):
            rights = match["rights"].upper()
            if "ALL PRIVILEGES" in rights:
                rights = "SELECT, INSERT, UPDATE, DELETE, CREATE, DROP"
            found.update(right.strip() for right in rights.split(","))
    return found
