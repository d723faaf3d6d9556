"""Read sessions: one consistent, read-only view each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Protocol, runtime_checkable

from synqx_dagster.model.table import Column, TableName
from synqx_dagster.model.types import DataType

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class ReadLimits:
    """Bounds of a read of a user's query for a preview; 0 means none."""

    timeout_seconds: float = 0
    max_rows: int = 0
    max_bytes: int = 0


@dataclass(frozen=True)
class Encoded:
    """An SQL expression that yields a value in its carrier, and the Arrow type that arrives for it."""

    sql: str
    arrow_type: pa.DataType


class ReadSession(Protocol):
    """One read-only, consistent view of a source: every statement of a session sees the same rows."""

    def describe_query(self, sql: str) -> tuple[Column, ...]:
        """Columns of a query's result, in order, without running it to the end."""
        ...

    def find_columns(self, table: TableName) -> tuple[Column, ...] | None:
        """Columns of a table or view in order; None if there is none. Same as on a write session."""
        ...

    def encode(self, expression: str, data_type: DataType, native_type: str | None = None) -> Encoded:
        """Wrap an SQL expression of a logical type so that its value arrives exactly, in its carrier."""
        ...

    def fetch_value(self, sql: str) -> object:
        """The first column of the first row of a query."""
        ...

    def cancel(self) -> None:
        """Have the server end what another thread waits for in this session; that call then raises.

        Safe from any thread; does nothing when nothing runs. Afterwards the session is good for nothing but its end.
        """
        ...

    def iter_batches(self, sql: str, schema: pa.Schema, *, batch_rows: int) -> Iterator[pa.RecordBatch]:
        """Rows of a query as record batches of exactly `schema`; at most `batch_rows` rows each, in query order.

        Memory is bounded by a few batches. The query's columns are expressions made by `encode`.

        Raises:
            DatabaseError, RetryableError: The server refused or ended the read; batches seen so far are void.
        """
        ...


@runtime_checkable
class CopyReadSession(Protocol):
    """A read session that can also stream PostgreSQL's binary COPY format."""

    def cancel(self) -> None:
        """As `ReadSession.cancel`."""
        ...

    def copy_out(self, sql: str, sink: BinaryIO) -> int:
        """Write a query's rows in binary COPY format; does not close `sink`.

        Returns, when the server is done: the rows that it says it has sent.
        """
        ...


@runtime_checkable
class DirectReadSession(Protocol):
    """A read session that can send some values with less work than `ReadSession.encode` asks for."""

    def encode_direct(self, expression: str, data_type: DataType, native_type: str | None = None) -> Encoded | None:
        """Wrap an expression so that its value arrives exactly, in its direct form or its carrier.

        The SQL is for the items of `ReadSession.iter_batches` alone: unlike that of `ReadSession.encode` its type is
        not the carrier's. None: nothing is quicker than `ReadSession.encode`.
        """
        ...


@runtime_checkable
class SnapshotReadSession(Protocol):
    """A read session whose snapshot other sessions can share."""

    def export_snapshot(self) -> str:
        """A name under which sessions of the same database see the same rows, as long as this one is open."""
        ...
