"""The files connector: directories of CSV, JSON lines and Parquet, on local disks and in S3-compatible object stores.

A directory is a schema, a file in it or a directory of parts is a table. A load is effectively once as in a database:
see `synqx_dagster.connectors.files_transaction` and docs/connectors-files.md.
"""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from synqx_dagster.connectors.duckdb_types import DIALECT
from synqx_dagster.connectors.file_database import quote
from synqx_dagster.connectors.files_database import FilesDatabase, qualify
from synqx_dagster.connectors.files_layout import is_part_directory, list_tables
from synqx_dagster.connectors.files_local import LocalStore
from synqx_dagster.connectors.files_options import FilesOptions, check_options
from synqx_dagster.connectors.files_read import FilesReadSession
from synqx_dagster.connectors.files_store import Store, check_relative, join
from synqx_dagster.connectors.files_types import holds, native_type
from synqx_dagster.connectors.files_write import FilesWriteSession
from synqx_dagster.connectors.protocol import (
    Capabilities,
    ConnectionConfig,
    ConnectionReport,
    ReadLimits,
    SourceFile,
    TableDescription,
)
from synqx_dagster.errors import ConnectionFailedError, DataError, PlanError, SynqxError
from synqx_dagster.model.table import Column, TableName
from synqx_dagster.model.types import DataType

#: With what follows it, a file's name has at most 255 bytes.
_NAME_BYTES = 200


class FilesConnector:
    """A directory of files; see `synqx_dagster.connectors.protocol.Connector`."""

    db_type: ClassVar[str] = "files"
    dialect: ClassVar[str] = DIALECT
    capabilities: ClassVar[Capabilities] = Capabilities(
        folds_case=True,
        max_identifier_bytes=_NAME_BYTES,
        has_objects=False,
        direct_kinds=frozenset({"date", "decimal"}),
        alters=frozenset({"add", "retype", "allow_null"}),
    )

    def __init__(self, config: ConnectionConfig) -> None:
        self.config = config
        self._opened: tuple[FilesOptions, Store] | None = None

    def _open(self) -> tuple[FilesOptions, Store]:
        if self._opened is None:
            options = FilesOptions.parse(self.config)
            self._opened = options, _open_store(self.config, options)
        return self._opened

    @classmethod
    def check_config(cls, config: ConnectionConfig) -> list[str]:
        """What is wrong with a configuration."""
        return check_options(config)

    def test(self, *, timeout_seconds: float = 5.0) -> ConnectionReport:
        """Look at the root, and whether commits work there."""
        start = time.monotonic()
        options, store = self._open()
        try:
            can_read, can_write = store.check()
        except ConnectionFailedError as exc:
            return ConnectionReport(False, exc.message, reason=exc.reason, hint=exc.hint)
        except SynqxError as exc:
            return ConnectionReport(False, exc.message, reason="unknown", hint=exc.hint)
        import duckdb

        hint = options.why_read_only
        return ConnectionReport(
            True,
            f"{store.describe('')} is there" + (f"; it is read only: {hint}" if hint else ""),
            server_version=f"{options.file_format} by DuckDB {duckdb.__version__}",
            latency_seconds=time.monotonic() - start,
            can_read=can_read,
            can_write=can_write and hint is None,
        )

    def discover(self, schema: str | None = None) -> list[TableDescription]:
        """Tables by directory and name. JSON lines are described by their first rows.

        A directory whose files are all named ``part-...`` is a table; any other is a schema.
        """
        options, store = self._open()
        store.check()
        found: list[TableDescription] = []
        database = FilesDatabase(store, options, sample=True)
        try:
            for directory in [schema] if schema is not None else self._iter_directories(store, database):
                for name, _ in list_tables(store, database.look(directory)):
                    table = TableName(name, directory or None)
                    try:
                        known = database.find(table)
                    except DataError:
                        # Not a table as it stands; the others still are.
                        known = None
                        found.append(TableDescription(table, ()))
                    if known is not None:
                        found.append(TableDescription(table, known.columns))
        finally:
            database.close()
        return found

    def list_source_files(self, directory: str, pattern: str) -> list[SourceFile]:
        """Files of a directory whose name fits a pattern (``*``, ``?``, ``[...]``), by path; hidden ones are left out.

        Raises:
            DatabaseError: The directory's path leads outside of the root.
            ConnectionFailedError: The root is not there, or cannot be reached.
        """
        _, store = self._open()
        store.check()
        found = store.list_files(check_relative(directory, "the directory"))
        return [
            SourceFile(file.path, file.stamp.size, file.stamp.mark)
            for file in found
            if fnmatch.fnmatchcase(file.name, pattern)
        ]

    def _iter_directories(self, store: Store, database: FilesDatabase) -> Iterator[str]:
        waiting = [""]
        while waiting:
            directory = waiting.pop(0)
            yield directory
            snapshot = database.look(directory)
            for name in store.list_directories(directory):
                if not is_part_directory(store, snapshot, name):
                    waiting.append(join(directory, name))

    def quote(self, identifier: str) -> str:
        """An identifier in double quotes."""
        return quote(identifier)

    def qualify(self, table: TableName) -> str:
        """A table's quoted name with its schema."""
        return qualify(table)

    def native_type(self, column: Column) -> str:
        """How a column's type is spelt in files of the connection's format.

        Raises:
            PlanError: The format has no type for it, or its files cannot be written with the connection's options.
        """
        options, _ = self._open()
        if options.why_read_only is not None:
            raise PlanError(options.why_read_only)
        return native_type(column, options.file_format)

    def holds(self, data_type: DataType) -> str | None:
        """What of a type files of the connection's format can hold."""
        return holds(data_type, self._open()[0].file_format)

    @contextmanager
    def read(self, limits: ReadLimits | None = None) -> Iterator[FilesReadSession]:
        """Open a read session."""
        options, store = self._open()
        session = FilesReadSession(store, options, limits or ReadLimits())
        try:
            yield session
        finally:
            session.close()

    @contextmanager
    def write(self) -> Iterator[FilesWriteSession]:
        """Open a write session; directories are made by its first commit."""
        options, store = self._open()
        session = FilesWriteSession(store, options)
        try:
            yield session
        finally:
            session.close()

    def close(self) -> None:
        """Close connections to an object store."""
        if self._opened is not None:
            self._opened[1].close()


def _open_store(config: ConnectionConfig, options: FilesOptions) -> Store:
    if options.s3 is None:
        assert options.root is not None
        return LocalStore(options.root)
    from synqx_dagster.connectors.files_s3 import S3Store

    return S3Store(options.s3, options.prefix, config)
