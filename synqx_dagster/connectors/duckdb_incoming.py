"""Record batches on their way into DuckDB.

Guarantee: what the source of the batches raised is kept, because DuckDB makes a text of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


class Incoming:
    """Batches, counted, under names that need no quoting: ``c0``, ``c1``, ... ``schema`` is None without any."""

    def __init__(self, batches: Iterable[pa.RecordBatch]) -> None:
        import pyarrow as pa

        self._batches = iter(batches)
        self._first = next(self._batches, None)
        self.rows = 0
        self.bytes = 0
        self.failure: BaseException | None = None
        self.schema: pa.Schema | None = None
        if self._first is not None:
            types = [item.type for item in self._first.schema]
            self.schema = pa.schema([pa.field(f"c{position}", item) for position, item in enumerate(types)])

    def reader(self) -> pa.RecordBatchReader:
        """The batches as DuckDB takes them; once."""
        import pyarrow as pa

        return pa.RecordBatchReader.from_batches(self.schema, self._iter_batches())

    def _iter_batches(self) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        try:
            batch = self._first
            while batch is not None:
                self.rows += batch.num_rows
                self.bytes += batch.nbytes
                yield pa.record_batch(batch.columns, schema=self.schema)
                batch = next(self._batches, None)
        except BaseException as error:
            self.failure = error
            raise
