"""The arrow lane: record batches from any source, through DuckDB, to any target.

The source is read by a thread of its own into a short queue, so that reading, transforming and writing overlap;
memory is bounded by the batches in flight, never by the table. Guarantee: every row that the source delivered is
either in a batch handed to the target or in the spool of bad rows.
"""

from __future__ import annotations

import contextlib
import json
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from synqx_dagster.connectors.protocol import wait_for
from synqx_dagster.errors import FatalError
from synqx_dagster.transfer.quarantine import BadRow, BadRowSpool, Breach, key_of

if TYPE_CHECKING:
    import pyarrow as pa

#: Rows of one record batch. Measured on lineitem (16 columns): 32,768 and more give the same speed.
BATCH_ROWS = 32_768

#: Batches that wait between the reading thread and the writer.
QUEUE_BATCHES = 4

#: How long a source may take to notice that nobody wants its rows any more, before it is cancelled (again).
PATIENCE_SECONDS = 0.5

#: What DuckDB may hold while it streams; a stream of row-wise expressions needs a small part of it.
DUCKDB_MEMORY_LIMIT = "256MB"

#: What DuckDB says in a `RuntimeError` when Ctrl-C ends a query.
DUCKDB_INTERRUPTED = "Query interrupted"

ERRORS_COLUMN = "_synqx_errors"
ROW_COLUMN = "_synqx_row"


class Prefetch:
    """Runs an iterator of batches in a thread, a few batches ahead of its consumer.

    Use as a context manager; leaving it early stops the thread, by `cancel` where it waits for its source. An error
    of the iterator is raised where the consumer asks for the next batch.
    """

    def __init__(self, batches: Iterator[pa.RecordBatch], cancel: Callable[[], None]) -> None:
        self._batches = batches
        self._cancel = cancel
        self._queue: queue.Queue[pa.RecordBatch | BaseException | None] = queue.Queue(QUEUE_BATCHES)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="synqx-read", daemon=True)
        self._ended = threading.Event()
        self._patience = 0.0
        self.rows = 0

    def __enter__(self) -> Prefetch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._patience = time.monotonic() + PATIENCE_SECONDS
        wait_for(self._ended, self._let_go, every_seconds=0.05)
        self._thread.join()

    def _let_go(self) -> None:
        """The thread may be waiting for room in the queue, or for a server that takes its time."""
        with contextlib.suppress(queue.Empty):
            self._queue.get_nowait()
        if time.monotonic() >= self._patience:
            self._patience = time.monotonic() + PATIENCE_SECONDS
            self._cancel()

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        while True:
            try:
                item = self._queue.get(timeout=PATIENCE_SECONDS)
            except queue.Empty:
                if self._ended.is_set() and self._queue.empty():
                    # Stopped by who is done with it: that must not look like the end of the rows.
                    raise FatalError("reading was stopped before its end") from None
                continue
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            self.rows += item.num_rows
            yield item

    def _run(self) -> None:
        try:
            self._read()
        finally:
            self._ended.set()

    def _read(self) -> None:
        last: BaseException | None = None
        try:
            for batch in self._batches:
                if self._stopped.is_set():
                    return
                self._queue.put(batch)
        except BaseException as error:  # noqa: BLE001  # handed to the thread that consumes
            last = error
        finally:
            if isinstance(self._batches, Iterator) and hasattr(self._batches, "close"):
                self._batches.close()
        self._queue.put(last)


class Transform:
    """Runs a mapping's DuckDB query over a stream of record batches.

    Use as a context manager. The DuckDB database is in memory, private to this load, and has no access to files or
    the network.
    """

    def __init__(self, sql: str, source_schema: pa.Schema) -> None:
        self._sql = sql
        self._source_schema = source_schema
        self._connection: Any = None
        self._failure: BaseException | None = None

    def __enter__(self) -> Transform:
        return self

    def _open(self) -> Any:
        """DuckDB; a load whose batches need no transform is spared the memory."""
        import duckdb

        return duckdb.connect(
            ":memory:",
            config={
                "autoinstall_known_extensions": "false",
                "memory_limit": DUCKDB_MEMORY_LIMIT,
                # Rows leave in the order in which they came, so that an error speaks of the same row each time.
                "preserve_insertion_order": "true",
                "threads": "2",
            },
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._connection is not None:
            self._connection.close()
        # Whoever still holds this object, in a traceback, does not hold DuckDB's.
        self._connection = None

    def run(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The query's rows, batch by batch, as the source delivers them; may be called again when they are through."""
        import duckdb
        import pyarrow as pa

        if self._connection is None:
            self._connection = self._open()
        reader = pa.RecordBatchReader.from_batches(self._source_schema, self._remember_failure(batches))
        self._connection.register("source", reader)
        try:
            yield from self._connection.sql(self._sql).to_arrow_reader(BATCH_ROWS)
        except (duckdb.Error, pa.ArrowException, OSError) as exc:
            if self._failure is not None:
                # DuckDB wraps what the source raised; the source's own error says more.
                raise self._failure from exc
            # DuckDB's message may quote a value of the row it failed on.
            raise FatalError(
                f"the transform failed in DuckDB: {type(exc).__name__}",
                hint="an expression failed on a value; guard it (TRY_CAST, NULLIF, CASE) or quarantine the row",
            ) from None
        except RuntimeError as exc:
            if str(exc) == DUCKDB_INTERRUPTED:
                raise KeyboardInterrupt from None
            raise

    def _remember_failure(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        try:
            yield from batches
        except BaseException as error:
            self._failure = error
            raise


def split_bad_rows(
    batches: Iterator[pa.RecordBatch], spool: BadRowSpool, key_columns: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """Let good rows through, without the transform's two extra columns, and put the bad ones into the spool.

    Args:
        batches: Target fields, then `ERRORS_COLUMN` and `ROW_COLUMN`, both NULL for a good row.
        key_columns: The source's key columns; their values are kept beside each bad row.
    """
    import pyarrow.compute as pc

    for batch in batches:
        # By position: a target field may have any name, these two included.
        fields = batch.num_columns - 2
        errors = batch.column(fields)
        good = batch.select(list(range(fields)))
        if errors.null_count < batch.num_rows:
            is_bad = pc.is_valid(errors)
            bad = batch.filter(is_bad)
            for row_errors, row in zip(
                bad.column(fields).to_pylist(),
                bad.column(fields + 1).to_pylist(),
                strict=True,
            ):
                breaches = tuple(Breach(item["column"], item["reason"]) for item in row_errors)
                spool.add(BadRow(row, breaches, key_of(row, key_columns)))
            good = good.filter(pc.invert(is_bad))
        if good.num_rows:
            yield good


def row_as_json(names: Sequence[str], values: Sequence[object]) -> str:
    """A source row as the JSON object that the quarantine keeps; the same text as the transform makes.

    Numbers that JSON has stay numbers, NaN and infinities are text, bytes are ``\\x`` and hex digits.
    """
    return json.dumps({name: _json_value(value) for name, value in zip(names, values, strict=True)}, ensure_ascii=False)


def _json_value(value: object) -> object:
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return {"inf": "Infinity", "-inf": "-Infinity"}.get(str(value), "NaN")
    return value
