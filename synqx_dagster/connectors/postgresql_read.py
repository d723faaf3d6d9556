"""Reads from PostgreSQL: one snapshot per session, rows as Arrow batches or as a binary COPY stream.

Guarantee: every statement of a session sees the same rows; a query is one statement that cannot write, whatever its
text holds, because the server itself prepares it as one statement in a read-only transaction.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

from synqx_dagster.connectors import postgresql_types
from synqx_dagster.connectors.postgresql_checksum import PostgresqlChecksums
from synqx_dagster.connectors.postgresql_columns import DEFAULT_SCHEMA, describe_cursor, find_columns
from synqx_dagster.connectors.postgresql_connect import open_adbc, settings_sql
from synqx_dagster.connectors.postgresql_dates import exact_dates
from synqx_dagster.connectors.postgresql_errors import wrap_errors
from synqx_dagster.connectors.postgresql_privileges import find_missing
from synqx_dagster.connectors.protocol import ConnectionConfig, Encoded, MissingPrivilege, ReadLimits, TableNeed
from synqx_dagster.connectors.queries import load_query
from synqx_dagster.connectors.query_guard import limit_batches
from synqx_dagster.errors import DatabaseError, QueryRefusedError, RetryableError
from synqx_dagster.model.table import Column, TableName
from synqx_dagster.model.types import DataType

if TYPE_CHECKING:
    import pyarrow as pa

    from synqx_dagster.connectors.postgresql_watch import AdbcWatch

#: What ADBC collects before it hands over a batch. Measured: 2 MiB takes as much CPU as 4 MiB and as ADBC's default of
#: 16 MiB, 1 MiB takes 3 % more; each batch is held a dozen times on its way.
BATCH_BYTES = 2 * 1024 * 1024

#: In a session with a byte limit, so that the limit is noticed soon.
LIMITED_BATCH_BYTES = 64 * 1024

_CURSOR = "synqx_query"

#: Opens a cursor over the query in the setting ``synqx.query``. PL/pgSQL plans the text as exactly one statement
#: that returns rows, and refuses stacked statements; psycopg2 on its own would send the text by the simple protocol,
#: which runs them all (``select 1; commit; drop table t``).
_OPEN_CURSOR = f"""
do $synqx$
declare
    query refcursor := '{_CURSOR}';
begin
    open query no scroll for execute pg_catalog.current_setting('synqx.query');
end
$synqx$
"""

#: Invalid cursor definition, read-only transaction, several commands in one prepared statement.
_NOT_ONE_QUERY = ("42P11", "25006", "42601")

_SNAPSHOT_ID = re.compile(r"[0-9A-F-]+")


class PostgresqlReadSession(PostgresqlChecksums):
    """A repeatable read, read only transaction; see `synqx_dagster.connectors.protocol.ReadSession`."""

    def __init__(
        self, connection: Any, config: ConnectionConfig, limits: ReadLimits, snapshot: str | None = None
    ) -> None:
        self._connection = connection
        self._config = config
        self._limits = limits
        self._action = f"reading from {config.name!r}"
        self._cursor = connection.cursor()
        #: The snapshot that this session has exported, or shares.
        self._snapshot = snapshot
        #: The ADBC cursor that a reading thread waits for, if there is one, and its watch.
        self._reading: tuple[AdbcWatch, Any] | None = None
        with wrap_errors(self._action):
            # Before anything that takes a snapshot, as the settings do.
            share = "" if snapshot is None else f"SET TRANSACTION SNAPSHOT '{_checked(snapshot)}'; "
            self._cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; " + share + self._settings())

    def _settings(self) -> str:
        timeout_seconds = self._limits.timeout_seconds or None
        return settings_sql(self._config, local=True, statement_timeout_seconds=timeout_seconds)

    def describe_query(self, sql: str) -> tuple[Column, ...]:
        """Columns of a query's result; the query is planned, no row is computed."""
        with self._open_cursor(sql):
            self._cursor.execute(f"FETCH 0 FROM {_CURSOR}")
            description = self._cursor.description
        with wrap_errors(self._action):
            return describe_cursor(self._cursor, description)

    def find_columns(self, table: TableName) -> tuple[Column, ...] | None:
        """Columns of a table or view in order; None if there is none."""
        with wrap_errors(self._action):
            return find_columns(self._cursor, table)

    def find_missing(
        self, needs: Sequence[TableNeed], *, creates_beside: TableName | None = None
    ) -> list[MissingPrivilege]:
        """The privileges that the user lacks."""
        with wrap_errors(self._action):
            return find_missing(self._cursor, needs, creates_beside)

    def read_change_counter(self, table: TableName) -> str | None:
        """What the server counted in a table and its partitions; None where there is no such table."""
        parameters = {"schema": table.schema or DEFAULT_SCHEMA, "table": table.name}
        with wrap_errors(self._action):
            self._cursor.execute(load_query("postgresql_changes"), parameters)
            row = self._cursor.fetchone()
        return None if row is None else str(row[0])

    def encode(self, expression: str, data_type: DataType, native_type: str | None = None) -> Encoded:
        """Wrap an expression so that its value arrives exactly."""
        return postgresql_types.encode(expression, data_type, native_type)

    def encode_direct(self, expression: str, data_type: DataType, native_type: str | None = None) -> Encoded | None:
        """Wrap an expression of a type that ADBC reads quicker than its text."""
        return postgresql_types.encode_direct(expression, data_type, native_type)

    def fetch_value(self, sql: str) -> object:
        """The first column of the first row of a query; None without a row."""
        with self._open_cursor(sql):
            self._cursor.execute(f"FETCH 1 FROM {_CURSOR}")
            row = self._cursor.fetchone()
        return None if row is None else row[0]

    def cancel(self) -> None:
        """Cancel the statement that runs, on either of the session's connections."""
        import adbc_driver_manager
        import psycopg2

        reading = self._reading
        with contextlib.suppress(psycopg2.Error, adbc_driver_manager.Error):
            if reading is not None:
                watch, cursor = reading
                watch.cancel(cursor)
            else:
                self._connection.cancel()

    def iter_batches(self, sql: str, schema: pa.Schema, *, batch_rows: int) -> Iterator[pa.RecordBatch]:
        """Rows of a query as record batches of exactly `schema`, from the session's snapshot.

        ADBC reads binary COPY straight into Arrow on a connection of its own that joins the snapshot. Against COPY
        in CSV parsed by pyarrow (500,000 rows of 7 columns): 0.8 s to 1.05 s; and pyarrow's parser fails on a row
        that is longer than its block, cannot read bytea, and takes a pipe and a thread.
        """
        batches = self._iter_batches(sql, schema, batch_rows)
        return limit_batches(batches, self._limits)

    def _iter_batches(self, sql: str, schema: pa.Schema, batch_rows: int) -> Iterator[pa.RecordBatch]:
        import adbc_driver_manager
        import adbc_driver_postgresql
        import pyarrow as pa
        from adbc_driver_manager._reader import AdbcRecordBatchReader

        batch_bytes = LIMITED_BATCH_BYTES if self._limits.max_bytes else BATCH_BYTES
        opened, watch = open_adbc(self._config)
        with _refuse_writes(self._action), contextlib.closing(opened) as connection, contextlib.closing(watch):
            cursor = connection.cursor()
            try:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
                cursor.execute(f"SET TRANSACTION SNAPSHOT '{self.export_snapshot()}'")
                cursor.execute(self._settings())
                watch.start(cursor)
                hint = adbc_driver_postgresql.StatementOptions.BATCH_SIZE_HINT_BYTES.value
                cursor.set_options(**{hint: str(batch_bytes)})
                self._reading = (watch, cursor)
                with watch.waiting():
                    cursor.execute(sql)
                    # The handle owns the stream until it has been imported.
                    handle = cursor.take_stream()
                # Not pyarrow's own reader: it loses the SQLSTATE of an error that comes half way.
                reader = AdbcRecordBatchReader._import_from_c(handle.address)
                finished = False
                try:
                    _check_types(reader.schema, schema)
                    for batch in self._received(reader, watch):
                        for start in range(0, batch.num_rows, batch_rows):
                            part = batch.slice(start, batch_rows)
                            columns = [exact_dates(one) if one.type == pa.date32() else one for one in part.columns]
                            yield pa.RecordBatch.from_arrays(columns, schema=schema)
                    finished = True
                finally:
                    if not finished:
                        # Closing a reader half way would first read all the rest.
                        watch.cancel(cursor)
                    reader.close()
            finally:
                self._reading = None
                with contextlib.suppress(adbc_driver_manager.Error):
                    # What ended the read is being raised already; after a cancel the driver complains here.
                    cursor.close()

    def _received(self, reader: Any, watch: AdbcWatch) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        batches = iter(reader)
        try:
            while True:
                with watch.waiting():
                    batch = next(batches, None)
                if batch is None:
                    return
                yield batch
        except (OSError, pa.ArrowException):
            # The driver had nothing to say beyond the stream's own text, which may quote a value.
            raise RetryableError(
                f"{self._action}: the rows stopped half way", hint="the load may be run again"
            ) from None

    def copy_out(self, sql: str, sink: BinaryIO) -> int:
        """Write a query's rows in binary COPY format; returns how many the server has sent."""
        # COPY goes by the simple protocol, so the text is planned on its own first: what opens as a cursor is one
        # statement, and as one it cannot close the parenthesis.
        with self._open_cursor(sql):
            pass
        with wrap_errors(self._action):
            self._cursor.copy_expert(f"COPY (\n{sql}\n) TO STDOUT (FORMAT binary)", sink)
        rows: int = self._cursor.rowcount
        return rows

    def close(self) -> None:
        """End the transaction; the connection itself belongs to the pool."""
        self._cursor.close()

    def export_snapshot(self) -> str:
        """The name of the session's snapshot; others can share it as long as this session is open."""
        if self._snapshot is None:
            # The exporter idles while others read; its snapshot must outlive the idle time-out.
            self._cursor.execute(
                "SELECT pg_catalog.pg_export_snapshot(),"
                " pg_catalog.set_config('idle_in_transaction_session_timeout', '0', true)"
            )
            self._snapshot = _checked(str(self._cursor.fetchone()[0]))
        return self._snapshot

    @contextlib.contextmanager
    def _open_cursor(self, sql: str) -> Iterator[None]:
        with _refuse_writes(self._action):
            self._cursor.execute("SELECT pg_catalog.set_config('synqx.query', %s, true)", (sql,))
            self._cursor.execute(_OPEN_CURSOR)
            yield
            self._cursor.execute(f"CLOSE {_CURSOR}")


@contextlib.contextmanager
def _refuse_writes(action: str) -> Iterator[None]:
    """Errors as `wrap_errors` makes them; what the server refused for not being one read-only query is named so."""
    try:
        with wrap_errors(action):
            yield
    except DatabaseError as error:
        if error.context.get("sqlstate") not in _NOT_ONE_QUERY:
            raise
        raise QueryRefusedError(error.message, hint="a source is read by exactly one SELECT") from None


def _checked(snapshot: str) -> str:
    if not _SNAPSHOT_ID.fullmatch(snapshot):
        raise DatabaseError("a snapshot has an unusable name")
    return snapshot


def _check_types(delivered: pa.Schema, wanted: pa.Schema) -> None:
    if delivered.types == wanted.types:
        return
    for have, want in zip(delivered, wanted, strict=False):
        if have.type != want.type:
            raise DatabaseError(f"column {want.name!r} arrives as {have.type}, expected {want.type}")
    raise DatabaseError(f"the query has {len(delivered)} columns, expected {len(wanted)}")
