"""The DuckDB of one stage of a step: in memory, bounded, spilling to a directory of its own, and cut off from the rest.

Guarantee: SQL in it reaches no file and no network, cannot change its bounds, and what it says about a failure holds
no value of a row.

To open a DuckDB takes some 35 ms of a processor, which is longer than most stages of few rows run. So those that hold
no rows use one again that an earlier stage of this process has left without a failure. Each has a connection of its
own, and all that a stage makes is temporary, which is the connection's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synqx_dagster.connectors.files_scratch import Scratch
from synqx_dagster.errors import BadRowsError, FatalError, OperatorFailedError, PlanError, SynqxError
from synqx_dagster.model.mapping import RESERVED_PREFIX
from synqx_dagster.model.table import Column
from synqx_dagster.pipelines.blame import RecentRows, View, find_failure
from synqx_dagster.pipelines.carriage import arriving_sql, leaving_sql, make_column
from synqx_dagster.pipelines.operators.checks import quoted
from synqx_dagster.pipelines.operators.columns import FAILURE_MARK
from synqx_dagster.transfer.arrow import DUCKDB_INTERRUPTED

if TYPE_CHECKING:
    import pyarrow as pa

_CONFIG = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    # Rows leave in the order in which they came: a sort before a load means something.
    "preserve_insertion_order": "true",
    "threads": "2",
}
#: DuckDBs that no stage uses, by the memory that they may hold; each keeps a thread and some megabytes.
_idle: dict[int, list[Any]] = {}
_MOST_IDLE = 4

#: How our own `error()` calls begin; a node's are given its name.
_MARK = f"error('{FAILURE_MARK}"
#: What they say; anywhere else in a message such words may be a row's.
_FAILURE = re.compile(
    r"Invalid Input Error: " + re.escape(FAILURE_MARK) + r"((?:[0-9a-f]{2})+):((?:[0-9a-fA-F]{2})*) ([^\n\"]+)"
)


def _open(memory_bytes: int, temp_directory: str) -> Any:
    import duckdb

    bounds = {"memory_limit": f"{memory_bytes}B", "temp_directory": temp_directory}
    database: Any = duckdb.connect(":memory:", config={**_CONFIG, **bounds})
    database.execute("SET GLOBAL TimeZone = 'UTC'")
    # Only now: with external access off DuckDB refuses to be told where to spill.
    database.execute("SET enable_external_access = false")
    database.execute("SET lock_configuration = true")
    return database


class StageDatabase:
    """One DuckDB, to be closed.

    Args:
        nodes: The nodes that run in it, for messages.
        memory_bytes: What it may hold before it spills.
        spill: A directory for what it spills, on a disk with room; a fresh one is made in it and removed again. None
            for nodes that hold no rows.
    """

    def __init__(self, nodes: Sequence[str], memory_bytes: int, spill: Path | None) -> None:
        self.nodes = tuple(nodes)
        self._memory_bytes = memory_bytes
        self._scratch: Scratch | None = None
        if spill is None:
            idle = _idle.setdefault(memory_bytes, [])
            self._duckdb = idle.pop() if idle else _open(memory_bytes, "")
        else:
            spill.mkdir(parents=True, exist_ok=True)
            # Removes what killed processes have left, and knows them by a lock: several containers may share it.
            self._scratch = Scratch(spill)
            self._duckdb = _open(memory_bytes, str(self._scratch.path / "spill"))
        self.connection: Any = self._duckdb.cursor()
        self._has_failed = False
        self._failure: BaseException | None = None
        self._recent: dict[str, RecentRows] = {}
        self._views: list[View] = []

    def close(self) -> None:
        """Let go of memory and disk."""
        self.connection.close()
        idle = _idle.get(self._memory_bytes, [])
        if self._scratch is None and not self._has_failed and len(idle) < _MOST_IDLE:
            idle.append(self._duckdb)
        else:
            self._duckdb.close()
        if self._scratch is not None:
            self._scratch.close()

    def interrupt(self) -> None:
        """End what runs, from any thread."""
        self._has_failed = True
        self.connection.interrupt()

    def arrive(self, name: str, columns: Sequence[Column], schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> str:
        """Take a stream of travelling rows as a relation, once; gives its quoted name."""
        incoming = f"{RESERVED_PREFIX}incoming {name}"
        self.register(incoming, schema, batches)
        return self.view(name, arriving_sql(columns, quoted(incoming)))

    def register(self, name: str, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
        """Take a stream of batches under a name, as they are."""
        import pyarrow as pa

        recent = self._recent[name] = RecentRows(schema)
        self.connection.register(name, pa.RecordBatchReader.from_batches(schema, self._remember(batches, recent)))

    def view(self, name: str, sql: str, parts: Sequence[tuple[str, str]] = ()) -> str:
        """Call a SELECT by a name; gives it quoted.

        Args:
            parts: As `SqlOperator.parts`.

        Raises:
            PlanError: DuckDB does not take the SELECT.
        """
        import duckdb

        sql = sql.replace(_MARK, f"{_MARK}{name.encode().hex()}:")
        self._views.append(View(name, sql, parts))
        try:
            self.connection.execute(f"CREATE TEMP VIEW {quoted(name)} AS {sql}")
        except (duckdb.BinderException, duckdb.CatalogException, duckdb.ParserException) as exc:
            # Speaks of names and types, not of rows; what follows the first line quotes the statement.
            message = str(exc).splitlines()[0]
            raise PlanError(f"node {name!r}: {message}", hint="see the columns and types of its inputs") from None
        except duckdb.Error as exc:
            raise PlanError(f"node {name!r}: DuckDB does not take it: {type(exc).__name__}") from None
        return quoted(name)

    def describe(self, relation: str) -> tuple[Column, ...]:
        """The columns of a relation; nothing is read."""
        rows = self.connection.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()
        return tuple(make_column(row[0], row[1]) for row in rows)

    def leave(self, relation: str, columns: Sequence[Column], batch_rows: int) -> Iterator[pa.RecordBatch]:
        """The rows of a relation as they travel; to be asked for once.

        Raises:
            SynqxError: What the source of a registered stream raised, or a failure of this stage.
        """
        yield from self.stream(leaving_sql(columns, relation), batch_rows)

    def stream(self, sql: str, batch_rows: int) -> Iterator[pa.RecordBatch]:
        """The rows of a query; as `leave`."""
        import duckdb
        import pyarrow as pa

        try:
            yield from self.connection.sql(sql).to_arrow_reader(batch_rows)
        except (duckdb.Error, pa.ArrowException, OSError) as exc:
            raise self.explain(exc) from None
        except RuntimeError as exc:
            if str(exc) == DUCKDB_INTERRUPTED:
                raise KeyboardInterrupt from None
            raise

    def _remember(self, batches: Iterator[pa.RecordBatch], recent: RecentRows) -> Iterator[pa.RecordBatch]:
        try:
            for batch in batches:
                recent.add(batch)
                yield batch
        except GeneratorExit:
            # DuckDB needs no more of it, after a LIMIT perhaps; what fails later does not fail of this.
            raise
        except BaseException as error:
            self._failure = error
            raise

    @property
    def _name(self) -> str:
        return f"node{'s' if len(self.nodes) > 1 else ''} {', '.join(map(repr, self.nodes))}"

    def explain(self, exc: BaseException) -> BaseException:
        """The error to raise for one of DuckDB's, or for one that DuckDB made of somebody else's."""
        import duckdb

        self._has_failed = True
        if self._failure is not None:
            return self._failure
        if isinstance(exc, SynqxError):
            return exc
        message = str(exc)
        if match := _FAILURE.match(message):
            name, column = (bytes.fromhex(match[index]).decode("utf-8", "replace") for index in (1, 2))
            return BadRowsError(
                f"node {name!r}: a value in column {column!r} {match[3].strip()}",
                hint="nothing was loaded; correct it at the source, or validate and quarantine before",
                column=column,
                failed_nodes=name,
            )
        if isinstance(exc, duckdb.OutOfMemoryException) or "Out of Memory" in message:
            return FatalError(
                f"{self._name}: more than {self._memory_bytes:,} bytes of memory would be needed, or the disk for"
                " spilling is full",
                hint="raise the pipeline's memory_limit, or make room where SYNQX_HOME lies",
            )
        if "INTERRUPT" in message.upper():
            return FatalError(f"{self._name}: interrupted")
        # DuckDB's message may quote a value of the row it failed on.
        hint = "an expression failed on a value; guard it (TRY_CAST, NULLIF, CASE)"
        error_type = _type_of(exc)
        kind = error_type.__name__
        found = find_failure(self._duckdb, self._recent, self._views, error_type)
        if found is None or found[0] not in self.nodes:
            return OperatorFailedError(f"{self._name}: failed in DuckDB: {kind}", hint=hint)
        name, part = found
        what = f"{part} failed" if part is not None else "failed"
        return OperatorFailedError(f"node {name!r}: {what} in DuckDB: {kind}", hint=hint, failed_nodes=name)


def _type_of(exc: BaseException) -> type[BaseException]:
    """DuckDB's exception; after the first batch Arrow makes an OSError of it, which begins with its name in words."""
    import duckdb

    words, error, _ = str(exc).partition(" Error: ")
    found = getattr(duckdb, f"{words.replace(' ', '')}Exception", None) if error else None
    return found if isinstance(found, type) and issubclass(found, duckdb.Error) else type(exc)
