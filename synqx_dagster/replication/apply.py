"""Brings transactions of the source into the target: the rows, states and position of a batch in one transaction.

Guarantee: a change is in the target once, whatever was killed, lost or started twice: what is committed with the
position is never applied again, and what is not committed leaves nothing behind. Memory is bounded: of a batch, or of
one transaction however large, only a piece is held at a time.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime
from types import TracebackType

from synqx_dagster.connectors.protocol import ChangingWriteSession, Connector
from synqx_dagster.errors import CommitUnknownError, DataError, FatalError, PlanError, RetryableError, SynqxError
from synqx_dagster.model.replication import Replication
from synqx_dagster.model.table import TableName
from synqx_dagster.replication.adapt import Adapter
from synqx_dagster.replication.changes import Relation, Transaction, Truncate, format_lsn
from synqx_dagster.replication.fold import Budget, Folded
from synqx_dagster.replication.partitions import PartitionSet
from synqx_dagster.replication.position import ReplicationState, TableState
from synqx_dagster.replication.report import BatchReport, TableCounts
from synqx_dagster.replication.state_keeper import StateKeeper
from synqx_dagster.replication.table_changes import Commit, TableChanges, placed
from synqx_dagster.replication.tables import FollowedTable, refuse_shared_targets
from synqx_dagster.replication.target_plan import TargetPlan
from synqx_dagster.transfer.failpoints import reach

logger = logging.getLogger(__name__)

#: How many bytes of changes are collected before they are brought into the target. While that is done, as much again
#: is collected. Larger pieces are quicker to bring in, as more of their rows lie together.
PIECE_BYTES = 24 * 1024 * 1024


class Applier(StateKeeper):
    """Applies a replication's transactions, for one attempt at a time.

    Use as a context manager. `apply` and `begin` are for one thread; the methods that change a table's state may be
    called by others beside them.

    Args:
        tables: What is followed; changes of other tables are reported.
        source: Asked what the log does not tell when a table's columns have changed. Left out: new columns are taken to
            be NULL in the rows that are there, and a renamed column stops its table.
    """

    def __init__(
        self,
        replication: Replication,
        target: Connector,
        tables: Sequence[FollowedTable],
        *,
        source: Connector | None = None,
        piece_bytes: int = PIECE_BYTES,
    ) -> None:
        refuse_shared_targets(tables, folds_case=target.capabilities.folds_case)
        super().__init__(replication, target, tables)
        self._adapter = Adapter(replication, target, source)
        self._piece_bytes = piece_bytes
        #: How tables were fitted to their relations; for as long as nothing has gone wrong.
        self._plans: dict[TableName, TargetPlan] = {}
        self._refused: TableName | None = None
        #: The session that is kept from batch to batch, where the connector pools them.
        self._kept = ExitStack()
        self._session: ChangingWriteSession | None = None

    def __enter__(self) -> Applier:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_session()

    # --- the attempt ----------------------------------------------------------------------------------------

    def begin(self, run_id: str) -> int | None:
        """Take over the replication: from now on no earlier attempt commits. Returns the position, None before any.

        Raises:
            PlanError: The target is of a kind that takes no changes, or another replication writes one of the tables.
            RetryableError: Other attempts keep beginning.
        """
        with self._target.write() as session:
            if not isinstance(session, ChangingWriteSession):
                raise PlanError(
                    f"replication {self._replication.name!r}: the connection {self._replication.target_connection!r}"
                    f" ({self._target.db_type}) takes no changes of single rows",
                    hint="replicate into postgresql, mysql or duckdb",
                )
            book = self._open_book(session)
            state = book.begin_attempt(run_id)
            states = book.find_tables()
            self._refuse_other_writers(book.find_other_writers())
        with self._lock:
            self._state = state
            self._plans.clear()
            self._states = {
                source: states.get(source, TableState(source, table.target)) for source, table in self._followed.items()
            }
        return state.position

    @property
    def refused_table(self) -> TableName | None:
        """The source table whose changes the last `apply` could not bring in; None where it failed at no table."""
        return self._refused

    def _refuse_other_writers(self, others: Mapping[TableName, str]) -> None:
        for table in self._followed.values():
            if table.target in others:
                raise PlanError(
                    f"replication {self._replication.name!r}: {table.target} is written by the replication"
                    f" {others[table.target]!r}",
                    hint="give the table another target, or drop that replication",
                    table=str(table.target),
                )

    def _table_changed(self, source: TableName) -> None:
        self._plans.pop(source, None)

    # --- transactions ---------------------------------------------------------------------------------------

    def apply(self, transactions: Iterable[Transaction]) -> BatchReport:
        """Bring transactions into the target, all of them or none, and close them.

        Transactions that lie before the position are skipped. After an error the target is as it was, and the source
        is to be read again from the position.

        Raises:
            FencedError: A newer attempt has taken over.
            RetryableError: A passing fault, or the target was altered where that commits.
            TargetMismatchError, BadRowsError, SourceChangedError: A change cannot be brought into its table, which is
                `refused_table`.
        """
        batch: _Batch | None = None
        self._refused = None
        try:
            session = self._open_session()
            session.begin()
            book = self._open_book(session)
            state = book.check_fence(self._state.epoch)
            session.begin_changes()
            with ExitStack() as stack:
                batch = _Batch(
                    self._replication, self._target, self._followed, self.table_states, self._adapter, session, stack
                )
                batch.piece_bytes = self._piece_bytes
                batch.plans = dict(self._plans)
                position = state.position or 0
                for transaction in transactions:
                    try:
                        position = batch.take(transaction, position)
                    finally:
                        transaction.close()
                reach("replication_read")
                batch.finish()
                for table_state in batch.changed_states.values():
                    self._put_table(book, table_state)
                state = replace(state, position=position)
                book.advance(state)
                reach("replication_before_commit")
                self._commit(session, state)
                reach("replication_after_commit")
        except BaseException:
            if batch is not None and batch.refused is not None:
                self._refused = batch.refused
            self._plans.clear()
            self._end_session()
            raise
        if not self._target.capabilities.pools_sessions:
            # A file is locked for others as long as it is open.
            self._end_session()
        with self._lock:
            self._state = state
            self._states.update(batch.changed_states)
            self._plans = batch.plans
        return batch.report(position)

    def _commit(self, session: ChangingWriteSession, state: ReplicationState) -> None:
        try:
            session.commit()
        except DataError as error:
            # A constraint that is checked only now.
            self._refused = self._find_named(error)
            raise
        except CommitUnknownError as error:
            self._end_session()
            with self._target.write() as fresh:
                has_committed = self._open_book(fresh).settle_commit(state.epoch, state.position)
            if not has_committed:
                raise RetryableError(
                    f"replication {self._replication.name!r}: the connection broke during COMMIT, and the target's"
                    " position says that nothing was committed"
                ) from error
            logger.warning(
                "%s: the reply to COMMIT was lost; the target's position says committed", self._replication.name
            )

    def _find_named(self, error: DataError) -> TableName | None:
        """The source of the table that an error names, if it takes changes: who does not, cannot stop for it."""
        try:
            place = self._target.qualify(TableName.parse(str(error.context["table"])))
        except (KeyError, ValueError):
            return None
        for source, state in self.table_states.items():
            if state.status == "following" and self._target.qualify(state.target) == place:
                return source
        return None

    def _open_session(self) -> ChangingWriteSession:
        if self._session is None:
            session = self._kept.enter_context(self._target.write())
            if not isinstance(session, ChangingWriteSession):
                raise FatalError(f"{self._target.db_type} takes no changes of single rows")
            self._session = session
        return self._session

    def _end_session(self) -> None:
        """Roll back what is open, and give the session back."""
        session, self._session = self._session, None
        kept, self._kept = self._kept, ExitStack()
        try:
            if session is not None:
                session.rollback()
        finally:
            kept.close()


class _Batch:
    """What one destination transaction takes."""

    def __init__(
        self,
        replication: Replication,
        target: Connector,
        followed: Mapping[TableName, FollowedTable],
        states: Mapping[TableName, TableState],
        adapter: Adapter,
        session: ChangingWriteSession,
        stack: ExitStack,
    ) -> None:
        self._replication = replication
        self._target = target
        self._followed = followed
        self._states = dict(states)
        self._adapter = adapter
        self._session = session
        self._stack = stack
        self._budget = Budget()
        #: Brings a piece into the target while the next one is read: the server works meanwhile, and Python does.
        self._writer = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="synqx-apply"))
        self._writing: Future[None] | None = None
        self.piece_bytes = PIECE_BYTES
        self.plans: dict[TableName, TargetPlan] = {}
        #: By identity: comparing relations takes longer than bringing a change in. The relation is held with it.
        self._known: dict[int, tuple[Relation, TableChanges | None]] = {}
        self._tables: dict[TableName, TableChanges] = {}
        self._unknown: Counter[TableName] = Counter()
        self._waiting: Counter[TableName] = Counter()
        self._stopped: dict[TableName, str] = {}
        self._counts: dict[TableName, TableCounts] = {}
        self._words: list[str] = []
        self._transactions = self._skipped = 0
        self._committed_at: datetime | None = None
        self.changed_states: dict[TableName, TableState] = {}
        #: The source table at which the batch has failed.
        self.refused: TableName | None = None

    def take(self, transaction: Transaction, position: int) -> int:
        """Take a transaction's changes; returns the position after it."""
        if transaction.commit_lsn < position:
            self._skipped += 1
            return position
        self._transactions += 1
        self._committed_at = transaction.committed_at
        lsn = transaction.commit_lsn
        commit = Commit.of(lsn, transaction.committed_at)
        relation: Relation | None = None
        table: TableChanges | None = None
        ordinal = 0
        budget, limit = self._budget, self.piece_bytes
        for change in transaction.iter_changes():
            ordinal += 1
            if isinstance(change, Truncate):
                self._truncate(change, lsn, commit, ordinal)
                relation = None
                continue
            if change.relation is not relation:
                relation = change.relation
                table = self._find(relation, lsn)
            if table is None:
                self._leave_out(relation, 1)
                continue
            try:
                table.add(change, commit, ordinal)
            except SynqxError as error:
                self.refused = relation.table
                raise placed(error, f"{relation.table}, at {format_lsn(lsn)}") from error
            if budget.bytes > limit:
                self._flush()
        return max(position, transaction.end_lsn)

    def _truncate(self, change: Truncate, lsn: int, commit: Commit, ordinal: int) -> None:
        for relation in change.relations:
            table = self._find(relation, lsn)
            if table is None:
                self._leave_out(relation, 1)
            else:
                table.add(change, commit, ordinal)
                self._note_truncation(relation.table, lsn)

    def _note_truncation(self, name: TableName, lsn: int) -> None:
        """Keep with a partitioned table that the log has told why its partitions are empty."""
        state = self._states[name]
        if state.partitions is None:
            return
        known = PartitionSet.from_json(state.partitions)
        if known.was_truncated or lsn < known.lsn:
            return
        kept = replace(known, was_truncated=True).to_json()
        self._states[name] = self.changed_states[name] = replace(state, partitions=kept)

    def finish(self) -> None:
        """Bring in what is left, and drop what staged it."""
        self._flush()
        self._wait()
        for table in self._tables.values():
            table.close(self._session)
            self._count(table)

    def report(self, position: int) -> BatchReport:
        """What was done."""
        return BatchReport(
            position=position,
            transactions=self._transactions,
            skipped=self._skipped,
            changes=sum(counts.total for counts in self._counts.values()),
            tables={name: counts for name, counts in self._counts.items() if counts.total},
            unknown=dict(self._unknown),
            waiting=dict(self._waiting),
            stopped=self._stopped,
            schema_changes=tuple(self._words),
            committed_at=self._committed_at,
        )

    def _flush(self) -> None:
        """Have what was collected brought into the target; the session is the writer's until `_wait`."""
        piece = [(table, table.take()) for table in self._tables.values() if table.is_pending]
        self._budget.bytes = 0
        self._wait()
        if piece:
            self._writing = self._writer.submit(self._write, piece)

    def _write(self, piece: Sequence[tuple[TableChanges, Folded]]) -> None:
        for table, folded in piece:
            try:
                table.write(self._session, folded)
            except SynqxError as error:
                self.refused = table.plan.table.source
                raise placed(error, str(self.refused)) from error

    def _wait(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _count(self, table: TableChanges) -> None:
        counts = self._counts.setdefault(table.plan.table.target, TableCounts())
        counts.inserted += table.counts.inserted
        counts.updated += table.counts.updated
        counts.deleted += table.counts.deleted
        counts.truncated += table.counts.truncated

    # --- which table ----------------------------------------------------------------------------------------

    def _find(self, relation: Relation, lsn: int) -> TableChanges | None:
        """Where a relation's changes go; None: nowhere, by this transaction."""
        state = self._states.get(relation.table)
        if state is None or state.status != "following" or (state.copied_at or 0) > lsn:
            return None
        known = self._known.get(id(relation))
        if known is not None:
            return known[1]
        table = self._tables.get(relation.table)
        if table is None or table.plan.relation != relation:
            table = self._adapt(relation, state)
        self._known[id(relation)] = (relation, table)
        return table

    def _adapt(self, relation: Relation, state: TableState) -> TableChanges | None:
        name = relation.table
        earlier = self._tables.get(name)
        if earlier is not None:
            # What was collected of it is of the columns as they were.
            self._flush()
        self._wait()
        if earlier is not None:
            del self._tables[name]
            earlier.close(self._session)
            self._count(earlier)
        self._known = {key: kept for key, kept in self._known.items() if kept[0].table != name}
        plan = self.plans.get(name)
        if plan is None or plan.relation != relation:
            plan = self._fit(relation, state)
        if plan is None:
            self.plans.pop(name, None)
            return None
        self.plans[name] = plan
        table = TableChanges(plan, self._replication, self._target, self._budget, self._stack)
        self._tables[name] = table
        return table

    def _fit(self, relation: Relation, state: TableState) -> TargetPlan | None:
        name = relation.table
        adapted = self._adapter.adapt(self._followed[name], relation, state, self._session)
        if adapted.state != state:
            self._states[name] = self.changed_states[name] = adapted.state
        self._words.extend(adapted.schema_changes)
        if adapted.plan is None:
            self._stopped[name] = adapted.state.reason or ""
            logger.error("%s: %s has stopped: %s", self._replication.name, name, adapted.state.reason)
        return adapted.plan

    def _leave_out(self, relation: Relation | None, count: int) -> None:
        assert relation is not None
        if relation.table not in self._followed:
            self._unknown[relation.table] += count
        else:
            state = self._states.get(relation.table)
            if state is not None and state.status != "following":
                self._waiting[relation.table] += count
