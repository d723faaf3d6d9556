"""A step's rows as a source of the transfer engine, so that a load node loads as every mapping does.

Lanes, load modes, the ledger, the fence, quarantine and checks are the engine's; what it reads is the end of a
`StepStream`, once in each read session.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synqx_dagster.connectors.duckdb_session import DuckdbReadSession, iter_carriers
from synqx_dagster.connectors.duckdb_types import DIALECT, holds, native_type
from synqx_dagster.connectors.file_database import quote
from synqx_dagster.connectors.protocol import (
    Capabilities,
    ConnectionConfig,
    ConnectionReport,
    ReadLimits,
    TableDescription,
    WriteSession,
)
from synqx_dagster.errors import FatalError
from synqx_dagster.model.table import Column, TableName
from synqx_dagster.model.types import DataType
from synqx_dagster.pipelines.loading import ROWS
from synqx_dagster.pipelines.stream import StepStream, StreamEnd

if TYPE_CHECKING:
    import pyarrow as pa


class StreamReadSession(DuckdbReadSession):
    """Reads a step's rows, in one statement and no other."""

    def __init__(self, stream: StepStream, end: StreamEnd, path: Path) -> None:
        # Not the parent's, which opens a file.
        self._path = path
        self._limits = ReadLimits()
        self._handle: Any = _Held(end.database.connection)
        self._closed = threading.Event()
        self._watch = None
        self._stream = stream
        self._end = end
        end.database.view(ROWS, f"SELECT * FROM {end.sql_name}")

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        import duckdb

        try:
            yield
        except duckdb.Error as exc:
            raise self._end.database.explain(exc) from None

    def cancel(self) -> None:
        """End everything that works on the rows."""
        self._stream.cancel()

    def iter_batches(self, sql: str, schema: pa.Schema, *, batch_rows: int) -> Iterator[pa.RecordBatch]:
        """The rows in their carriers."""
        end = self._end
        batches: Iterator[pa.RecordBatch] = end.database.stream(sql, batch_rows)
        if end.stage is not None:
            batches = self._stream.run_stage(end.stage, batches, end.own, end.waited)
        yield from self._stream.noting(iter_carriers(batches, schema))


class _Held:
    """A connection that somebody else closes."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    def set_busy(self, busy: bool) -> None:
        """Nobody waits for it."""

    def release(self) -> None:
        """Somebody else closes it."""


class StreamConnector:
    """The end of a step as a connection that can be read; see `synqx_dagster.connectors.protocol.Connector`.

    Args:
        name: What messages call it.
        open_stream: Starts the step anew.
    """

    db_type: str = "pipeline"
    dialect: str = DIALECT
    capabilities: Capabilities = Capabilities(writes=False, default_schema="main", folds_case=True)

    def __init__(self, name: str, open_stream: Callable[[], AbstractContextManager[StepStream]]) -> None:
        self.config = ConnectionConfig(name, self.db_type)
        self._open_stream = open_stream
        #: The stream of the last read session, for its reports; set by who opens it.
        self.stream: StepStream | None = None

    @classmethod
    def check_config(cls, config: ConnectionConfig) -> list[str]:
        """Nothing to check."""
        return []

    def test(self, *, timeout_seconds: float = 5.0) -> ConnectionReport:
        """Nothing to connect to."""
        return ConnectionReport(True, "the rows of a pipeline's step", can_read=True, can_write=False)

    def discover(self, schema: str | None = None) -> list[TableDescription]:
        """No tables."""
        return []

    def quote(self, identifier: str) -> str:
        """An identifier in double quotes."""
        return quote(identifier)

    def qualify(self, table: TableName) -> str:
        """A table's quoted name."""
        return quote(table.name)

    def native_type(self, column: Column) -> str:
        """How DuckDB spells a column's type."""
        return native_type(column)

    def holds(self, data_type: DataType) -> str | None:
        """What of a type DuckDB can hold."""
        return holds(data_type)

    @contextmanager
    def read(self, limits: ReadLimits | None = None) -> Iterator[StreamReadSession]:
        """Open the step's sources, and read nothing before rows are asked for."""
        with self._open_stream() as stream:
            if stream.end is None:
                raise FatalError("a step without a load has no rows to read in a load")
            yield StreamReadSession(stream, stream.end, Path(f"pipeline {self.config.name}"))

    def write(self) -> AbstractContextManager[WriteSession]:
        """Refused."""
        raise FatalError("the rows of a pipeline's step cannot be written to")

    def close(self) -> None:
        """Nothing is kept open."""
