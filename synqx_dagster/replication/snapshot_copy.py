"""The first copy of a replication's tables, under the snapshot that a slot exports.

Guarantee: a copied table shows exactly the transactions that committed before the slot's consistent point, and takes
the changes of those that committed at or after it: no gap, no overlap. A copy that committed just before a crash is
recognised by the transfer engine's ledger; one that did not is made again, under a later snapshot. No copy of a run
that was overtaken is published after that was decided.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from synqx_dagster.connectors.protocol import (
    ConnectionReport,
    Connector,
    CreatedSlot,
    ReadLimits,
    ReadSession,
    SnapshotConnector,
    TableDescription,
    WriteSession,
)
from synqx_dagster.errors import FatalError, PlanError, RetryableError
from synqx_dagster.model.mapping import (
    ColumnMapping,
    ConstantMapping,
    DirectMapping,
    ExpressionMapping,
    LoadMode,
)
from synqx_dagster.model.mapping import Mapping as MappingRecord
from synqx_dagster.model.replication import Replication
from synqx_dagster.model.table import Column, TableName, primary_key_of
from synqx_dagster.model.types import DataType
from synqx_dagster.replication.changes import format_lsn
from synqx_dagster.replication.tables import FollowedTable
from synqx_dagster.transfer.failpoints import reach
from synqx_dagster.transfer.ledger import MAX_RACES, Ledger
from synqx_dagster.transfer.load import run_load
from synqx_dagster.transfer.result import LoadRequest, LoadResult, Progress, ReadWindow

logger = logging.getLogger(__name__)

#: What mode ``history`` calls a row of the copy.
COPY_OPERATION = "copy"

#: How long an interrupted copy may take to notice before it is told once more.
_NUDGE_SECONDS = 0.5


class SnapshotSource:
    """A source of which every read session sees the rows of one snapshot; see `Connector`."""

    def __init__(self, connector: Connector, snapshot: str) -> None:
        if not isinstance(connector, SnapshotConnector):
            raise PlanError(f"sessions of {connector.db_type} cannot share a snapshot")
        self._connector = connector
        self._at: SnapshotConnector = connector
        self._snapshot = snapshot
        self._lock = threading.Lock()
        self._open: set[ReadSession] = set()
        self._cancelled = False
        self.db_type = connector.db_type
        self.dialect = connector.dialect
        self.capabilities = connector.capabilities
        self.config = connector.config

    def cancel(self) -> None:
        """End what every open session waits for, and what is opened from here on. Safe from any thread."""
        with self._lock:
            self._cancelled = True
            for session in self._open:
                session.cancel()

    @contextmanager
    def read(self, limits: ReadLimits | None = None) -> Iterator[ReadSession]:
        """Open a read session on the snapshot."""
        with self.read_at(self._snapshot) as session:
            yield session

    @contextmanager
    def read_at(self, snapshot: str) -> Iterator[ReadSession]:
        """Open a read session on a snapshot that another one has exported."""
        with self._at.read_at(snapshot) as session:
            with self._lock:
                if self._cancelled:
                    raise RetryableError("the copy was interrupted")
                self._open.add(session)
            try:
                yield session
            finally:
                with self._lock:
                    self._open.discard(session)

    @classmethod
    def check_config(cls, config: object) -> list[str]:
        """Nothing to check."""
        return []

    def test(self, *, timeout_seconds: float = 5.0) -> ConnectionReport:
        """As the connector."""
        return self._connector.test(timeout_seconds=timeout_seconds)

    def discover(self, schema: str | None = None) -> list[TableDescription]:
        """As the connector; not of the snapshot."""
        return self._connector.discover(schema)

    def quote(self, identifier: str) -> str:
        """As the connector."""
        return self._connector.quote(identifier)

    def qualify(self, table: TableName) -> str:
        """As the connector."""
        return self._connector.qualify(table)

    def native_type(self, column: Column) -> str:
        """As the connector."""
        return self._connector.native_type(column)

    def holds(self, data_type: DataType) -> str | None:
        """As the connector."""
        return self._connector.holds(data_type)

    def write(self) -> AbstractContextManager[WriteSession]:
        """Refused."""
        raise FatalError("a snapshot cannot be written to")

    def close(self) -> None:
        """Somebody else closes the connector."""


# --- what is copied, which is pure ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CopyPlan:
    """How one table is copied.

    Attributes:
        mapping: What the transfer engine loads.
        condition: Only rows for which this holds.
        sweeps: Rows of the target that the snapshot does not have are marked as deleted afterwards.
        key: Source and target columns by which rows are found; empty without a key.
    """

    mapping: MappingRecord
    condition: str | None
    sweeps: bool = False
    key: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class CopyMoment:
    """What a copy shows: the transactions before an LSN, and when that was by this machine's clock."""

    lsn: int
    at: datetime


def plan_copy(
    replication: Replication,
    table: FollowedTable,
    columns: Sequence[Column],
    key: Sequence[str],
    moment: CopyMoment,
    ends: tuple[Connector, Connector],
    *,
    exists: bool,
) -> CopyPlan:
    """Decide how a table is copied.

    Args:
        columns: The source table's, as the snapshot has them.
        key: The source columns by which rows are matched; empty where there are none.
        ends: The source and the target.
        exists: The target table is there.
    """
    source, target = ends
    definition = table.definition
    # What the source computes does not come through its log.
    written = tuple(column for column in columns if not column.generated)
    wanted = [column.name for column in written if definition.columns is None or column.name in definition.columns]
    mapped = definition.column_mappings or tuple(map(_direct, wanted))
    if replication.mode == "history":
        return CopyPlan(_copy_changes(replication, table, mapped, moment, source, target), None)
    is_plain = len(wanted) == len(columns) and definition.column_mappings is None and replication.mode == "mirror"
    fields = None if is_plain else (*mapped, *_marks(replication, target))
    key_fields = tuple((name, _field_of(name, mapped)) for name in key)
    mode, sweeps = _choose_mode(replication, columns, key, exists=exists)
    mapping = MappingRecord(
        name=replication.name,
        source_connection=replication.source_connection,
        source_table=str(table.source),
        target_connection=replication.target_connection,
        target_table=str(table.target),
        mode=mode,
        key=tuple(field for _, field in key_fields) if mode == "merge" else (),
        column_mappings=fields,
        evolution=replication.evolution,
    )
    return CopyPlan(mapping, definition.where, sweeps, key_fields)


def _choose_mode(
    replication: Replication, columns: Sequence[Column], key: Sequence[str], *, exists: bool
) -> tuple[LoadMode, bool]:
    """The load's mode, and whether rows are swept after it."""
    if replication.mode == "soft_delete" and exists and key:
        # Rows that were marked as deleted stay.
        return "merge", True
    if not exists and key and tuple(key) != primary_key_of(tuple(columns)):
        # A target that is made gets the key that rows are matched by; a replacement would give it the source's.
        return "merge", False
    return "replace", False


def _direct(name: str) -> DirectMapping:
    return DirectMapping(type="direct", source_columns=(name,), target_fields=(name,))


def _field_of(name: str, fields: Sequence[ColumnMapping]) -> str:
    for field in fields:
        if isinstance(field, DirectMapping) and field.source_columns == (name,):
            return field.target_fields[0]
    return name


def _marks(replication: Replication, target: Connector) -> tuple[ColumnMapping, ...]:
    """What says of a copied row that it is not deleted."""
    if replication.mode != "soft_delete":
        return ()
    names = replication.soft_delete
    absent = ExpressionMapping(
        type="expression", expression=f"cast(null as {_moment_type(target)})", target_fields=(names.deleted_at,)
    )
    return ConstantMapping(type="constant", value=False, target_fields=(names.is_deleted,)), absent


def _moment_type(target: Connector) -> str:
    return "timestamp" if target.capabilities.moment_kind == "timestamp" else "timestamp with time zone"


def _copy_changes(
    replication: Replication,
    table: FollowedTable,
    mapped: Sequence[ColumnMapping],
    moment: CopyMoment,
    source: Connector,
    target: Connector,
) -> MappingRecord:
    """The rows as changes of their own, added to what has been recorded: from here a new account begins.

    A query, because a history has no key of the source's, and because each row gets a number.
    """
    columns = replication.change_columns
    at = moment.at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
    kind = _moment_type(target)
    kept = {
        columns.operation: f"cast('{COPY_OPERATION}' as text)",
        columns.commit_lsn: f"cast('{format_lsn(moment.lsn)}' as text)",
        columns.ordinal: "row_number() over ()",
        columns.committed_at: f"cast('{at}{'' if kind == 'timestamp' else '+00'}' as {kind})",
    }
    items = [*(f"{sql} AS {source.quote(name)}" for name, sql in kept.items()), "source.*"]
    where = f" WHERE ({table.definition.where})" if table.definition.where is not None else ""
    return MappingRecord(
        name=replication.name,
        source_connection=replication.source_connection,
        source_query=f"SELECT {', '.join(items)} FROM {source.qualify(table.source)} AS source{where}",
        target_connection=replication.target_connection,
        target_table=str(table.target),
        mode="append",
        column_mappings=(*map(_direct, kept), *mapped),
        evolution=replication.evolution,
    )


def make_load_id(run_id: str) -> str:
    """A name for one copy of one table: no other copy, under another snapshot, must be taken for it."""
    return f"{run_id}/{uuid.uuid4().hex[:12]}"


# --- copying ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CopyTask:
    """A table that is copied, and under which name the ledger knows that."""

    table: FollowedTable
    load_id: str
    key: tuple[str, ...] = ()


@dataclass(frozen=True)
class CopiedTable:
    """A table that was copied. `result` is what the transfer engine says of it."""

    task: CopyTask
    result: LoadResult
    swept_rows: int = 0


def has_copied(target: Connector, table: TableName, load_id: str, run_id: str) -> bool:
    """Whether a copy has been published; from here on it cannot be any more, whoever still works on it.

    Raises:
        RetryableError: Other loads of the table keep starting at the same time.
    """
    with target.write() as session:
        ledger = Ledger(target, session, table)
        for _ in range(MAX_RACES):
            if ledger.begin_attempt(after=ledger.find_epoch(), run_id=run_id) is not None:
                return ledger.find_entry(load_id) is not None
    raise RetryableError(f"other loads of {table} keep starting at the same time", table=str(table))


class SnapshotCopy:
    """Copies tables at the same time, each by itself: one that fails takes none of the others back.

    Args:
        parallelism: How many at a time.
        on_copied: Called, in the thread of `run`, for each table as it is done; what it raises ends the copy.
        guard: Called in a transaction of the target that changes rows beside a load's own; raises where a newer run
            has taken over.
        progress: Called with a source table and how far its load is, from the threads that load.
    """

    def __init__(
        self,
        replication: Replication,
        source: Connector,
        target: Connector,
        run_id: str,
        *,
        on_copied: Callable[[CopiedTable], None],
        guard: Callable[[WriteSession], None],
        progress: Callable[[TableName, Progress], None] | None = None,
    ) -> None:
        self._replication = replication
        self._source = source
        self._target = target
        self._run_id = run_id
        self._on_copied = on_copied
        self._guard = guard
        self._progress = progress
        serial = not target.capabilities.concurrent_writers
        self._parallelism = 1 if serial else replication.parallelism

    def run(self, tasks: Sequence[CopyTask], slot: CreatedSlot, *, stopping: Callable[[], bool]) -> bool:
        """Copy tables as `slot` shows them; False where `stopping` said so before all were begun.

        Tables that are under way are finished all the same. Whatever interrupts the waiting ends them.

        Raises:
            SynqxError: The first failure, once the tables that were under way have ended.
        """
        source = SnapshotSource(self._source, slot.snapshot)
        moment = CopyMoment(slot.consistent_lsn, datetime.now(UTC))
        waiting = list(tasks)
        running: set[Future[CopiedTable]] = set()
        failure: Exception | None = None
        with ThreadPoolExecutor(self._parallelism, thread_name_prefix="copy") as pool:
            try:
                while running or (waiting and failure is None and not stopping()):
                    while waiting and failure is None and len(running) < self._parallelism and not stopping():
                        running.add(pool.submit(self._copy, waiting.pop(0), source, moment))
                    done, running = wait(running, _NUDGE_SECONDS, FIRST_COMPLETED)
                    for future in done:
                        error = future.exception()
                        if error is None:
                            self._on_copied(future.result())
                        elif not isinstance(error, Exception):
                            raise error
                        elif failure is None:
                            failure = error
            except BaseException:
                while running:
                    source.cancel()
                    _, running = wait(running, _NUDGE_SECONDS)
                raise
        if failure is not None:
            raise failure
        return not waiting

    def _copy(self, task: CopyTask, source: SnapshotSource, moment: CopyMoment) -> CopiedTable:
        table, target = task.table, self._target
        with source.read() as read:
            columns = read.find_columns(table.source)
        with target.write() as write:
            exists = write.find_columns(table.target) is not None
        ends = (self._source, target)
        plan = plan_copy(self._replication, table, columns or (), task.key, moment, ends, exists=exists)
        logger.info("%s: copying %s into %s", self._replication.name, table.source, table.target)
        progress = self._progress
        request = LoadRequest(
            mapping=plan.mapping,
            schema=None,
            source=source,
            target=target,
            run_id=self._run_id,
            load_id=task.load_id,
            progress=None if progress is None else lambda item: progress(table.source, item),
            window=ReadWindow(condition=plan.condition),
        )
        result = run_load(request)
        swept = self._sweep(plan, request, moment) if plan.sweeps else 0
        reach("after_table_copy")
        return CopiedTable(task, result, swept)

    def _sweep(self, plan: CopyPlan, request: LoadRequest, moment: CopyMoment) -> int:
        """Mark rows of the target that the snapshot does not have as deleted; returns how many."""
        target, name = self._target, plan.mapping.target
        digest = hashlib.sha256(f"{self._replication.name}/{name}".encode()).hexdigest()[:16]
        # The same for each copy: what a crash has left is replaced by the next one.
        keys = TableName(f"_synqx_keys_{digest}", name.schema)
        fields = tuple(
            DirectMapping(type="direct", source_columns=(column,), target_fields=(field,)) for column, field in plan.key
        )
        # A table of SynqX's own: the record's validation, which keeps users from the prefix, is passed by.
        mapping = plan.mapping.model_copy(
            update={"target_table": str(keys), "mode": "replace", "key": (), "column_mappings": fields}
        )
        run_load(replace(request, mapping=mapping, load_id=f"{request.load_id}/keys", progress=None))
        columns = self._replication.soft_delete
        quote = target.quote
        matches = " AND ".join(f"k.{quote(field)} = t.{quote(field)}" for _, field in plan.key)
        table = target.qualify(name)
        at = moment.at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
        literal = f"TIMESTAMP '{at}'" if target.capabilities.moment_kind == "timestamp" else f"TIMESTAMPTZ '{at}+00'"
        with target.write() as session:
            session.begin()
            try:
                self._guard(session)
                swept = session.execute(
                    f"UPDATE {table} AS t"
                    f" SET {quote(columns.is_deleted)} = true, {quote(columns.deleted_at)} = {literal}"
                    f" WHERE NOT t.{quote(columns.is_deleted)}"
                    f" AND NOT EXISTS (SELECT 1 FROM {target.qualify(keys)} k WHERE {matches})"
                )
                session.commit()
            except BaseException:
                session.rollback()
                raise
            session.execute(f"DROP TABLE {target.qualify(keys)}")
        return max(swept, 0)
