"""Tables of a MySQL database under test: loaded as the transfer engine loads them, and read back in their carriers."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from synqx_dagster.connectors.protocol import ReadSession, WriteSession, carrier_type
from synqx_dagster.model.table import Column, TableName

TARGET = TableName("t")


def read_all(session: ReadSession, table: TableName = TARGET) -> dict[str, list[object]]:
    columns = session.find_columns(table)
    assert columns is not None
    encoded = [session.encode(f"`{column.name}`", column.data_type, column.native_type) for column in columns]
    sql = f"SELECT {', '.join(item.sql for item in encoded)} FROM `{table.name}`"
    schema = pa.schema([(column.name, item.arrow_type) for column, item in zip(columns, encoded, strict=True)])
    return pa.Table.from_batches(list(session.iter_batches(sql, schema, batch_rows=1000)), schema).to_pydict()


def make_batch(columns: Sequence[Column], rows: Sequence[Sequence[object]]) -> pa.RecordBatch:
    arrays = [
        pa.array(values, carrier_type(column.data_type))
        for values, column in zip(zip(*rows, strict=True), columns, strict=True)
    ]
    return pa.record_batch(arrays, names=[column.name for column in columns])


def load(session: WriteSession, columns: Sequence[Column], rows: Sequence[Sequence[object]], epoch: int = 1) -> None:
    """What the engine does with a target whose DDL commits."""
    if session.find_columns(TARGET) is None:
        session.create_table(TARGET, columns, ["id"])
    staging = session.create_staging(TARGET, columns, epoch=epoch)
    assert session.write_batches(staging, columns, [make_batch(columns, rows)])[0] == len(rows)
    session.begin()
    session.publish_replace(staging, TARGET, columns, ["id"])
    session.commit()
    session.drop_staging(staging)
