"""Which node of a stage a failure is of: DuckDB runs them as one query, and does not say.

The rows that came last are kept, up to some megabytes, and the views are tried on them one after the other. What does
not fail again (a value that came long before a sort, say) is not known to be of anybody. A node before the guilty one
takes its place where an expression fails there too that no later node uses: DuckDB never ran it, and here it is run.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from synqx_dagster.pipelines.operators.checks import quoted

if TYPE_CHECKING:
    import pyarrow as pa

#: Of one input of a stage; two threads of DuckDB hold about as much.
_KEPT_BYTES = 16 * 1024 * 1024
#: To know the node is worth no longer wait than this.
_SECONDS = 5.0


class RecentRows:
    """The last batches of a stream, for whoever wants to see them again."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._batches: deque[pa.RecordBatch] = deque()
        self._bytes = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Keep a batch, and let go of older ones."""
        self._batches.append(batch)
        # A slice keeps all of what it was cut from.
        self._bytes += batch.get_total_buffer_size()
        while self._bytes > _KEPT_BYTES and len(self._batches) > 1:
            self._bytes -= self._batches.popleft().get_total_buffer_size()

    def table(self) -> pa.Table:
        """What is kept."""
        import pyarrow as pa

        return pa.Table.from_batches(list(self._batches), self._schema)


@dataclass(frozen=True)
class View:
    """A node as a view. ``parts`` are SELECTs that it is made of, each with what messages call it."""

    name: str
    sql: str
    parts: Sequence[tuple[str, str]] = ()


def find_failure(
    database: Any, streams: Mapping[str, RecentRows], views: Sequence[View], error_type: type[BaseException]
) -> tuple[str, str | None] | None:
    """The first view that fails on the rows that came last, and the part of it that does, if it has such.

    Args:
        database: The stage's DuckDB; a connection of its own is opened.
        streams: What was registered, by name.
        views: In the order in which they were made.
        error_type: DuckDB's exception; what fails otherwise is another failure.
    """
    import duckdb

    with database.cursor() as connection:
        timer = threading.Timer(_SECONDS, connection.interrupt)
        timer.daemon = True
        timer.start()
        try:
            for name, recent in streams.items():
                connection.register(name, recent.table())
            for view in views:
                connection.execute(f"CREATE TEMP VIEW {quoted(view.name)} AS {view.sql}")
                if not _fails(connection, f"SELECT * FROM {quoted(view.name)}", error_type):
                    continue
                parts = (what for what, sql in view.parts if _fails(connection, sql, error_type))
                return view.name, next(parts, None)
        except duckdb.Error:
            return None  # Something else than what has failed before; the timer, perhaps.
        finally:
            timer.cancel()
    return None


def _fails(connection: Any, sql: str, error_type: type[BaseException]) -> bool:
    try:
        # Every value of every row is made, and none is kept.
        connection.execute(f"SELECT max(hash(given)) FROM ({sql}) given").fetchall()
    except error_type as exc:
        if "INTERRUPT" in str(exc).upper():
            raise
        return True
    return False
