"""Moves the source's rows into the staging table, by the lane that the plan chose."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from synqx_dagster.connectors.protocol import CopyReadSession, CopyWriteSession, ReadSession, WriteSession
from synqx_dagster.errors import FatalError, RetryableError, SourceChangedError
from synqx_dagster.model.table import TableName
from synqx_dagster.transfer.arrow import BATCH_ROWS, Prefetch, Transform, row_as_json, split_bad_rows
from synqx_dagster.transfer.direct import sift, take_fields
from synqx_dagster.transfer.failpoints import reach
from synqx_dagster.transfer.passthrough import copy_table
from synqx_dagster.transfer.plan import BadRowsRead, LoadPlan
from synqx_dagster.transfer.quarantine import BadRow, BadRowSpool, Breach, key_of
from synqx_dagster.transfer.result import ProgressMeter

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Moved:
    """What went into the staging table. ``rows_in`` counts the bad rows as well.

    ``source_rows`` is the source's own count of what it was asked for, where it gives one with the rows.
    ``phase_seconds`` tells reading, transforming and writing apart, where they take turns.
    """

    rows_in: int
    bytes: int
    checksum: str | None
    phase_seconds: dict[str, float] = field(default_factory=dict)
    source_rows: int | None = None


def move_rows(
    plan: LoadPlan,
    staging: TableName,
    read: ReadSession,
    write: WriteSession,
    spool: BadRowSpool,
    meter: ProgressMeter,
) -> Moved:
    """Bring every row of the source either into the staging table or into the spool of bad rows.

    Raises:
        RetryableError: Also if the source was altered since the load was planned: then another attempt plans anew.
    """
    try:
        if plan.lane == "passthrough":
            return _copy(plan, staging, read, write, spool, meter)
        return _stream(plan, staging, read, write, spool, meter)
    except SourceChangedError as error:
        raise RetryableError(
            error.message, hint="the source was altered after the load was planned; another attempt plans anew"
        ) from error


def _copy(
    plan: LoadPlan,
    staging: TableName,
    read: ReadSession,
    write: WriteSession,
    spool: BadRowSpool,
    meter: ProgressMeter,
) -> Moved:
    if not (isinstance(read, CopyReadSession) and isinstance(write, CopyWriteSession)):
        raise FatalError("the plan asks for passthrough, and a session cannot stream COPY")
    copied = copy_table(
        read, write, plan.read_sql, staging, plan.staged_columns, lambda count: meter.add(size_bytes=count)
    )
    meter.add(rows=copied.rows)
    reach("mid_copy")
    if plan.bad_rows is None:
        return Moved(copied.rows, copied.bytes, copied.checksum, source_rows=copied.rows)
    # Counting is cheap beside looking for bad rows, and mostly there are none.
    source_rows = None if plan.count_sql is None else int(str(read.fetch_value(plan.count_sql)))
    if source_rows != copied.rows:
        _spool_violations(plan.bad_rows, plan.key_columns, read, spool)
    return Moved(copied.rows + spool.rows, copied.bytes, copied.checksum, source_rows=source_rows)


def _stream(
    plan: LoadPlan,
    staging: TableName,
    read: ReadSession,
    write: WriteSession,
    spool: BadRowSpool,
    meter: ProgressMeter,
) -> Moved:
    if plan.read_schema is None:
        raise FatalError("the plan does not say what the batches of the arrow lane look like")
    batches = read.iter_batches(plan.read_sql, plan.read_schema, batch_rows=BATCH_ROWS)
    start = time.perf_counter()
    with ExitStack() as stack:
        prefetch = stack.enter_context(Prefetch(batches, read.cancel))
        arriving = _Timed(iter(prefetch))
        names = [column.name for column in plan.staged_columns]
        if plan.transform_sql is None:
            good = _Timed(take_fields(batch, plan.compiled, names) for batch in arriving)
        else:
            transform = stack.enter_context(Transform(plan.transform_sql, plan.read_schema))
            if plan.common_tests is None:
                rows_out = split_bad_rows(transform.run(arriving), spool, plan.key_columns)
            else:
                rows_out = sift(arriving, plan.common_tests, plan.compiled, names, transform, spool, plan.key_columns)
            good = _Timed(rows_out)
        rows, size_bytes = write.write_batches(staging, plan.staged_columns, _metered(good, meter))
        rows_in = prefetch.rows
    reach("mid_copy")
    if rows_in != rows + spool.rows:
        raise FatalError(
            f"{rows_in:,} rows were read, {rows:,} written and {spool.rows:,} set aside: they do not add up",
            table=str(plan.target),
        )
    seconds = time.perf_counter() - start
    # DuckDB may wait for the source in one thread while another one hands rows on: what then overlaps is no time of its
    # own.
    read_seconds = min(arriving.seconds, good.seconds)
    phases = {"read": read_seconds, "transform": good.seconds - read_seconds, "write": max(seconds - good.seconds, 0.0)}
    return Moved(rows_in, size_bytes, None, phases)


class _Timed:
    """Passes batches on and adds up how long each was waited for."""

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        self._batches = batches
        self.seconds = 0.0

    def __iter__(self) -> _Timed:
        return self

    def __next__(self) -> pa.RecordBatch:
        start = time.perf_counter()
        try:
            return next(self._batches)
        finally:
            self.seconds += time.perf_counter() - start


def _metered(batches: Iterator[pa.RecordBatch], meter: ProgressMeter) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        yield batch
        meter.add(rows=batch.num_rows, size_bytes=batch.nbytes)


def _spool_violations(bad_rows: BadRowsRead, key_columns: Sequence[str], read: ReadSession, spool: BadRowSpool) -> None:
    """Fetch the rows that the COPY left out, from the snapshot that it read."""
    for batch in read.iter_batches(bad_rows.sql, bad_rows.schema, batch_rows=BATCH_ROWS):
        for *values, flags in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            row = row_as_json(bad_rows.labels, values)
            breaches = tuple(
                Breach(*violation) for violation, flag in zip(bad_rows.violations, flags, strict=True) if flag == "1"
            )
            spool.add(BadRow(row, breaches, key_of(row, key_columns)))
