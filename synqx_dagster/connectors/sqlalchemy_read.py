"""Read sessions over any dialect of SQLAlchemy.

Guarantee: a session is one transaction at the level at which the server's reads agree with each other, where it has
one; a value leaves as the server's own text wherever its driver would round, cut or reinterpret it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, CursorResult

from synqx_dagster.connectors.protocol import Encoded, ReadLimits, carrier_type, untrusted_text
from synqx_dagster.connectors.query_guard import limit_batches
from synqx_dagster.connectors.row_batches import iter_row_batches
from synqx_dagster.connectors.sqlalchemy_dialects import Facts
from synqx_dagster.connectors.sqlalchemy_names import Names
from synqx_dagster.connectors.sqlalchemy_session import SqlalchemySession
from synqx_dagster.connectors.sqlalchemy_types import base_name, column_of_result, refuse_inexact
from synqx_dagster.connectors.sqlalchemy_values import to_array
from synqx_dagster.model.table import Column
from synqx_dagster.model.types import DataType

if TYPE_CHECKING:
    import pyarrow as pa

#: PostgreSQL's types that a driver gives as the text that they are; a cast would drop the blanks of some.
_POSTGRESQL_TEXTS = ("text", "varchar", "character varying", "char", "character", "bpchar")

#: Kinds that arrive as they are, where the server's text of them is not asked for.
_KEPT_KINDS = ("smallint", "integer", "bigint", "real", "float", "boolean", "string", "binary")


class SqlalchemyReadSession(SqlalchemySession):
    """A read session; see `synqx_dagster.connectors.protocol.ReadSession`."""

    def __init__(
        self, connection: Connection, facts: Facts, names: Names, place: str, limits: ReadLimits | None = None
    ) -> None:
        super().__init__(connection, facts, names, place)
        self._limits = limits or ReadLimits()
        self._watch: threading.Timer | None = None

    def start(self) -> None:
        """Begin the transaction, and the clock of its time limit."""
        self.prepare()
        with self._errors("reading"):
            for statement in self._facts.read_statements:
                self._run(statement)
        if self._limits.timeout_seconds:
            # Not every server can end a statement by itself, every driver can be told to.
            self._watch = threading.Timer(self._limits.timeout_seconds, self.cancel)
            self._watch.daemon = True
            self._watch.start()

    def close(self) -> None:
        """Stop the clock."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch.join()

    def describe_query(self, sql: str) -> tuple[Column, ...]:
        """Columns of a query's result, from a run that gives no row."""
        statement = sql.strip().rstrip(";")
        with self._errors("describing a query at"):
            result = self._run(f"SELECT * FROM (\n{statement}\n) described WHERE 1 = 0")
            description = result.cursor.description if result.cursor is not None else ()
            result.close()
        return tuple(column_of_result(item, self._facts) for item in description or ())

    def encode(self, expression: str, data_type: DataType, native_type: str | None = None) -> Encoded:
        """An expression in its carrier."""
        return encode(self._facts, expression, data_type, native_type)

    def fetch_value(self, sql: str) -> object:
        """The first column of the first row; None without a row."""
        with self._errors("reading"):
            row = self._run(sql).first()
        return row[0] if row is not None else None

    def iter_batches(self, sql: str, schema: pa.Schema, *, batch_rows: int) -> Iterator[pa.RecordBatch]:
        """Rows of a query as record batches, by a cursor at the server where the driver has one."""
        finished = False
        with self._errors("reading"):
            result = self._run(sql, stream_results=True)
            self._cursor = result.cursor
        try:
            batches = iter_row_batches(lambda count: self._fetch(result, count), to_array, schema, batch_rows)
            yield from limit_batches(batches, self._limits)
            finished = not (self._limits.max_rows or self._limits.max_bytes)
        finally:
            if not finished:
                self._let_go(result)
            self._cursor = None
            with contextlib.suppress(sa.exc.SQLAlchemyError):
                result.close()

    def _fetch(self, result: CursorResult[Any], count: int) -> Sequence[Sequence[object]]:
        with self._errors("reading"):
            return result.fetchmany(count)

    def _let_go(self, result: CursorResult[Any]) -> None:
        """Leave a result that may still be arriving; pymysql would read it to its end, by a finaliser at last."""
        arriving: Any = getattr(result.cursor, "_result", None)
        if getattr(arriving, "unbuffered_active", False):
            arriving.unbuffered_active = False
            arriving.connection = None
            self.is_broken = True


def encode(facts: Facts, expression: str, data_type: DataType, native_type: str | None = None) -> Encoded:
    """An expression in its carrier: by the server's own text where its driver would not keep the value.

    Raises:
        PlanError: Nothing exact is known of the type; names it.
    """
    import pyarrow as pa

    native = native_type or ""
    refuse_inexact(expression, data_type, native_type, facts)
    name = base_name(native)
    kind = data_type.kind
    if name in facts.other_texts:
        length = native.partition("(")[2].partition(")")[0] or "1"
        # A template may name its expression more than once.
        sql = facts.other_texts[name].replace("{length}", length).replace("{}", expression)
        return Encoded(sql, pa.string() if kind == "string" else untrusted_text())
    if kind == "string" and facts.sqlglot == "postgres" and native and name not in _POSTGRESQL_TEXTS:
        return Encoded(f"CAST({expression} AS text)", pa.string())
    if kind in facts.texts:
        sql = facts.texts[kind].replace("{}", expression)
        trusted = facts.canonical or kind in ("real", "float")
        return Encoded(sql, carrier_type(data_type) if trusted else untrusted_text())
    return Encoded(expression, carrier_type(data_type) if kind in _KEPT_KINDS else untrusted_text())
