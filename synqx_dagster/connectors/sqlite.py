"""The SQLite connector: one file, read by snapshot and replaced in one transaction.

SQLite does not enforce declared types, so nothing but text and blobs is trusted: every other column is read as
text, and a value that is not of its declared type is a bad row, never a guess. See docs/connectors-sqlite.md.
"""

from __future__ import annotations

import shlex
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from synqx_dagster.connectors.file_database import can_write, check_file_config, find_path, quote
from synqx_dagster.connectors.protocol import (
    Capabilities,
    ConnectionConfig,
    ConnectionReport,
    Connector,
    ReadLimits,
    TableDescription,
)
from synqx_dagster.connectors.sqlite_errors import wrap_error
from synqx_dagster.connectors.sqlite_session import (
    SqliteReadSession,
    SqliteWriteSession,
    open_file,
    qualify,
    read_columns,
)
from synqx_dagster.connectors.sqlite_types import DIALECT, holds, spell
from synqx_dagster.errors import ConnectionFailedError, RetryableError
from synqx_dagster.model.table import Column, TableName
from synqx_dagster.model.types import DataType

_TABLES_SQL = """
SELECT name, type FROM pragma_table_list
WHERE schema = 'main' AND type IN ('table', 'view', 'virtual') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
ORDER BY name
"""


class SqliteConnector:
    """A SQLite file; see `synqx_dagster.connectors.protocol.Connector`. ``database`` is its path."""

    db_type: ClassVar[str] = "sqlite"
    dialect: ClassVar[str] = DIALECT
    capabilities: ClassVar[Capabilities] = Capabilities(
        concurrent_writers=False, folds_case=True, alters=frozenset({"add"})
    )

    def __init__(self, config: ConnectionConfig) -> None:
        self.config = config

    @property
    def path(self) -> Path:
        """The file, absolute."""
        return find_path(self.config)

    @classmethod
    def check_config(cls, config: ConnectionConfig) -> list[str]:
        """What is wrong with a configuration."""
        database = config.database or ""
        problems = check_file_config(
            config,
            product="SQLite",
            is_path=database != ":memory:" and not database.startswith("file:"),
            hint="give a plain path; each session opens the file anew",
        )
        problems.extend(f"options.{name}: sqlite has no options" for name in config.options)
        return problems

    def test(self, *, timeout_seconds: float = 5.0) -> ConnectionReport:
        """Open the file and read its catalog."""
        start = time.monotonic()
        try:
            connection = open_file(self.path, "ro", timeout_seconds)
            try:
                connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            except sqlite3.Error as exc:
                raise wrap_error(exc, self.path, "reading") from exc
            finally:
                connection.close()
        except ConnectionFailedError as exc:
            return ConnectionReport(False, exc.message, reason=exc.reason, hint=exc.hint)
        except RetryableError as exc:
            return ConnectionReport(False, exc.message, reason="timeout", hint=exc.hint)
        return ConnectionReport(
            True,
            f"{self.path} is a SQLite database",
            server_version=f"SQLite {sqlite3.sqlite_version}",
            latency_seconds=time.monotonic() - start,
            can_read=True,
            can_write=can_write(self.path),
        )

    def discover(self, schema: str | None = None) -> list[TableDescription]:
        """Tables and views by name."""
        if schema not in (None, "main"):
            return []
        connection = open_file(self.path, "ro", self.config.pool.timeout_seconds)
        try:
            tables = connection.execute(_TABLES_SQL).fetchall()
            return [
                TableDescription(TableName(name), read_columns(connection, name, "main") or (), kind == "view")
                for name, kind in tables
            ]
        except sqlite3.Error as exc:
            raise wrap_error(exc, self.path, "reading the tables of") from exc
        finally:
            connection.close()

    def quote(self, identifier: str) -> str:
        """An identifier in double quotes."""
        return quote(identifier)

    def qualify(self, table: TableName) -> str:
        """A table's quoted name."""
        return qualify(table)

    def native_type(self, column: Column) -> str:
        """How SQLite spells a column's type; there is a spelling for every type."""
        return spell(column)

    def holds(self, data_type: DataType) -> str | None:
        """What of a type SQLite can store."""
        return holds(data_type)

    @contextmanager
    def read(self, limits: ReadLimits | None = None) -> Iterator[SqliteReadSession]:
        """Open a read session."""
        session = SqliteReadSession(self.path, limits or ReadLimits(), self.config.pool.timeout_seconds)
        try:
            yield session
        finally:
            session.close()

    @contextmanager
    def write(self) -> Iterator[SqliteWriteSession]:
        """Open a write session; the file is opened, and made if need be, by its first statement."""
        session = SqliteWriteSession(self.path, self.config.pool.timeout_seconds)
        try:
            yield session
        finally:
            session.close()

    def why_locked_by(self, source: Connector) -> tuple[str, str] | None:
        """Whether the source is this very file, without the journal that lets a reader and a writer pass each other."""
        if not isinstance(source, SqliteConnector) or not _is_same_file(self.path, source.path):
            return None
        connection = open_file(self.path, "ro", self.config.pool.timeout_seconds)
        try:
            ((journal,),) = connection.execute("PRAGMA journal_mode").fetchall()
        except sqlite3.Error as exc:
            raise wrap_error(exc, self.path, "reading") from exc
        finally:
            connection.close()
        if journal == "wal":
            return None
        return (
            f"source and target are one SQLite file, {self.path}, in journal mode {journal}, in which nothing can be"
            " committed while the file is read",
            f"run once: sqlite3 {shlex.quote(str(self.path))} 'PRAGMA journal_mode=WAL'; the file keeps it. Or load"
            " into another file",
        )

    def close(self) -> None:
        """Nothing is pooled: opening a file costs less than keeping it."""


def _is_same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return one == other
