"""One run of a replication: copy what has no rows yet, then follow the log, until there is a reason to end.

Guarantee: the source is told that something is stored only after the target's commit; so whatever ends a run, however,
the next one goes on with the first change that is not stored, and no change is stored twice. A slot that has lost
changes stops the replication with a clear state and leaves the target's rows as they are.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from synqx_dagster.connectors.protocol import WriteSession
from synqx_dagster.errors import (
    DatabaseError,
    RetryableError,
    SlotLostError,
)
from synqx_dagster.model.table import TableName
from synqx_dagster.replication.adapt import TargetAlteredError
from synqx_dagster.replication.apply import Applier
from synqx_dagster.replication.changes import Transaction
from synqx_dagster.replication.guard import judge, wal_of
from synqx_dagster.replication.position import PositionBook, TableState
from synqx_dagster.replication.preparation import Prepared, prepare
from synqx_dagster.replication.progress import Ending, FollowProgress, FollowReport, FollowRequest, TableFigures
from synqx_dagster.replication.report import BatchReport
from synqx_dagster.replication.run_plan import lsn_of_load, make_load_id, temporary_slot_name, waits_for_copy
from synqx_dagster.replication.slot import NewSlot, SlotState, create_slot, drop_slot, find_slot, heartbeat
from synqx_dagster.replication.snapshot_copy import CopiedTable, CopyTask, SnapshotCopy, has_copied
from synqx_dagster.replication.stream import ChangeStream, open_stream
from synqx_dagster.replication.tables import state_schema
from synqx_dagster.transfer.failpoints import reach
from synqx_dagster.transfer.result import Progress

logger = logging.getLogger(__name__)

#: How often a stream that waits for changes looks whether it should end.
_WAIT_SECONDS = 0.25
#: How often the slot is looked at: its lag for the report, and the guard.
_SLOT_SECONDS = 5.0
#: How often the source is asked for new tables, and the target for tables that are to be copied anew.
_TABLES_SECONDS = 30.0
#: How often at most an idle stream's place is written down.
_IDLE_SECONDS = 5.0
_PROGRESS_SECONDS = 0.5
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


@dataclass
class _Totals:
    transactions: int = 0
    batches: int = 0
    changes: int = 0


@dataclass
class _Clock:
    """When something is due again."""

    every_seconds: float
    due: float = field(default=0.0)

    def is_due(self, now: float) -> bool:
        """Whether it is; if so it is due again after the interval."""
        if now < self.due:
            return False
        self.due = now + self.every_seconds
        return True


class _Follower:
    def __init__(self, request: FollowRequest) -> None:
        self._request = request
        self._replication = request.replication
        self._started = time.monotonic()
        self._figures: dict[TableName, TableFigures] = {}
        self._totals = _Totals()
        self._warnings: dict[str, str] = {}
        self._slot: SlotState | None = None
        self._lag_seconds: float | None = None
        self._lock = threading.Lock()
        self._progress_due = 0.0

    def run(self) -> FollowReport:
        """Rounds of preparing, copying and streaming; a new one where tables have come or are to be copied anew."""
        while True:
            prepared = prepare(self._request, self._warn)
            with Applier(
                self._replication, self._request.target, prepared.tables, source=self._request.source
            ) as applier:
                ending = self._round(applier, prepared)
                self._take_states(applier.table_states)
                position = applier.state.position
            if ending is not None:
                return self._report(ending, position, with_columns=True)

    def _round(self, applier: Applier, prepared: Prepared) -> Ending | None:
        applier.begin(self._request.run_id)
        prepared.settle(applier)
        for source, reason in prepared.refused.items():
            applier.stop_table(source, reason)
        self._take_states(applier.table_states)
        if not self._copy(applier, prepared):
            return self._why_end() or "idle"
        return self._stream(applier, prepared)

    # --- copying --------------------------------------------------------------------------------------------

    def _copy(self, applier: Applier, prepared: Prepared) -> bool:
        """Copy what waits for it; False where the run is to end before all of it is done."""
        waiting = self._settle_copies(applier)
        if applier.state.position is not None and not waiting:
            return True
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
        state = applier.state
        if state.position is not None:
            with create_slot(source, temporary_slot_name(name), temporary=True) as slot:
                yield slot
            return
        # What was written down before, and never finished, is ours to replace.
        is_ours = state.slot == name
        applier.set_position(None, slot=name, status="creating")
        reach("replication_before_slot")
        with create_slot(source, name, replaces=is_ours) as slot:
            reach("replication_slot_made")
            applier.set_position(slot.consistent_lsn, slot=name, status="copying")
            slot.keep()
            yield slot

    def _follow_without_copy(
        self, applier: Applier, prepared: Prepared, waiting: Sequence[TableName], slot: NewSlot
    ) -> None:
        for source in waiting:
            described = prepared.describe(source)
            applier.follow(
                source, slot.consistent_lsn, oid=described.oid, columns=described.columns, found=described.found
            )

    def _copy_tables(self, applier: Applier, prepared: Prepared, waiting: Sequence[TableName], slot: NewSlot) -> bool:
        run_id = self._request.run_id
        tasks = []
        for source in waiting:
            if source in prepared.refused:
                continue
            load_id = make_load_id(run_id, slot.consistent_lsn)
            tasks.append(prepared.copy_task(source, load_id))
        begun: set[TableName] = set()

        def begin(task: CopyTask) -> None:
            applier.begin_copy(task.table.source, task.load_id)
            begun.add(task.table.source)

        def done(copied: CopiedTable) -> None:
            task, described = copied.task, copied.description
            applier.follow(
                task.table.source,
                slot.consistent_lsn,
                oid=described.oid,
                columns=described.columns,
                found=described.found,
            )
            with self._lock:
                figures = self._figures_of(task.table.source, task.table.target)
                figures.rows_copied = copied.result.rows_out
            logger.info(
                "%s: %s copied: %d rows in %.1f s",
                self._replication.name,
                task.table.source,
                copied.result.rows_out,
                copied.result.seconds,
            )

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
            guard=check_fence,
            progress=self._tell_copy,
        )
        return copy.run(tasks, slot, stopping=lambda: self._why_end() is not None)

    # --- streaming --------------------------------------------------------------------------------------------

    def _stream(self, applier: Applier, prepared: Prepared) -> Ending | None:
        for _ in range(_MOST_ALTERATIONS):
            try:
                return _StreamLoop(self, applier, prepared).run()
            except TargetAlteredError as error:
                logger.info("%s: %s", self._replication.name, error)
        raise RetryableError(f"replication {self._replication.name!r}: the target's tables keep changing")

    # --- what the parts share -----------------------------------------------------------------------------------

    def _why_end(self) -> Ending | None:
        """Why the run is to end now, whatever there is to do."""
        if self._request.is_interrupted():
            return "interrupted"
        if self._request.is_paused():
            return "paused"
        if time.monotonic() - self._started >= self._replication.max_run_seconds:
            return "max_run"
        return None

    def _warn(self, key: str, text: str) -> None:
        if self._warnings.get(key) != text:
            logger.warning("%s: %s", self._replication.name, text)
        self._warnings[key] = text

    def _figures_of(self, source: TableName, target: TableName) -> TableFigures:
        return self._figures.setdefault(target, TableFigures(source, target))

    def _take_states(self, states: Mapping[TableName, TableState]) -> None:
        with self._lock:
            for source, state in states.items():
                figures = self._figures_of(source, state.target)
                figures.status, figures.reason = state.status, state.reason

    def _take_batch(self, report: BatchReport) -> None:
        with self._lock:
            self._totals.batches += 1
            self._totals.transactions += report.transactions
            self._totals.changes += report.changes
            for target, counts in report.tables.items():
                figures = self._figures.get(target)
                if figures is not None:
                    figures.rows_inserted += counts.inserted
                    figures.rows_updated += counts.updated
                    figures.rows_deleted += counts.deleted
        for source, reason in report.stopped.items():
            self._warn(f"stopped {source}", f"{source} has stopped: {reason}")

    def _tell_copy(self, source: TableName, progress: Progress) -> None:
        listener = self._request.on_progress
        if listener is not None:
            listener(FollowProgress("copy", source, progress.rows, progress.total_rows))

    def _tell_stream(self, now: float) -> None:
        listener = self._request.on_progress
        if listener is None or now < self._progress_due:
            return
        self._progress_due = now + _PROGRESS_SECONDS
        listener(
            FollowProgress(
                "stream",
                changes=self._totals.changes,
                lag_seconds=self._lag_seconds,
                lag_bytes=None if self._slot is None else self._slot.confirmed_lag_bytes,
            )
        )

    def _report(self, ending: Ending, position: int | None, *, with_columns: bool = False) -> FollowReport:
        if with_columns:
            self._read_columns()
        with self._lock:
            tables = tuple(replace(figures) for figures in self._figures.values())
        return FollowReport(
            ending=ending,
            position=position,
            tables=tables,
            transactions=self._totals.transactions,
            batches=self._totals.batches,
            changes=self._totals.changes,
            lag_seconds=self._lag_seconds,
            lag_bytes=None if self._slot is None else self._slot.confirmed_lag_bytes,
            seconds=time.monotonic() - self._started,
            warnings=tuple(self._warnings.values()),
        )

    def _read_columns(self) -> None:
        changed = [figures for figures in self._figures.values() if figures.has_changed and not figures.columns]
        if not changed:
            return
        with self._request.target.write() as session:
            for figures in changed:
                figures.columns = session.find_columns(figures.target) or ()


class _StreamLoop:
    """Reads a stream in batches and applies them, until there is a reason to end."""

    def __init__(self, follower: _Follower, applier: Applier, prepared: Prepared) -> None:
        self._follower = follower
        self._request = follower._request
        self._replication = follower._replication
        self._applier = applier
        self._prepared = prepared
        now = time.monotonic()
        self._slot_clock = _Clock(_SLOT_SECONDS)
        self._tables_clock = _Clock(_TABLES_SECONDS, now + _TABLES_SECONDS)
        self._idle_clock = _Clock(_IDLE_SECONDS)
        self._report_clock = _Clock(self._request.report_seconds, now + self._request.report_seconds)
        self._heartbeat_due = now + self._replication.heartbeat_seconds
        self._idle_since: float | None = None
        #: Where the source's log ended when there was nothing to do: an idle stream has come so far before it ends.
        self._idle_wal_end = 0

    def run(self) -> Ending | None:
        """Stream; None where a new round has to prepare tables."""
        position = self._applier.state.position
        assert position is not None
        slot = self._replication.slot_name
        with open_stream(
            self._prepared.source,
            slot,
            self._replication.publication_name,
            after_lsn=position,
            memory_bytes=self._request.memory_bytes,
            spill_directory=self._prepared.spill_directory,
        ) as stream:
            if self._applier.state.status != "following":
                self._applier.set_position(position, slot=slot, status="following")
            try:
                return self._loop(stream)
            finally:
                lag = stream.lag()
                self._follower._lag_seconds = lag.seconds

    def _loop(self, stream: ChangeStream) -> Ending | None:
        while True:
            ending = self._follower._why_end()
            if ending is not None:
                self._settle(stream)
                return ending
            now = time.monotonic()
            batch = self._collect(stream)
            if batch:
                self._idle_since = None
                report = self._applier.apply(batch)
                self._follower._take_batch(report)
                reach("replication_before_confirm")
                stream.confirm(report.position)
            self._follower._lag_seconds = stream.lag().seconds
            self._look_round(stream, now)
            if not batch:
                if self._is_done(stream, now):
                    self._settle(stream)
                    return "idle"
                self._move_on(stream, now)
            if self._tables_clock.is_due(now) and self._prepared.has_news(self._applier, self._request.target):
                self._settle(stream)
                return None
            self._follower._tell_stream(now)

    def _collect(self, stream: ChangeStream) -> list[Transaction]:
        """Transactions for one batch: enough changes, or as many as come before the first one is too old."""
        first = stream.next_transaction(_WAIT_SECONDS)
        if first is None:
            return []
        batch: list[Transaction] = [first]
        changes = first.change_count
        deadline = time.monotonic() + self._replication.batch_seconds
        try:
            while changes < self._replication.batch_changes:
                following = stream.next_transaction(max(0.0, deadline - time.monotonic()))
                if following is None:
                    break
                batch.append(following)
                changes += following.change_count
        except BaseException:
            for transaction in batch:
                transaction.close()
            raise
        return batch

    # --- an idle stream -------------------------------------------------------------------------------------

    def _is_done(self, stream: ChangeStream, now: float) -> bool:
        """Whether there was nothing to do for long enough, and the source has read its log so far."""
        if not stream.is_idle:
            self._idle_since = None
            return False
        if self._idle_since is None:
            self._idle_since = now
            self._idle_wal_end = self._find_slot().wal_end
        if self._replication.continuous or now - self._idle_since < self._replication.idle_seconds:
            return False
        read_lsn = max(stream.confirmed_lsn, stream.idle_lsn or 0)
        # A source that says nothing of its log for so long will not say more.
        return read_lsn >= self._idle_wal_end or now - self._idle_since > 6 * self._replication.idle_seconds + 60

    def _move_on(self, stream: ChangeStream, now: float) -> None:
        """Let the slot of an idle database move: what others write in the log is passed over, and need not be kept."""
        if self._idle_clock.is_due(now):
            self._settle(stream)
        every = self._replication.heartbeat_seconds
        if every and now >= self._heartbeat_due:
            self._heartbeat_due = now + every
            try:
                with self._request.source.write() as session:
                    heartbeat(session)
            except DatabaseError as error:
                # A standby takes none. Its primary's neighbours move the log anyway.
                self._follower._warn("heartbeat", f"the source takes no heartbeat: {error.message}")
                self._heartbeat_due = float("inf")

    def _settle(self, stream: ChangeStream) -> None:
        """Write down how far the log was read where nothing in it concerns us, and only then confirm it."""
        lsn = stream.idle_lsn
        position = self._applier.state.position
        if lsn is None or position is None or lsn <= position:
            return
        self._applier.set_position(lsn, slot=self._replication.slot_name, status="following")
        stream.confirm(lsn)

    # --- looking round ----------------------------------------------------------------------------------------

    def _look_round(self, stream: ChangeStream, now: float) -> None:
        if self._slot_clock.is_due(now):
            self._guard(stream, self._find_slot())
        if self._report_clock.is_due(now) and self._request.on_tables is not None:
            self._follower._take_states(self._applier.table_states)
            self._request.on_tables(self._follower._report("max_run", self._applier.state.position))

    def _find_slot(self) -> SlotState:
        with self._request.source.write() as session:
            slot = find_slot(session, self._replication.slot_name)
        if slot is None:
            raise SlotLostError(f"the slot {self._replication.slot_name!r} is gone")
        self._follower._slot = slot
        return slot

    def _guard(self, stream: ChangeStream, slot: SlotState) -> None:
        verdict = judge(self._replication.wal_guard, wal_of(slot))
        if verdict.level == "ok":
            self._follower._warnings.pop("guard", None)
            return
        self._follower._warn("guard", f"WAL guard: the slot {slot.name}: {verdict.text}")
        if verdict.level == "act" and verdict.action == "drop_slot":
            stream.close()
            with self._request.source.write() as session:
                drop_slot(session, slot.name)
            state = self._applier.state
            self._applier.set_position(state.position, slot=None, status="lost")
            raise SlotLostError(f"the WAL guard has dropped the slot {slot.name!r}: {verdict.text}")
