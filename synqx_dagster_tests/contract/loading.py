"""Rows for a connector under test: written as the transfer engine writes them, and read back in their carriers."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from synqx_dagster.connectors.protocol import Connector, ReadSession, WriteSession, carrier_type
from synqx_dagster.model.table import Column, TableName
from synqx_dagster.model.types import DataType

TABLE = TableName("customer")


def column(name: str, kind: str, **more: Any) -> Column:
    return Column(name, DataType.parse(kind), **more)


ID = column("id", "integer", nullable=False)
NAME = column("name", "string")


@dataclass
class Rows:
    """Rows of carriers to be written."""

    columns: Sequence[Column]
    values: list[tuple[Any, ...]] = field(default_factory=list)

    def batches(self, batch_rows: int = 1000) -> Iterable[pa.RecordBatch]:
        types = [carrier_type(item.data_type) for item in self.columns]
        for start in range(0, len(self.values), batch_rows):
            lists = zip(*self.values[start : start + batch_rows], strict=True)
            arrays = [pa.array(values, arrow_type) for values, arrow_type in zip(lists, types, strict=True)]
            yield pa.RecordBatch.from_arrays(arrays, names=[item.name for item in self.columns])


#: Of staging tables; each has its own.
epochs = itertools.count(1)


def spelt(connector: Connector, columns: Sequence[Column]) -> tuple[Column, ...]:
    """Columns as a plan hands them to a target: with its own spelling."""
    return tuple(
        Column(item.name, item.data_type, item.nullable, connector.native_type(item), connector.dialect)
        for item in columns
    )


def stage(connector: Connector, session: WriteSession, rows: Rows, table: TableName = TABLE) -> TableName:
    """Stage rows as the transfer engine does, up to where it publishes; the transaction is open."""
    session.begin()
    staging = session.create_staging(table, spelt(connector, rows.columns), epoch=next(epochs))
    written, size_bytes = session.write_batches(staging, spelt(connector, rows.columns), rows.batches())
    assert written == len(rows.values)
    assert size_bytes > 0 or not rows.values
    if not connector.capabilities.transactional_ddl:
        session.commit()
        session.begin()
    return staging


def load(
    connector: Connector, rows: Rows, *, table: TableName = TABLE, key: Sequence[str] = ("id",), append: bool = False
) -> None:
    """Load rows as the transfer engine does; creates the table if it is missing."""
    with connector.write() as session:
        if session.find_columns(table) is None:
            session.begin()
            session.ensure_schema(table)
            session.create_table(table, spelt(connector, rows.columns), key)
            session.commit()
        staging = stage(connector, session, rows, table)
        if append:
            session.publish_append(staging, table, spelt(connector, rows.columns))
        else:
            session.publish_replace(staging, table, spelt(connector, rows.columns), key)
        session.commit()
        if not connector.capabilities.transactional_ddl:
            session.drop_staging(staging)


def read_with(
    connector: Connector,
    session: ReadSession,
    table: TableName = TABLE,
    *,
    batch_rows: int = 1000,
    order_by: str = "id",
) -> list[tuple[Any, ...]]:
    """A table's rows in their carriers, in order."""
    columns = session.find_columns(table)
    assert columns is not None
    encoded = [session.encode(f"s.{connector.quote(c.name)}", c.data_type, c.native_type) for c in columns]
    schema = pa.schema([pa.field(c.name, item.arrow_type) for c, item in zip(columns, encoded, strict=True)])
    expressions = ", ".join(
        f"{item.sql} AS {connector.quote(c.name)}" for c, item in zip(columns, encoded, strict=True)
    )
    sql = f"SELECT {expressions} FROM {connector.qualify(table)} AS s ORDER BY s.{connector.quote(order_by)}"
    rows: list[tuple[Any, ...]] = []
    for batch in session.iter_batches(sql, schema, batch_rows=batch_rows):
        assert batch.schema.equals(schema)
        assert 0 < batch.num_rows <= batch_rows
        rows.extend(zip(*(values.to_pylist() for values in batch.columns), strict=True))
    return rows


def read_all(connector: Connector, table: TableName = TABLE, **more: Any) -> list[tuple[Any, ...]]:
    with connector.read() as session:
        return read_with(connector, session, table, **more)


def names_in(connector: Connector, table: TableName = TABLE) -> list[str]:
    return [row[1] for row in read_all(connector, table)]
