"""A read session over exports: each is fetched once, into a DuckDB that answers everything from then on.

Guarantee: all statements of a session see the same rows, whatever the service does meanwhile; a query reaches the
copies and nothing else.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from synqx_connector_ndjson.download import download
from synqx_connector_ndjson.lines import Cell, infer_columns, parse_line, to_carrier
from synqx_dagster.connectors.protocol import ConnectionConfig, Encoded, ReadLimits, carrier_type
from synqx_dagster.connectors.query_guard import limit_batches
from synqx_dagster.errors import BadRowsError, DatabaseError, SourceChangedError, StatementTimeoutError
from synqx_dagster.model.table import Column, TableName
from synqx_dagster.model.types import DataType

if TYPE_CHECKING:
    import pyarrow as pa

#: A mapping's source_query is DuckDB's SQL.
DIALECT = "duckdb"

INSERT_ROWS = 10_000


class NdjsonReadSession:
    """A copy of the exports in a DuckDB; see `synqx_dagster.connectors.protocol.ReadSession`."""

    def __init__(self, config: ConnectionConfig, tables: Sequence[str], limits: ReadLimits) -> None:
        import duckdb

        self._config = config
        self._tables = tables
        self._limits = limits
        self._deadline = time.monotonic() + limits.timeout_seconds if limits.timeout_seconds else None
        self._columns: dict[str, tuple[Column, ...]] = {}
        self._directory = Path(tempfile.mkdtemp(prefix="synqx-ndjson-"))
        self._database: Any = duckdb.connect(
            str(self._directory / "copy.duckdb"), config={"memory_limit": "512MB", "threads": "2"}
        )
        # A query must reach nothing but the copy.
        self._database.execute("SET enable_external_access = false")
        self._database.execute("SET lock_configuration = true")

    def close(self) -> None:
        """Throw the copy away."""
        self._database.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    # --- the copy -------------------------------------------------------------------------------------------

    def find_columns(self, table: TableName) -> tuple[Column, ...] | None:
        """Columns of a table; None if the connection does not name it."""
        known = {name.lower(): name for name in self._tables}
        name = known.get(table.name.lower())
        if name is None or table.schema not in (None, "main"):
            return None
        if name not in self._columns:
            self._columns[name] = self._fetch(name)
        return self._columns[name]

    def _fetch(self, name: str) -> tuple[Column, ...]:
        import pyarrow as pa

        with (self._directory / "lines").open("w+b") as file:
            download(self._config, name, file, timeout_seconds=self._seconds_left())
            facts = infer_columns(cells for cells in _iter_lines(file))
            # A file without lines has no columns, and so no table.
            columns = tuple(Column(key, found.data_type, found.nullable) for key, found in facts.items())
            if not columns:
                raise SourceChangedError(f"the export {name!r} has no line, so nobody knows its columns")
            schema = pa.schema([pa.field(f"c{at}", carrier_type(c.data_type)) for at, c in enumerate(columns)])
            spelt = ", ".join(f"{quote(c.name)} {_spell(c.data_type)}" for c in columns)
            with self._errors():
                self._database.execute(f"CREATE TABLE {qualify(TableName(name))} ({spelt})")
            for batch in _batches(_iter_lines(file), columns, schema):
                self._insert(name, columns, batch)
        return columns

    def _insert(self, name: str, columns: Sequence[Column], batch: pa.RecordBatch) -> None:
        values = ", ".join(f"CAST(c{at} AS {_spell(column.data_type)})" for at, column in enumerate(columns))
        self._database.register("arriving", batch)
        with self._errors():
            self._database.execute(f"INSERT INTO {qualify(TableName(name))} SELECT {values} FROM arriving")
        self._database.unregister("arriving")

    def _fetch_named(self, sql: str) -> None:
        """Fetch the tables that a query names."""
        import sqlglot
        from sqlglot import exp

        for table in sqlglot.parse_one(sql, dialect=DIALECT).find_all(exp.Table):
            self.find_columns(TableName(table.name, table.db or None))

    # --- reading --------------------------------------------------------------------------------------------

    @contextmanager
    def _errors(self) -> Iterator[None]:
        import duckdb

        try:
            yield
        except duckdb.InterruptException as exc:
            raise StatementTimeoutError("the query took too long and was stopped") from exc
        except (duckdb.CatalogException, duckdb.BinderException, duckdb.ParserException) as exc:
            # These speak of names in the query.
            raise DatabaseError(str(exc).splitlines()[0]) from exc
        except duckdb.Error as exc:
            # DuckDB quotes the value that it failed on.
            raise DatabaseError(f"the query failed: {type(exc).__name__}") from None

    @contextmanager
    def _limited(self) -> Iterator[None]:
        """Stop what runs in here when the session's time is up."""
        seconds = self._seconds_left()
        timer = threading.Timer(seconds, self.cancel) if seconds is not None else None
        if timer is not None:
            timer.daemon = True
            timer.start()
        try:
            with self._errors():
                yield
        finally:
            if timer is not None:
                timer.cancel()

    def _seconds_left(self) -> float | None:
        return None if self._deadline is None else max(0.001, self._deadline - time.monotonic())

    def describe_query(self, sql: str) -> tuple[Column, ...]:
        """Columns of a query's result; binds it, does not run it."""
        self._fetch_named(sql)
        with self._limited():
            rows = self._database.execute(f"DESCRIBE SELECT * FROM (\n{sql.strip().rstrip(';')}\n)").fetchall()
        return tuple(Column(row[0], _parse(row[1])) for row in rows)

    def encode(self, expression: str, data_type: DataType, native_type: str | None = None) -> Encoded:
        """An expression in its carrier: a cast, so that what arrives has that type whatever the expression had."""
        casts = {"bigint": "BIGINT", "integer": "INTEGER", "smallint": "SMALLINT", "boolean": "BOOLEAN"}
        casts |= {"float": "DOUBLE", "real": "FLOAT", "binary": "BLOB"}
        return Encoded(f"CAST({expression} AS {casts.get(data_type.kind, 'VARCHAR')})", carrier_type(data_type))

    def fetch_value(self, sql: str) -> object:
        """The first column of the first row; None without a row."""
        self._fetch_named(sql)
        with self._limited():
            # All of them: a result with rows left would keep the copy from taking more tables.
            rows = self._database.execute(sql).fetchall()
        return rows[0][0] if rows else None

    def cancel(self) -> None:
        """Interrupt the statement that runs."""
        self._database.interrupt()

    def iter_batches(self, sql: str, schema: pa.Schema, *, batch_rows: int) -> Iterator[pa.RecordBatch]:
        """Rows of a query as record batches of exactly this schema."""
        import pyarrow as pa

        self._fetch_named(sql)
        with self._limited():
            reader = self._database.sql(sql).to_arrow_reader(batch_rows)
            batches = (
                pa.record_batch(
                    [column.cast(field.type) for column, field in zip(batch.columns, schema, strict=True)],
                    schema=schema,
                )
                for batch in reader
            )
            yield from limit_batches(batches, self._limits)


def _iter_lines(file: IO[bytes]) -> Iterator[dict[str, Cell]]:
    file.seek(0)
    for number, line in enumerate(file, start=1):
        try:
            text = line.decode()
        except UnicodeDecodeError:
            raise BadRowsError(f"line {number:,} is not UTF-8", line=number) from None
        if text.strip():
            yield parse_line(text, number)


def _batches(
    lines: Iterator[dict[str, Cell]], columns: Sequence[Column], schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    rows: list[list[object]] = []

    def batch() -> pa.RecordBatch:
        arrays = [pa.array(values, field.type) for values, field in zip(zip(*rows, strict=True), schema, strict=True)]
        rows.clear()
        return pa.record_batch(arrays, schema=schema)

    for cells in lines:
        rows.append([to_carrier(cells.get(column.name), column.data_type) for column in columns])
        if len(rows) == INSERT_ROWS:
            yield batch()
    if rows:
        yield batch()


def _spell(data_type: DataType) -> str:
    """How the copy keeps a type. JSON and endless decimals are text there: DuckDB's own types would change them."""
    match data_type.kind:
        case "bigint" | "boolean":
            return data_type.kind.upper()
        case "decimal" if data_type.precision is not None:
            return f"DECIMAL({data_type.precision},{data_type.scale or 0})"
        case _:
            return "VARCHAR"


def _parse(native: str) -> DataType:
    """The logical type of a query's column; what DuckDB computes beyond these is text, or cast by the query."""
    if native.startswith("DECIMAL("):
        return DataType.parse(native.lower())
    known = {"BIGINT": "bigint", "INTEGER": "integer", "SMALLINT": "smallint", "BOOLEAN": "boolean"}
    known |= {"DOUBLE": "float", "FLOAT": "real", "BLOB": "binary", "HUGEINT": "decimal(38,0)"}
    known |= {"DATE": "date", "TIME": "time", "TIMESTAMP": "timestamp", "UUID": "uuid"}
    return DataType.parse(known.get(native, "string"))


def quote(identifier: str) -> str:
    """An identifier in double quotes."""
    if "\x00" in identifier:
        raise DatabaseError("a name must not hold a NUL character")
    return '"' + identifier.replace('"', '""') + '"'


def qualify(table: TableName) -> str:
    """A table's quoted name; there is one schema, DuckDB's ``main``."""
    return f"{quote(table.schema or 'main')}.{quote(table.name)}"
