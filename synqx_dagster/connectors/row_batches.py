"""Rows of a database cursor as record batches that are bounded in rows and in bytes.

Guarantee: every row that was fetched is in exactly one batch, in order; a value that its column's Arrow type
cannot carry unchanged raises `BadRowsError` naming the column, it is never adapted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

#: What one batch may weigh; a batch of ordinary rows is far smaller, megabyte values make it short.
BATCH_BYTES = 16 * 1024 * 1024

#: The first fetch of a read is small, because nothing is known yet about the rows' weight.
_FIRST_ROWS = 64

#: How much longer than the one before a fetch may be, so that a run of small rows is not trusted too far.
_GROWTH = 8

Fetch = Callable[[int], Sequence[Sequence[object]]]
Convert = Callable[[Sequence[object], "pa.Field"], "pa.Array"]


def iter_row_batches(fetch: Fetch, convert: Convert, schema: pa.Schema, batch_rows: int) -> Iterator[pa.RecordBatch]:
    """Batches of exactly `schema` from rows.

    Args:
        fetch: Gives up to so many further rows, and none at the end (a cursor's ``fetchmany``).
        convert: Makes one column's values an array of its field's type.
    """
    import pyarrow as pa

    wanted = _FIRST_ROWS
    while rows := fetch(min(wanted, batch_rows)):
        columns = [convert(values, field) for values, field in zip(zip(*rows, strict=True), schema, strict=True)]
        batch = pa.record_batch(columns, schema=schema)
        yield batch
        per_row = max(1, batch.nbytes // batch.num_rows)
        wanted = max(1, min(BATCH_BYTES // per_row, len(rows) * _GROWTH))
