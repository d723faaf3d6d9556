"""Read sessions over files.

Guarantee: a session reads the files as they were when it first named their table; one that changes under it is a
retryable error, never a mixture.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from synqx_dagster.connectors.files_database import FilesDatabase, read_statement
from synqx_dagster.connectors.files_options import FilesOptions
from synqx_dagster.connectors.files_store import Store
from synqx_dagster.connectors.files_types import encode, make_column
from synqx_dagster.connectors.protocol import Encoded, ReadLimits
from synqx_dagster.connectors.query_guard import limit_batches
from synqx_dagster.model.table import Column, TableName
from synqx_dagster.model.types import DataType

if TYPE_CHECKING:
    import pyarrow as pa

_INTERRUPT_AGAIN_SECONDS = 0.1


class FilesReadSession:
    """A read session; see `synqx_dagster.connectors.protocol.ReadSession`."""

    def __init__(self, store: Store, options: FilesOptions, limits: ReadLimits) -> None:
        self._limits = limits
        self._database = FilesDatabase(store, options, sample=bool(limits.max_rows))
        store.check()
        self._closed = threading.Event()
        self._watch: threading.Thread | None = None
        if limits.timeout_seconds:
            self._watch = threading.Thread(target=self._interrupt_late, name="synqx-files-limit", daemon=True)
            self._watch.start()

    def _interrupt_late(self) -> None:
        """Stop what runs after the time limit, again and again: an interrupt between two statements is lost."""
        wait_seconds = self._limits.timeout_seconds
        while not self._closed.wait(wait_seconds):
            self._database.cancel()
            wait_seconds = _INTERRUPT_AGAIN_SECONDS

    def close(self) -> None:
        """End the session and remove its files."""
        self._closed.set()
        if self._watch is not None:
            self._watch.join()
        self._database.close()

    def _prepare(self, sql: str) -> None:
        self._database.prepare(read_statement(sql))

    def describe_query(self, sql: str) -> tuple[Column, ...]:
        """Columns of a query's result; binds it, does not run it."""
        statement = sql.strip().rstrip(";")
        self._prepare(statement)
        with self._database.errors("describing the query in"):
            rows = self._database.connection.execute(f"DESCRIBE SELECT * FROM (\n{statement}\n)").fetchall()
        return tuple(make_column(row[0], row[1]) for row in rows)

    def find_columns(self, table: TableName) -> tuple[Column, ...] | None:
        """Columns of a table; None if there is none."""
        known = self._database.find(table)
        return known.columns if known is not None else None

    def encode(self, expression: str, data_type: DataType, native_type: str | None = None) -> Encoded:
        """An expression in its carrier; text of CSV and JSON lines arrives as text to be cast."""
        return encode(expression, data_type, native_type)

    def fetch_value(self, sql: str) -> object:
        """The first column of the first row; None without a row."""
        self._prepare(sql)
        with self._database.errors("reading"):
            rows = self._database.connection.execute(sql).fetchall()
        self._database.check_pins()
        return rows[0][0] if rows else None

    def cancel(self) -> None:
        """Interrupt the statement that runs."""
        self._database.cancel()

    def iter_batches(self, sql: str, schema: pa.Schema, *, batch_rows: int) -> Iterator[pa.RecordBatch]:
        """Rows of a query as record batches."""
        self._prepare(sql)
        with self._database.errors("reading"):
            reader = self._database.connection.sql(sql).to_arrow_reader(batch_rows)
            yield from limit_batches(self._iter_carriers(reader, schema), self._limits)

    def _iter_carriers(self, reader: Iterator[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        for batch in reader:
            arrays = [column.cast(field.type) for column, field in zip(batch.columns, schema, strict=True)]
            yield pa.record_batch(arrays, schema=schema)
        # Before the end is told: rows of a file that changed must not count.
        self._database.check_pins()
