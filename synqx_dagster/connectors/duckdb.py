"""The DuckDB connector: one file, streamed from and to as Arrow.

One process writes to a DuckDB file at a time, or many read it; a file that another process holds is a retryable
error that names the file. See docs/connectors-duckdb.md.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from synqx_dagster.connectors.duckdb_errors import wrap_error
from synqx_dagster.connectors.duckdb_file import open_reader
from synqx_dagster.connectors.duckdb_session import (
    DEFAULT_SCHEMA,
    DuckdbReadSession,
    DuckdbWriteSession,
    qualify,
    read_columns,
)
from synqx_dagster.connectors.duckdb_types import DIALECT, holds, native_type
from synqx_dagster.connectors.file_database import can_write, check_file_config, find_path, quote
from synqx_dagster.connectors.protocol import (
    Capabilities,
    ConnectionConfig,
    ConnectionReport,
    ReadLimits,
    TableDescription,
)
from synqx_dagster.errors import ConnectionFailedError, RetryableError
from synqx_dagster.model.table import Column, TableName
from synqx_dagster.model.types import DataType

#: What DuckDB may hold while it loads; beyond it, it spills to a directory beside the file.
DEFAULT_MEMORY_LIMIT = "1GB"

_MEMORY = re.compile(r"\d{1,6}(\.\d+)?\s*(KB|MB|GB|TB|KiB|MiB|GiB|TiB)")

_TABLES_SQL = """
SELECT schema_name, table_name, false, estimated_size FROM duckdb_tables()
WHERE database_name = current_database() AND NOT internal AND NOT temporary
UNION ALL
SELECT schema_name, view_name, true, NULL FROM duckdb_views()
WHERE database_name = current_database() AND NOT internal AND NOT temporary
ORDER BY 1, 2
"""


class DuckdbConnector:
    """A DuckDB file; see `synqx_dagster.connectors.protocol.Connector`. ``database`` is its path."""

    db_type: ClassVar[str] = "duckdb"
    dialect: ClassVar[str] = DIALECT
    capabilities: ClassVar[Capabilities] = Capabilities(
        concurrent_writers=False,
        shares_staging=True,
        default_schema=DEFAULT_SCHEMA,
        folds_case=True,
        direct_kinds=frozenset({"date", "decimal"}),
        alters=frozenset({"add", "retype", "allow_null"}),
    )

    def __init__(self, config: ConnectionConfig) -> None:
        self.config = config

    @property
    def path(self) -> Path:
        """The file, absolute."""
        return find_path(self.config)

    @property
    def _settings(self) -> dict[str, str]:
        settings = {"memory_limit": str(self.config.options.get("memory_limit", DEFAULT_MEMORY_LIMIT))}
        if "threads" in self.config.options:
            settings["threads"] = str(self.config.options["threads"])
        return settings

    @classmethod
    def check_config(cls, config: ConnectionConfig) -> list[str]:
        """What is wrong with a configuration."""
        database = config.database or ""
        problems = check_file_config(
            config,
            product="DuckDB",
            is_path=not database.startswith((":memory:", "md:", "motherduck:")) and "://" not in database,
            hint="give the path of a local file",
        )
        for name, value in config.options.items():
            if name == "memory_limit":
                if not (isinstance(value, str) and _MEMORY.fullmatch(value)):
                    problems.append("options.memory_limit: write a size such as 512MB or 2GB")
            elif name == "threads":
                if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 1024:
                    problems.append("options.threads: write a number from 1 to 1024")
            else:
                problems.append(f"options.{name}: duckdb has the options memory_limit and threads")
        return problems

    def test(self, *, timeout_seconds: float = 5.0) -> ConnectionReport:
        """Open the file read-only and read its catalog."""
        import duckdb

        start = time.monotonic()
        try:
            open_reader(self.path, self._settings).release()
        except ConnectionFailedError as exc:
            return ConnectionReport(False, exc.message, reason=exc.reason, hint=exc.hint)
        except RetryableError as exc:
            return ConnectionReport(False, exc.message, reason="unknown", hint=exc.hint)
        except duckdb.Error as exc:
            wrapped = wrap_error(exc, self.path, "reading")
            return ConnectionReport(False, wrapped.message, reason="unknown", hint=wrapped.hint)
        return ConnectionReport(
            True,
            f"{self.path} is a DuckDB database",
            server_version=f"DuckDB {duckdb.__version__}",
            latency_seconds=time.monotonic() - start,
            can_read=True,
            can_write=can_write(self.path),
        )

    def discover(self, schema: str | None = None) -> list[TableDescription]:
        """Tables and views by schema and name."""
        import duckdb

        handle = open_reader(self.path, self._settings)
        try:
            found = []
            for table_schema, name, is_view, estimated_rows in handle.connection.execute(_TABLES_SQL).fetchall():
                if schema is None or table_schema == schema:
                    table = TableName(name, table_schema)
                    columns = read_columns(handle.connection, table) or ()
                    found.append(TableDescription(table, columns, is_view, estimated_rows))
            return found
        except duckdb.Error as exc:
            raise wrap_error(exc, self.path, "reading the tables of") from exc
        finally:
            handle.release()

    def quote(self, identifier: str) -> str:
        """An identifier in double quotes."""
        return quote(identifier)

    def qualify(self, table: TableName) -> str:
        """A table's quoted name with its schema."""
        return qualify(table)

    def native_type(self, column: Column) -> str:
        """How DuckDB spells a column's type."""
        return native_type(column)

    def holds(self, data_type: DataType) -> str | None:
        """What of a type DuckDB can store."""
        return holds(data_type)

    @contextmanager
    def read(self, limits: ReadLimits | None = None) -> Iterator[DuckdbReadSession]:
        """Open a read session."""
        session = DuckdbReadSession(self.path, self._settings, limits or ReadLimits())
        try:
            yield session
        finally:
            session.close()

    @contextmanager
    def write(self) -> Iterator[DuckdbWriteSession]:
        """Open a write session; the file is opened, and made if need be, by its first statement."""
        session = DuckdbWriteSession(self.path, self._settings)
        try:
            yield session
        finally:
            session.close()

    def close(self) -> None:
        """Nothing is pooled: a file is open only while a session is, because it is locked meanwhile."""
