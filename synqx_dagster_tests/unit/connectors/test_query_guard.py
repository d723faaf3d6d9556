"""Limits of a preview hold to the row, and end the read behind them."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from synqx_dagster.connectors.protocol import ReadLimits
from synqx_dagster.connectors.query_guard import limit_batches


class Source:
    """Batches of the given sizes that note how many were pulled and whether they were closed."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes, self.pulled, self.closed = sizes, 0, False

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        try:
            for size in self.sizes:
                self.pulled += 1
                yield pa.record_batch({"n": pa.array(range(size), pa.int64())})
        finally:
            self.closed = True


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 50), max_size=8), st.integers(0, 120), st.integers(0, 1200))
def test_no_limit_is_crossed_by_more_than_its_last_row(sizes: list[int], max_rows: int, max_bytes: int) -> None:
    source = Source(sizes)
    batches = list(limit_batches(iter(source), ReadLimits(max_rows=max_rows, max_bytes=max_bytes)))
    rows = sum(batch.num_rows for batch in batches)
    total = sum(sizes)
    by_bytes = -(-max_bytes // 8) if max_bytes else total
    assert rows == min(total, max_rows or total, by_bytes)
    assert source.closed
    assert all(batch.num_rows for batch in batches)


def test_nothing_is_pulled_beyond_the_limit() -> None:
    source = Source([10, 10, 10])
    list(limit_batches(iter(source), ReadLimits(max_rows=20)))
    assert source.pulled == 2


def test_without_limits_the_iterator_is_untouched() -> None:
    batches = iter(Source([1]))
    assert limit_batches(batches, ReadLimits(timeout_seconds=5)) is batches
