"""Batches on their way through a step: counted, timed, and blamed on the node that they are of."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from synqx_dagster.errors import SynqxError
from synqx_dagster.pipelines.report import Counter

if TYPE_CHECKING:
    import pyarrow as pa

#: Between the names of nodes in the context of an error.
_SEPARATOR = "\n"


def named(exc: BaseException, nodes: Sequence[str]) -> BaseException:
    """An error with the nodes that it is of; one that has some keeps them."""
    if isinstance(exc, SynqxError) and "failed_nodes" not in exc.context:
        exc.context["failed_nodes"] = _SEPARATOR.join(nodes)
        if not any(repr(name) in exc.message for name in nodes):
            exc.message = f"node{'s' if len(nodes) > 1 else ''} {', '.join(map(repr, nodes))}: {exc.message}"
            exc.args = (exc.message,)
    return exc


def naming(batches: Iterator[pa.RecordBatch], node_id: str) -> Iterator[pa.RecordBatch]:
    """Pass on what an extract reads; what its source raises is said to be of this node."""
    try:
        yield from batches
    except BaseException as exc:  # noqa: BLE001  # raised again, with its node
        raise named(exc, [node_id]) from exc.__cause__


def at_least_one(batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """A function is called for no rows, too: what it makes of them is its business."""
    import pyarrow as pa

    is_empty = True
    for batch in batches:
        is_empty = False
        yield batch
    if is_empty:
        yield pa.RecordBatch.from_pylist([], schema=schema)


def timed(batches: Iterator[pa.RecordBatch], counter: Counter) -> Iterator[pa.RecordBatch]:
    """Adds up the time that each batch took to come."""
    iterator = iter(batches)
    while True:
        start = time.perf_counter()
        try:
            batch: Any = next(iterator, None)
        finally:
            counter.add_seconds(time.perf_counter() - start)
        if batch is None:
            return
        yield batch


def counted(batches: Iterator[pa.RecordBatch], counter: Counter) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        counter.rows += batch.num_rows
        yield batch


def failed_nodes(exc: SynqxError) -> tuple[str, ...]:
    """The nodes that an error is of; none where nobody has said."""
    text = str(exc.context.get("failed_nodes", ""))
    return tuple(text.split(_SEPARATOR)) if text else ()
