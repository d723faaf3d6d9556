"""One run of a replication: copy what has no rows yet, then follow the log, until there is a reason to end.

Guarantee: the source is told that something is stored only after the target's commit; so whatever ends a run, however,
the next one goes on with the first change that is not stored, and no change is stored twice. A slot that has lost
changes stops the replication with a clear state and leaves the target's rows as they are.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from synqx_dagster.connectors.protocol import WriteSession
from synqx_dagster.errors import DataError, RetryableError, SynqxError
from synqx_dagster.model.table import TableName
from synqx_dagster.replication.account import Account
from synqx_dagster.replication.adapt import TargetAlteredError
from synqx_dagster.replication.apply import Applier
from synqx_dagster.replication.own_slot import make_own_slot
from synqx_dagster.replication.partition_watch import PartitionWatch
from synqx_dagster.replication.position import PositionBook
from synqx_dagster.replication.preparation import Prepared, prepare, read_state
from synqx_dagster.replication.progress import Ending, FollowReport, FollowRequest
from synqx_dagster.replication.run_plan import lsn_of_load, make_load_id, temporary_slot_name, waits_for_copy
from synqx_dagster.replication.slot import NewSlot, create_slot
from synqx_dagster.replication.snapshot_copy import CopiedTable, CopyTask, DescribedTable, SnapshotCopy, has_copied
from synqx_dagster.replication.streaming import StreamLoop
from synqx_dagster.replication.tables import state_schema

logger = logging.getLogger(__name__)

#: A target that was altered where that commits is read again from its position; more often than this is no accident.
_MOST_ALTERATIONS = 1000


def follow(request: FollowRequest) -> FollowReport:
    """Follow a replication's source once, from where the target is.

    Raises:
        PlanError: Something is in the way; says what to grant or change.
        SlotLostError: The slot no longer goes on where the target is; nothing was changed but the state.
        SlotInUseError: Somebody else reads the slot.
        FencedError: A newer run has taken over.
        RetryableError: A passing fault; another run goes on.
        SynqxError: A change cannot be brought into its table.
    """
    return _Follower(request).run()


class _Follower:
    def __init__(self, request: FollowRequest) -> None:
        self._request = request
        self._replication = request.replication
        self._account = Account(request)

    def run(self) -> FollowReport:
        """Rounds of preparing, copying and streaming; a new one where tables have come or are to be copied anew."""
        while True:
            # Who was asked to end makes nothing at the source: it may be dropped at this moment.
            if (ending := self._account.why_end()) is not None:
                position = read_state(self._replication, self._request.target).position
                return self._account.report(ending, position, with_columns=True)
            prepared = prepare(self._request, self._account.warn)
            with Applier(
                self._replication, self._request.target, prepared.tables, source=self._request.source
            ) as applier:
                ending = self._round(applier, prepared)
                self._account.take_states(applier.table_states)
                position = applier.state.position
            if ending is not None:
                return self._account.report(ending, position, with_columns=True)

    def _round(self, applier: Applier, prepared: Prepared) -> Ending | None:
        applier.begin(self._request.run_id)
        prepared.settle(applier, self._account.warn)
        for source, reason in prepared.refused.items():
            applier.stop_table(source, reason)
        self._account.take_states(applier.table_states)
        if not self._copy(applier, prepared):
            return self._account.why_end() or "idle"
        return self._stream(applier, prepared)

    # --- copying --------------------------------------------------------------------------------------------

    def _copy(self, applier: Applier, prepared: Prepared) -> bool:
        """Copy what waits for it; False where the run is to end before all of it is done."""
        waiting = self._settle_copies(applier)
        if applier.state.position is not None and not waiting:
            return True
        if self._account.why_end() is not None:
            return False
        with self._open_snapshot(applier, prepared) as slot:
            if self._replication.snapshot == "never":
                self._follow_without_copy(applier, prepared, waiting, slot)
                return True
            return self._copy_tables(applier, prepared, waiting, slot)

    def _settle_copies(self, applier: Applier) -> list[TableName]:
        """The tables that wait for a copy, once it is decided of each whether an earlier one had committed."""
        waiting = []
        for source, state in applier.table_states.items():
            if not waits_for_copy(state):
                continue
            lsn = lsn_of_load(state.load_id) if state.load_id is not None and state.status == "copying" else None
            # A copy in mode soft_delete ends with its sweep, of which the ledger knows nothing.
            may_have = lsn is not None and self._replication.mode != "soft_delete"
            if may_have and has_copied(self._request.target, state.target, str(state.load_id), self._request.run_id):
                logger.info("%s: the copy of %s had committed", self._replication.name, source)
                applier.follow(source, lsn or 0)
            else:
                waiting.append(source)
        return waiting

    @contextmanager
    def _open_snapshot(self, applier: Applier, prepared: Prepared) -> Iterator[NewSlot]:
        """The replication's own new slot, or a temporary one beside it; both export a snapshot."""
        name, source = self._replication.slot_name, prepared.source
        if applier.state.position is not None:
            with create_slot(source, temporary_slot_name(name), temporary=True) as slot:
                yield slot
            return
        with make_own_slot(applier, source, self._replication) as slot:
            yield slot

    def _follow_without_copy(
        self, applier: Applier, prepared: Prepared, waiting: Sequence[TableName], slot: NewSlot
    ) -> None:
        for source in waiting:
            described = prepared.describe(source)
            applier.follow(
                source,
                slot.consistent_lsn,
                oid=described.oid,
                columns=described.columns,
                found=described.found,
                partitions=described.partitions,
            )

    def _copy_tables(self, applier: Applier, prepared: Prepared, waiting: Sequence[TableName], slot: NewSlot) -> bool:
        run_id = self._request.run_id
        # What begins is refused as a whole; what goes on does not wait for one of its tables.
        goes_on = applier.state.status == "following"
        tasks = []
        for source in waiting:
            if source in prepared.refused:
                continue
            load_id = make_load_id(run_id, slot.consistent_lsn)
            tasks.append(prepared.copy_task(source, load_id))

        def begin(task: CopyTask, described: DescribedTable) -> None:
            applier.begin_copy(
                task.table.source,
                task.load_id,
                oid=described.oid,
                columns=described.columns,
                found=described.found,
                partitions=described.partitions,
            )

        def done(copied: CopiedTable) -> None:
            task = copied.task
            applier.follow(task.table.source, slot.consistent_lsn)
            self._account.take_copy(task.table.source, task.table.target, copied.result.rows_out)
            logger.info(
                "%s: %s copied: %d rows in %.1f s",
                self._replication.name,
                task.table.source,
                copied.result.rows_out,
                copied.result.seconds,
            )

        def refused(task: CopyTask, error: SynqxError) -> bool:
            if goes_on:
                source, reason = task.table.source, f"it cannot be copied: {error}"
                applier.stop_table(source, reason)
                self._account.warn(f"stopped {source}", f"{source} has stopped: {reason}")
            return goes_on

        def check_fence(session: WriteSession) -> None:
            schema = state_schema(self._replication)
            PositionBook(self._request.target, session, self._replication.name, schema).check_fence(applier.state.epoch)

        copy = SnapshotCopy(
            self._replication,
            prepared.source,
            self._request.target,
            run_id,
            on_begin=begin,
            on_copied=done,
            on_refused=refused,
            guard=check_fence,
            progress=self._account.tell_copy,
        )
        return copy.run(tasks, slot, stopping=lambda: self._account.why_end() is not None)

    # --- streaming --------------------------------------------------------------------------------------------

    def _stream(self, applier: Applier, prepared: Prepared) -> Ending | None:
        watch = PartitionWatch(
            self._replication, prepared.source, prepared.selection.partitioned, applier, self._account
        )
        watch.tell_all()
        watch.look()
        for _ in range(_MOST_ALTERATIONS):
            try:
                return StreamLoop(self._request, self._account, applier, prepared, watch).run()
            except TargetAlteredError as error:
                logger.info("%s: %s", self._replication.name, error)
            except DataError as error:
                # One table that refuses a row does not hold up the others: they are read again from the position.
                source = applier.refused_table
                if source is None:
                    raise
                applier.stop_table(source, str(error))
                self._account.warn(f"stopped {source}", f"{source} has stopped: {error}")
        raise RetryableError(f"replication {self._replication.name!r}: the target's tables keep changing")
