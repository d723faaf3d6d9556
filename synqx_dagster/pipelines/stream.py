"""A step while it runs: rows stream from its extracts and stored inputs through its stages to its end.

Every stage runs in a thread of its own and hands batches on through a short queue, so that memory is bounded by the
batches in flight, by what the stages' DuckDBs may hold before they spill, and by what functions in Python keep.
Guarantee: the rows that leave are those of one run of every node; all extracts of one connection see one snapshot where
the database has snapshots that sessions share (PostgreSQL). An error of any node ends the stream with that error, never
with fewer rows, and a node that validates judges every row, also those that nobody asks for.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from synqx_dagster.connectors.files_scratch import sweep
from synqx_dagster.connectors.protocol import Connector, ReadSession, SnapshotConnector, SnapshotReadSession
from synqx_dagster.errors import (
    FatalError,
    NodeTimeoutError,
    OperatorFailedError,
    PlanError,
    SynqxError,
)
from synqx_dagster.model.pipeline import MIN_MEMORY_BYTES
from synqx_dagster.model.table import Column
from synqx_dagster.pipelines.carriage import arrow_schema
from synqx_dagster.pipelines.database import StageDatabase
from synqx_dagster.pipelines.extract import Extract, ReadPartitions, ReadSoFar, open_extract
from synqx_dagster.pipelines.flow import at_least_one, counted, failed_nodes, named, naming, timed
from synqx_dagster.pipelines.graph import Graph, Node, Step, extracts_of
from synqx_dagster.pipelines.judging import judged_rows
from synqx_dagster.pipelines.operators.checks import quoted
from synqx_dagster.pipelines.operators.protocol import BatchOperator, Input, Relation, SqlOperator
from synqx_dagster.pipelines.operators.validate import Validate
from synqx_dagster.pipelines.report import Counter, NodeReport
from synqx_dagster.pipelines.segments import Stage, plan_stages
from synqx_dagster.transfer.arrow import BATCH_ROWS, Prefetch
from synqx_dagster.transfer.quarantine import BadRowSpool

if TYPE_CHECKING:
    import pyarrow as pa

#: What a stage of row-wise expressions needs; it holds no rows but those in flight.
_STREAMING_BYTES = 192 * 1024 * 1024


@dataclass(frozen=True)
class StoredRows:
    """Rows that another step has stored: their columns, how many, and how to read them (each time anew)."""

    columns: tuple[Column, ...]
    rows: int
    iter_batches: Callable[[], Iterator[pa.RecordBatch]]


@dataclass(frozen=True)
class StepContext:
    """What a step needs from outside.

    Attributes:
        connectors: The connections of its extracts and of its load, by name.
        stored: What other steps have stored, by node.
        so_far: What its incremental extracts go on from, by node.
        memory_bytes: What all its nodes may hold together.
        spill: A directory with room.
        part: The partitions that its extracts read, in a pipeline that has some.
    """

    connectors: Mapping[str, Connector]
    stored: Mapping[str, StoredRows] = field(default_factory=dict)
    so_far: Mapping[str, ReadSoFar] = field(default_factory=dict)
    memory_bytes: int = 512 * 1000 * 1000
    spill: Path = Path()
    part: ReadPartitions | None = None


@dataclass(frozen=True)
class _Flow:
    """What leaves a stage: the columns, and the rows as they travel."""

    columns: tuple[Column, ...]
    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]


@dataclass(frozen=True)
class StreamEnd:
    """The rows at the end of a step as a relation of a DuckDB, for a load to read."""

    database: StageDatabase
    sql_name: str
    #: The last stage, where its rows are read straight from its DuckDB.
    stage: Stage | None
    own: Counter
    waited: Counter


class StepStream:
    """One run of a step's nodes up to, and without, its load. Use as a context manager; leaving it ends everything.

    Attributes:
        columns: The columns of the rows at the end.
        end: For a step with a load, what the load reads.
        reports: What each node did, in order; complete when the rows have passed.
        spools: Bad rows of validate nodes, by node; complete when the rows have passed.
        extracts: The step's extracts, by node.
        node_columns: The columns that each node gives.
    """

    def __init__(self, graph: Graph, step: Step, context: StepContext) -> None:
        self._graph = graph
        self._step = step
        self._context = context
        self._stack = ExitStack()
        self._stages = plan_stages(step, graph.nodes)
        self._databases: list[StageDatabase] = []
        self._flows: dict[str, _Flow] = {}
        self._timers: list[threading.Timer] = []
        self._sessions: dict[str, ReadSession] = {}
        self._snapshots: dict[str, str] = {}
        self._timed_out: str | None = None
        self._has_passed = False
        self._finishing: list[Callable[[], None]] = []
        self.end: StreamEnd | None = None
        self.columns: tuple[Column, ...] = ()
        self.extracts: dict[str, Extract] = {}
        self.node_columns: dict[str, tuple[Column, ...]] = {}
        self.spools: dict[str, BadRowSpool] = {}
        self.reports: dict[str, NodeReport] = {
            name: NodeReport(name, _operator_name(graph.nodes[name])) for name in step.nodes
        }

    def __enter__(self) -> StepStream:
        try:
            self._open()
        except BaseException as exc:
            self._stack.close()
            self._attribute(exc)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for timer in self._timers:
            timer.cancel()
        if not self._has_passed:
            self.cancel()
        self._stack.close()

    def cancel(self) -> None:
        """Have everything end that works on the rows; from any thread."""
        for extract in self.extracts.values():
            with contextlib.suppress(SynqxError):
                extract.cancel()
        for database in self._databases:
            with contextlib.suppress(Exception):
                database.interrupt()

    @property
    def source_columns(self) -> dict[str, tuple[str, ...]]:
        """Names of the columns of extracts and of stored inputs, by node."""
        given = {name: extract.columns for name, extract in self.extracts.items()}
        given.update({name: stored.columns for name, stored in self._context.stored.items()})
        return {name: tuple(column.name for column in columns) for name, columns in given.items()}

    # --- opening -----------------------------------------------------------------------------------------------

    def _open(self) -> None:
        # What killed processes have left goes, also where nothing of this step will ever spill.
        sweep(self._context.spill)
        for node in extracts_of(self._step, self._graph.nodes):
            self.extracts[node.node_id] = self._open_extract(node)
        heavy = sum(1 for stage in self._stages if self._holds_rows(stage))
        for stage in self._stages:
            share = max(self._context.memory_bytes // max(heavy, 1), MIN_MEMORY_BYTES)
            memory = share if self._holds_rows(stage) else _STREAMING_BYTES
            flow = self._open_stage(stage, memory)
            if flow is not None:
                self._flows[stage.end] = flow
                self.columns = flow.columns
        if self._step.is_load and self.end is None:
            self.end = self._open_end()

    def _open_extract(self, node: Node) -> Extract:
        source = self._context.connectors[str(node.connection)]
        try:
            read = self._open_session(str(node.connection), source)
            return open_extract(node, source, read, self._context.so_far.get(node.node_id), self._context.part)
        except SynqxError as exc:
            raise named(exc, [node.node_id]) from exc.__cause__

    def _open_session(self, name: str, source: Connector) -> ReadSession:
        """A read session; all those of one connection see the same rows where it can have them do so."""
        first = self._sessions.get(name)
        if first is not None and isinstance(source, SnapshotConnector) and isinstance(first, SnapshotReadSession):
            if name not in self._snapshots:
                self._snapshots[name] = first.export_snapshot()
            return self._stack.enter_context(source.read_at(self._snapshots[name]))
        session = self._stack.enter_context(source.read())
        self._sessions.setdefault(name, session)
        return session

    def _holds_rows(self, stage: Stage) -> bool:
        nodes = (self._graph.nodes[name] for name in stage.nodes)
        return any(node.operator.holds_rows(node.config) for node in nodes)

    def _open_stage(self, stage: Stage, memory_bytes: int) -> _Flow | None:
        for name in stage.nodes:
            self.reports[name].fused_with = tuple(other for other in stage.nodes if other != name)
        return self._open_python(stage, memory_bytes) if stage.is_python else self._open_sql(stage, memory_bytes)

    def _open_database(self, nodes: Sequence[str], memory_bytes: int, spill: Path | None) -> StageDatabase:
        database = StageDatabase(nodes, memory_bytes, spill)
        self._stack.callback(database.close)
        self._databases.append(database)
        return database

    def _open_sql(self, stage: Stage, memory_bytes: int) -> _Flow | None:
        """A stage of SQL; no flow where it is the last before a load, which reads its relation."""
        spill = self._context.spill if self._holds_rows(stage) else None
        database = self._open_database(stage.nodes, memory_bytes, spill)
        own, waited = Counter(), Counter()
        relations: dict[str, Relation] = {}
        for name in stage.inputs:
            columns, schema, batches = self._incoming(name)
            sql_name = database.arrive(name, columns, schema, timed(batches, waited))
            relations[name] = Relation(sql_name, name, columns)
        for name in stage.nodes:
            relations[name] = self._open_node(database, name, relations, waited)
            is_judge = isinstance(self._graph.nodes[name].operator, Validate)
            self.node_columns[name] = relations[name].columns[:-2] if is_judge else relations[name].columns
        end, relation = self._graph.nodes[stage.end], relations[stage.end]
        if isinstance(end.operator, Validate):
            columns = relation.columns[:-2]
            spool = self.spools[end.node_id] = self._stack.enter_context(BadRowSpool())
            batches = judged_rows(database, end, relation, spool)
        elif self._step.is_load and stage is self._stages[-1]:
            self.columns = relation.columns
            self.end = StreamEnd(database, relation.sql_name, stage, own, waited)
            return None
        else:
            columns = relation.columns
            batches = database.leave(relation.sql_name, columns, BATCH_ROWS)
        return self._hand_on(stage, columns, batches, own, waited)

    def _open_end(self) -> StreamEnd:
        """A DuckDB for what arrives at the load, from a stage that is none, or from another step."""
        (name,) = self._graph.nodes[self._step.name].inputs
        database = self._open_database([name], _STREAMING_BYTES, None)
        columns, schema, batches = self._incoming(name)
        self.columns = columns
        waited = Counter()
        sql_name = database.arrive(name, columns, schema, timed(batches, waited))
        return StreamEnd(database, sql_name, None, Counter(), waited)

    def _open_node(
        self, database: StageDatabase, name: str, relations: Mapping[str, Relation], waited: Counter
    ) -> Relation:
        try:
            return self._make_node(database, name, relations, waited)
        except SynqxError as exc:
            raise named(exc, [name]) from exc.__cause__

    def _make_node(
        self, database: StageDatabase, name: str, relations: Mapping[str, Relation], waited: Counter
    ) -> Relation:
        node = self._graph.nodes[name]
        if name in self.extracts:
            extract = self.extracts[name]
            counter = Counter()
            rows = self._ahead(Prefetch(naming(extract.iter_batches(), name), extract.cancel))
            database.register("source " + name, extract.schema, timed(counted(rows, counter), waited))
            # The compiler calls what it reads `source`.
            sql = f"WITH source AS (SELECT * FROM {quoted('source ' + name)}) {extract.sql()}"

            def count() -> None:
                self.reports[name].rows_out = counter.rows

            self._finishing.append(count)
            return Relation(database.view(name, sql), name, extract.columns)
        operator = node.operator
        if not isinstance(operator, SqlOperator):
            raise FatalError(f"node {name!r} is no operator that DuckDB runs")
        inputs = [relations[one] for one in node.inputs]
        _check_again(node, inputs)
        sql_name = database.view(name, operator.sql(node.config, inputs), operator.parts(node.config, inputs))
        return Relation(sql_name, name, database.describe(sql_name))

    def _open_python(self, stage: Stage, memory_bytes: int) -> _Flow:
        node = self._graph.nodes[stage.end]
        operator = node.operator
        assert isinstance(operator, BatchOperator)
        (name,) = stage.inputs
        given, _, batches = self._incoming(name)
        inputs = [Relation(quoted(name), name, given)]
        try:
            _check_again(node, inputs)
            columns = operator.output(node.config, inputs)
        except SynqxError as exc:
            raise named(exc, [node.node_id]) from exc.__cause__
        self.node_columns[node.node_id] = columns
        waited = Counter()
        incoming = at_least_one(timed(batches, waited), arrow_schema(given))
        rows = self._run_python(node, operator, incoming, arrow_schema(columns), memory_bytes)
        return self._hand_on(stage, columns, rows, Counter(), waited)

    def _run_python(
        self,
        node: Node,
        operator: BatchOperator,
        batches: Iterator[pa.RecordBatch],
        schema: pa.Schema,
        memory_bytes: int,
    ) -> Iterator[pa.RecordBatch]:
        if node.record.timeout_seconds is not None and operator.runs_foreign_code:
            from synqx_dagster.pipelines.foreign import run_in_process

            yield from run_in_process(node, batches, schema, memory_bytes)
            return
        try:
            yield from operator.run(node.config, batches, schema, memory_bytes)
        except (SynqxError, KeyboardInterrupt):
            raise
        except (Exception, SystemExit) as exc:  # noqa: BLE001  # an operator of somebody's; what it says may hold values
            raise OperatorFailedError(f"node {node.node_id!r}: the operator raised {type(exc).__name__}") from None

    def _incoming(self, name: str) -> tuple[tuple[Column, ...], pa.Schema, Iterator[pa.RecordBatch]]:
        if name in self._flows:
            flow = self._flows[name]
            return flow.columns, flow.schema, flow.batches
        stored = self._context.stored[name]
        return stored.columns, arrow_schema(stored.columns), stored.iter_batches()

    def _hand_on(
        self,
        stage: Stage,
        columns: tuple[Column, ...],
        batches: Iterator[pa.RecordBatch],
        own: Counter,
        waited: Counter,
    ) -> _Flow:
        """What leaves a stage, which runs in a thread of its own unless it is the last one."""
        rows = self.run_stage(stage, batches, own, waited)
        if stage is not self._stages[-1] or self._step.is_load:
            rows = self._ahead(Prefetch(rows, self.cancel))
        return _Flow(columns, arrow_schema(columns), rows)

    def _ahead(self, prefetch: Prefetch) -> Iterator[pa.RecordBatch]:
        # Not before somebody asks: a plan opens everything and reads nothing.
        yield from self._stack.enter_context(prefetch)

    def run_stage(
        self, stage: Stage, batches: Iterator[pa.RecordBatch], own: Counter, waited: Counter
    ) -> Iterator[pa.RecordBatch]:
        """Pass a stage's rows on: counted, timed, within its time; what it raises says which node it is of."""

        def finish() -> None:
            for name in stage.nodes:
                # What comes from a stage that runs ahead takes no time of this one.
                self.reports[name].seconds = max(own.seconds - waited.seconds, 0.0)
            self.reports[stage.end].rows_out = own.rows

        self._finishing.append(finish)
        timer = self._start_timer(stage)
        try:
            yield from timed(counted(batches, own), own)
        except GeneratorExit:
            # Whoever reads wants no more rows: that is no failure of anybody.
            raise
        except BaseException as exc:  # noqa: BLE001  # raised again, with its node
            raise self._translate(stage, exc) from exc.__cause__
        finally:
            if timer is not None:
                timer.cancel()

    # --- the end -----------------------------------------------------------------------------------------------

    def iter_batches(self) -> Iterator[pa.RecordBatch]:
        """The rows at the end of a step that stores them, as they travel (`carriage`); once."""
        yield from self.noting(self._flows[self._step.name].batches)

    def noting(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Pass the last rows on, and complete the reports when all have passed or something has failed."""
        try:
            yield from batches
            self._judge_the_rest()
            if self._timed_out is not None:
                raise self._time_out_error(self._timed_out)
            self._has_passed = True
        except BaseException as exc:
            self._attribute(exc)
            raise
        finally:
            for callback in self._finishing:
                callback()
            self._derive_rows()

    def _judge_the_rest(self) -> None:
        """Let every row pass that somebody did not want (a LIMIT, a join without partners), if nodes validate rows.

        A rule is for every row, and the load must not commit before all of them are judged.
        """
        if not any(isinstance(self._graph.nodes[stage.end].operator, Validate) for stage in self._stages):
            return
        # Those that read before those that they read: nobody else pulls at them any more.
        for stage in reversed(self._stages):
            flow = self._flows.get(stage.end)
            if flow is not None and stage.end != self._step.name:
                for _ in flow.batches:
                    pass

    def _derive_rows(self) -> None:
        """Rows of nodes that nobody counted, from those of their inputs, and the other way round."""
        out = {name: report.rows_out for name, report in self.reports.items()}
        out.update({name: stored.rows for name, stored in self._context.stored.items()})
        for name in self._step.nodes:
            node, report = self._graph.nodes[name], self.reports[name]
            given = [out.get(one) for one in node.inputs]
            if node.inputs and None not in given:
                report.rows_in = sum(rows for rows in given if rows is not None)
            elif not node.inputs:
                report.rows_in = report.rows_out
            if report.rows_out is None and node.operator.keeps_rows:
                report.rows_out = report.rows_in
            out[name] = report.rows_out
            if name in self.spools:
                report.rows_quarantined = self.spools[name].rows

    # --- time and failure ----------------------------------------------------------------------------------------

    def _start_timer(self, stage: Stage) -> threading.Timer | None:
        limits = {
            name: seconds
            for name in stage.nodes
            if (seconds := self._graph.nodes[name].record.timeout_seconds) is not None
        }
        if not limits:
            return None
        name = min(limits, key=lambda one: limits[one])

        def time_out() -> None:
            self._timed_out = name
            self.cancel()

        timer = threading.Timer(limits[name], time_out)
        timer.daemon = True
        self._timers.append(timer)
        timer.start()
        return timer

    def _translate(self, stage: Stage, exc: BaseException) -> BaseException:
        if self._timed_out is not None:
            # Everything was cancelled for it, whoever notices first.
            return self._time_out_error(self._timed_out)
        return named(exc, stage.nodes)

    def _time_out_error(self, name: str) -> NodeTimeoutError:
        seconds = self._graph.nodes[name].record.timeout_seconds
        return NodeTimeoutError(
            f"node {name!r} did not end within its {seconds} s",
            hint="raise its timeout_seconds, or find out what keeps it",
            failed_nodes=name,
        )

    def _attribute(self, exc: BaseException) -> None:
        """Note an error on the reports of the nodes that it is of."""
        if isinstance(exc, SynqxError):
            for name in failed_nodes(exc):
                if name in self.reports:
                    self.reports[name].error = exc.message


def _check_again(node: Node, inputs: Sequence[Relation]) -> None:
    """Check a node once more, now that the columns of its inputs are known.

    Raises:
        PlanError: Something is wrong with it.
    """
    known = [
        Input(
            given.node_id, given.names, {column.name: column.data_type for column in given.columns if _is_plain(column)}
        )
        for given in inputs
    ]
    for problem in node.operator.check(node.config, known):
        raise PlanError(problem.message, hint=problem.hint)


def _is_plain(column: Column) -> bool:
    """Not of a type that only DuckDB has, and that counts as text or as a decimal for want of another."""
    return column.data_type.kind != "string" or column.native_type in (None, "VARCHAR")


def _operator_name(node: Node) -> str:
    return f"{node.record.operator_type}.{node.operator.operator_class}"
