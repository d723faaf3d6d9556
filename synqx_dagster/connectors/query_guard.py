"""Bounds of a read on behalf of a user who is looking, not loading.

What a query may be is decided twice: by `synqx_dagster.mapping.query.parse_query` before it is sent, and by the
server, which runs it as one statement of a read-only transaction with a time-out that is always rolled back. What is
left, and done here, is how much of the result is taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from synqx_dagster.connectors.protocol import ReadLimits

if TYPE_CHECKING:
    import pyarrow as pa


def limit_batches(batches: Iterator[pa.RecordBatch], limits: ReadLimits) -> Iterator[pa.RecordBatch]:
    """Pass batches on until the limits are reached, then close their source.

    The last batch is cut to the row limit. The byte limit ends the read after the row that crosses it, so that at
    least one row is seen however wide it is; with no limits the iterator is returned as it is.
    """
    if not limits.max_rows and not limits.max_bytes:
        return batches
    return _limit(batches, limits)


def _limit(batches: Iterator[pa.RecordBatch], limits: ReadLimits) -> Iterator[pa.RecordBatch]:
    rows = size_bytes = 0
    try:
        for whole in batches:
            batch = whole
            if limits.max_rows:
                batch = batch.slice(0, limits.max_rows - rows)
            if limits.max_bytes:
                batch = _cut_bytes(batch, limits.max_bytes - size_bytes)
            rows += batch.num_rows
            size_bytes += batch.nbytes
            yield batch
            is_cut = batch.num_rows < whole.num_rows
            if is_cut or rows == limits.max_rows or (limits.max_bytes and size_bytes >= limits.max_bytes):
                return
    finally:
        close = getattr(batches, "close", None)
        if close is not None:
            close()


def _cut_bytes(batch: pa.RecordBatch, room_bytes: int) -> pa.RecordBatch:
    """The rows up to and with the one that crosses the limit; found by halving, a slice's size being cheap to ask."""
    if batch.nbytes <= room_bytes:
        return batch
    low, high = 1, batch.num_rows
    while low < high:
        middle = (low + high) // 2
        if batch.slice(0, middle).nbytes >= room_bytes:
            high = middle
        else:
            low = middle + 1
    return batch.slice(0, low)
