"""Read and write sessions of a DuckDB file.

Guarantee: a read session sees one snapshot in a read-only transaction, without access to other files or the network;
a statement that failed makes the commit fail, although DuckDB itself would answer such a COMMIT with success.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synqx_dagster.connectors.duckdb_changes import DuckdbChanges
from synqx_dagster.connectors.duckdb_checksum import DuckdbChecksums
from synqx_dagster.connectors.duckdb_errors import repeated_key, was_interrupted, wrap_error
from synqx_dagster.connectors.duckdb_file import Handle, open_reader, open_writer
from synqx_dagster.connectors.duckdb_incoming import Incoming
from synqx_dagster.connectors.duckdb_lean import lean
from synqx_dagster.connectors.duckdb_merge import find_unique_keys, spell_merge
from synqx_dagster.connectors.duckdb_types import (
    DIALECT,
    from_arriving,
    has_way_back,
    native_type,
    parse_native,
    to_canonical,
)
from synqx_dagster.connectors.file_database import FileTables, process_moment, quote
from synqx_dagster.connectors.merge_sql import MergeDialect, MergesBySql
from synqx_dagster.connectors.protocol import Encoded, ReadLimits, RowChanges, carrier_type
from synqx_dagster.connectors.query_guard import limit_batches
from synqx_dagster.errors import DatabaseError, StatementTimeoutError, SynqxError
from synqx_dagster.model.table import Column, TableName
from synqx_dagster.model.types import DataType, TypeKind

if TYPE_CHECKING:
    import pyarrow as pa

DEFAULT_SCHEMA = "main"

_INTERRUPT_AGAIN_SECONDS = 0.1

_STAGED_ROWS = "_synqx_batches"

#: What a value is cast to so that Arrow has exactly the carrier.
_CARRIER_CASTS: dict[TypeKind, str] = {
    "smallint": "SMALLINT",
    "integer": "INTEGER",
    "bigint": "BIGINT",
    "real": "FLOAT",
    "float": "DOUBLE",
    "boolean": "BOOLEAN",
    "binary": "BLOB",
}

#: DuckDB rounds to these in silence.
_COARSE = ("TIMESTAMP_S", "TIMESTAMP_MS")

_COLUMNS_SQL = """
SELECT column_name, data_type, is_nullable, column_default IS NOT NULL, is_generated,
       (SELECT list_position(constraint_column_names, column_name) FROM duckdb_constraints() AS keys
        WHERE keys.table_oid = columns.table_oid AND keys.database_name = columns.database_name
              AND constraint_type = 'PRIMARY KEY')
FROM duckdb_columns() AS columns
WHERE database_name = current_database() AND schema_name = ? AND table_name = ?
ORDER BY column_index
"""


def qualify(table: TableName) -> str:
    """A table's quoted name with its schema."""
    return f"{quote(table.schema or DEFAULT_SCHEMA)}.{quote(table.name)}"


def read_columns(connection: Any, table: TableName) -> tuple[Column, ...] | None:
    """Columns of a table or view; None if there is none."""
    rows = connection.execute(_COLUMNS_SQL, [table.schema or DEFAULT_SCHEMA, table.name]).fetchall()
    return (
        tuple(
            _make_column(
                name, native, nullable=nullable, key_position=key_position, generated=generated, default=default
            )
            for name, native, nullable, default, generated, key_position in rows
        )
        or None
    )


def _make_column(
    name: str,
    native: str,
    *,
    nullable: bool = True,
    key_position: int | None = None,
    generated: object = False,
    default: bool = False,
) -> Column:
    is_generated = generated in (True, "ALWAYS")
    keeps_type = has_way_back(native)
    return Column(
        name,
        parse_native(native),
        nullable=nullable,
        native_type=native if keeps_type else None,
        native_dialect=DIALECT if keeps_type else None,
        key_position=key_position or None,
        generated=is_generated,
        has_default=default and not is_generated,
    )


class DuckdbReadSession(DuckdbChecksums):
    """A read session; see `synqx_dagster.connectors.protocol.ReadSession`."""

    def __init__(self, path: Path, settings: Mapping[str, str], limits: ReadLimits) -> None:
        self._path = path
        self._limits = limits
        self._handle = open_reader(path, settings)
        self._closed = threading.Event()
        self._watch: threading.Thread | None = None
        if limits.timeout_seconds:
            self._watch = threading.Thread(target=self._interrupt_late, name="synqx-duckdb-limit", daemon=True)
            self._watch.start()

    def _interrupt_late(self) -> None:
        """Stop what runs after the time limit, again and again: an interrupt between two statements is lost."""
        wait_seconds = self._limits.timeout_seconds
        while not self._closed.wait(wait_seconds):
            self._handle.connection.interrupt()
            wait_seconds = _INTERRUPT_AGAIN_SECONDS

    def close(self) -> None:
        """End the snapshot."""
        self._closed.set()
        if self._watch is not None:
            self._watch.join()
        self._handle.release()

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        import duckdb

        try:
            yield
        except duckdb.Error as exc:
            raise wrap_error(exc, self._path, doing) from exc

    def describe_query(self, sql: str) -> tuple[Column, ...]:
        """Columns of a query's result; binds it, does not run it."""
        statement = sql.strip().rstrip(";")
        with self._errors("describing the query in"):
            rows = self._handle.connection.execute(f"DESCRIBE SELECT * FROM (\n{statement}\n)").fetchall()
        return tuple(_make_column(row[0], row[1]) for row in rows)

    def find_columns(self, table: TableName) -> tuple[Column, ...] | None:
        """Columns of a table or view; None if there is none."""
        with self._errors("reading"):
            return read_columns(self._handle.connection, table)

    def encode(self, expression: str, data_type: DataType, native_type: str | None = None) -> Encoded:
        """An expression in its carrier; every cast made here keeps the whole value."""
        cast = _CARRIER_CASTS.get(data_type.kind)
        sql = f"CAST({expression} AS {cast})" if cast else to_canonical(expression, data_type)
        return Encoded(sql, carrier_type(data_type))

    def fetch_value(self, sql: str) -> object:
        """The first column of the first row; None without a row."""
        with self._errors("reading"):
            rows = self._handle.connection.execute(sql).fetchall()
        return rows[0][0] if rows else None

    def cancel(self) -> None:
        """Interrupt the statement that runs."""
        self._handle.connection.interrupt()

    def iter_batches(self, sql: str, schema: pa.Schema, *, batch_rows: int) -> Iterator[pa.RecordBatch]:
        """Rows of a query as record batches."""
        self._handle.set_busy(True)
        try:
            with self._errors("reading"), _arrow_errors(self._path):
                reader = self._handle.connection.sql(sql).to_arrow_reader(batch_rows)
                yield from limit_batches(iter_carriers(reader, schema), self._limits)
        finally:
            self._handle.set_busy(False)


def iter_carriers(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The same rows under exactly this schema."""
    import pyarrow as pa

    for batch in batches:
        arrays = [column.cast(field.type) for column, field in zip(batch.columns, schema, strict=True)]
        yield pa.record_batch(arrays, schema=schema)


@contextmanager
def _arrow_errors(path: Path) -> Iterator[None]:
    """DuckDB's errors in the middle of a stream come as Arrow's."""
    import pyarrow as pa

    try:
        yield
    except pa.ArrowException as exc:
        if "INTERRUPT" in str(exc).upper():
            raise StatementTimeoutError(f"reading {path}: the statement took too long and was stopped") from exc
        raise DatabaseError(
            f"reading {path}: a value of the query cannot be computed",
            hint="guard the query's expressions (TRY_CAST, NULLIF, CASE)",
        ) from exc


class DuckdbWriteSession(FileTables, MergesBySql, DuckdbChanges):
    """A write session; see `synqx_dagster.connectors.protocol.WriteSession`."""

    def __init__(self, path: Path, settings: Mapping[str, str]) -> None:
        self._path = path
        self._settings = settings
        self._handle: Handle | None = None
        self._in_transaction = False
        self._has_failed = False

    @property
    def _connection(self) -> Any:
        # Opened on first use: planning a load into a file that is not there must not create it.
        if self._handle is None:
            self._handle = open_writer(self._path, self._settings)
        return self._handle.connection

    @contextmanager
    def _errors(self, doing: str, columns: dict[str, str] | None = None) -> Iterator[None]:
        import duckdb

        try:
            yield
        except duckdb.Error as exc:
            self._has_failed = True
            raise wrap_error(exc, self._path, doing, columns) from exc
        except RuntimeError as exc:
            self._has_failed = True
            if was_interrupted(exc):
                raise KeyboardInterrupt from None
            raise

    def close(self) -> None:
        """Roll back what is open and let go of the file."""
        if self._handle is not None:
            self._handle.release()
            self._handle = None
        self._in_transaction = False

    def begin(self) -> None:
        """Start a transaction."""
        self._has_failed = False
        self.execute("BEGIN TRANSACTION")
        self._in_transaction = True

    def commit(self) -> None:
        """Make the transaction durable; refuses one in which a statement failed."""
        if self._has_failed:
            self.rollback()
            raise DatabaseError(f"writing to {self._path}: a statement failed, so the transaction cannot commit")
        try:
            self.execute("COMMIT")
        finally:
            # A COMMIT that fails has rolled back.
            self._in_transaction = False

    def rollback(self) -> None:
        """Undo the transaction, if one is open."""
        if self._in_transaction:
            self._in_transaction = False
            with self._errors("writing to"):
                self._connection.execute("ROLLBACK")
                # A failed transaction could not let go of the batches that it was given.
                self._connection.unregister(_STAGED_ROWS)

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> int:
        """Run one statement."""
        with self._errors("writing to"):
            rows = self._connection.execute(sql, list(parameters)).fetchall()
        # INSERT, UPDATE and DELETE answer with their count.
        return int(rows[0][0]) if len(rows) == 1 and isinstance(rows[0][0], int) else -1

    def fetch_all(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[object, ...]]:
        """Run one query."""
        with self._errors("reading"):
            rows: list[tuple[object, ...]] = self._connection.execute(sql, list(parameters)).fetchall()
        return rows

    def lock_row_suffix(self) -> str:
        """Nothing: one process writes at a time, and two transactions that write one row conflict."""
        return ""

    def find_columns(self, table: TableName) -> tuple[Column, ...] | None:
        """Columns of a table; None if it, or the whole file, is not there."""
        if self._handle is None and not self._path.exists():
            return None
        with self._errors("reading"):
            return read_columns(self._connection, table)

    def ensure_schema(self, table: TableName) -> None:
        """Create the table's schema if it is missing."""
        self.execute(f"CREATE SCHEMA IF NOT EXISTS {quote(table.schema or DEFAULT_SCHEMA)}")

    def _qualify(self, table: TableName) -> str:
        return qualify(table)

    def _spell(self, column: Column) -> str:
        return native_type(column)

    def write_batches(
        self, table: TableName, columns: Sequence[Column], batches: Iterable[pa.RecordBatch]
    ) -> tuple[int, int]:
        """Insert record batches in one streaming statement."""
        stream = Incoming(batches)
        if stream.schema is None:
            return 0, 0
        aliases = [field.name for field in stream.schema]
        names = ", ".join(quote(column.name) for column in columns)
        # Text is made DuckDB's in a query of its own: only of a bare column does a failing cast tell the name.
        texts = ", ".join(
            f"{from_arriving(field, column.data_type)} AS {field.name}"
            for field, column in zip(stream.schema, columns, strict=True)
        )
        values = ", ".join(_cast(alias, native_type(column)) for alias, column in zip(aliases, columns, strict=True))
        connection = self._connection
        connection.register(_STAGED_ROWS, stream.reader())
        try:
            with (
                self._errors("writing to", dict(zip(aliases, (column.name for column in columns), strict=True))),
                self._lean(len(columns)),
            ):
                connection.execute(
                    f"INSERT INTO {qualify(table)} ({names}) SELECT {values} FROM (SELECT {texts} FROM {_STAGED_ROWS})"
                )
        except SynqxError:
            if stream.failure is not None:
                # DuckDB wraps what the source of the batches raised; the source's own error says more.
                raise stream.failure from None
            raise
        connection.unregister(_STAGED_ROWS)
        return stream.rows, stream.bytes

    def _lean(self, columns: int) -> AbstractContextManager[None]:
        assert self._handle is not None
        if self._handle.has_busy_neighbour:
            # The rows may come from this very file, by a query that needs what its connection was promised.
            return nullcontext()
        return lean(self._connection, columns, self._settings["memory_limit"], self._settings.get("threads"))

    def add_primary_key(self, table: TableName, key: Sequence[str]) -> None:
        """Give a table its primary key; DuckDB itself would look for rows that share one at COMMIT."""
        names = ", ".join(map(quote, key))
        repeated = f"SELECT 1 FROM {qualify(table)} GROUP BY {names} HAVING count(*) > 1 LIMIT 1"
        if self.fetch_all(repeated):
            raise repeated_key(self._path, "writing to")
        self.execute(f"ALTER TABLE {qualify(table)} ADD PRIMARY KEY ({names})")

    # --- ranges: sessions of one process, one after another ---------------------------------------------------

    def create_shared_staging(
        self,
        target: TableName,
        columns: Sequence[Column],
        *,
        epoch: int,
        replaces: bool = True,
        key: Sequence[str] = (),
    ) -> TableName:
        """Create an empty table under a name that no load in one piece gives."""
        staging = TableName(f"_synqx_staging_{epoch}_{uuid.uuid4().hex[:12]}", target.schema)
        self.create_table(staging, columns, ())
        return staging

    def join_writers(self, staging: TableName) -> None:
        """Nothing: a process that has the file open keeps all others from it."""

    def evict_writers(self, staging: TableName) -> None:
        """Nothing: an attempt that died has let go of the file, and one that lives keeps this one from opening it."""

    def adopt_staging(self, staging: TableName) -> None:
        """Nothing: what is committed is there for every session."""

    def become_table(self, staging: TableName, target: TableName) -> bool:
        """Give it the target's name: copying the rows would take their room once more, and build the key row by row."""
        self.execute(f"ALTER TABLE {qualify(staging)} RENAME TO {quote(target.name)}")
        return True

    # --- publishing -------------------------------------------------------------------------------------------

    def create_current_index(self, table: TableName, key: Sequence[str], is_current: str) -> None:
        """Nothing: a scan of one column is quick, and an index over some of the rows is not known."""

    def find_unique_keys(self, table: TableName) -> tuple[tuple[str, ...], ...]:
        """Columns of each unique index; the primary key first."""
        if self.find_columns(table) is None:
            return ()
        return find_unique_keys(self.fetch_all, table, table.schema or DEFAULT_SCHEMA)

    def current_moment(self) -> str:
        """This process's clock."""
        return process_moment()

    def publish_replace(
        self, staging: TableName, target: TableName, columns: Sequence[Column], primary_key: Sequence[str]
    ) -> RowChanges:
        """Replace the target's rows, keeping the table and so all that hangs on it."""
        if self.find_columns(target) is None:
            self.create_table(target, columns, primary_key)
        deleted = self.execute(f"DELETE FROM {qualify(target)}")
        return RowChanges(self.publish_append(staging, target, columns).inserted, deleted=deleted)

    def publish_partition(
        self, staging: TableName, target: TableName, columns: Sequence[Column], inside: str
    ) -> RowChanges:
        """Replace the target's rows that hold a condition."""
        deleted = self.execute(f"DELETE FROM {qualify(target)} WHERE {inside}")
        return RowChanges(self.publish_append(staging, target, columns).inserted, deleted=deleted)

    def publish_append(self, staging: TableName, target: TableName, columns: Sequence[Column]) -> RowChanges:
        """Add the staged rows to the target."""
        names = ", ".join(quote(column.name) for column in columns)
        inserted = self.execute(f"INSERT INTO {qualify(target)} ({names}) SELECT {names} FROM {qualify(staging)}")
        self.drop_staging(staging)
        return RowChanges(inserted)

    def _merge_dialect(self, target: TableName) -> MergeDialect:
        return spell_merge()


def _cast(alias: str, native: str) -> str:
    """The cast of a staged value to its column's type, which fails instead of rounding."""
    cast = f"CAST({alias} AS {native})"
    if native not in _COARSE:
        return cast
    rounds = f"CAST({cast} AS TIMESTAMP) IS DISTINCT FROM CAST({alias} AS TIMESTAMP)"
    return f"CASE WHEN {rounds} THEN error('synqx rounds source column {alias}') ELSE {cast} END"
