"""The parts of the arrow lane, without a database server."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator

import pyarrow as pa
import pytest

from synqx_dagster.errors import FatalError, RetryableError
from synqx_dagster.transfer.arrow import (
    DUCKDB_INTERRUPTED,
    QUEUE_BATCHES,
    Prefetch,
    Transform,
    row_as_json,
    split_bad_rows,
)
from synqx_dagster.transfer.quarantine import BATCH_ROWS, BadRow, BadRowSpool, Breach, key_of

SCHEMA = pa.schema([("n", pa.int64())])


def batches(count: int, rows: int = 10) -> Iterator[pa.RecordBatch]:
    for index in range(count):
        yield pa.record_batch([pa.array(range(index * rows, (index + 1) * rows), pa.int64())], schema=SCHEMA)


def no_cancel() -> None:
    raise AssertionError("the source was not waiting")


def test_prefetch_left_early_cancels_a_source_that_makes_it_wait() -> None:
    cancelled = threading.Event()

    def waiting() -> Iterator[pa.RecordBatch]:
        yield from batches(1)
        assert cancelled.wait(timeout=30)
        raise RetryableError("cancelled by the user")

    with Prefetch(waiting(), cancelled.set) as prefetch:
        next(iter(prefetch))
    assert cancelled.is_set()
    assert "synqx-read" not in [thread.name for thread in threading.enumerate()]


def test_prefetch_keeps_order_and_counts() -> None:
    with Prefetch(batches(20), no_cancel) as prefetch:
        values = [value for batch in prefetch for value in batch.column(0).to_pylist()]
    assert values == list(range(200))
    assert prefetch.rows == 200


def test_prefetch_raises_the_sources_error_after_the_batches_before_it() -> None:
    def broken() -> Iterator[pa.RecordBatch]:
        yield from batches(2)
        raise RetryableError("gone")

    with Prefetch(broken(), no_cancel) as prefetch:
        iterator = iter(prefetch)
        assert sum(next(iterator).num_rows for _ in range(2)) == 20
        with pytest.raises(RetryableError, match="gone"):
            next(iterator)


def test_prefetch_left_early_closes_the_source_and_ends_its_thread() -> None:
    closed = threading.Event()

    def endless() -> Iterator[pa.RecordBatch]:
        try:
            while True:
                yield from batches(1)
        finally:
            closed.set()

    with Prefetch(endless(), no_cancel) as prefetch:
        next(iter(prefetch))
    assert closed.is_set()
    assert "synqx-read" not in [thread.name for thread in threading.enumerate()]


def test_prefetch_does_not_run_ahead_of_a_slow_consumer() -> None:
    produced = 0

    def counted() -> Iterator[pa.RecordBatch]:
        nonlocal produced
        for batch in batches(100):
            produced += 1
            yield batch

    with Prefetch(counted(), no_cancel) as prefetch:
        iterator = iter(prefetch)
        next(iterator)
        threading.Event().wait(0.2)
        assert produced <= QUEUE_BATCHES + 3


def test_transform_runs_the_query_over_every_row() -> None:
    with Transform("SELECT n + 1 AS m FROM source", SCHEMA) as transform:
        values = [value for batch in transform.run(batches(50, 1000)) for value in batch.column(0).to_pylist()]
    assert values == list(range(1, 50_001))


def test_transform_raises_what_the_source_raised() -> None:
    def broken() -> Iterator[pa.RecordBatch]:
        yield from batches(1)
        raise RetryableError("the server closed the connection")

    with Transform("SELECT n FROM source", SCHEMA) as transform, pytest.raises(RetryableError, match="closed"):
        list(transform.run(broken()))


def test_transform_does_not_quote_the_value_it_failed_on() -> None:
    text = pa.schema([("t", pa.string())])
    secret = pa.record_batch([pa.array(["s3cret-value"])], schema=text)
    with (
        Transform("SELECT CAST(t AS INTEGER) AS n FROM source", text) as transform,
        pytest.raises(FatalError) as caught,
    ):
        list(transform.run(iter([secret])))
    assert "s3cret" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_split_sends_each_row_one_way() -> None:
    errors = pa.array(
        [None, [{"column": "b", "reason": "is null"}], None, [{"column": "a", "reason": "x"}]],
        pa.list_(pa.struct([("column", pa.string()), ("reason", pa.string())])),
    )
    rows = pa.array([None, '{"id":2,"b":null}', None, '{"id":4,"b":1}'])
    batch = pa.record_batch([pa.array([1, 2, 3, 4]), errors, rows], names=["a", "_synqx_errors", "_synqx_row"])
    with BadRowSpool() as spool:
        good = list(split_bad_rows(iter([batch]), spool, ("id",)))
        assert [b.to_pylist() for b in good] == [[{"a": 1}, {"a": 3}]]
        assert spool.rows == 2
        kept = [row for b in spool.iter_batches() for row in b.to_pylist()]
    assert [row["source_key"] for row in kept] == ['{"id": 2}', '{"id": 4}']
    assert [row["reason"] for row in kept] == ["b: is null", "a: x"]


def test_the_spool_keeps_more_rows_than_its_memory_in_order() -> None:
    rows = BATCH_ROWS * 3 + 7
    filler = "x" * 10_000
    with BadRowSpool() as spool:
        for index in range(rows):
            spool.add(BadRow(json.dumps({"id": index, "filler": filler}), (Breach("c", "bad"),), f'{{"id": {index}}}'))
        seen = [key for batch in spool.iter_batches() for key in batch.column("source_key").to_pylist()]
        assert seen == [f'{{"id": {index}}}' for index in range(rows)]
        assert spool.describe() == f"c: bad ({rows:,} rows)"


def test_the_spool_names_the_most_frequent_breaches_and_no_values() -> None:
    with BadRowSpool() as spool:
        for index in range(30):
            breaches = (Breach("a", "is null"),) if index % 3 else (Breach("b", "not a date"),)
            spool.add(BadRow("{}", breaches))
        assert spool.describe() == "a: is null (20 rows); b: not a date (10 rows)"


def test_an_empty_spool_has_no_batches() -> None:
    with BadRowSpool() as spool:
        assert list(spool.iter_batches()) == []


def test_rows_become_json_that_keeps_every_value() -> None:
    names = ["i", "f", "nan", "inf", "t", "b", "n"]
    values = [2**62, 0.1, float("nan"), float("-inf"), 'quote " é 🎉', b"\x00\xff", None]
    assert json.loads(row_as_json(names, values)) == {
        "i": 2**62,
        "f": 0.1,
        "nan": "NaN",
        "inf": "-Infinity",
        "t": 'quote " é 🎉',
        "b": "\\x00ff",
        "n": None,
    }


@pytest.mark.parametrize(
    ("row", "key", "expected"),
    [
        ('{"id": 1, "x": 2}', ("id",), '{"id": 1}'),
        ('{"id": 1, "x": 2}', (), None),
        ('{"x": 2}', ("id",), None),
        ('{"id": null, "x": 2}', ("id", "x"), None),
        ('{"a": 1, "b": "é"}', ("b", "a"), '{"b": "é", "a": 1}'),
    ],
)
def test_keys_are_taken_from_the_row(row: str, key: tuple[str, ...], expected: str | None) -> None:
    assert key_of(row, key) == expected


def test_ctrl_c_during_a_transform_is_ctrl_c_and_nothing_of_duckdb_stays() -> None:
    def interrupted() -> Iterator[pa.RecordBatch]:
        for number, batch in enumerate(batches(1000)):
            if number == 3:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.1)
            yield batch

    transform = Transform("SELECT * FROM source", SCHEMA)
    with pytest.raises(KeyboardInterrupt), transform:
        for _ in transform.run(interrupted()):
            pass
    assert transform._connection is None


def test_what_duckdb_makes_of_ctrl_c_is_ctrl_c_again() -> None:
    def broken() -> Iterator[pa.RecordBatch]:
        yield from batches(1)
        raise RuntimeError(DUCKDB_INTERRUPTED)

    with Transform("SELECT * FROM source", SCHEMA) as transform:
        transform._connection = Interrupted()
        with pytest.raises(KeyboardInterrupt):
            list(transform.run(broken()))


class Interrupted:
    """A DuckDB connection in whose query somebody presses Ctrl-C."""

    def register(self, name: str, rows: object) -> None:
        pass

    def sql(self, sql: str) -> object:
        raise RuntimeError(DUCKDB_INTERRUPTED)

    def close(self) -> None:
        pass
