"""The SQLAlchemy connector: any database that has a dialect for it, read, and where its facts are known, written.

It is the way to Oracle, SQL Server, Redshift, Snowflake and whatever else a user installs a dialect for; a database
with a connector of its own is better served by that. See docs/connectors-sqlalchemy.md.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from synqx_dagster.connectors.probing import look_within
from synqx_dagster.connectors.protocol import (
    Capabilities,
    ConnectionConfig,
    ConnectionReport,
    ReadLimits,
    TableDescription,
)
from synqx_dagster.connectors.sqlalchemy_dialects import facts_of, keeps_snapshot, spell_type
from synqx_dagster.connectors.sqlalchemy_engine import (
    check_options,
    drivername_of,
    make_engine,
    place_of,
    secures_network,
)
from synqx_dagster.connectors.sqlalchemy_errors import wrap_connect_error, wrap_error
from synqx_dagster.errors import ConnectionFailedError, HostRefusedError, PlanError, SynqxError
from synqx_dagster.model.table import Column, TableName
from synqx_dagster.model.types import DataType

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, Engine

    from synqx_dagster.connectors.sqlalchemy_names import Names
    from synqx_dagster.connectors.sqlalchemy_read import SqlalchemyReadSession
    from synqx_dagster.connectors.sqlalchemy_write import SqlalchemyWriteSession


class SqlalchemyConnector:
    """A database behind a dialect of SQLAlchemy; see `synqx_dagster.connectors.protocol.Connector`.

    ``dialect`` and ``capabilities`` are those of ``options.drivername``.
    """

    db_type: ClassVar[str] = "sqlalchemy"
    dialect: str = ""
    capabilities: Capabilities = Capabilities()

    def __init__(self, config: ConnectionConfig) -> None:
        self.config = config
        self._facts = facts_of(drivername_of(config))
        self.dialect = self._facts.sqlglot
        isolation = config.options.get("isolation_level", self._facts.read_isolation)
        self.capabilities = replace(
            self._facts.capabilities,
            # How the others compare rows by what is stored is not known.
            merges=self._facts.sqlglot in ("postgres", "mysql") and self._facts.capabilities.writes,
            pools_sessions=True,
            secures_network=secures_network(drivername_of(config)),
            snapshot_reads=self._facts.capabilities.snapshot_reads and keeps_snapshot(self._facts, isolation),
        )
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._names: Names | None = None

    @classmethod
    def check_config(cls, config: ConnectionConfig) -> list[str]:
        """What is wrong with a configuration."""
        return check_options(config)

    # --- connections -----------------------------------------------------------------------------------------

    def _get_engine(self) -> Engine:
        with self._lock:
            if self._engine is None:
                self._engine = make_engine(self.config)
            return self._engine

    def _get_names(self) -> Names:
        if self._names is None:
            from synqx_dagster.connectors.sqlalchemy_names import Names

            self._names = Names(self._get_engine().dialect)
        return self._names

    @contextmanager
    def _connect(self, isolation: str | None) -> Iterator[Connection]:
        """A pooled connection; given back at the end."""
        import sqlalchemy as sa

        engine = self._get_engine()
        try:
            connection = engine.connect()
        except sa.exc.TimeoutError as exc:
            raise wrap_error(exc, f"connection {self.config.name!r}", self.dialect) from None
        except sa.exc.SQLAlchemyError as exc:
            raise wrap_connect_error(exc, place_of(self.config)) from None
        try:
            if isolation is not None:
                connection = connection.execution_options(isolation_level=isolation)
            yield connection
        finally:
            connection.close()

    @contextmanager
    def read(self, limits: ReadLimits | None = None) -> Iterator[SqlalchemyReadSession]:
        """Open a read session."""
        from synqx_dagster.connectors.sqlalchemy_read import SqlalchemyReadSession

        isolation = self.config.options.get("isolation_level", self._facts.read_isolation)
        with self._connect(None if isolation is None else str(isolation)) as connection:
            session = SqlalchemyReadSession(
                connection, self._facts, self._get_names(), place_of(self.config), limits or ReadLimits()
            )
            try:
                session.start()
                yield session
            finally:
                session.close()
                _leave(connection, is_broken=session.is_broken)

    @contextmanager
    def write(self) -> Iterator[SqlalchemyWriteSession]:
        """Open a write session.

        Raises:
            PlanError: Too little is known of the dialect to write exactly, and once.
        """
        from synqx_dagster.connectors.sqlalchemy_write import SqlalchemyWriteSession

        if not self.capabilities.writes:
            raise PlanError(
                f"connection {self.config.name!r}: {drivername_of(self.config)} can be read from, not written to",
                hint="its types, locks and transactions are not known to SynqX",
            )
        with self._connect(self._facts.write_isolation) as connection:
            session = SqlalchemyWriteSession(connection, self._facts, self._get_names(), place_of(self.config))
            try:
                session.prepare()
                yield session
            finally:
                session.rollback()
                _leave(connection, is_broken=session.is_broken)

    def close(self) -> None:
        """Close pooled connections."""
        with self._lock:
            if self._engine is not None:
                self._engine.dispose()
                self._engine = None

    # --- looking --------------------------------------------------------------------------------------------

    def test(self, *, timeout_seconds: float = 5.0) -> ConnectionReport:
        """Connect, look and disconnect, all within the limit."""
        return look_within(timeout_seconds, place_of(self.config), self._look)

    def _look(self, timeout_seconds: float) -> ConnectionReport:
        import sqlalchemy as sa

        try:
            engine = make_engine(self.config, timeout_seconds=timeout_seconds)
        except SynqxError as exc:
            return ConnectionReport(False, exc.message, reason="unknown", hint=exc.hint)
        try:
            with engine.connect() as connection:
                return self._look_around(connection)
        except sa.exc.SQLAlchemyError as exc:
            wrapped = wrap_connect_error(exc, place_of(self.config))
            reason = wrapped.reason if isinstance(wrapped, ConnectionFailedError) else "unknown"
            return ConnectionReport(False, wrapped.message, reason=reason, hint=wrapped.hint)
        except ConnectionFailedError as exc:
            return ConnectionReport(False, exc.message, reason=exc.reason, hint=exc.hint)
        except HostRefusedError as exc:
            return ConnectionReport(False, exc.message, reason="host_refused", hint=exc.hint)
        except SynqxError as exc:
            return ConnectionReport(False, exc.message, reason="unknown", hint=exc.hint)
        finally:
            engine.dispose()

    def _look_around(self, connection: Connection) -> ConnectionReport:
        start = time.monotonic()
        connection.dialect.do_ping(connection.connection.dbapi_connection)  # type: ignore[arg-type]  # None if detached
        latency_seconds = time.monotonic() - start
        can_write: bool | None = None if self.capabilities.writes else False
        if self._facts.can_write_sql is not None:
            row = connection.exec_driver_sql(self._facts.can_write_sql).first()
            can_write = bool(row is not None and row[0])
        found = connection.dialect.server_version_info or ()
        version = ".".join(str(part) for part in found if isinstance(part, int))
        product = f"{connection.dialect.name} {version}".strip()
        return ConnectionReport(
            True,
            f"{product} at {place_of(self.config)}",
            server_version=product,
            latency_seconds=latency_seconds,
            can_read=True,
            can_write=can_write,
        )

    def discover(self, schema: str | None = None) -> list[TableDescription]:
        """Tables and views by schema and name: of one schema, of all, or where a schema is a user's, of the user's."""
        import sqlalchemy as sa

        with self._connect(None) as connection:
            try:
                inspector = sa.inspect(connection)
                default = inspector.default_schema_name
                schemas: list[str | None] = [schema]
                if schema is None and self._facts.discovers_schemas:
                    schemas = [
                        name
                        for name in sorted(inspector.get_schema_names())
                        if name not in self._facts.system_schemas and not name.startswith(("pg_", "db_"))
                    ]
                found: list[TableDescription] = []
                for name in schemas:
                    found.extend(self._describe(connection, None if name == default else name, name))
                return found
            except sa.exc.SQLAlchemyError as exc:
                raise wrap_error(exc, f"reading the tables of {place_of(self.config)}", self.dialect) from None

    def _describe(self, connection: Connection, schema: str | None, shown: str | None) -> Iterator[TableDescription]:
        import sqlalchemy as sa
        from sqlalchemy.engine.reflection import ObjectKind

        from synqx_dagster.connectors.sqlalchemy_types import column_of, quiet_reflection

        inspector = sa.inspect(connection)
        views = set(inspector.get_view_names(schema))
        with quiet_reflection():
            columns: dict[Any, Any] = inspector.get_multi_columns(schema, kind=ObjectKind.ANY)
        keys: dict[Any, Any] = inspector.get_multi_pk_constraint(schema, kind=ObjectKind.ANY)
        for place in sorted(columns, key=lambda item: str(item[1])):
            key = (keys.get(place) or {}).get("constrained_columns") or []
            yield TableDescription(
                TableName(str(place[1]), shown),
                tuple(column_of(item, key, connection.dialect, self._facts) for item in columns[place]),
                is_view=place[1] in views,
            )

    # --- spelling -------------------------------------------------------------------------------------------

    def quote(self, identifier: str) -> str:
        """An identifier, in quotes where the dialect needs them."""
        return self._get_names().quote(identifier)

    def qualify(self, table: TableName) -> str:
        """A table's name, in quotes where the dialect needs them, with its schema if it has one."""
        return self._get_names().qualify(table)

    def native_type(self, column: Column) -> str:
        """How the dialect spells a column's type."""
        return spell_type(self._facts, column)

    def holds(self, data_type: DataType) -> str | None:
        """What of a type the dialect can store, by way of its driver."""
        return self._facts.holds(data_type) if self._facts.holds is not None else None


def _leave(connection: Connection, *, is_broken: bool) -> None:
    """Give up a connection that is unfit, so that the pool makes another."""
    import sqlalchemy as sa

    try:
        if is_broken and not connection.invalidated:
            connection.invalidate()
        elif not is_broken:
            connection.rollback()
    except sa.exc.SQLAlchemyError:
        connection.invalidate()
