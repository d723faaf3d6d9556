"""Read and write sessions of a SQLite file.

Guarantee: a read session sees one snapshot and cannot write to the file or open another one; a write session takes
the file's only write lock when its transaction begins, so two loads take turns instead of meeting at the commit.
"""

from __future__ import annotations

import sqlite3
import time
import urllib.parse
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from synqx_dagster.connectors.file_database import FileTables, process_moment, quote
from synqx_dagster.connectors.merge_sql import MergeDialect, MergesBySql
from synqx_dagster.connectors.protocol import (
    Encoded,
    MergeSpec,
    ReadLimits,
    RowChanges,
    untrusted_text,
)
from synqx_dagster.connectors.query_guard import limit_batches
from synqx_dagster.connectors.row_batches import iter_row_batches
from synqx_dagster.connectors.sqlite_errors import wrap_error
from synqx_dagster.connectors.sqlite_merge import (
    find_collations,
    find_orphans,
    find_unique_keys,
    refuse_orphans,
    spell_merge,
)
from synqx_dagster.connectors.sqlite_types import DIALECT, parse_declaration, spell
from synqx_dagster.errors import BadRowsError, ConnectionFailedError
from synqx_dagster.model.table import Column, TableName, primary_key_of
from synqx_dagster.model.types import DataType

if TYPE_CHECKING:
    import pyarrow as pa

SqliteValue = str | bytes | int | float | None

_DESCRIBED_VIEW = '"_synqx_described"'

#: SQLite calls back after so many of its instructions, some milliseconds of work.
_PROGRESS_INSTRUCTIONS = 20_000

_COLUMNS_SQL = """
SELECT name, type, "notnull", dflt_value, pk, hidden FROM pragma_table_xinfo(?, ?) WHERE hidden <> 1 ORDER BY cid
"""


def qualify(table: TableName) -> str:
    """A table's quoted name; ``main`` is the only schema of a file."""
    name = quote(table.name)
    return f"{quote(table.schema)}.{name}" if table.schema is not None else name


def open_file(path: Path, mode: Literal["ro", "rwc"], timeout_seconds: float) -> sqlite3.Connection:
    """Open a SQLite file; transactions are the caller's.

    Args:
        timeout_seconds: How long a statement waits for another connection's lock.

    Raises:
        ConnectionFailedError, RetryableError: The file is missing, not SQLite, not permitted, or locked.
    """
    if path.is_dir():
        raise ConnectionFailedError(f"{path} is a directory", reason="database_missing", hint="give a file's path")
    uri = f"file:{urllib.parse.quote(str(path))}?mode={mode}"
    try:
        connection = sqlite3.connect(
            uri, uri=True, isolation_level=None, check_same_thread=False, timeout=timeout_seconds
        )
    except sqlite3.Error as exc:
        raise wrap_error(exc, path, "opening") from exc
    try:
        # Reads the file's header: SQLite itself opens it lazily.
        connection.execute("PRAGMA schema_version").fetchone()
    except sqlite3.Error as exc:
        connection.close()
        raise wrap_error(exc, path, "opening") from exc
    return connection


def read_columns(connection: sqlite3.Connection, name: str, schema: str) -> tuple[Column, ...] | None:
    """Columns of a table or view as SQLite declares them; None if there is none."""
    rows = connection.execute(_COLUMNS_SQL, (name, schema)).fetchall()
    keys = [row for row in rows if row[4]]
    columns = []
    for column_name, declared, not_null, default, key_position, hidden in rows:
        # Such a column is the table's row id: never NULL, and numbered by SQLite when it is left out.
        is_row_id = len(keys) == 1 and key_position == 1 and declared.upper() == "INTEGER"
        columns.append(
            Column(
                column_name,
                parse_declaration(declared),
                nullable=not (not_null or is_row_id),
                native_type=declared or None,
                native_dialect=DIALECT if declared else None,
                key_position=key_position or None,
                generated=hidden in (2, 3),
                has_default=default is not None or is_row_id,
            )
        )
    return tuple(columns) or None


def to_plain_digits(value: SqliteValue) -> SqliteValue:
    """A REAL as decimal digits without an exponent, by its shortest exact form; other values unchanged."""
    if isinstance(value, float) and value - value == 0:
        return format(Decimal(repr(value)), "f")
    return value


class SqliteReadSession:
    """A read session; see `synqx_dagster.connectors.protocol.ReadSession`."""

    def __init__(self, path: Path, limits: ReadLimits, lock_timeout_seconds: float) -> None:
        self._path = path
        self._limits = limits
        self._connection = open_file(path, "ro", lock_timeout_seconds)
        self._connection.set_authorizer(_authorize_read)
        self._connection.create_function("synqx_decimal", 1, to_plain_digits, deterministic=True)
        if limits.timeout_seconds:
            deadline = time.monotonic() + limits.timeout_seconds
            self._connection.set_progress_handler(lambda: time.monotonic() > deadline, _PROGRESS_INSTRUCTIONS)
        try:
            self._connection.execute("BEGIN DEFERRED")
            # The snapshot is taken by the first read, not by BEGIN.
            self._connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        except sqlite3.Error as exc:
            self._connection.close()
            raise wrap_error(exc, path, "reading") from exc

    def close(self) -> None:
        """End the snapshot."""
        self._connection.close()

    def describe_query(self, sql: str) -> tuple[Column, ...]:
        """Columns of a query: those that come straight from a table keep their declared type, others are text."""
        statement = sql.strip().rstrip(";")
        try:
            # Python's driver does not tell declared types, a view does.
            self._connection.execute(f"CREATE TEMP VIEW {_DESCRIBED_VIEW} AS {statement}")
            try:
                columns = read_columns(self._connection, _DESCRIBED_VIEW.strip('"'), "temp")
            finally:
                self._connection.execute(f"DROP VIEW temp.{_DESCRIBED_VIEW}")
        except sqlite3.Error as exc:
            raise wrap_error(exc, self._path, "describing the query in") from exc
        return columns or ()

    def find_columns(self, table: TableName) -> tuple[Column, ...] | None:
        """Columns of a table or view; None if there is none."""
        try:
            return read_columns(self._connection, table.name, table.schema or "main")
        except sqlite3.Error as exc:
            raise wrap_error(exc, self._path, "reading") from exc

    def encode(self, expression: str, data_type: DataType, native_type: str | None = None) -> Encoded:
        """Text and blobs arrive as such; of every other type the values may be anything, so they arrive as text."""
        import pyarrow as pa

        match data_type.kind:
            case "string":
                return Encoded(expression, pa.string())
            case "binary":
                return Encoded(expression, pa.binary())
            case "boolean":
                sql = f"CASE {expression} WHEN 0 THEN 'false' WHEN 1 THEN 'true' ELSE {expression} END"
                return Encoded(sql, untrusted_text())
            case "decimal":
                return Encoded(f"synqx_decimal({expression})", untrusted_text())
            case _:
                return Encoded(expression, untrusted_text())

    def fetch_value(self, sql: str) -> object:
        """The first column of the first row; None without a row."""
        try:
            row = self._connection.execute(sql).fetchone()
        except sqlite3.Error as exc:
            raise wrap_error(exc, self._path, "reading") from exc
        return row[0] if row else None

    def cancel(self) -> None:
        """Interrupt the statement that runs."""
        self._connection.interrupt()

    def iter_batches(self, sql: str, schema: pa.Schema, *, batch_rows: int) -> Iterator[pa.RecordBatch]:
        """Rows of a query as record batches."""
        try:
            cursor = self._connection.execute(sql)
            try:
                batches = iter_row_batches(cursor.fetchmany, to_array, schema, batch_rows)
                yield from limit_batches(batches, self._limits)
            finally:
                cursor.close()
        except sqlite3.Error as exc:
            raise wrap_error(exc, self._path, "reading") from exc


def to_array(values: Sequence[object], field: pa.Field) -> pa.Array:
    """One column's values as SQLite stored them, as the Arrow type that `SqliteReadSession.encode` promised.

    Raises:
        BadRowsError: A blob where text or a number is declared, or a number where a blob is.
    """
    import pyarrow as pa

    found = set(map(type, values))
    found.discard(type(None))
    if pa.types.is_binary(field.type):
        if not found <= {bytes, str}:
            raise BadRowsError(
                f"column {field.name!r} is declared as a blob and holds a number",
                hint="select CAST(column AS BLOB), or the number, in a source_query",
                column=field.name,
            )
        if str in found:
            values = [value.encode() if isinstance(value, str) else value for value in values]
        return pa.array(values, field.type)
    if pa.types.is_integer(field.type):
        return pa.array(values, field.type)
    if bytes in found:
        raise BadRowsError(
            f"column {field.name!r} holds a blob where text or a number is declared",
            hint="select CAST(column AS TEXT) or hex(column) in a source_query",
            column=field.name,
        )
    if found <= {str}:
        return pa.array(values, field.type)
    if found == {int}:
        return pa.array(values, pa.int64()).cast(field.type)
    return pa.array([_to_text(value) for value in values], field.type)


def _to_text(value: object) -> str | None:
    if isinstance(value, float):
        # repr is the shortest text that reads back as the same double; SQLite's own CAST keeps 15 digits only.
        return {"inf": "Infinity", "-inf": "-Infinity"}.get(repr(value), repr(value))
    return value if value is None or isinstance(value, str) else str(value)


def _authorize_read(
    action: int, first: str | None, second: str | None, database: str | None, trigger: str | None
) -> int:
    # A file opened read-only could still create another one by ATTACH.
    return sqlite3.SQLITE_DENY if action in (sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH) else sqlite3.SQLITE_OK


class SqliteWriteSession(FileTables, MergesBySql):
    """A write session; see `synqx_dagster.connectors.protocol.WriteSession`."""

    def __init__(self, path: Path, lock_timeout_seconds: float) -> None:
        self._path = path
        self._lock_timeout_seconds = lock_timeout_seconds
        self._opened: sqlite3.Connection | None = None

    @property
    def _connection(self) -> sqlite3.Connection:
        # Opened on first use: planning a load into a file that is not there must not create it.
        if self._opened is None:
            is_new = not self._path.exists()
            self._opened = open_file(self._path, "rwc", self._lock_timeout_seconds)
            # An action of a foreign key would delete rows of other tables while this one's are replaced.
            self._opened.execute("PRAGMA foreign_keys = OFF")
            if is_new:
                # In a file of our own readers do not wait for a load.
                self._opened.execute("PRAGMA journal_mode = WAL")
        return self._opened

    def close(self) -> None:
        """Roll back what is open and close the file."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def begin(self) -> None:
        """Start a transaction with the file's write lock."""
        self.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Make the transaction durable."""
        self.execute("COMMIT")

    def rollback(self) -> None:
        """Undo the transaction, if one is open."""
        if self._opened is not None and self._opened.in_transaction:
            self.execute("ROLLBACK")

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> int:
        """Run one statement."""
        try:
            return self._connection.execute(sql, tuple(parameters)).rowcount
        except sqlite3.Error as exc:
            raise wrap_error(exc, self._path, "writing to") from exc

    def fetch_all(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[object, ...]]:
        """Run one query."""
        try:
            return self._connection.execute(sql, tuple(parameters)).fetchall()
        except sqlite3.Error as exc:
            raise wrap_error(exc, self._path, "reading") from exc

    def lock_row_suffix(self) -> str:
        """Nothing: the whole file is locked."""
        return ""

    def find_columns(self, table: TableName) -> tuple[Column, ...] | None:
        """Columns of a table; None if it, or the whole file, is not there."""
        if self._opened is None and not self._path.exists():
            return None
        try:
            return read_columns(self._connection, table.name, table.schema or "main")
        except sqlite3.Error as exc:
            raise wrap_error(exc, self._path, "reading") from exc

    def ensure_schema(self, table: TableName) -> None:
        """A file has one schema, and it is there."""

    def _qualify(self, table: TableName) -> str:
        return qualify(table)

    def _spell(self, column: Column) -> str:
        return spell(column)

    def write_batches(
        self, table: TableName, columns: Sequence[Column], batches: Iterable[pa.RecordBatch]
    ) -> tuple[int, int]:
        """Insert record batches."""
        names = ", ".join(quote(column.name) for column in columns)
        marks = ", ".join("?" for _ in columns)
        sql = f"INSERT INTO {qualify(table)} ({names}) VALUES ({marks})"
        rows = bytes_written = 0
        for batch in batches:
            _refuse_nan(batch)
            values = zip(*(column.to_pylist() for column in batch.columns), strict=True)
            try:
                self._connection.executemany(sql, values)
            except sqlite3.Error as exc:
                raise wrap_error(exc, self._path, "writing to") from exc
            rows += batch.num_rows
            bytes_written += batch.nbytes
        return rows, bytes_written

    def create_current_index(self, table: TableName, key: Sequence[str], is_current: str) -> None:
        """Create an index over the current versions, which also keeps a key from having two."""
        index = qualify(TableName(f"_synqx_current_{table.name}", table.schema))
        names = ", ".join(map(quote, key))
        self.execute(f"CREATE UNIQUE INDEX {index} ON {quote(table.name)} ({names}) WHERE {quote(is_current)}")

    def find_unique_keys(self, table: TableName) -> tuple[tuple[str, ...], ...]:
        """Columns of each unique index over all rows, and the primary key."""
        columns = self.find_columns(table)
        if columns is None:
            return ()
        keys = find_unique_keys(self.fetch_all, table)
        primary_key = primary_key_of(columns)
        return keys if not primary_key or primary_key in keys else (primary_key, *keys)

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
        """Replace the target's rows that hold a condition; refused where that leaves rows of other tables alone."""
        orphans = find_orphans(self.fetch_all, target)
        deleted = self.execute(f"DELETE FROM {qualify(target)} WHERE {inside}")
        inserted = self.publish_append(staging, target, columns).inserted
        refuse_orphans(orphans, find_orphans(self.fetch_all, target), target)
        return RowChanges(inserted, deleted=deleted)

    def publish_append(self, staging: TableName, target: TableName, columns: Sequence[Column]) -> RowChanges:
        """Add the staged rows to the target."""
        names = ", ".join(quote(column.name) for column in columns)
        inserted = self.execute(f"INSERT INTO {qualify(target)} ({names}) SELECT {names} FROM {qualify(staging)}")
        self.drop_staging(staging)
        return RowChanges(inserted)

    def publish_merge(
        self, staging: TableName, target: TableName, columns: Sequence[Column], merge: MergeSpec
    ) -> RowChanges:
        """Merge the staged rows into the target."""
        orphans = find_orphans(self.fetch_all, target)
        changes = super().publish_merge(staging, target, columns, merge)
        refuse_orphans(orphans, find_orphans(self.fetch_all, target), target)
        return changes

    def _key_collations(self, target: TableName) -> dict[str, str]:
        return find_collations(self.fetch_all, target)

    def _merge_dialect(self, target: TableName) -> MergeDialect:
        return spell_merge(find_collations(self.fetch_all, target))

    def _prepare_merge(self, staging: TableName, key: Sequence[str]) -> None:
        index = qualify(TableName(f"_synqx_key_of_{staging.name}", staging.schema))
        self.execute(f"CREATE INDEX {index} ON {quote(staging.name)} ({', '.join(map(quote, key))})")


def _refuse_nan(batch: pa.RecordBatch) -> None:
    """SQLite would store NaN as NULL without a word."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for field, column in zip(batch.schema, batch.columns, strict=True):
        if pa.types.is_floating(field.type) and pc.any(pc.is_nan(column)).as_py():
            raise BadRowsError(f"column {field.name!r} holds NaN, which SQLite cannot store", column=field.name)
