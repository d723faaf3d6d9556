"""The first copy of a replication's tables, under the snapshot that a slot exports.

Guarantee: a copied table shows exactly the transactions that committed before the slot's consistent point, and takes
the changes of those that committed at or after it: no gap, no overlap. A copy that committed just before a crash is
recognised by the transfer engine's ledger; one that did not is made again, under a later snapshot. No copy of a run
that was overtaken is published after that was decided.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from synqx_dagster.connectors.protocol import (
    Connector,
    ReadSession,
    WriteSession,
)
from synqx_dagster.errors import DataError, PlanError, RetryableError, SourceChangedError, SynqxError
from synqx_dagster.mapping.quoting import quote_text
from synqx_dagster.model.mapping import (
    DirectMapping,
)
from synqx_dagster.model.replication import DEFAULT_SCHEMA, Replication
from synqx_dagster.model.table import Column, TableName
from synqx_dagster.replication.copy_plan import CopyMoment, CopyPlan, plan_copy
from synqx_dagster.replication.partitions import read_partitions_at
from synqx_dagster.replication.slot import NewSlot
from synqx_dagster.replication.snapshot_source import SnapshotSource
from synqx_dagster.replication.source_columns import SourceColumn, read_source_columns
from synqx_dagster.replication.tables import FollowedTable
from synqx_dagster.transfer.failpoints import reach
from synqx_dagster.transfer.ledger import MAX_RACES, Ledger
from synqx_dagster.transfer.load import run_load
from synqx_dagster.transfer.result import LoadRequest, LoadResult, Progress, ReadWindow

logger = logging.getLogger(__name__)

#: How long an interrupted copy may take to notice before it is told once more.
_NUDGE_SECONDS = 0.5

#: What lies in a table itself, or in its target, and stays so until somebody does something about it.
_REFUSALS = (PlanError, DataError)


# --- copying ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CopyTask:
    """A table that is copied.

    Attributes:
        load_id: Under which name the ledger knows the copy.
        names: Columns that come through the log, too.
        key: Source columns by which rows are matched; empty where there are none.
    """

    table: FollowedTable
    load_id: str
    names: tuple[str, ...]
    key: tuple[str, ...] = ()


@dataclass(frozen=True)
class CopiedTable:
    """A table that was copied.

    Attributes:
        result: What the transfer engine says of it.
    """

    task: CopyTask
    result: LoadResult


@dataclass(frozen=True)
class DescribedTable:
    """A source table at one moment, as `Applier.follow` takes it: so that what changes afterwards is noticed."""

    oid: int
    columns: tuple[Column, ...]
    found: Mapping[str, SourceColumn]
    partitions: str | None = None


def describe_table(
    source: Connector, read: ReadSession, table: TableName, names: Sequence[str], lsn: int | None = None
) -> DescribedTable:
    """Ask the source for a table.

    Args:
        lsn: What the session sees are the transactions before it; None: what is there now.

    Raises:
        SourceChangedError: It is gone, or one of the columns is.
    """
    columns = {column.name: column for column in read.find_columns(table) or ()}
    schema, name = (quote_text(text, source.dialect) for text in (table.schema or DEFAULT_SCHEMA, table.name))
    oid = read.fetch_value(
        "SELECT c.oid::bigint FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        f" WHERE n.nspname = {schema} AND c.relname = {name}"
    )
    missing = [one for one in names if one not in columns]
    if oid is None or missing:
        raise SourceChangedError(
            f"{table} was changed while it was about to be copied: it lacks {', '.join(missing) or 'everything'}",
            hint="the next run takes it as it is then",
            table=str(table),
        )
    number = int(str(oid))
    partitions = read_partitions_at(read, table, lsn)
    return DescribedTable(
        number,
        tuple(columns[one] for one in names),
        read_source_columns(read, number),
        None if partitions is None else partitions.to_json(),
    )


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
        on_begin: Called before a table is copied, with the table as the snapshot has it, in the thread that copies it;
            what it raises fails the copy.
        on_copied: Called, in the thread of `run`, for each table as it is done; what it raises ends the copy.
        on_refused: Called, in the thread of `run`, for a table that cannot be copied as things are; says whether the
            others go on without it.
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
        on_begin: Callable[[CopyTask, DescribedTable], None],
        on_copied: Callable[[CopiedTable], None],
        on_refused: Callable[[CopyTask, SynqxError], bool],
        guard: Callable[[WriteSession], None],
        progress: Callable[[TableName, Progress], None] | None = None,
    ) -> None:
        self._replication = replication
        self._source = source
        self._target = target
        self._run_id = run_id
        self._on_begin = on_begin
        self._on_copied = on_copied
        self._on_refused = on_refused
        self._guard = guard
        self._progress = progress
        serial = not target.capabilities.concurrent_writers
        self._parallelism = 1 if serial else replication.parallelism

    def run(self, tasks: Sequence[CopyTask], slot: NewSlot, *, stopping: Callable[[], bool]) -> bool:
        """Copy tables as `slot` shows them; False where `stopping` said so before all were begun.

        Tables that are under way are finished all the same. Whatever interrupts the waiting ends them.

        Raises:
            SynqxError: The first failure, once the tables that were under way have ended.
        """
        source = SnapshotSource(self._source, slot.snapshot)
        moment = CopyMoment(slot.consistent_lsn, datetime.now(UTC))
        waiting = list(tasks)
        running: dict[Future[CopiedTable], CopyTask] = {}
        failure: Exception | None = None
        with ThreadPoolExecutor(self._parallelism, thread_name_prefix="copy") as pool:
            try:
                while running or (waiting and failure is None and not stopping()):
                    while waiting and failure is None and len(running) < self._parallelism and not stopping():
                        task = waiting.pop(0)
                        running[pool.submit(self._copy, task, source, moment)] = task
                    done, _ = wait(running, _NUDGE_SECONDS, FIRST_COMPLETED)
                    for future in done:
                        task, error = running.pop(future), future.exception()
                        if error is None:
                            self._on_copied(future.result())
                        elif not isinstance(error, Exception):
                            raise error
                        elif isinstance(error, _REFUSALS) and self._on_refused(task, error):
                            continue
                        elif failure is None:
                            failure = error
            except BaseException:
                while running:
                    source.cancel()
                    done, _ = wait(running, _NUDGE_SECONDS)
                    for future in done:
                        del running[future]
                raise
        if failure is not None:
            raise failure
        return not waiting

    def _copy(self, task: CopyTask, source: SnapshotSource, moment: CopyMoment) -> CopiedTable:
        table, target = task.table, self._target
        with source.read() as read:
            described = describe_table(source, read, table.source, task.names, moment.lsn)
            columns = read.find_columns(table.source) or ()
        self._on_begin(task, described)
        with target.write() as write:
            exists = write.find_columns(table.target) is not None
        ends = (self._source, target)
        plan = plan_copy(self._replication, table, columns, task.names, task.key, moment, ends, exists=exists)
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
        if plan.sweeps:
            self._sweep(plan, request, moment)
        reach("after_table_copy")
        return CopiedTable(task, result)

    def _sweep(self, plan: CopyPlan, request: LoadRequest, moment: CopyMoment) -> None:
        """Mark rows of the target that the snapshot does not have as deleted."""
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
                session.execute(
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
